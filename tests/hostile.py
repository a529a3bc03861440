"""Weights files, settings and images as nobody who means well writes them, and what the toolkit did about them."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from pix2seq.errors import UserError

# What a fuzzer puts in place of a value: other types, ends of ranges, deep, long and unprintable ones.
ODD = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 999, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, -1e-308),
    *(10**400, float("inf"), float("-inf"), float("nan")),
    *("", "x", "\x1b[31m\u202e", "\x00", "a" * 5000, "1", "nan", "../../x", "{}", "[]", "hf-hub:x/y", "/etc/passwd"),
    *([], [1], [[1]], [None], ["a", "b"], {}, {"a": 1}, {"checkpoint_path": "/etc/passwd"}, [1.5] * 50),
)
DEEP = "[" * 50_000
LIMIT_S, WAIT_S, LIMIT_KB = 10, 120, 2 * 2**20  # of a try, and of all tries
BROKEN = ("", "{", "NaN", "[1", '{"a": Infinity}', "\ud800".encode("utf-8", "replace").decode(), DEEP, "7", '"x"')


def with_metadata(source: Path, target: Path, metadata: dict[str, Any]) -> Path:
    """A copy of a safetensors file with other metadata; its tensors stay as they are."""
    content = source.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size]) | {"__metadata__": metadata}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return target


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value, something in which is replaced by something odd, left out or renamed."""
    value = _copied(value)
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    for holder, key in rng.sample(places, min(len(places), rng.choice((1, 1, 1, 2, 4)))):
        action = rng.random()
        with contextlib.suppress(KeyError, IndexError):  # an earlier change took the place away
            if action < 0.8:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            elif action < 0.9:
                del holder[key]
            elif isinstance(holder, dict):
                holder[f"{key}_"] = holder.pop(key)
            else:
                holder.append(holder[key])
    return value


def _copied(value: Any) -> Any:
    """A copy of a JSON value; what it holds in the end, such as a checkpoint's tensors, is shared."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inside in items:
        yield value, key
        yield from _places(inside)


def outcomes(tries: Iterator[Any], use: Callable[[Any], Any]) -> Counter[str]:
    """How many of `tries` were accepted by `use` and how many refused with a UserError of one plain line.

    Any other error is raised again, with what was tried.
    """
    counts: Counter[str] = Counter()
    for tried in tries:
        counts["tried"] += 1
        try:
            use(tried)
            counts["accepted"] += 1
        except UserError as error:
            assert str(error) and len(str(error)) <= 4000
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{error!r} for {str(tried)[:3000]}") from error
    return counts


class Hang(BaseException):
    """One try took longer than it may; nothing that catches errors takes it for a bad file."""


def fuzz(kind: str, tries: Iterator[Any], use: Callable[[Any], Any]) -> Counter[str]:
    """`outcomes`, printed as a row of tests/README.md's table; fails where one try takes longer than LIMIT_S of the
    processor or WAIT_S in all, or where all together make the process larger by more than LIMIT_KB."""

    def hang(_: int, __: FrameType | None) -> None:
        raise Hang(f"a try took longer than {LIMIT_S} s of the processor, or {WAIT_S} s")

    def timed(tried: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        signal.alarm(WAIT_S)
        try:
            use(tried)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)

    before = {number: signal.signal(number, hang) for number in (signal.SIGPROF, signal.SIGALRM)}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        counts = outcomes(tries, timed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(
        f"{kind}: {counts['tried']:,} tried, {counts['refused']:,} refused, {counts['accepted']:,} accepted, 0 failed, "
        f"0 hung, {grown / 1e3:.0f} MB more memory"
    )
    assert grown < LIMIT_KB
    return counts


class Witness:
    """Counts what the program does outside itself while `watching`: files opened, addresses reached, code started."""

    KINDS = ("open", "exec", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")

    def __init__(self) -> None:
        self.active, self.seen = False, []
        sys.addaudithook(self._hook)  # can never be removed: one witness serves all tests

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.active and event in self.KINDS:
            self.seen.append((event, str(arguments[0])[:200]))

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[tuple[str, str]]]:
        """Yield the list of what was seen, as pairs of kind and name."""
        self.seen, self.active = [], True
        try:
            yield self.seen
        finally:
            self.active = False
