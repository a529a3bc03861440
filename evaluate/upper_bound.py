"""Score the ground truth itself, put into tokens and read back: the upper bound of every model with these settings.

python evaluate/upper_bound.py --data-root /data/coco --image-size 640 --max-points 128 --max-tokens 512
"""

from __future__ import annotations

from pix2seq.command_line import SEQUENCES, SOURCE, Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from dataclasses import replace

    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.evaluate.ground_truth import ground_truth_predictor
    from pix2seq.evaluate.report import tables
    from pix2seq.tasks import choose_tasks

    tasks = choose_tasks(cfg.tasks)
    split = open_split(cfg, cfg.data.val_split, tasks)
    sizes = replace(Sizes.of(cfg), token_images=0)  # there is no model whose tokens could be counted
    evaluation = evaluate(ground_truth_predictor(split, tasks, cfg), split, list(tasks), sizes)
    print(tables(evaluation, split.problems))


if __name__ == "__main__":
    uses = Uses(
        essential=(
            "data_root",
            "val_split",
            "val_json",
            "task",
            "image_size",
            "crop_padding",
            "max_objects",
            "max_points",
        ),
        others=(
            *SOURCE,
            *SEQUENCES,
            "preset",
            "seed",
            "workers",
            "eval_batch_size",
            "max_images",
            "points_score_weight",
        ),
    )
    command_line(main, __doc__, uses, task="detection,segmentation,keypoint", num_samples=1)
