"""Convert an official Pix2Seq checkpoint of TensorFlow to a weights file."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.config import CFG, replace
from pix2seq.errors import UserError
from pix2seq.metadata import ClassId
from pix2seq.schema import decode, read_bytes
from pix2seq.weights.official_config import OfficialConfig, config_of
from pix2seq.weights.tf_checkpoint import ObjectCheckpoint, open_checkpoint

if TYPE_CHECKING:
    from pix2seq.models.weights import Weights

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
OBJECTS365_CLASSES = 365


def convert(source: Path, out: Path, official_config: Path | None = None, **options: Any) -> Weights:
    """Convert the checkpoint `source`, a folder or a prefix `…/ckpt-N`, to the file `out`, and return what it holds.

    `official_config` is the `config.json` of its training, None: the one beside it, if any. See `convert_checkpoint`
    for the `options`.
    """
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} for {out.name}; create it first")
    return convert_checkpoint(open_checkpoint(source), out, config_of(source, official_config), **options)


def convert_checkpoint(
    checkpoint: ObjectCheckpoint,
    out: Path,
    config: OfficialConfig,
    dtype: str = "fp32",
    image_size: int | None = None,
    classes: str = "coco",
    text_model: Path | None = None,
    projection: str = "",
) -> Weights:
    """Convert an open checkpoint to the file `out`, and return what it holds.

    `dtype` is one of DTYPES; `image_size`, the canvas's side in pixels, is that of `config` if None; `classes` is
    `coco`, `objects365` or a JSON file of id → name; `text_model` is a SentencePiece file, without which captioning is
    not among the tasks. Variables are read one by one, so that the model and the libraries take all the memory. Raises
    UserError if something does not fit, and then leaves no file.
    """

    import torch  # now that there is something to convert: this takes seconds

    from pix2seq.models.weights import Weights, save_weights
    from pix2seq.weights.official_settings import official_cfg, published_decoding
    from pix2seq.weights.official_tensors import check_fit, empty_model, fill, find_sources

    class_names = read_class_names(classes)
    sources = find_sources(checkpoint.variables("model"))
    shapes = {name: source.variable.shape for name, source in sources.items()}
    cfg = official_cfg(shapes, image_size, projection, config)
    cfg, text = _with_text(cfg, text_model)
    model = empty_model(cfg)
    check_fit(sources, model.state_dict())
    fill(model, checkpoint, sources, getattr(torch, DTYPES[dtype]))
    domain = f"photographs; {len(class_names)} classes"
    weights = Weights(model, cfg, class_names, text, decoding=published_decoding(cfg), domain=domain)
    save_weights(out, weights, getattr(torch, DTYPES[dtype]))
    return weights


def read_class_names(classes: str) -> dict[int, str]:
    """Class names by class id: COCO's, `class 1`, `class 2`, … for Objects365, or those of a JSON file."""
    if classes == "coco":
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        names = enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
        return {number: name for number, name in names if name not in ("__background__", "N/A")}
    if classes == "objects365":  # its two versions number classes differently, and which was used is not published
        return {number: f"class {number}" for number in range(1, OBJECTS365_CLASSES + 1)}
    try:
        text = read_bytes(Path(classes)).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"--classes expects coco, objects365 or a file, got {classes} ({error.strerror})") from None
    return decode(text, dict[ClassId, str], classes, 'write a JSON object such as {"1": "person"}')


def _with_text(cfg: CFG, text_model: Path | None) -> tuple[CFG, dict[str, Any]]:
    """The settings and the description of the caption vocabulary; without `text_model` captioning is left out."""
    from pix2seq.token_ids import TEXT_SHIFT
    from pix2seq.tokenizers.captioning import UNKNOWN, SentencePieceVocabulary, WordVocabulary

    if text_model is None:
        tasks = ",".join(task for task in cfg.tasks if task != "captioning")
        return replace(cfg, task=tasks), WordVocabulary([UNKNOWN]).describe()
    text = SentencePieceVocabulary.read(text_model)
    room = cfg.model.vocab_size - TEXT_SHIFT
    if len(text) > room:
        raise UserError(
            f"the checkpoint has token ids for {room} word pieces, {text_model} has {len(text)}; use the file that the "
            "checkpoint was trained with"
        )
    return cfg, text.describe()
