"""Fetch a file, or some ranges of its bytes, over HTTP; what was cut goes on where it stopped."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, build_opener

import google_crc32c
from tqdm import tqdm

from pix2seq.errors import UserError, plain
from pix2seq.runtime.web import Redirects, reason

TIMEOUT_S = 30
PAUSES_S = (1, 2, 4, 8, 16)  # before each retry while a file makes no progress
BLOCK_BYTES = 1 << 18
MISSING = (403, 404, 410)  # what servers say of a file that they do not have; storages say "forbidden"

Range = tuple[int, int]  # first byte, and the one after the last


class Unreachable(UserError):
    """There is no connection to the server."""


class Refused(UserError):
    """What the server answers cannot be used; another server's answer may."""


class Missing(Refused):
    """The server has no such file."""


class NoRanges(Exception):
    """The server sends whole files only."""


class Interrupted(Exception):
    """The transfer failed in a way that a retry may fix."""


class Changed(Exception):
    """The file on the server is another one than that of which a part is here; the part is gone."""


OPENER = build_opener(Redirects)


def fetch(
    url: str,
    path: Path,
    ranges: Sequence[Range] = (),
    patient: bool = True,
    size: int | None = None,
    is_shown: bool = True,
) -> None:
    """Download `url`, or only the `ranges` of its bytes, one after the other, to `path` unless that exists.

    A file that has not `size` bytes, where that is known, is refused before it arrives; `is_shown` says whether a bar
    shows the progress. An interrupted transfer goes on where it stopped, in any later call. Raises UserError if the
    server refuses, or if several tries in a row transfer no new bytes (unless `patient`, already after one),
    Unreachable if there were none at all, and NoRanges if the server cannot send parts of a file.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    most_bytes = failures = changes = 0
    while True:
        try:
            _transfer(url, partial, ranges, size, is_shown)
            break
        except Changed:
            changes += 1
            if changes > len(PAUSES_S):
                raise Refused(f"{url} is another file at every request") from None
        except Interrupted as error:
            got_bytes = _size(partial)
            failures = 1 if got_bytes > most_bytes else failures + 1
            most_bytes = max(most_bytes, got_bytes)
            if not got_bytes and (failures > len(PAUSES_S) or not patient):
                raise Unreachable(f"{url} cannot be reached ({error})") from None
            if failures > len(PAUSES_S):
                raise UserError(
                    f"{url} stopped after {got_bytes:,} bytes ({error}); run the command again to resume from there"
                ) from None
            pause_s = PAUSES_S[failures - 1]
            print(f"{path.name}: {error}; next try in {pause_s} s", file=sys.stderr)
            time.sleep(pause_s)
    os.replace(partial, path)
    _version_file(partial).unlink(missing_ok=True)


def fetch_text(url: str, most: int = BLOCK_BYTES) -> str:
    """The first `most` bytes of a file as text, without retries, so that a missing network is reported at once."""
    try:
        with _open(url) as response:
            return response.read(most).decode(errors="replace")
    except (OSError, HTTPException, Interrupted) as error:
        raise Unreachable(f"{url} cannot be reached ({reason(error)})") from None


def _transfer(url: str, partial: Path, ranges: Sequence[Range], size: int | None, is_shown: bool) -> None:
    """Append to `partial` what it lacks; raise Changed if the remote file has changed, or cannot be resumed."""
    version_file = _version_file(partial)
    done = _size(partial) if version_file.is_file() else 0
    wanted = sum(end - start for start, end in ranges)
    look = {"desc": partial.stem, "unit": "B", "unit_scale": True, "delay": 1}  # of small files there is none to see
    look["disable"] = not is_shown
    with tqdm(total=wanted or None, initial=done, **look) as bar:
        for start, end in _rest(ranges, done):
            with _open(url, start, end) as response:
                first, total = _extent(response, url)
                if ranges and response.status != 206:
                    raise NoRanges
                if size not in (None, total):
                    raise Refused(f"{url} has {total:,} bytes and should have {size:,}: it is cut, or another file")
                if end is not None and end > total:
                    raise UserError(f"{url} has {total:,} bytes and should have {end:,}: it is cut on the server")
                if ranges and first != start:
                    raise Interrupted("other bytes came than were asked for")
                version = f"{response.headers.get('ETag', '')} {total} {list(ranges)}"
                appends = done > 0 and first == start and version == version_file.read_text(encoding="utf-8")
                if done and response.status == 206 and not appends:
                    partial.unlink()
                    raise Changed
                bar.total = wanted or total
                with partial.open("ab" if appends else "wb") as file:
                    version_file.write_text(version, encoding="utf-8")  # after another version's bytes are truncated
                    _copy(response, (end or total) - first, file, bar)
                announced = None if ranges else _announced_checksum(response)
            done = (end or total) - first + (done if appends else 0)
            if _size(partial) != done:
                raise Interrupted(f"{_size(partial):,} of {wanted or total:,} bytes arrived")
            if announced not in (None, _checksum(partial)):
                partial.unlink()
                raise Interrupted("what arrived does not have the checksum that the server gives")


def _announced_checksum(response: HTTPResponse) -> str | None:
    """The CRC-32C of a whole file, in base64, as Google's storage gives it with each response; None without it."""
    match = re.search(r"crc32c=([\w+/]+=*)", ",".join(response.headers.get_all("x-goog-hash", [])))
    return match[1] if match else None


