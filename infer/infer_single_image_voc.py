"""Find the objects of a picture with weights trained on Pascal VOC, whose classes the weights file names.

python infer/infer_single_image_voc.py --weights weights/voc.safetensors --image images/demo.jpg --output-dir results
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import command_line
from infer.infer_single_image_object_detection import run

if __name__ == "__main__":
    command_line(run, __doc__, task="detection")
