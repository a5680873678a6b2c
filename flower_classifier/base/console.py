"""The terminal of a command: messages and progress bars on stderr, by `with speaking():`."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from flower_classifier.base.messages import log, printable_lines
from flower_classifier.base.torchrun import rank

Batch = TypeVar("Batch", bound=tuple[Sized, ...])
USUAL_TERMINAL = (80, 24)  # columns and rows
SETTLE = 0.005  # seconds that the reader of a pipe, such as `tee`, needs to show what came through it

bars: weakref.WeakSet[Bar] = weakref.WeakSet()  # the progress bars that are not finished


class StderrHandler(logging.Handler):
    """Prints messages to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, and "warning: " before a warning. If nobody can read it, the work goes on."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(OSError):  # the terminal is closed, the reader of a pipe is gone
            clear_bars()
            print(printable_lines(prefix + record.getMessage()), file=sys.stderr, flush=True)


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Show messages and progress bars on stderr: for a command, which has the terminal to itself."""
    handler, level, propagates = StderrHandler(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO if rank() == 0 else logging.CRITICAL)  # only rank 0 of a job speaks
    log.propagate = False  # else a handler of the root logger would say everything a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


def bars_are_shown() -> bool:
    """Say whether progress bars are shown: by a command at a terminal."""
    is_command = any(isinstance(handler, StderrHandler) for handler in log.handlers)
    return is_command and rank() == 0 and sys.stderr.isatty()


def progress(total: int | None, task: str, unit: str, hidden: bool = False, scaled: bool = False, done: int = 0) -> Bar:
    """Return a progress bar with rate and time left: it stays hidden off a terminal, and in the first second.

    `scaled`: thousands as k, M and G. `done`: how much of `total` an earlier run has done; the rate leaves it out.
    """
    bar = bar_class()(
        total=total,
        desc=task,
        unit=f" {unit}s",
        unit_scale=scaled,
        initial=done,
        leave=False,
        delay=1,
        miniters=1,
        disable=hidden or not bars_are_shown(),
    )
    bars.add(bar)
    return bar


@functools.cache
def bar_class() -> type[Bar]:
    """Return the class of the progress bars."""
    try:
        from tqdm import tqdm  # here: `--help` needs none
    except ImportError:  # an exported folder needs no tqdm
        return Bar

    class ShownBar(tqdm, Bar):
        """A bar that makes way for results, and comes back with its next update."""

        monitor_interval = 0  # no thread that watches over the bars: with miniters=1 they need none
        drawn = made_way = False
        back_at = 0.0

        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            self.dynamic_ncols = room_for_bars  # instead of tqdm's own, which takes a terminal of 0 x 0 by its word
            self.ncols, self.nrows = room_for_bars(sys.stderr)

        def display(self, *arguments: object, **options: object) -> bool | None:
            time.sleep(max(0, self.back_at - time.monotonic()))
            self.drawn, self.made_way = True, False
            return super().display(*arguments, **options)

        def update(self, n: float = 1) -> bool | None:
            return super().update(n) or (self.refresh() if self.made_way else None)

        def make_way(self, settle: float) -> None:
            if self.drawn:
                self.clear()
                self.drawn, self.made_way = False, True
            self.back_at = time.monotonic() + settle

    return ShownBar


class Bar:
    """The interface of a progress bar. This class shows nothing; it is used if tqdm is not installed."""

    def __init__(self, **options: object) -> None:
        pass

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def update(self, n: float = 1) -> bool | None:
        """Count."""

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """Say something behind the numbers."""

    def make_way(self, settle: float) -> None:
        """Do nothing: no bar is in the way."""


def clear_bars(results: TextIO | None = None) -> None:
    """Take the progress bars off the terminal before something is printed there; updating one brings it back.

    `results`: the stream that is printed to, if not stderr. A file does not appear on the terminal. A pipe may: its
    reader may show the output there, a moment later.
    """
    if results is not None:
        try:
            if stat.S_ISREG(os.fstat(results.fileno()).st_mode):
                return
        except (AttributeError, OSError, ValueError):  # closed, or no stream of the system's
            return
    for bar in bars:
        bar.make_way(settle=SETTLE)


def room_for_bars(terminal: TextIO) -> tuple[int, int]:
    """Return the columns and rows of a terminal, less one each; an unknown size counts as the usual one."""
    try:
        size: tuple[int, int] = os.get_terminal_size(terminal.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or no stream of the system's
        size = (0, 0)
    columns, rows = (length or usual for length, usual in zip(size, USUAL_TERMINAL, strict=True))
    return columns - 1, rows - 1


def watched(batches: Iterable[Batch], bar: Bar, processes: int = 1) -> Iterator[Batch]:
    """Yield the batches; after each, advance the bar by its length times `processes`."""
    for batch in batches:
        yield batch
        bar.update(len(batch[0]) * processes)
