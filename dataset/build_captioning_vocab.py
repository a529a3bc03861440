"""Build the caption vocabulary of a dataset: a JSON list of words.

python dataset/build_captioning_vocab.py --data-root /data/coco --vocab vocab.json --caption-min-count 5
"""

import json
import os
from pathlib import Path

from pix2seq.command_line import command_line
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.runtime.paths import writable_folder
from pix2seq.tokenizers.captioning import WordVocabulary


def main(cfg: CFG) -> None:
    from pix2seq.dataset.sources import open_split

    path = Path(cfg.data.vocab or "vocab.json")
    if path.is_dir():
        raise UserError(f"--vocab expects a file to write, {path} is a folder; name a file in it")
    unfinished = writable_folder(path.parent, "--vocab") / (path.name + ".partial")
    captions = open_split(cfg, cfg.data.train_split, ("captioning",)).all_captions()
    words = list(WordVocabulary.build(captions, cfg.data.caption_min_count).words)
    unfinished.write_text(json.dumps(words, indent=0), encoding="utf-8")
    os.replace(unfinished, path)
    print(f"{path}: {len(words)} words that {len(captions)} captions use at least {cfg.data.caption_min_count} times")


if __name__ == "__main__":
    command_line(main, __doc__)
