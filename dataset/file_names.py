"""Which file a name in an annotation file means: other systems and tools spell paths in other ways."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from pix2seq.dataset.images import IMAGE_SUFFIXES

ABROAD = re.compile(r"^([A-Za-z]:)?/|^[a-z]+://|^(\./)*\.\./")  # of another system, or outside of the folder
UPLOAD_MARK = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the names of uploaded files


class FileNames:
    """Finds the files below `folder` that names mean; folders are listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> tuple[str, str] | None:
        """The path below the folder of the file that `name` means, and how it was found: "" if by its own spelling.

        None if there is none, or if several files are meant as well as each other: which one is never guessed.
        """
        if _is_file(self.folder / name) and not leads_out(self.folder / name, self.folder):
            return name, ""
        for spelled, how in _readings(name):
            if found := self._below(spelled):
                return found, how or "in another case or Unicode form"
        for endings in (_same_endings, _other_endings):
            for spelled, how in _readings(name):
                matches = {found for other in endings(spelled) if (found := self._below(other))}
                if len(matches) > 1:
                    return None
                if matches:
                    return matches.pop(), f"{how}, with another ending" if how else "with another ending"
        return None

    def _below(self, name: str) -> str | None:
        """The one file that has this name but for case and Unicode form."""
        place, parts = self.folder, [part for part in name.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            return None
        for part in parts:
            same = self._list(place).get(same_spelling(part), [])
            chosen = [part] if part in same else same
            if len(chosen) != 1:
                return None
            place /= chosen[0]
        return place.relative_to(self.folder).as_posix() if _is_file(place) else None

    def _list(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            for path in folder.iterdir() if folder.is_dir() else ():
                names.setdefault(same_spelling(path.name), []).append(path.name)
            self._listed[folder] = names
        return self._listed[folder]


def first_holding(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """The first of the `folders` that holds some file of these names, or of another spelling of one; None if none."""
    for folder in folders:
        files = FileNames(folder)
        if any(files.find(name) for name in names):
            return folder
    return None


def leads_out(path: Path, *folders: Path) -> bool:
    """Whether a file lies below none of `folders`: by .. or an absolute path in its name, or as a link to elsewhere.

    Linked folders are followed: with them people lay out their disks.
    """
    try:
        whole = os.path.realpath(path) if path.is_symlink() or ".." in path.parts else os.path.abspath(path)
    except (OSError, ValueError):  # a name that no file has
        return True
    places = {place(folder) for folder in folders for place in (os.path.abspath, os.path.realpath)}
    return not whole.startswith(tuple(os.path.join(place, "") for place in places))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def same_spelling(name: str) -> str:
    """What names have in common that differ in case and Unicode form alone."""
    return unicodedata.normalize("NFC", name).casefold()


def _readings(name: str) -> Iterator[tuple[str, str]]:
    """Paths that a name may mean, and in which way, the most literal ones first."""
    slashes = name.replace("\\", "/")
    address = re.sub(r"(^[a-z]+://[^?]*)\?(?!d=).*", r"\1", slashes)  # without what a web page is asked for
    ways = [(name, ""), (slashes, "with / for \\"), (unquote(address), "with URL encoding undone")]
    ways.append((unquote(address).strip(), "without spaces around it"))
    unique = [(path, how) for number, (path, how) in enumerate(ways) if path not in [way[0] for way in ways[:number]]]
    yield from unique
    for path, _ in unique:
        if ABROAD.match(path):
            parts = (path.partition("?d=")[2] or path.partition("/")[2]).split("/")  # ?d=: Label Studio's local files
            for start in range(len(parts)):
                yield "/".join(parts[start:]), "by the end of a path of another system"
    for path, _ in unique:
        last = path.rpartition("/")[2]
        if UPLOAD_MARK.match(last):
            yield UPLOAD_MARK.sub("", last), "without the mark of an upload before its name"


def _same_endings(name: str) -> Iterator[str]:
    """The name without a doubled suffix, or with one that is missing, doubled, or spelled .jpeg for .jpg."""
    stem, suffix = _cut_suffix(name)
    if not suffix:
        yield from (name + other for other in IMAGE_SUFFIXES)
        return
    if stem.lower().endswith(IMAGE_SUFFIXES):
        yield stem
    yield name + suffix
    if suffix in (".jpg", ".jpeg"):
        yield stem + (".jpeg" if suffix == ".jpg" else ".jpg")


def _other_endings(name: str) -> Iterator[str]:
    """The name with the suffix of another kind of image: someone has converted the images, or named them all alike."""
    stem, suffix = _cut_suffix(name)
    if suffix:
        yield from (stem + other for other in IMAGE_SUFFIXES)


def _cut_suffix(name: str) -> tuple[str, str]:
    """A name without the suffix of an image, and that in lower case; "" if it has none."""
    stem, dot, suffix = name.rpartition(".")
    suffix = f".{suffix.lower()}"
    return (stem, suffix) if dot and suffix in IMAGE_SUFFIXES else (name, "")
