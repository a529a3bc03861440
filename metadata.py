"""What a weights file says about itself, and the shapes of its tensors: read without them, and typed.

Everything that needs a weights file's settings reads them here. Whatever they say, no other file is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from pix2seq import coco_person
from pix2seq.config import CFG, MOST, decoding_in, from_json
from pix2seq.errors import UserError, plain
from pix2seq.schema import decode
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, MOST_KEYPOINTS

FORMAT = "pix2seq-toolkit"
MOST_HEADER_BYTES = 32 * 2**20  # the official vocabulary of 32,000 pieces needs 1 MB
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # how files of torch.save begin
Place = Annotated[int, Meta(ge=0, lt=MOST_KEYPOINTS)]
ClassId = Annotated[int, Meta(ge=0, lt=COORD_SHIFT - CLASS_SHIFT)]
CategoryId = Annotated[int, Meta(ge=-MOST, le=MOST)]
Whole = Annotated[int, Meta(ge=0, le=MOST)]


class Keypoints(Struct):
    """`dataset.skeleton.Skeleton` as `to_dict` describes it; without names: those of COCO's people."""

    names: Annotated[tuple[str, ...], Meta(max_length=MOST_KEYPOINTS)] = ()
    flip: tuple[Place, ...] = ()
    bones: Annotated[tuple[tuple[Place, Place], ...], Meta(max_length=MOST_KEYPOINTS**2)] = ()
    class_ids: tuple[ClassId, ...] = ()
    sigmas: tuple[Annotated[float, Meta(gt=0, le=100)], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        self.names = tuple(map(plain, self.names))
        if len(self.flip) != count or any(place >= count or self.flip[place] != i for i, place in enumerate(self.flip)):
            raise ValueError(f"flip expects each of the {count} keypoints' mirror image")
        if any(place >= count for bone in self.bones for place in bone):
            raise ValueError(f"bones expects pairs of the {count} keypoints")
        if len(self.sigmas) != count and (self.sigmas or count not in (0, len(coco_person.SIGMAS))):
            raise ValueError(f"sigmas expects a number for each of the {count} keypoints")


class Text(Struct):
    """A caption vocabulary as its `describe` gives it: `words`, or the file of a `sentencepiece` model in base64."""

    words: list[str] | None = None
    sentencepiece: str | None = None

    def __post_init__(self) -> None:
        if (self.words is None) == (self.sentencepiece is None):
            raise ValueError("expected either words or sentencepiece")
        if self.words:
            self.words = list(map(plain, self.words))


@dataclass(frozen=True)
class Metadata:
    """See `models.weights.Weights`. `shapes` are those of the tensors, `kinds` how their numbers are stored (F32)."""

    cfg: CFG
    class_names: dict[int, str]
    text: dict[str, Any]
    keypoints: dict[str, Any]
    category_ids: dict[int, int]
    step: int
    decoding: dict[str, Any]
    domain: str
    licence: str
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]


def read_metadata(path: Path) -> Metadata:
    """The description of the weights file `path`; raise UserError, which names the field, for what is none."""
    from safetensors import SafetensorError, safe_open  # not needed by --help

    if not path.is_file():
        raise UserError(f"there is no weights file {path}; train one, or name another that this toolkit wrote")
    _check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            written = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {name: part.get_dtype() for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a safetensors file ({plain(str(error))}); get it again") from None
    if written.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this toolkit: its metadata name no {FORMAT} settings")
    try:
        return Metadata(**typed(written), shapes=shapes, kinds=kinds)
    except UserError as error:
        raise UserError(f"the settings in {path} cannot be used: {error}") from None


def _check_header(path: Path) -> None:
    """Raise UserError for a header that is larger than any that this toolkit writes."""
    try:
        with path.open("rb") as file:
            begin = file.read(8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name another weights file") from None
    if begin.startswith(PICKLES):
        raise UserError(
            f"{path} is a checkpoint of PyTorch, which is never loaded, as it may run code; name a .safetensors file, "
            "such as the best.safetensors or last.safetensors of the run's folder"
        )
    if int.from_bytes(begin, "little") > MOST_HEADER_BYTES:
        raise UserError(
            f"{path} is not a safetensors file of this toolkit: its header has more than {MOST_HEADER_BYTES:,} bytes"
        )


def typed(written: Mapping[str, str]) -> dict[str, Any]:
    """The fields of Metadata by name, but for those of tensors, from their JSON texts; raise UserError, which names the
    field, for what is none."""
    words = "text" if "text" in written else "words"  # the first version had a word list and nothing else
    for name in ("cfg", "class_names", words):
        if name not in written:
            raise UserError(f"{name} is missing; get the file again")
    text = decode(written[words], Text, words) if words == "text" else Text(decode(written[words], list[str], words))
    keypoints = structs.asdict(decode(written.get("keypoints", "{}"), Keypoints, "keypoints"))
    names = decode(written["class_names"], dict[ClassId, str], "class_names")
    if unknown := set(keypoints["class_ids"]) - names.keys():
        raise UserError(f"keypoints.class_ids names the class {min(unknown)}, which class_names does not")
    return {
        "cfg": from_json(written["cfg"]),
        "class_names": {number: plain(name) for number, name in names.items()},
        "text": {name: value for name, value in structs.asdict(text).items() if value is not None},
        "keypoints": keypoints if keypoints["names"] else {},
        "category_ids": decode(written.get("category_ids", "{}"), dict[ClassId, CategoryId], "category_ids"),
        "step": decode(written.get("step", "0"), Whole, "step"),
        "decoding": decoding_in(written),
        "domain": plain(written.get("domain", "")),
        "licence": plain(written.get("licence", "")),
    }
