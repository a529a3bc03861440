"""Start from a weights file of other data: what has the same meaning is kept, the rest stays as it was initialised.

What token ids mean is in the file's class names and caption vocabulary, so that rows of the embedding move by name: a
class that both know keeps what was learnt about it whatever its id, and no class inherits the row of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from pix2seq.errors import listed
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights
from pix2seq.names import match_names
from pix2seq.token_ids import CLASS_SHIFT, COORD_BINS, COORD_SHIFT, TEXT_SHIFT
from pix2seq.tokenizers.captioning import TextVocabulary, WordVocabulary, read_text

NAMES_SHOWN = 8
STEM = "encoder.stem.0.weight"  # (encoder width, channels of the backbone)


@torch.no_grad()
def start_from(
    model: Pix2Seq, weights: Weights, class_names: Mapping[int, str], text: TextVocabulary
) -> list[tuple[str, str, str]]:
    """Copy what fits from `weights` into `model`; return rows (what, kept, newly initialised) for `table`."""
    own, given = model.state_dict(), weights.model.state_dict()
    known = read_text(weights.text, weights.cfg.model.vocab_size)
    sizes = (model.cfg.vocab_size, weights.cfg.model.vocab_size)
    moved = np.concatenate(
        [
            _same_rows(min(CLASS_SHIFT, *sizes)),
            _class_rows(class_names, weights.class_names) + CLASS_SHIFT,
            _same_rows(COORD_BINS) + COORD_SHIFT,
            _text_rows(text, known) + TEXT_SHIFT,
        ]
    )
    moved = moved[(moved < sizes).all(axis=1)]  # a vocabulary of 2,000 to 3,000 ids has no text
    kept, rows = 0, []
    for name, tensor in own.items():
        source = given.get(name)
        if source is not None and _is_by_token(name, tensor, source, sizes):
            tensor[moved[:, 0]] = source[moved[:, 1]]
        elif source is not None and name == "decoder.positions" and tensor.shape[1:] == source.shape[1:]:
            shared = min(len(tensor), len(source))
            tensor[:shared] = source[:shared]
            rows.append(("token positions", str(shared), str(len(tensor) - shared)))
        elif source is not None and name == STEM and len(tensor) == len(source) and tensor.shape != source.shape:
            shared = min(tensor.shape[1], source.shape[1])  # feature maps come in the same order, deeper ones last
            tensor[:, :shared] = source[:, :shared]
            rows.append(("channels of the backbone", str(shared), str(tensor.shape[1] - shared)))
        elif source is not None and (source := _resampled(model, weights.model, name, source)).shape == tensor.shape:
            tensor.copy_(source)
            kept += 1
        else:
            shape = "none" if name not in given else "file has " + _shape(given[name])
            rows.append((name, shape, _shape(tensor)))
    if unused := given.keys() - own.keys():
        rows.append(("only in the file", "0", f"{len(unused)} tensors are not used, among them {min(unused)}"))
    classes = _classes_row(class_names, weights.class_names)
    words = [_words_row(text, known)] if len(text) else []
    return [("tensors", str(kept), "0"), classes, *words, *rows]


def lacks_backbone(model: Pix2Seq, other: Pix2Seq) -> bool:
    """Whether `other` has no layers of some feature map that `model` uses of the same backbone."""
    own, given = model.encoder.backbone.state_dict(), other.encoder.backbone.state_dict()
    return model.cfg.backbone == other.cfg.backbone and bool(own.keys() - given.keys())


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """The rows of `start_from` as text."""
    rows = [("", "kept", "newly initialised"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {what:<{widths[0]}}  {kept:<{widths[1]}}  {new}".rstrip() for what, kept, new in rows)


def _is_by_token(name: str, tensor: Tensor, source: Tensor, sizes: tuple[int, int]) -> bool:
    """Whether a tensor has a row for each token id, and rows of the same width in both."""
    return (
        name.startswith("decoder.")
        and (len(tensor), len(source)) == sizes
        and tensor.shape[1:] == source.shape[1:]
        and name != "decoder.positions"
    )


def _same_rows(count: int) -> np.ndarray:
    return np.stack([np.arange(count)] * 2, axis=1)


def _rows_by_name(names: Mapping[int, str], known: Mapping[int, str]) -> np.ndarray:
    """Pairs (n, 2) of ids that have the same name here and there."""
    ids = {name: number for number, name in known.items()}
    pairs = [(number, ids[name]) for number, name in names.items() if name in ids]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _class_rows(names: Mapping[int, str], known: Mapping[int, str]) -> np.ndarray:
    """Pairs (n, 2) of class ids whose names mean the same."""
    matches = match_names(names.values(), known.values())
    return _rows_by_name({number: matches[name] for number, name in names.items() if name in matches}, known)


def _text_rows(text: TextVocabulary, known: TextVocabulary) -> np.ndarray:
    """Word lists share words; another kind of vocabulary means the same only as a whole."""
    if isinstance(text, WordVocabulary) and isinstance(known, WordVocabulary):
        return _rows_by_name(dict(enumerate(text.words)), dict(enumerate(known.words)))
    return _same_rows(len(text) if text.describe() == known.describe() else 0)


def _resampled(model: Pix2Seq, other: Pix2Seq, name: str, source: Tensor) -> Tensor:
    """A ViT's learned positions, brought to the grid of `model`'s canvas."""
    if not name.endswith("backbone.net.pos_embed"):
        return source
    net, prefix = model.encoder.backbone.net, other.encoder.backbone.net.num_prefix_tokens
    prefix = 0 if net.no_embed_class else prefix
    return resample_abs_pos_embed(source, list(net.patch_embed.grid_size), num_prefix_tokens=prefix)


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "1"


def _classes_row(names: Mapping[int, str], known: Mapping[int, str]) -> tuple[str, str, str]:
    there = match_names(names.values(), known.values())
    kept, new = ([name for name in names.values() if (name in there) == is_kept] for is_kept in (True, False))
    return "classes", _counted(kept), _counted(new)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)}: {listed(names, NAMES_SHOWN)}" if names else "0"


def _words_row(text: TextVocabulary, known: TextVocabulary) -> tuple[str, str, str]:
    kept = len(_text_rows(text, known))
    return "words", str(kept), str(len(text) - kept)
