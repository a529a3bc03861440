"""Train image captioning.

python train/train_coco_img_captioning.py --data-root /data/coco
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import CFG, command_line


def main(cfg: CFG) -> None:
    from train.engine import train  # after the flags are read: --help needs no torch

    train(cfg)


if __name__ == "__main__":
    command_line(main, __doc__, task="captioning", run_dir="runs/captioning")
