"""What the commands share with the person at the terminal: flags, errors, exit codes, progress.

stdout is for results; everything written here goes to stderr. Exit codes: 0 done, 1 a run failed, 2 the input or
the command line is wrong, 130 interrupted. Set FLOWERS_DEBUG=1 to see the traceback behind an error.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import os
import signal
import sys
import textwrap
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from tqdm import tqdm

GPU_ON, GPU_OFF = {"gpu", "cuda", "mps", "true", "yes", "on"}, {"cpu", "false", "no", "off"}
EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 128 + signal.SIGINT
WIDEST_TEXT = 100  # columns
OUT_OF_MEMORY = "out of memory: lower --batch_size or --hidden_units, or take a smaller --arch"
LONGEST_REASON = 160  # letters of another library's error message that are passed on
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


class RunError(Exception):
    """A sound command failed on the way (network, disk, memory, loss); the message says what to do about it."""


def note(message: str) -> None:
    """Tell the person something that is neither a result nor trouble."""
    print(message, file=sys.stderr, flush=True)


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


def progress(total: int, what: str, unit: str, unless: bool = False) -> tqdm:
    """Return a progress bar with rate and time left: silent off a terminal and for work done within a second."""
    quiet = unless or None  # None is tqdm's word for: show the bar only where stderr is a terminal
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}s",
        unit_scale=False,
        leave=False,
        delay=1,
        disable=quiet,
        dynamic_ncols=True,
    )


def watched(batches: Iterable[tuple], bar: tqdm) -> Iterator[tuple]:
    """Pass batches on, moving the bar by the length of each when it has been worked on."""
    for batch in batches:
        yield batch
        bar.update(len(batch[0]))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the examples' line breaks, and show the default of every option that has one to show."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fit each paragraph to the terminal, but for those with indented lines: commands to be pasted."""
        paragraphs = text.split("\n\n")
        return "\n\n".join(p if "\n    " in p else textwrap.fill(p, min(width, WIDEST_TEXT)) for p in paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing_to_show = any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        return text if nothing_to_show or "default:" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, nearest matches, and flags that take `-` and `_` alike."""

    def __init__(self, **settings: object) -> None:
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **settings)
        self.many: set[str] = set()

    def take_many(self, action: argparse.Action) -> None:
        """Let a flag take several numbers, `--flag 512 256`; its type gets them as `512,256`."""
        self.many.update(action.option_strings)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse the arguments; a mistake ends the process with code 2 and one or two lines."""
        arguments = normalise(sys.argv[1:] if argv is None else argv, self.many)
        parsed, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            flag = unknown[0].split("=")[0]
            close = nearest(flag, self._option_string_actions, most=1) if flag.startswith("-") else []
            self.error(f"unknown argument {unknown[0]!r}" + (f": did you mean {close[0]}?" if close else ""))
        return parsed

    def error(self, message: str) -> NoReturn:
        """End with code 2; the usage text of twenty flags would bury the message."""
        self.exit(EXIT_WRONG_INPUT, f"{self.prog}: {message}\n(python {self.prog} --help shows the options)\n")


def normalise(argv: Sequence[str], many: Collection[str] = ()) -> list[str]:
    """Rewrite what argparse cannot take as people type it.

    `--learning-rate` becomes `--learning_rate`. For the flags in `many`, `--flag 512 256` becomes `--flag 512,256`,
    so that a folder may follow. The value of an old-style `--gpu gpu` or `--gpu True` goes, `--gpu False` goes whole.
    """
    arguments, words = [], deque(argv)
    while words:
        word = words.popleft()
        if word == "--":
            return [*arguments, word, *words]
        arguments += rewritten(word, words, many) if word.startswith("--") else [word]
    return arguments


def rewritten(word: str, following: deque[str], many: Collection[str]) -> list[str]:
    """Rewrite one flag, taking from the words that follow it what belongs to it."""
    flag, equals, value = word.partition("=")
    flag = "--" + flag[2:].replace("-", "_")
    if flag == "--gpu":
        if not equals and following and following[0].lower() in GPU_ON | GPU_OFF:
            value = following.popleft()
        if value.lower() in GPU_OFF:
            return []
        return [flag] if not value or value.lower() in GPU_ON else [f"{flag}={value}"]
    if flag in many:
        numbers = [value] if equals else []
        while following and set(following[0]) <= set("0123456789,"):
            numbers.append(following.popleft())
        joined = ",".join(number.strip(",") for number in numbers)
        return [flag, joined] if joined else [flag]
    return [flag + equals + value]


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command and end the process with the exit code of what happened, never with a bare traceback."""
    if sys.stderr is None:  # closed; print() would turn to stdout, which is for results
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives
    if hasattr(sys.stdout, "reconfigure"):  # not where it is closed, nor in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    if as_program := not gc.isenabled():
        gc.freeze()  # what has been loaded stays, and need not be searched
        gc.enable()
    code = outcome_of(main)
    if as_program:
        leave(code)
    sys.exit(code)


def outcome_of(main: Callable[[], None]) -> int:
    """Run a command; say what went wrong, and return the exit code for it."""
    code = 0
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except SystemExit as stop:  # --help, or a command line that is wrong
        code = stop.code
    except InputError as error:
        code = complain(str(error), EXIT_WRONG_INPUT)
    except RunError as error:
        code = complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        complain("interrupted", EXIT_INTERRUPTED)
        leave(EXIT_INTERRUPTED)  # all is safe by now; threads in the middle of a forward need not be waited for
    except BrokenPipeError:  # the reader of our stdout, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    except Exception as error:  # the last resort: a bug of ours, or of a library below
        if is_out_of_memory(error):
            code = complain(OUT_OF_MEMORY, EXIT_FAILED)
        else:
            what = f"{type(error).__name__}: {reason_of(error)}"
            code = complain(f"unexpected {what}\n(FLOWERS_DEBUG=1 shows where; please report it)", EXIT_FAILED)
    return code


def leave(code: int) -> NoReturn:
    """End the process at once: taking torch apart takes a second, for which a person would wait in vain."""
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
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    return code