def _checksum(path: Path) -> str:
    """The CRC-32C of a file in base64."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, BLOCK_BYTES):
            pass
    return base64.b64encode(checksum.digest()).decode()


def _rest(ranges: Sequence[Range], done: int) -> Iterator[tuple[int, int | None]]:
    """What is still to be fetched after the first `done` bytes; the whole file has no known end."""
    if not ranges:
        yield done, None
    for start, end in ranges:
        if done < end - start:
            yield start + done, end
        done = max(done - (end - start), 0)


def _copy(response: HTTPResponse, count: int, file: BinaryIO, bar: tqdm) -> None:
    """Write at most `count` bytes to `file`, those of each packet at once: what arrived before a cut is kept."""
    while block := _read(response)[:count]:
        file.write(block)
        bar.update(len(block))
        count -= len(block)


def _open(url: str, start: int = 0, end: int | None = None) -> HTTPResponse:
    """The server's response with the bytes from `start` to `end`, or with all bytes if it does not support ranges."""
    headers = {"Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    try:
        response = OPENER.open(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and start and end is None:
            return _open(url)
        answer = f"the server responded {error.code} {plain(str(error.reason))}"
        if error.code in (408, 429) or error.code >= 500:
            raise Interrupted(answer) from None
        kind = Missing if error.code in MISSING else Refused
        raise kind(f"{url} cannot be downloaded: {answer}") from None
    except (OSError, HTTPException) as error:
        raise Interrupted(reason(error)) from None
    except ValueError as error:  # of an address that is none, perhaps the server's redirection to it
        raise Refused(f"{url} leads to no address ({plain(str(error))})") from None
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        response.close()
        raise Refused(f"{url} comes compressed ({plain(encoding)}), unasked for")
    return response


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise Interrupted(reason(error)) from None


def _extent(response: HTTPResponse, url: str) -> tuple[int, int]:
    """The position of the response's first byte in the file, and the file's size, in bytes."""
    header = response.headers.get("Content-Range" if response.status == 206 else "Content-Length", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)" if response.status == 206 else r"()(\d+)", header)
    if match is None:
        raise Refused(f"{url} does not report its size, so it cannot be checked")
    return int(match[1] or 0), int(match[2])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_file(partial: Path) -> Path:
    """The file beside an unfinished one that records the version of the remote file it is a part of."""
    return partial.with_name(partial.name + ".version")
