"""Score keypoint detection: COCO's OKS AP, with true and with detected boxes.

python evaluate/evaluate_keypoint.py --weights my.safetensors --data-root /data/coco
"""

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.evaluate.run import run

if __name__ == "__main__":
    command_line(run, __doc__, EVALUATION, only="keypoint", output_dir="results")
