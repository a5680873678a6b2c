"""Signals that ask the process to end: how a command answers them, and how they are kept waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flower_classifier.base.torchrun import is_in_job

HANGUP = getattr(signal, "SIGHUP", None)  # its terminal was closed, its ssh broke off; Windows has no such signal
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"} | ({HANGUP: "hung up"} if HANGUP else {})

Answer = Callable[[int, FrameType | None], object] | int | None  # as the module `signal` takes and gives it


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end. `code`: what a shell says of a process that such a signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number
        self.word = WORDS[number]
        if is_in_job() and number == signal.SIGTERM:
            self.word += ": another process of the job has ended, or torchrun was stopped"


def answer_signals() -> None:
    """Let signals raise Stopped from here on: for a process that is a command's own."""
    for number in handled_signals():
        signal.signal(number, stop)


def end_silently() -> None:
    """Let signals end the process at once, without a word, wherever it is: for one that others speak for."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_DFL)


def end_at_interrupt() -> None:
    """Let Ctrl-C end the process with a line: while nothing is at work yet that could be lost."""
    if signal.SIGINT in handled_signals():
        signal.signal(signal.SIGINT, end_with_a_word)


def is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Say whether it was Ctrl-C that interrupted, and not a signal that ends the process; torchrun's jobs it ends."""
    return not is_in_job() and (not isinstance(error, Stopped) or error.code == 128 + signal.SIGINT)


def answers_to_signals() -> dict[int, Answer]:
    """Return what answers each signal now."""
    return {number: signal.getsignal(number) for number in WORDS}


def restore_answers(answers: Mapping[int, Answer]) -> None:
    """Answer signals as before, after one of them that did not end the process."""
    with contextlib.suppress(ValueError):  # not the main thread, which alone is given signals
        for number, handler in answers.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Let no signal disturb what is ending anyway."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)


def handled_signals() -> list[int]:
    """Return the signals that ask to end, except those that the shell (or nohup) told the process to ignore."""
    return [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Answer a signal: let what runs bring itself to safety, unless a second signal says not to.

    A terminal that closes sends several within a moment, the shell's, the system's, the session's; nobody there is in a
    hurry. So a hangup is never the second signal, and behind one there is none. In a job torchrun passes on what the
    processes have been sent already.
    """
    for other in handled_signals():
        signal.signal(other, signal.SIG_IGN if HANGUP in (number, other) or is_in_job() else end_at_once)
    raise Stopped(number)


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """Answer a second signal."""
    os._exit(128 + number)


def end_with_a_word(number: int, _: FrameType | None) -> NoReturn:
    """End the process, saying why; by a bare write, since print() may be in the middle of a line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).name}: {WORDS[number]}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals waiting until something is done that takes a moment and must not be broken off.

    Blocking them for this thread would not do: the system then gives them to one of torch's. Outside the main thread,
    which alone is given signals, there is nothing to hold back.
    """
    came: list[int] = []
    try:
        before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in handled_signals()}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
