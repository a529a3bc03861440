"""Build the caption vocabulary of a dataset: a JSON list of words.

python dataset/build_captioning_vocab.py --data-root /data/coco --vocab vocab.json --caption-min-count 5
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import CFG, UserError, command_line
from tokenizers.captioning import UNKNOWN, WordVocabulary
from tokenizers.vocabulary import TEXT_SHIFT


def caption_words(captions: list[str], cfg: CFG) -> list[str]:
    """The words of `--vocab` if one is named, else those of `captions`; they must fit into the token ids."""
    if cfg.data.vocab:
        words = read_vocab(Path(cfg.data.vocab))
    else:
        words = list(WordVocabulary.build(captions, cfg.data.caption_min_count).words)
    room = cfg.model.vocab_size - TEXT_SHIFT
    if len(words) > room:
        raise UserError(
            f"--vocab-size {cfg.model.vocab_size} has room for {room} words, the captions have {len(words)}; "
            f"raise --vocab-size to {TEXT_SHIFT + len(words)} or raise --caption-min-count"
        )
    return words


def read_vocab(path: Path) -> list[str]:
    """The words of a file that this script wrote."""
    try:
        words = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no word list {path}; make it with build_captioning_vocab.py") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); make it again with build_captioning_vocab.py") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{path} is not a JSON list of words; make it again with build_captioning_vocab.py")
    if words[:1] != [UNKNOWN]:
        raise UserError(f"{path} must begin with {UNKNOWN}; make it again with build_captioning_vocab.py")
    return words


def main(cfg: CFG) -> None:
    from dataset.sources import open_split

    captions = open_split(cfg, cfg.data.train_split, ("captioning",)).all_captions()
    words = list(WordVocabulary.build(captions, cfg.data.caption_min_count).words)
    path = Path(cfg.data.vocab or "vocab.json")
    path.write_text(json.dumps(words, indent=0))
    print(f"{path}: {len(words)} words that {len(captions)} captions use at least {cfg.data.caption_min_count} times")


if __name__ == "__main__":
    command_line(main, __doc__)
