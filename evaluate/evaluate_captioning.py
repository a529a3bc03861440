"""Score image captioning: BLEU, ROUGE-L and CIDEr-D.

python evaluate/evaluate_captioning.py --weights my.safetensors --data-root /data/coco
"""

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.evaluate.run import run

if __name__ == "__main__":
    command_line(run, __doc__, EVALUATION, only="captioning", output_dir="results")
