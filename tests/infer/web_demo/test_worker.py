"""The thread that computes for the page."""

import threading
from collections.abc import Callable

import pytest

from pix2seq.errors import UserError
from pix2seq.infer.web_demo.worker import Worker


def test_what_is_told_comes_before_the_work_is_done():
    go_on = threading.Event()

    def work(tell: Callable[[int], None]) -> int:
        tell(1)
        assert go_on.wait(10)
        return 2

    told = Worker().told(work)
    assert next(told) == 1
    go_on.set()
    assert list(told) == [2]


def test_an_error_is_raised_where_one_listens():
    def work(tell: Callable[[int], None]) -> int:
        tell(1)
        raise UserError("no")

    told = Worker().told(work)
    assert next(told) == 1
    with pytest.raises(UserError, match="no"):
        next(told)


def test_work_ends_when_nobody_listens_and_other_work_goes_on():
    steps, left = [], threading.Event()

    def work(tell: Callable[[int], None]) -> None:
        tell(0)
        assert left.wait(10)
        for step in range(1, 100):
            steps.append(step)
            tell(step)

    worker = Worker()
    told = worker.told(work)
    assert next(told) == 0
    told.close()
    left.set()
    assert list(worker.told(lambda tell: "next")) == ["next"]  # by the same thread: after the other work
    assert steps == [1]
