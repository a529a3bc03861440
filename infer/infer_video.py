"""Objects in a video, or in what a camera sees: NAME.mp4 with drawings, and NAME.jsonl with a line for each frame.

python infer/infer_video.py --video street.mp4 --output-dir results
python infer/infer_video.py --video 0 --max-frames 300 --task detection,keypoint

An interrupted run goes on where it stopped when it is started again. A camera is named by its number; Ctrl-C ends it.
"""

from pix2seq.command_line import VIDEO, command_line
from pix2seq.infer.video import run

if __name__ == "__main__":
    command_line(run, __doc__, VIDEO, task="detection")
