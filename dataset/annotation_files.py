"""Files in COCO's annotation format: read, checked for what they must have, and joined with others of their split."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pix2seq.dataset.annotations import Problems
from pix2seq.dataset.cvat import cvat_to_coco, parse_cvat
from pix2seq.dataset.foreign import what_json_is
from pix2seq.dataset.mending import match_ids, spelled_number
from pix2seq.dataset.splits import Part
from pix2seq.dataset.via import is_via, read_table, via_csv_to_coco, via_to_coco
from pix2seq.errors import UserError, plain, shown
from pix2seq.runtime.text import read_text

MOST_OF_CAPTION = 10_000  # characters: some paragraphs
MAX_SIDE = 10**7  # pixels; no image is larger
NAMING = {"id", "image_id", "category_id", "name"}  # keys whose values identify entries


def parse_json(path: Path) -> Any:
    """The content of a JSON; raise UserError if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(
            f"there is no annotation file {path}; check --data-root and the splits, or --train-json and --val-json"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep to be read; get the file again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file in COCO's annotation format") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get the file again") from None


def read_annotations(path: Path, subset: str = "") -> dict:
    """The content of a file in COCO's annotation format, or of one of VIA or CVAT in this format; `subset` is one of
    those that images of CVAT's file belong to."""
    content, problems = _in_coco(path, subset)
    lists = [content.get(name) for name in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(entries, list) for entries in lists):
        found = what_json_is(content) or "has no lists `images` and `annotations`"
        raise UserError(f"{path} {found}; expected COCO's annotation format")
    for name, needed in (("images", {"id", "file_name"}), ("annotations", set()), ("categories", {"id", "name"})):
        entries = content.get(name) or []
        if not isinstance(entries, list):
            raise UserError(f"{path} has `{name}` that are no list; expected COCO's format")
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not needed <= entry.keys():
                wanted = f" with {' and '.join(sorted(needed))}" if needed else ""
                raise UserError(f"{path}: entry {number} of `{name}` is no object{wanted}; expected COCO's format")
            odd = [key for key in NAMING & entry.keys() if isinstance(entry[key], (list, dict))]
            odd += ["id"] if "id" in needed and entry["id"] is None else []
            odd += ["file_name"] if not isinstance(entry.get("file_name", ""), str) else []
            if odd:
                raise UserError(f"{path}: entry {number} of `{name}` has {entry[odd[0]]!r} as its {odd[0]}; correct it")
    for entry in content["annotations"]:
        if "segments_info" in entry:
            raise UserError(
                f"{path} is a panoptic file, whose masks are in PNGs; expected objects with boxes, such as COCO's "
                "instances_….json"
            )
        if "category_id" in entry and not content.get("categories"):
            raise UserError(
                f"{path} has objects, but no list `categories` that names their classes, such as "
                '[{"id": 1, "name": "person"}]; add it, or export the file with it'
            )
    _require_one_name(path, content.get("categories") or [])
    problems = [*problems, *_with_plain_names(content.get("categories") or [])]
    content["problems"] = [*problems, *match_ids(content)]
    return content


def _in_coco(path: Path, subset: str) -> tuple[Any, list[tuple[str, str]]]:
    """What a file holds, in COCO's format if it is one of VIA or CVAT, and what of that is left out."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        content = cvat_to_coco(parse_cvat(path), subset)
    elif suffix == ".csv":
        content = via_csv_to_coco(read_table(path), path)
    elif is_via(parsed := parse_json(path)):
        content = via_to_coco(parsed, path)
    else:
        return parsed, []
    return content, content.pop("problems")


def _require_one_name(path: Path, categories: Iterable[dict]) -> None:
    """Raise UserError for a category id with two names: what its objects are is not known."""
    names: dict[Any, Any] = {}
    for entry in categories:
        if names.setdefault(entry["id"], entry["name"]) != entry["name"]:
            raise UserError(
                f"{path} has two categories of the id {shown(entry['id'])}, {shown(names[entry['id']])} and "
                f"{shown(entry['name'])}; give each an id of its own"
            )


def _with_plain_names(categories: Iterable[dict]) -> Iterator[tuple[str, str]]:
    """Leave out of the categories' names what a terminal would obey, as weights files do that keep them; what was left
    out, and where."""
    for entry in categories:
        if isinstance(entry["name"], str):
            name = plain(entry["name"]) or f"class_{entry['id']}"
            if not entry["name"].isprintable():
                yield "category whose name has control characters, which are left out", name
            entry["name"] = name


def take_part(contents: Mapping[str, dict], part: Part) -> dict[str, dict]:
    """What annotation files say about those images that belong to `part`; they may list different images."""
    if not part.side:
        return dict(contents)
    names: dict[Any, str] = {}  # an image id of several files is on one side, where it is refused
    for image in chain.from_iterable(content["images"] for content in contents.values()):
        names[image["id"]] = min(names.get(image["id"], image["file_name"]), image["file_name"])
    chosen = {number for number, kept in zip(names, part.chosen(list(names.values())), strict=True) if kept}
    left_out = names.keys() - chosen

    def taken(content: dict) -> dict:
        images = [image for image in content["images"] if image["id"] in chosen]
        annotations = [entry for entry in content["annotations"] if entry.get("image_id") not in left_out]
        return content | {"images": images, "annotations": annotations}

    return {name: taken(content) for name, content in contents.items()}


def without_roots(categories: Mapping[int, dict], contents: Iterable[dict]) -> dict[int, dict]:
    """Categories by id without the root that Roboflow adds to a list: no object has it, it has no supercategory, and it
    is that of the others, or has the name of another one that objects have."""
    used = {annotation.get("category_id") for content in contents for annotation in content["annotations"]}
    names = Counter(entry["name"] for entry in categories.values())
    busy = {entry["name"] for number, entry in categories.items() if number in used}
    above = {str(entry.get("supercategory")) for entry in categories.values()} - {str(None), "", "none"}

    def is_root(entry: dict) -> bool:
        alone = entry.get("supercategory") == "none" and entry["name"] in above
        return alone or (names[entry["name"]] > 1 and entry["name"] in busy)

    return {number: entry for number, entry in categories.items() if number in used or not is_root(entry)}


def join_images(contents: Mapping[str, dict], problems: Problems) -> list[dict]:
    """The images of all files, each once, in the order of their ids; none whose id is that of two image files, or whose
    file has two ids under which its objects may be spread."""
    images: dict[int, dict] = {}
    files: dict[int, dict[str, None]] = {}
    for content in contents.values():
        listed: set[int] = set()
        for image in content["images"]:
            files.setdefault(image["id"], {})[image["file_name"]] = None
            if image["id"] in listed and len(files[image["id"]]) == 1:
                problems.add("image that is listed twice", str(image["id"]))
            listed.add(image["id"])
            images.setdefault(image["id"], _with_sound_size(image))
    for image_id in [number for number, names in files.items() if len(names) > 1]:
        del images[image_id]
        where = f"image {image_id}: {', '.join(files[image_id])}"
        problems.add("image id of several files, left out: it is not known whose objects are whose", where)
    chosen = without_uncertain(list(images.values()), contents.values(), problems)
    return sorted(chosen, key=lambda image: (isinstance(image["id"], str), image["id"]))


def without_uncertain(images: Sequence[dict], contents: Iterable[dict], problems: Problems) -> list[dict]:
    """The images without those whose file has several ids with different objects, none of which may be all. With the
    same objects such a file is repeated, no more."""
    ids: dict[str, list[int]] = {}
    for image in images:
        ids.setdefault(posixpath.normpath(image["file_name"]), []).append(image["id"])
    several = [same for same in ids.values() if len(same) > 1]
    different = _with_different_objects(several, contents)
    for same in several:
        kind = "image id whose file has another id, left out: none of both may list all its objects"
        kind = kind if same in different else "image file with several ids and the same objects"
        name = next(image["file_name"] for image in images if image["id"] == same[0])
        for _ in same:
            problems.add(kind, f"{name}: images {', '.join(map(str, same))}")
    left_out = set(chain.from_iterable(different))
    return [image for image in images if image["id"] not in left_out]


def _with_different_objects(several: Sequence[list[int]], contents: Iterable[dict]) -> list[list[int]]:
    """Those of several lists of image ids whose objects differ."""
    objects: dict[int, Counter[tuple[str, str]]] = {image_id: Counter() for same in several for image_id in same}
    for annotation in chain.from_iterable(content["annotations"] for content in contents):
        if annotation.get("image_id") in objects and is_object(annotation):
            objects[annotation["image_id"]][str(annotation.get("category_id")), str(annotation.get("bbox"))] += 1
    return [same for same in several if any(objects[one] != objects[same[0]] for one in same)]


def _with_sound_size(image: dict) -> dict:
    """The entry without a width or height that is not a positive whole number: it counts as unknown."""
    given = {side: spelled_number(image.get(side)) for side in ("width", "height")}
    known = {side: value for side, value in given.items() if isinstance(value, (int, float))}
    sound = {side: int(value) for side, value in known.items() if 0 < value < MAX_SIDE and value % 1 == 0}  # 640.0, too
    return {key: value for key, value in image.items() if key not in ("width", "height")} | sound


def is_object(annotation: dict) -> bool:
    """Whether an annotation is about an object, not a caption alone."""
    return "caption" not in annotation or "bbox" in annotation or "segmentation" in annotation


def join_objects(contents: Iterable[dict], problems: Problems) -> list[dict]:
    """Objects of all files; a person in two of them (same id) is one object with keypoints."""
    merged: dict[tuple, dict] = {}
    for content in contents:
        seen: dict[int | None, int] = {}
        for annotation in content["annotations"]:
            if not is_object(annotation):
                continue
            number = annotation.get("id")
            seen[number] = seen.get(number, 0) + 1
            if seen[number] == 2 and number is not None:
                problems.add("annotation id that is used twice, both kept", f"annotation {number}")
            key = (number, seen[number])
            merged[key] = merged.get(key, {}) | annotation
    return list(merged.values())


def join_captions(contents: Iterable[dict], images: Mapping[int, dict], problems: Problems) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = {}
    for content in contents:
        for annotation in content["annotations"]:
            if "caption" not in annotation:
                continue
            texts, image_id = annotation["caption"], annotation.get("image_id")
            for text in texts if isinstance(texts, list) and texts else [texts]:
                if image_id not in images:
                    problems.add("caption of an image that is not listed", f"image {image_id}")
                elif not isinstance(text, str) or not text.strip():
                    problems.add("caption that is empty or no text", f"image {image_id}: {shown(text)}")
                elif len(text) > MOST_OF_CAPTION:
                    problems.add(f"caption of more than {MOST_OF_CAPTION:,} characters, left out", f"image {image_id}")
                else:
                    captions.setdefault(image_id, []).append(text)
    return captions
