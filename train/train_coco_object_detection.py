"""Train object detection.

python train/train_coco_object_detection.py --data-root /data/coco
"""

from pix2seq.command_line import TRAINING, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from pix2seq.train.engine import train

    train(cfg)


if __name__ == "__main__":
    command_line(main, __doc__, TRAINING, only="detection", run_dir="runs/detection")
