"""Score object detection: COCO's AP and recall, Pascal VOC's AP50.

python evaluate/evaluate_detection.py --weights my.safetensors --data-root /data/VOCdevkit/VOC2007 --val-split test
"""

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.evaluate.run import run

if __name__ == "__main__":
    command_line(run, __doc__, EVALUATION, only="detection", output_dir="results")
