"""Measure how many images a second a folder takes: one by one, and as the inference scripts do it.

python bench/folder.py --image photos --task detection
python bench/folder.py --image photos --device cuda --eval-batch-size 64

Reading is measured, drawing is not. All times are of one run, after an image to warm up.
"""

from __future__ import annotations

import time
from functools import partial

from pix2seq.command_line import INFERENCE, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    import torch

    from pix2seq.infer.image_names import find_images
    from pix2seq.infer.load import load_predictor
    from pix2seq.infer.pipeline import process
    from pix2seq.infer.run import jobs_of, load

    jobs, predictor, names = jobs_of(find_images(cfg.infer.image)), load_predictor(cfg), list(cfg.tasks)
    predictor.require(names)
    read = partial(load, cfg, (), predictor)
    ways = {
        "one by one": lambda: [predictor.describe(read(job).pixels, names) for job in jobs],
        f"{cfg.infer.eval_batch_size} at a time": lambda: [
            result for _, result in process(predictor, names, jobs, read, lambda answer: answer)
        ],
    }
    print(f"{len(jobs)} images, {cfg.task}; {predictor.generator.device}, {torch.get_num_threads()} threads")
    predictor.describe(read(jobs[0]).pixels, names)
    for way, describe in ways.items():
        started = time.perf_counter()
        count = sum(len(result.instances) for result in describe())
        rate = len(jobs) / (time.perf_counter() - started)
        print(f"{way:<18}{rate:8.2f} images/s, {count / len(jobs):.1f} instances on an image", flush=True)


if __name__ == "__main__":
    command_line(main, __doc__, INFERENCE.without("box", "box_class", "output_dir", "skip_existing", "pictures"))
