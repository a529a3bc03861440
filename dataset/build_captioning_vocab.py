"""Build the caption vocabulary of a dataset: a JSON list of words.

python dataset/build_captioning_vocab.py --data-root /data/coco --vocab vocab.json --caption-min-count 5
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import CFG, UserError, command_line, writable_folder
from tokenizers.captioning import UNKNOWN, SentencePieceVocabulary, TextVocabulary, WordVocabulary
from tokenizers.vocabulary import TEXT_SHIFT

SIZE_UNIT = 64  # matrices with multiples of so many rows are multiplied fast


def caption_vocabulary(captions: list[str], cfg: CFG) -> TextVocabulary:
    """The vocabulary of `--text-model` or `--vocab` if one of them is named, else the words of `captions`."""
    data = cfg.data
    if data.text_model and data.vocab:
        raise UserError("--text-model and --vocab both name a caption vocabulary; leave one of them out")
    if data.text_model:
        return SentencePieceVocabulary.read(Path(data.text_model))
    if data.vocab:
        return WordVocabulary(read_vocab(Path(data.vocab)))
    return WordVocabulary.build(captions, data.caption_min_count)


def token_ids_for(text: TextVocabulary, least: int) -> int:
    """How many token ids, `least` or more, a model needs that speaks `text`."""
    needed = TEXT_SHIFT + len(text)
    return least if needed <= least else -(-needed // SIZE_UNIT) * SIZE_UNIT


def read_vocab(path: Path) -> list[str]:
    """The words of a file that this script wrote."""
    try:
        words = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"the word list {path} cannot be read ({error.strerror}); make it with build_captioning_vocab.py"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); make it again with build_captioning_vocab.py") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{path} is not a JSON list of words; make it again with build_captioning_vocab.py")
    if words[:1] != [UNKNOWN]:
        raise UserError(f"{path} must begin with {UNKNOWN}; make it again with build_captioning_vocab.py")
    return words


def main(cfg: CFG) -> None:
    from dataset.sources import open_split

    path = Path(cfg.data.vocab or "vocab.json")
    if path.is_dir():
        raise UserError(f"--vocab expects a file to write, {path} is a folder; name a file in it")
    unfinished = writable_folder(path.parent, "--vocab") / (path.name + ".partial")
    captions = open_split(cfg, cfg.data.train_split, ("captioning",)).all_captions()
    words = list(WordVocabulary.build(captions, cfg.data.caption_min_count).words)
    unfinished.write_text(json.dumps(words, indent=0))
    os.replace(unfinished, path)
    print(f"{path}: {len(words)} words that {len(captions)} captions use at least {cfg.data.caption_min_count} times")


if __name__ == "__main__":
    command_line(main, __doc__)
