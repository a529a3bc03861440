"""Where the files of a sharded dataset lie: in its folder, or on a server, from which they are fetched when they are
needed and of which the disk keeps the last ones used."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from pix2seq.dataset.file_names import leads_out
from pix2seq.dataset.shard_format import INDEX, PACK_AGAIN, Index, Stored
from pix2seq.errors import UserError, plain
from pix2seq.runtime.alone import locked
from pix2seq.runtime.console import tell
from pix2seq.runtime.eviction import remove_oldest
from pix2seq.runtime.files import require_regular, write_whole
from pix2seq.runtime.paths import cache_folder, writable_folder
from pix2seq.runtime.transfer import Missing, Unreachable, fetch, fetch_text
from pix2seq.runtime.web import is_web
from pix2seq.schema import MOST_BYTES, decode, read_bytes

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HERE = ("127.0.0.1", "::1", "localhost")  # servers that may do without encryption
ORIGIN = "origin"  # the file that says where the others come from
TAR, MEMBERS = ".tar", ".jsonl"
RESERVED = ".reserved"  # what ends the names of files that hold the place of those that are being fetched
BLOCK_BYTES = 1 << 20
MOST_TRIES = 5  # to open a file that other processes remove again, since the disk space is too small for all of them


@dataclass(frozen=True)
class StoredFile:
    """A file of a sharded dataset in `folder`, or, with a `url`, below that: then it is kept in `folder`, and all such
    tar files together in at most `limit_bytes`."""

    folder: Path
    name: str
    about: Stored
    url: str = ""
    limit_bytes: int = 0

    def path(self) -> Path:
        """Where the file is, to which it is fetched first if need be; raise UserError if it cannot be had."""
        if not self.url:
            return self.folder / self.name
        self.fetch()
        self.keep()
        return self._kept_path

    def fetch(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        """Fetch a file of a server if it is not here, which is no use of it, and still needed once no other process or
        thread fetches it; raise UserError if it cannot be had."""
        path = self._kept_path
        if not path.is_file():
            with locked(path.with_name(f".{path.name}.lock")):
                if is_needed() and not path.is_file():
                    self._fetch(path)

    def keep(self) -> None:
        """Let the file count as used just now, if it is here or on its way: others are removed first."""
        if self.url:
            for path in (self._kept_path, self._place):
                with contextlib.suppress(OSError):
                    use_now(path)

    @property
    def _kept_path(self) -> Path:
        return self.folder / f"{self.about.sha256[:12]}-{self.name}"  # of a newer dataset there is another one

    @property
    def _place(self) -> Path:
        return self.folder / f"{self._kept_path.name}{RESERVED}"

    def _fetch(self, path: Path) -> None:
        arrived, place = path.with_name(f"{path.name}.arrived"), self._place
        try:
            if self.name.endswith(TAR):
                with locked(kept_folder() / ".lock"):
                    make_room(self.limit_bytes - self.about.bytes)
                    place.touch()
                    os.truncate(place, self.about.bytes)  # takes no space, but counts
                    use_now(place)
            fetch(f"{self.url}/{quote(self.name)}", arrived, size=self.about.bytes, is_shown=False)
            if sha256_of(arrived) != self.about.sha256:
                arrived.unlink()
                raise UserError(f"{self.url}/{self.name} is not the file that {INDEX} describes; upload it again")
            with locked(kept_folder() / ".lock"):  # `make_room` meets the one or the other
                use_now(arrived)
                os.replace(arrived, path)
                place.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{error.filename or path} cannot be written ({error.strerror or error}); make room, lower "
                "--shard-cache-gb, or name another folder with PIX2SEQ_CACHE"
            ) from None
        finally:
            place.unlink(missing_ok=True)

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start` on, fewer if there are no more; raise UserError if the file cannot be read."""
        for _ in range(MOST_TRIES):
            path = self.path()
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(start)
                    return file.read(count)
            except FileNotFoundError:
                if not self.url:
                    break
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror or error}); {PACK_AGAIN}") from None
        raise UserError(f"{self.folder / self.name} is not there any more; bring it back, or raise --shard-cache-gb")

    def require(self, may_leave: bool) -> None:
        """Raise UserError if a file that should be in the folder is not there, or is not the one that was packed; a
        link to elsewhere is followed if the dataset's files `may_leave` its folder."""
        path = self.folder / self.name
        if self.url:
            return
        if leads_out(path, self.folder) and not may_leave:
            raise UserError(f"{path} is a link to a file outside of its folder; --outside-images reads it")
        try:
            size = require_regular(path)
        except OSError as error:
            raise UserError(f"{path}, which {INDEX} names, cannot be read ({error.strerror}); bring it back") from None
        if size != self.about.bytes:
            raise UserError(
                f"{path} has {size:,} bytes and should have {self.about.bytes:,}: it is damaged, or of another "
                f"dataset; copy it again, or {PACK_AGAIN}"
            )

    def content(self) -> bytes:
        """All of a small file; raise UserError if it is not what was packed."""
        content = self.read(0, self.about.bytes)
        if hashlib.sha256(content).hexdigest() != self.about.sha256:
            raise UserError(f"{self.folder / self.name} is not the file that {INDEX} describes; {PACK_AGAIN}")
        return content


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest()


