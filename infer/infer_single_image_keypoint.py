"""Find the joints of an image's people, or of the one in --box: keypoint_detection.png and result.json.

python infer/infer_single_image_keypoint.py --image images/demo.jpg --output-dir results --box 2,8,356,504
"""

from pix2seq.command_line import INFERENCE, command_line
from pix2seq.infer.run import run

if __name__ == "__main__":
    command_line(run, __doc__, INFERENCE, only="keypoint")
