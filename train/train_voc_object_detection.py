"""Train object detection on Pascal VOC, or on one's own images in its layout.

python train/train_voc_object_detection.py --data-root /data/VOCdevkit/VOC2012
python train/train_voc_object_detection.py --data-root /data/VOCdevkit --val-split VOC2007/test \\
    --train-split VOC2007/trainval,VOC2012/trainval
"""

from pix2seq.command_line import TRAINING, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from pix2seq.train.engine import train

    train(cfg)


if __name__ == "__main__":
    command_line(main, __doc__, TRAINING, only="detection", run_dir="runs/voc", train_split="train", val_split="val")
