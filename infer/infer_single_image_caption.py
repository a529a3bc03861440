"""Describe a picture in a sentence: printed, and in result.json.

python infer/infer_single_image_caption.py --image images/demo.jpg --output-dir results
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import command_line
from infer.run import run

if __name__ == "__main__":
    command_line(run, __doc__, task="captioning")
