"""Objects, masks, joints and captions of the images of a folder, Parquet files or tar shards, by a Ray cluster.

python infer/infer_ray.py --image photos --output-dir results
python infer/infer_ray.py --image 'shards/*.tar' --task detection --ray-address auto --ray-workers 16
"""

from pix2seq.command_line import RAY_INFERENCE, command_line
from pix2seq.infer.ray_cluster import run

if __name__ == "__main__":
    command_line(run, __doc__, RAY_INFERENCE)
