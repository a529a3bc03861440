"""Folders of data whose layout is not read: what is there instead, and how it becomes one that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pix2seq.dataset.images import IMAGE_SUFFIXES
from pix2seq.errors import UserError, plain
from pix2seq.runtime.text import decode_text
from pix2seq.schema import read_bytes

MOST_LOOKED_AT = 20  # JSON files of a folder
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
EXPORT = "export or convert it as COCO or YOLO"


def what_is_there(root: Path) -> str:
    """What a folder without a known layout holds, and what to do, as a sentence; empty if nothing is worth a word."""
    files = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    near = [*files, *(path for folder in files if folder.is_dir() for path in sorted(folder.iterdir()))]
    for path in [path for path in near if path.suffix.lower() == ".json"][:MOST_LOOKED_AT]:
        if kind := what_json_is(_content(path)):
            return f"{path.name} {kind}"
    for path in near:
        suffix = path.suffix.lower()
        if suffix in ARCHIVES:
            return f"{path.name} is an archive; unpack it, and name the folder that comes out"
        if suffix == ".tfrecord":
            return f"{path.name} is a TFRecord; {EXPORT}"
        if suffix == ".csv":
            return f"{path.name} is a table of annotations; {EXPORT}"
    images = sum(path.name.lower().endswith(IMAGE_SUFFIXES) for path in near)
    if images:
        return f"it holds {images} images, but no annotations that are known beside them"
    texts = [path for path in near if path.suffix.lower() == ".txt"]
    return f"it holds texts such as {plain(texts[0].name)}, but no images; put them into images/" if texts else ""


def what_json_is(content: Any) -> str:
    """What a JSON is that is no annotation file in COCO's format, and how it becomes one; empty if not known."""
    entries = content if isinstance(content, list) else []
    first = entries[0] if entries and all(isinstance(entry, dict) for entry in entries) else {}
    content = content if isinstance(content, dict) else {}
    if "image_id" in first:
        return "is a file of results, a list of predictions, and names no images"
    if "image" in first and "annotations" in first:
        return f"is CreateML's JSON; {EXPORT}"
    if "annotations" in first:
        return "is Label Studio's own JSON; export it as COCO"
    if "image" in first and first.keys() & {"label", "id"}:
        return "is Label Studio's short JSON; export it as COCO"
    if "shapes" in content:
        return "is labelme's own JSON of one image; name the folder of all of them with --data-root"
    if {"project", "metadata", "view"} <= content.keys():
        return "is a project of VIA 3; export it as COCO"
    if {"items", "categories"} <= content.keys():
        return "is Datumaro's JSON; export it as COCO"
    return ""


def _content(path: Path) -> Any:
    try:
        return json.loads(decode_text(read_bytes(path), path))
    except (OSError, ValueError, RecursionError, UserError):
        return None
