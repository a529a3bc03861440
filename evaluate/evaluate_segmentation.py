"""Score instance segmentation: mean IoU and COCO's mask AP, with true and with detected boxes.

python evaluate/evaluate_segmentation.py --weights my.safetensors --data-root /data/coco --num-samples 8
"""

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.evaluate.run import run

if __name__ == "__main__":
    command_line(run, __doc__, EVALUATION, only="segmentation", output_dir="results")