def kept_folder() -> Path:
    """The folder of what is fetched: a folder of each address."""
    return cache_folder("shards", in_checkout="data/shards")


def use_now(path: Path) -> None:
    """Set the time of a file to now, to the nanosecond: what the system notes itself is the same for milliseconds."""
    os.utime(path, ns=(time.time_ns(),) * 2)


def make_room(room_bytes: int) -> None:
    """Remove the fetched tar files that were not used for longest until all, with those that are being fetched, take at
    most `room_bytes`; processes that have one open read on."""
    kept = kept_folder()
    remove_oldest((*kept.glob(f"*/*{TAR}"), *kept.glob(f"*/*{RESERVED}")), room_bytes)


def is_address(name: str) -> bool:
    """Whether a name of `--data-root` is an address, not a folder."""
    return bool(ADDRESS.match(name))


@lru_cache  # within a run it stays the same dataset
def folder_of(url: str) -> Path:
    """The folder that stands for the sharded dataset at `url`: it has the index of there, and what was fetched.

    Without a connection it is as it was; raise UserError if there is none yet, or if the address has no such dataset.
    """
    if not (is_web(url) and (url.lower().startswith("https:") or urlsplit(url).hostname in HERE)):
        raise UserError(f"--data-root expects a folder, or the https address of one with {INDEX}; got {plain(url)}")
    url = url.rstrip("/")
    name = re.sub(r"[^\w.-]+", "-", url.rpartition("/")[2])[:40]
    folder = kept_folder() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:10]}"
    writable_folder(folder, "an address in --data-root")
    with locked(folder / ".lock"):
        index = folder / INDEX
        try:
            text = fetch_text(f"{url}/{INDEX}", MOST_BYTES)
            decode(text, Index, f"{url}/{INDEX}", PACK_AGAIN)
        except Unreachable as error:
            if not index.is_file():
                raise UserError(f"{error}; connect, or name a folder with a copy of the dataset") from None
            age = (time.time() - index.stat().st_mtime) / 86400
            tell(f"{error}; the dataset is as it was {age:.0f} days ago, and only what was fetched is there")
        except Missing as error:
            raise UserError(f"{error}; expected a dataset there that dataset/pack_shards.py has written") from None
        else:
            write_whole(index, text)
            write_whole(folder / ORIGIN, url)
    return folder


def origin_of(folder: Path) -> str:
    """The address that a folder stands for; empty for any folder that `folder_of` has not made: no dataset can name an
    address itself."""
    if folder.parent != kept_folder():
        return ""
    return (folder / ORIGIN).read_text(encoding="utf-8")


def read_index(folder: Path) -> Index:
    """The index of a sharded dataset; raise UserError, which names the field, if it cannot be read."""
    path = folder / INDEX
    if leads_out(path, folder):
        raise UserError(f"{path} is a link to a file outside of its folder; copy the file")
    try:
        return decode(read_bytes(path), Index, str(path), PACK_AGAIN)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {PACK_AGAIN}") from None
