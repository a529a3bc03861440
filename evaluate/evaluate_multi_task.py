"""Score weights on a validation split: boxes, masks, keypoints, captions, and single tokens.

python evaluate/evaluate_multi_task.py --weights scenes --scenes-train 0 --scenes-seed 7
torchrun --nproc-per-node 4 evaluate/evaluate_multi_task.py --weights coco.safetensors --data-root /data/coco
python evaluate/evaluate_multi_task.py --watch runs/multi_task --max-images 500
"""

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.evaluate.run import run

if __name__ == "__main__":
    command_line(run, __doc__, EVALUATION, output_dir="results")
