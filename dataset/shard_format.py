"""Shards: tar files of images with their annotations, in WebDataset's convention, and where in them each image lies.

    shards.json           classes, keypoints and the shards of each split, with sizes and checksums
    train-000000.tar      000000000.jpg 000000000.json 000000001.jpg …: each image as it was, and its Record
    train-000000.jsonl    a Member for each image: its place in the tar file, and the same Record

Any program that knows WebDataset needs the tar files alone. This one never reads their headers: images are read by
place, in any order, so that no member can be a link, or a path to anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from msgspec import Meta, Struct

from pix2seq.dataset.annotation_files import MAX_SIDE, MOST_OF_CAPTION
from pix2seq.errors import UserError
from pix2seq.metadata import CategoryId
from pix2seq.schema import decode_lines
from pix2seq.token_ids import MOST_KEYPOINTS

INDEX = "shards.json"
VERSION = 1
MOST_IMAGE_BYTES = 2**28  # of an image file
MOST_RECORD_BYTES = 2**30  # of the members of a shard
PACK_AGAIN = "pack the dataset again with dataset/pack_shards.py"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Side = Annotated[int, Meta(gt=0, lt=MAX_SIDE)]
Size = Annotated[int, Meta(ge=0, le=2**50)]
Name = Annotated[str, Meta(min_length=1, max_length=4096)]


class _Image(TypedDict):
    id: CategoryId | Annotated[str, Meta(max_length=4096)]
    file_name: Name
    width: Side
    height: Side


class ImageEntry(_Image, total=False):
    """An image as COCO lists it. `as_stored`: its annotations leave EXIF rotation out; `spoiled`: some object of it
    cannot be read, so that it teaches nothing about objects."""

    as_stored: bool
    spoiled: bool


class RunLengths(TypedDict):
    """A mask in COCO's run lengths of `size` (height, width)."""

    size: tuple[Side, Side]
    counts: str | list[Annotated[int, Meta(ge=0)]]


class _Object(TypedDict):
    category_id: CategoryId
    bbox: tuple[float, float, float, float]
    area: float


class ObjectEntry(_Object, total=False):
    """An object as COCO lists it; `difficult` as in VOC."""

    iscrowd: Literal[0, 1]
    difficult: bool
    segmentation: list[list[float]] | RunLengths
    keypoints: Annotated[list[float], Meta(max_length=3 * MOST_KEYPOINTS)]


class Record(TypedDict):
    """All that is known about an image."""

    image: ImageEntry
    objects: list[ObjectEntry]
    captions: list[Annotated[str, Meta(max_length=MOST_OF_CAPTION)]]


class Member(TypedDict):
    """The image's `bytes` begin at `start` of the tar file; `crc32` is their checksum."""

    start: Size
    bytes: Annotated[int, Meta(gt=0, le=MOST_IMAGE_BYTES)]
    crc32: Annotated[int, Meta(ge=0, lt=2**32)]
    record: Record


class Stored(Struct):
    """The size and checksum of a file."""

    bytes: Size
    sha256: Sha256


class Shard(Struct):
    """A tar file `name` with `samples` images, and the file of its members."""

    name: Annotated[str, Meta(pattern=r"^\w[\w.-]{0,100}-\d{6}\Z")]
    samples: Annotated[int, Meta(gt=0, le=10**7)]
    tar: Stored
    members: Stored

    def __post_init__(self) -> None:
        if self.members.bytes > MOST_RECORD_BYTES:
            raise ValueError(f"members has more than {MOST_RECORD_BYTES:,} bytes")


class _Category(TypedDict):
    id: CategoryId
    name: Name


class Category(_Category, total=False):
    """A class as COCO lists it."""

    keypoints: Annotated[list[Name], Meta(max_length=MOST_KEYPOINTS)]
    skeleton: Annotated[list[tuple[int, int]], Meta(max_length=MOST_KEYPOINTS**2)]
    flip_pairs: Annotated[list[tuple[int, int]], Meta(max_length=MOST_KEYPOINTS)]
    sigmas: Annotated[list[float], Meta(max_length=MOST_KEYPOINTS)]


class ShardedSplit(Struct):
    """`labeled` are COCO's names of the annotations that the images have (`instances`, …); `lists_objects`, whether
    every object of the classes is among them."""

    categories: list[Category]
    labeled: Annotated[list[Name], Meta(max_length=100)]
    lists_objects: bool
    shards: Annotated[list[Shard], Meta(min_length=1, max_length=10**6)]

    def __post_init__(self) -> None:
        names = [shard.name for shard in self.shards]
        if len(set(names)) < len(names):
            raise ValueError("shards has the same name twice")


class Index(Struct):
    """What `shards.json` holds: splits by name."""

    splits: Annotated[dict[Name, ShardedSplit], Meta(min_length=1, max_length=100)]
    format: Literal["pix2seq-shards"] = "pix2seq-shards"
    version: Literal[1] = VERSION


def read_members(content: bytes, shard: Shard, path: Path) -> Sequence[Member]:
    """The members of a shard from the `content` of their file, at `path`; raise UserError if they are not its."""
    members = decode_lines(content, Member, str(path), PACK_AGAIN)
    beyond = any(member["start"] + member["bytes"] > shard.tar.bytes for member in members)
    if beyond or len(members) != shard.samples:
        what = "places outside of its tar file" if beyond else f"{len(members):,} images instead of {shard.samples:,}"
        raise UserError(f"{path} names {what}; {PACK_AGAIN}")
    return members
