"""Score the truth itself, said in tokens and read back: the ceiling of every model with these settings.

python evaluate/ceiling.py --data-root /data/coco --image-size 640 --max-points 128 --max-objects 100 --max-tokens 512
"""

from __future__ import annotations

from pix2seq.command_line import SEQUENCES, SOURCE, Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import evaluate
    from pix2seq.evaluate.ground_truth import Oracle
    from pix2seq.evaluate.report import tables

    split = open_split(cfg, cfg.data.val_split, cfg.tasks)
    evaluation = evaluate(Oracle(split, cfg), split, cfg.tasks, tokens=False)
    print(tables(evaluation, split.problems))


if __name__ == "__main__":
    uses = Uses(
        essential=(
            "data_root",
            "val_split",
            "val_json",
            "task",
            "image_size",
            "crop_padding",
            "max_objects",
            "max_points",
        ),
        others=(
            *SOURCE,
            *SEQUENCES,
            "preset",
            "seed",
            "workers",
            "eval_batch_size",
            "max_images",
            "points_score_weight",
        ),
    )
    command_line(main, __doc__, uses, task="detection,segmentation,keypoint", num_samples=1)
