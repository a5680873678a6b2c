"""Signals that ask the process to end: how a command answers them, and how it holds them back."""

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
    """A signal asks the process to end. `code`: the exit code that a shell reports for such a process."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.code = 128 + signum
        self.word = WORDS[signum]
        if is_in_job() and signum == signal.SIGTERM:
            self.word += ": another process of the job has ended, or torchrun was stopped"


def answer_signals() -> None:
    """Let signals raise Stopped from now on: for a process that runs one command alone."""
    for signum in handled_signals():
        signal.signal(signum, stop)


def end_silently() -> None:
    """Let signals end the process at once, without a message: for the ranks that print nothing."""
    for signum in handled_signals():
        signal.signal(signum, signal.SIG_DFL)


def end_at_interrupt() -> None:
    """Let Ctrl-C end the process with one line, while there is no work yet that could be lost."""
    if signal.SIGINT in handled_signals():
        signal.signal(signal.SIGINT, end_with_a_word)


def is_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Say whether Ctrl-C interrupted, and no signal that ends the process. A job of torchrun's ends at Ctrl-C."""
    return not is_in_job() and (not isinstance(error, Stopped) or error.code == 128 + signal.SIGINT)


def answers_to_signals() -> dict[int, Answer]:
    """Return the present handler of each signal."""
    return {signum: signal.getsignal(signum) for signum in WORDS}


def restore_answers(answers: Mapping[int, Answer]) -> None:
    """Restore the handlers, after a signal that did not end the process."""
    with contextlib.suppress(ValueError):  # not the main thread, which alone receives signals
        for signum, handler in answers.items():
            signal.signal(signum, handler)


def ignore_signals() -> None:
    """Ignore signals from now on: the process is ending anyway."""
    for signum in handled_signals():
        signal.signal(signum, signal.SIG_IGN)


def handled_signals() -> list[int]:
    """Return the signals that ask to end, except those that the shell (or nohup) told the process to ignore."""
    return [signum for signum in WORDS if signal.getsignal(signum) is not signal.SIG_IGN]


def stop(signum: int, _: FrameType | None) -> NoReturn:
    """Raise Stopped, so that the work can be saved; a second signal ends the process at once.

    A terminal that closes sends several hangups within a moment: the shell's, the system's, the session's. They mean no
    hurry, so a hangup never counts as a second signal, and nothing counts after one. In a job, torchrun sends again
    what the processes have received already.
    """
    for later in handled_signals():
        signal.signal(later, signal.SIG_IGN if HANGUP in (signum, later) or is_in_job() else end_at_once)
    raise Stopped(signum)


def end_at_once(signum: int, _: FrameType | None) -> NoReturn:
    """Answer a second signal."""
    os._exit(128 + signum)


def end_with_a_word(signum: int, _: FrameType | None) -> NoReturn:
    """End the process, saying why; write directly, since print() may be in the middle of a line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).name}: {WORDS[signum]}\n".encode(errors="backslashreplace"))
    os._exit(128 + signum)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back during a short piece of work that must not be broken off.

    Blocking the signals in this thread is not enough: the system would deliver them to one of torch's threads. Outside
    the main thread, which alone receives signals, there is nothing to hold back.
    """
    came: list[int] = []
    try:
        before = {signum: signal.signal(signum, lambda signum, _: came.append(signum)) for signum in handled_signals()}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if came:
            signal.raise_signal(came[0])
