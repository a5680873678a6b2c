"""Signals that ask the process to end: how they are answered, also while a library computes, and held back."""

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from flower_classifier.base.messages import note
from flower_classifier.base.torchrun import is_in_job

HANGUP = getattr(signal, "SIGHUP", None)  # its terminal was closed, its ssh broke off; Windows has no such signal
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"} | ({HANGUP: "hung up"} if HANGUP else {})

Answer = Callable[[int, FrameType | None], object] | int | None  # as the module `signal` takes and gives it
Result = TypeVar("Result")


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end. `code`: the exit code that a shell reports for such a process."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.code = 128 + signum
        self.word = WORDS[signum]
        if is_in_job() and signum == signal.SIGTERM:
            self.word += ": another process of the job has ended, or torchrun was stopped"


def handled_signals() -> list[int]:
    """Return the signals that ask to end, except those that the shell (or nohup) told the process to ignore."""
    return [signum for signum in WORDS if signal.getsignal(signum) is not signal.SIG_IGN]


def answer_signals(answer: Answer) -> None:
    """Answer each signal in one way from now on: by `stop`, say, where the process runs one command alone."""
    for signum in handled_signals():
        signal.signal(signum, answer)


def stop(signum: int, _: FrameType | None) -> NoReturn:
    """Raise Stopped, so that the work can be saved; a second signal ends the process at once.

    A terminal that closes sends several hangups within a moment: the shell's, the system's, the session's. They mean no
    hurry, so a hangup never counts as a second signal, and nothing counts after one. In a job, torchrun sends again
    what the processes have received already.
    """
    for later in handled_signals():
        is_ignored = HANGUP in (signum, later) or is_in_job()
        signal.signal(later, signal.SIG_IGN if is_ignored else lambda signum, _: os._exit(128 + signum))
    raise Stopped(signum)


def end_with_a_word(signum: int, _: FrameType | None) -> NoReturn:
    """End the process, saying why; write directly, since print() may be in the middle of a line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{Path(sys.argv[0]).name}: {WORDS[signum]}\n".encode(errors="backslashreplace"))
    os._exit(128 + signum)


@contextlib.contextmanager
def ended_by_ctrl_c(may_end: Callable[[], bool], message: str) -> Iterator[None]:
    """Let Ctrl-C end a piece of work, once it `may_end`, and not the process: say so, and answer signals as before.

    Any other signal ends the process; in a job of torchrun's Ctrl-C does, too.
    """
    answers = {signum: signal.getsignal(signum) for signum in WORDS}
    try:
        yield
    except KeyboardInterrupt as error:
        is_ctrl_c = not isinstance(error, Stopped) or error.code == 128 + signal.SIGINT
        if is_in_job() or not is_ctrl_c or not may_end():
            raise
        with contextlib.suppress(ValueError):  # not the main thread, which alone receives signals
            for signum, answer in answers.items():
                signal.signal(signum, answer)
        note(message)


class Helper(threading.Thread):
    """A thread that does one piece of work after another: a network keeps its scratch memory by the thread."""

    def __init__(self) -> None:
        super().__init__(daemon=True)  # the process need not wait for work that never ends
        self.orders: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        """Do all that is ordered, until there is None."""
        while order := self.orders.get():
            order()
            del order  # and all that it holds, before the next comes


helpers: dict[int, Helper] = {}  # the main thread's, by the process: a forked one needs another


def done_aside(work: Callable[[], Result], abandon: Callable[[], object] = lambda: None) -> Result:
    """Do work of another library's, and answer signals meanwhile, though it may never end. Raises what it raises.

    Python answers a signal between two steps of the main thread, and to Python such work is one step. So another thread
    does it, for which the main thread waits. Where an answer ends the waiting, `abandon` is called, and what becomes of
    the work is nobody's concern. Threads that receive no signals do their work themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: Future[Result] = Future()

    def do() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # for the thread that waits
            outcome.set_exception(error)

    process = os.getpid()
    helper = helpers.get(process) or helpers.setdefault(process, Helper())
    helper.orders.put(do)
    try:
        return outcome.result()
    finally:
        if not outcome.done():
            abandon()
            del helpers[process]
            helper.orders.put(None)


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
