"""Build the caption vocabulary of a dataset: a JSON list of words.

python dataset/build_captioning_vocab.py --data-root /data/coco --vocab vocab.json --caption-min-count 5
"""

import json
import os
from pathlib import Path

from pix2seq.command_line import SOURCE, Uses, command_line
from pix2seq.config import CFG, replace
from pix2seq.errors import UserError
from pix2seq.runtime.paths import writable_folder


def main(cfg: CFG) -> None:
    from pix2seq.dataset.caption_vocabulary import split_vocabulary
    from pix2seq.dataset.training_data import open_sources
    from pix2seq.tasks import choose_tasks

    path = Path(cfg.data.vocab or "vocab.json")
    if path.is_dir():
        raise UserError(f"--vocab expects a file to write, {path} is a folder; name a file in it")
    unfinished = writable_folder(path.parent, "--vocab") / (path.name + ".partial")
    training = open_sources(cfg, choose_tasks(["captioning"]), complete=False, hold_out=True)
    words = list(split_vocabulary(training, replace(cfg, vocab="")).words)
    if training.caption_words:
        source = "all that the captions of synthetic scenes are made of; --data-root names a dataset of your own"
    else:
        count = len(training.all_captions())
        source = f"those that {count} captions use at least {cfg.data.caption_min_count} times"
    unfinished.write_text(json.dumps(words, indent=0), encoding="utf-8")
    os.replace(unfinished, path)
    print(f"{path}: {len(words)} words, {source}")


if __name__ == "__main__":
    uses = Uses(("data_root", "train_split", "train_json", "vocab", "caption_min_count"), SOURCE).without("classes")
    command_line(main, __doc__, uses, only="captioning")
