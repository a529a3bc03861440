"""The four tasks on a page in the browser: drop a photo, click an object, see the tokens and where they lie.

python infer/app.py                      # http://127.0.0.1:7860
python infer/app.py --weights runs/multi_task/best.safetensors --device cuda --port 8000

Needs gradio: pip install -e '.[demo]'. docs/app.md says how to put it on a server, and what it keeps from whom.
"""

from pix2seq.command_line import APP, command_line
from pix2seq.infer.web_demo.server import run

if __name__ == "__main__":
    command_line(run, __doc__, APP, task="detection,captioning", max_megabytes=20.0, max_megapixels=50.0)
