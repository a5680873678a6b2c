"""Signals that ask the process to end: how a command answers them, and how they are kept waiting."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

STOPPING = {signal.SIGINT, signal.SIGTERM}


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end. `code`: what a shell says of a process that such a signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number
        self.word = "terminated" if number == signal.SIGTERM else "interrupted"


def answer_signals() -> None:
    """Let signals raise Stopped from here on: for a process that is a command's own."""
    for number in heeded():
        signal.signal(number, stop)


def heeded() -> list[int]:
    """Return the signals that ask to end, except those that the shell told a background job to ignore."""
    return [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Answer a signal: let what runs bring itself to safety, unless a second signal says not to."""
    for other in heeded():
        signal.signal(other, lambda again, _: os._exit(128 + again))
    raise Stopped(number)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals waiting until something is done that takes a moment and must not be broken off.

    Blocking them for this thread would not do: the system then gives them to one of torch's. Outside the main thread,
    which alone is given signals, there is nothing to hold back.
    """
    came: list[int] = []
    try:
        before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heeded()}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
