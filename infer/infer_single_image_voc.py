"""Find the objects of an image with weights trained on Pascal VOC, whose classes the weights file names.

python infer/infer_single_image_voc.py --weights weights/voc.safetensors --image images/demo.jpg --output-dir results
"""

from pix2seq.command_line import INFERENCE, command_line
from pix2seq.infer.run import run

if __name__ == "__main__":
    command_line(run, __doc__, INFERENCE, only="detection")
