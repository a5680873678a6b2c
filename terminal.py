"""What the commands share with the person at the terminal: messages, errors, exit codes, signals, progress.

stdout is for results; everything written here goes to stderr. Exit codes: 0 done, 1 a run failed, 2 the input or
the command line is wrong, 130 interrupted (143: terminated). FLOWERS_DEBUG=1 shows the traceback behind an error.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from tqdm import tqdm

EXIT_FAILED, EXIT_WRONG_INPUT = 1, 2
OUT_OF_MEMORY = "out of memory: take a smaller --arch (in training also: lower --batch_size or --hidden_units)"
STOPPING = {signal.SIGINT, signal.SIGTERM}
# Letters that steer a terminal or have no encoding: controls, line and text direction, stray bytes of a file's name
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_REASON = 160  # letters of another library's error message that are passed on
tqdm.monitor_interval = 0  # no thread that watches over the bars: with miniters=1 they need none
FEW = 3  # how many items a message names before it only counts the rest


def end_quietly_when_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in a line, not in a traceback, that Ctrl-C came before `run` could see it: while modules load."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = end_quietly_when_interrupted


def load_quickly() -> None:
    """Switch garbage collection off until `run`: while torch loads, a fifth of the time goes into finding none."""
    gc.disable()


class InputError(Exception):
    """The input or the command line is wrong; the message says what, where, and what to do about it."""


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end. `code`: what a shell says of a process that such a signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number
        self.word = "terminated" if number == signal.SIGTERM else "interrupted"


class RunError(Exception):
    """A sound command failed on the way (network, disk, memory, loss); the message says what to do about it."""


def note(message: str) -> None:
    """Tell the person something that is neither a result nor trouble."""
    print(shown(message), file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell the person that something is probably not what they want."""
    note(f"warning: {message}")


def few(items: Sequence[object]) -> str:
    """Name the first few of the items and count the rest: `a, b, c and 7 more`."""
    named = ", ".join(str(item) for item in items[:FEW])
    return f"{named} and {len(items) - FEW} more" if len(items) > FEW else named


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2,039 photos`, `3 classes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def nearest(word: str, known: Iterable[str], most: int = 4) -> list[str]:
    """Return the known words that look most like a mistyped one, best first."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)


def printable(text: str) -> str:
    """Escape what would steer the terminal or cannot be encoded."""
    return "".join(ascii(letter)[1:-1] if STEERING.fullmatch(letter) else letter for letter in text)


def shown(message: str) -> str:
    """Make each line of a message printable: it may quote a file's name, or what a stranger's file holds."""
    return "\n".join(printable(line) for line in message.split("\n"))


def percent(probability: float, digits: int) -> str:
    """Write a probability in percent; certainty is for those who have it, so no 0.0 % and no 100.0 %."""
    least = 10.0**-digits
    if 100 * probability < least:
        return f"< {least:.{digits}f}%"
    if 100 * probability > 100 - least:
        return f"> {100 - least:.{digits}f}%"
    return f"{probability:.{digits}%}"


def reason_of(error: object) -> str:
    """Return what an error of a library below says, in one line of a length that people read."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"


def progress(
    total: int | None, what: str, unit: str, hidden: bool = False, scaled: bool = False, done: int = 0
) -> tqdm:
    """Return a progress bar with rate and time left: silent off a terminal and for work done within a second.

    `scaled`: thousands as k, M and G. `done`: what an earlier run has done of `total`, which no rate is reckoned from.
    """
    quiet = hidden or None  # None is tqdm's word for: show the bar only where stderr is a terminal
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}s",
        unit_scale=scaled,
        initial=done,
        leave=False,
        delay=1,
        miniters=1,
        disable=quiet,
        dynamic_ncols=True,
    )


def watched(batches: Iterable[tuple], bar: tqdm) -> Iterator[tuple]:
    """Pass batches on, moving the bar by the length of each when it has been worked on."""
    for batch in batches:
        yield batch
        bar.update(len(batch[0]))


def run(main: Callable[[], None], as_program: bool = False) -> NoReturn:
    """Run a command and end with the exit code of what happened, never with a bare traceback.

    `as_program`: the process is the command's alone, so signals are its own to answer, and it ends at once.
    """
    if sys.stderr is None:  # closed; print() would turn to stdout, which is for results
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives
    if hasattr(sys.stdout, "reconfigure"):  # not where it is closed, nor in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    if as_program:
        gc.freeze()  # what has been loaded stays, and need not be searched
        gc.enable()
        for number in heeded():
            signal.signal(number, stop)
    code = outcome_of(main)
    if as_program:
        leave(code)
    sys.exit(code)


def heeded() -> list[int]:
    """Return the signals that ask to end, without those that a shell has told what runs in the background to ignore."""
    return [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]


def stop(number: int, _: FrameType | None) -> NoReturn:
    """Answer a signal: let what runs bring itself to safety, unless a second signal says not to."""
    for other in heeded():
        signal.signal(other, lambda again, _: os._exit(128 + again))
    raise Stopped(number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep signals waiting until something is done that takes a moment and must not be broken off.

    Blocking them for this thread would not do: the system then gives them to one of torch's.
    """
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def outcome_of(main: Callable[[], None]) -> int:
    """Run a command; say what went wrong, if anything, and return the exit code for it."""
    code = 0
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except SystemExit as stop:  # --help, or a command line that is wrong
        code = stop.code if isinstance(stop.code, int) else 0
    except InputError as error:
        code = complain(str(error), EXIT_WRONG_INPUT)
    except RunError as error:
        code = complain(str(error), EXIT_FAILED)
    except Stopped as stopped:
        code = complain(stopped.word, stopped.code)
    except BrokenPipeError:  # the reader of our stdout, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except OSError as error:  # a full disk behind stdout, a folder that has vanished
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        code = complain(what, EXIT_FAILED)
    except Exception as error:  # the last resort: a bug of ours, or of a library below
        if is_out_of_memory(error):
            code = complain(OUT_OF_MEMORY, EXIT_FAILED)
        else:
            what = f"{type(error).__name__}: {reason_of(error)}"
            code = complain(f"unexpected {what}\n(FLOWERS_DEBUG=1 shows where; please report it)", EXIT_FAILED)
    return code


def leave(code: int) -> NoReturn:
    """End the process at once: taking torch apart takes a second, and threads may be in the middle of a forward."""
    atexit._run_exitfuncs()  # temporary folders of matplotlib's, for one
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or nobody reads it
            stream.flush()
    os._exit(code)


def is_out_of_memory(error: Exception) -> bool:
    """Recognise a lack of memory: torch says it with a RuntimeError on the CPU, with a kind of its own on a GPU."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def complain(message: str, code: int) -> int:
    """Print an error, with its traceback where FLOWERS_DEBUG asks for it, and return the exit code."""
    if os.environ.get("FLOWERS_DEBUG"):
        traceback.print_exc()
    print(f"{Path(sys.argv[0]).name}: {shown(message)}", file=sys.stderr, flush=True)
    return code
