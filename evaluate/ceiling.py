"""Score the truth itself, said in tokens and read back: the ceiling of every model with these settings.

python evaluate/ceiling.py --data-root /data/coco --image-size 640 --max-points 128 --max-objects 100 --max-tokens 512
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import CFG, command_line


def main(cfg: CFG) -> None:
    from dataset.sources import open_split
    from evaluate.evaluation import evaluate
    from evaluate.oracle import Oracle
    from evaluate.report import tables

    split = open_split(cfg, cfg.data.val_split, cfg.tasks)
    evaluation = evaluate(Oracle(split, cfg), split, cfg.tasks, tokens=False)
    print(tables(evaluation, split.problems))


if __name__ == "__main__":
    command_line(main, __doc__, task="detection,segmentation,keypoint", num_samples=1)
