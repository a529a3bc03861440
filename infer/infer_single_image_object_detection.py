"""Find the objects of an image: object_detection.png and result.json.

python infer/infer_single_image_object_detection.py --image images/demo.jpg --output-dir results
"""

from pix2seq.command_line import INFERENCE, command_line
from pix2seq.infer.run import run

if __name__ == "__main__":
    command_line(run, __doc__, INFERENCE, only="detection")
