"""Files from the web: where a server may lead, and a small file as a whole, within limits of size and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pix2seq.errors import UserError, plain

SCHEMES = ("https://", "http://")
SILENCE_S = 15.0  # after which a server that sends nothing is given up
PATIENCE_S = 60.0  # for a whole file
BLOCK_BYTES = 1 << 16
KEPT = "%/:?#[]@!$&'()*+,;=~"  # what an address may hold beside letters, digits, and _ . -
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "pix2seq-toolkit"}  # some servers refuse Python's own name


class Redirects(HTTPRedirectHandler):
    """To addresses that are as safe as the one that was asked: from https to no other, from http to http as well."""

    def redirect_request(self, req: Request, fp: BinaryIO, code: int, msg: str, headers: Message, newurl: str) -> Any:
        allowed = SCHEMES[:1] if req.full_url.startswith("https://") else SCHEMES
        if not newurl.startswith(allowed):
            raise UserError(f"{req.full_url} leads to {plain(newurl)}, which is no https address; name another address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = build_opener(Redirects)


def is_web(url: str) -> bool:
    """Whether a text is an address on the web: file:// is none, https://[x has no host, others are no text."""
    try:
        url.encode()
        return url.lower().startswith(SCHEMES) and bool(urlsplit(url).hostname)
    except ValueError:  # a UnicodeError is one
        return False


def check_address(url: str) -> None:
    """Raise UserError for what is no address on the web."""
    if not is_web(url):
        raise UserError(f"expected a path, or an address that begins with https:// or http://, got {plain(url)}")


def fetch_bytes(url: str, max_megabytes: float) -> bytes:
    """The file at `url`, which has at most `max_megabytes` (10⁶ bytes); raise UserError if it cannot be had.

    Another thread fetches it: whatever a slow server holds up, this one waits no longer than PATIENCE_S.
    """
    check_address(url)
    outcomes: SimpleQueue[bytes | Exception] = SimpleQueue()
    late = UserError(f"{url} did not arrive within {PATIENCE_S:g} s; save it to a file first")
    deadline = time.monotonic() + PATIENCE_S

    def work() -> None:
        try:
            outcomes.put(b"".join(_blocks(url, int(max_megabytes * 1e6), deadline)))
        except Exception as error:
            outcomes.put(error)

    Thread(target=work, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=PATIENCE_S)
    except Empty:
        raise late from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _blocks(url: str, max_bytes: int, deadline: float) -> Iterator[bytes]:
    """The file in pieces, until the `deadline`."""
    too_large = UserError(f"{url} has more than {max_bytes / 1e6:g} MB; raise --max-megabytes if it is meant")
    try:
        with OPENER.open(Request(quote(url, safe=KEPT), headers=HEADERS), timeout=SILENCE_S) as response:
            header = response.headers.get("Content-Length", "")
            announced = int(header[:18]) if header.isdecimal() else None
            if announced is not None and announced > max_bytes:
                raise too_large
            count = 0
            while block := response.read1(BLOCK_BYTES):
                count += len(block)
                if count > max_bytes:
                    raise too_large
                if time.monotonic() > deadline:
                    raise TimeoutError("it takes too long")
                yield block
            if count < (announced or 0):
                raise UserError(f"{url} was cut after {count:,} of {announced:,} bytes; try again")
    except HTTPError as error:
        answer = f"the server responded {error.code} {plain(str(error.reason))}"
        raise UserError(f"{url} cannot be fetched: {answer}; check the address") from None
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{url} cannot be fetched ({reason(error)}); check the address and the connection") from None


def reason(error: Exception) -> str:
    """Why a connection failed, in one line."""
    cause = error.reason if isinstance(error, URLError) else error
    return plain(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)
