"""Ctrl-C ends a program without a traceback; it and SIGTERM ask a run to stop where it can go on from."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_S = 1.0  # torchrun passes on a Ctrl-C that the terminal has sent to its processes already
NOTICE = b"\nfinishing the step, then saving; once more stops at once\n"


def end_quietly() -> None:
    """Let Ctrl-C end this program without a traceback wherever it is, in its imports too."""
    usual = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            usual(kind, error, traceback)

    sys.excepthook = show


class StopRequest:
    """Within this context the first signal only sets `signal`, its number; a later one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal, self.since, self.process = 0, 0.0, os.getpid()
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python handles signals there alone
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # a process that loads data ends with this one
        if not self.signal:
            self.signal, self.since = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                os.write(2, NOTICE)  # a handler may interrupt a print, which does not let another one in
        elif time.monotonic() - self.since > SAME_S:
            raise KeyboardInterrupt
