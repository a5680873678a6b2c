"""Notes, warnings and progress bars.

Everything is said through the logger `flower_classifier`, so a program that imports the package decides what becomes
of it. The commands say `with speaking():`, which shows it all on stderr.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flower_classifier.base.words import shown

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("flower_classifier")


def note(message: str) -> None:
    """Tell the person something that is neither a result nor trouble."""
    log.info("%s", message)


def warn(message: str) -> None:
    """Tell the person that something is probably not what they want."""
    log.warning("%s", message)


class StderrHandler(logging.Handler):
    """Prints messages to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; a warning says that it is one. Where nobody can read it, work goes on all the same."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(OSError):  # the terminal is closed, the reader of a pipe is gone
            print(shown(prefix + record.getMessage()), file=sys.stderr, flush=True)


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Show messages and progress bars on stderr: for a command, which has the terminal to itself."""
    handler, level, propagates = StderrHandler(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # else a handler of the root logger would say everything a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


def is_speaking() -> bool:
    """Say whether a command is showing messages on stderr."""
    return any(isinstance(handler, StderrHandler) for handler in log.handlers)


def bars_are_shown() -> bool:
    """Say whether progress bars are shown: by a command at a terminal."""
    return is_speaking() and sys.stderr.isatty()


def progress(
    total: int | None, what: str, unit: str, hidden: bool = False, scaled: bool = False, done: int = 0
) -> tqdm:
    """Return a progress bar with rate and time left: silent off a terminal and for work done within a second.

    `scaled`: thousands as k, M and G. `done`: what an earlier run has done of `total`, which the rate leaves out.
    """
    from tqdm import tqdm  # here: `--help` needs none

    class Bar(tqdm):
        monitor_interval = 0  # no thread that watches over the bars: with miniters=1 they need none

    return Bar(
        total=total,
        desc=what,
        unit=f" {unit}s",
        unit_scale=scaled,
        initial=done,
        leave=False,
        delay=1,
        miniters=1,
        disable=hidden or not bars_are_shown(),
        dynamic_ncols=True,
    )


def watched(batches: Iterable[tuple], bar: tqdm) -> Iterator[tuple]:
    """Pass batches on, moving the bar by the length of each when it has been worked on."""
    for batch in batches:
        yield batch
        bar.update(len(batch[0]))
