"""Pack a dataset of any layout into shards: tar files in WebDataset's convention that training reads like a folder.

python dataset/pack_shards.py --data-root /data/coco --output-dir /data/coco_shards --shard-size 1000

`--data-root /data/coco_shards`, or the https address where it was uploaded, then trains and evaluates like /data/coco.
Training images are packed in random order (`--seed`), validation images in their own.
"""

from __future__ import annotations

from pathlib import Path

from pix2seq.command_line import SOURCE, Uses, command_line
from pix2seq.config import CFG
from pix2seq.errors import UserError


def main(cfg: CFG) -> None:
    import msgspec

    from pix2seq.dataset.shard_format import INDEX, Index
    from pix2seq.dataset.shard_writing import pack
    from pix2seq.dataset.sources import labeled_tasks, open_split
    from pix2seq.dataset.splits import TRAIN, VAL, packed_name
    from pix2seq.runtime.files import output_folder, writing
    from pix2seq.tasks import TASKS

    folder, data = Path(cfg.infer.output_dir), cfg.data
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--output-dir expects a new or an empty folder, and {folder} is there already; name another")
    index, lines = Index({}), []
    with output_folder(folder) as staging, writing(folder):
        for split, role, seed in ((data.train_split, TRAIN, cfg.seed), (data.val_split, VAL, None)):
            tasks = labeled_tasks(cfg, split, TASKS)
            dataset = open_split(cfg, split, tasks, hold_out=role == TRAIN)
            print(f"{split}: {len(dataset)} images of {dataset.layout or dataset.folder}, for {', '.join(tasks)}")
            dataset.leave_out_unreadable()
            name = packed_name(split, role)
            packed = index.splits[name] = pack(dataset, name, tasks, staging, data.shard_size, seed)
            count, size = sum(s.samples for s in packed.shards), sum(s.tar.bytes for s in packed.shards)
            lines.append(f"{name}: {count:,} images in {len(packed.shards):,} shards, {size / 1e9:.2f} GB")
            lines += [f"  left out or repaired: {line}" for line in dataset.problems.lines()]
        (staging / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1))
    print("\n".join(lines))
    print(f"wrote {folder}: train with --data-root {folder}")


if __name__ == "__main__":
    essential = ("data_root", "output_dir", "shard_size", "train_split", "val_split", "val_share", "classes", "seed")
    command_line(main, __doc__, Uses(essential, SOURCE), output_dir="shards")
