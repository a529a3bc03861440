"""Look through a dataset before training: counts, mistakes, lengths of sequences, and a grid of training samples.

python dataset/check.py --data-root /data/coco --output-dir results/check

Training begins with the quick part of it, which decodes no image (`--no-check-data` leaves it out). `samples.png`
shows training images as they are augmented, with what their token sequences hold: what the model is to learn.
"""

from __future__ import annotations

from pathlib import Path

from pix2seq.command_line import SEQUENCES, Uses, command_line, names_of
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime.paths import writable_folder

GRID_IMAGES = 12


def main(cfg: CFG) -> None:
    from pix2seq.dataset.caption_vocabulary import training_tokenizers
    from pix2seq.dataset.images import UNREADABLE
    from pix2seq.dataset.inspection import mixture_table, read_all, report
    from pix2seq.dataset.mixture import Mixture
    from pix2seq.dataset.samples import SampleDataset
    from pix2seq.dataset.training_data import describe_layouts, open_training
    from pix2seq.evaluate.sample_grid import draw_samples
    from pix2seq.infer.overlay import save_png
    from pix2seq.runtime.files import replacing, writing
    from pix2seq.tasks import choose_tasks

    path = writable_folder(Path(cfg.infer.output_dir), "--output-dir") / "samples.png"
    tasks = choose_tasks(cfg.tasks)
    training, validation = open_training(cfg, tasks)
    print("\n".join(describe_layouts(training, validation)))
    tokenizers = training_tokenizers(training, tasks, cfg)
    for name, examples in (("training", training), ("validation", validation)):
        examples.leave_out_unreadable()
        print(f"{name}\n{report(examples, tasks, tokenizers, cfg, len(examples))}")
        problems = read_all(examples, cfg.data.workers)
        print("\n".join(problems.lines()) or "every image can be read")
        if problems.counts.get(UNREADABLE, 0) == len(examples):
            raise UserError(f"{examples.folder} has no image that can be read")
    if isinstance(training, Mixture):
        print(f"what an epoch is made of\n{mixture_table(training, tasks, cfg.data.train_difficult)}")
    samples = SampleDataset(training, tasks, tokenizers, cfg, augment=True, replace_unreadable=True)
    grid = draw_samples(samples, training.class_names, GRID_IMAGES)
    with writing(path.parent), replacing(path) as unfinished:
        save_png(unfinished, grid)
    print(f"wrote {path}: what the model is trained on")


if __name__ == "__main__":
    uses = Uses(
        essential=(
            *("data_root", "data_weights", "train_split", "val_split", "val_share", "classes", "workers"),
            *("train_json", "val_json"),
            *("task", "preset", "seed", "image_size", "max_objects", "max_points", "max_words", "output_dir"),
        ),
        others=(*names_of("data"), *SEQUENCES),
        trains=True,
    ).without("cache_gb", "check_data", "shards_mixed", "shard_size")
    command_line(main, __doc__, uses, output_dir="results/check")
