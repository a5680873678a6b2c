"""What a person is told: notes and warnings, errors without a traceback, and how both are worded.

All messages go through the logger `flower_classifier`, so a program that imports the package decides what becomes of
them. The commands show them on stderr, by console.py.
"""

import difflib
import importlib.util
import logging
import re
from collections.abc import Iterable, Sequence

log = logging.getLogger("flower_classifier")


def note(message: str) -> None:
    """Tell the person something that is neither a result nor trouble."""
    log.info("%s", message)


def warn(message: str) -> None:
    """Tell the person that something is probably not what they want."""
    log.warning("%s", message)


# --------------------------------------------------------------------------------------------------------------- errors


EXIT_FAILED, EXIT_WRONG_INPUT = 1, 2  # exit codes for RunError and InputError


class UserError(Exception):
    """An error that a person can mend. The message says what is wrong, where, and what to do.

    `option` is the name of the setting that the message begins with, such as "top_k". A program reads
    `top_k must be at least 1`; the commands show it as the flag that was typed: `--top_k must be at least 1`.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(f"{option} {message}" if option else message)
        self.option = option

    @property
    def at_terminal(self) -> str:
        """The message as the commands show it."""
        return f"--{self}" if self.option else str(self)


class InputError(UserError):
    """The input or the command line is wrong."""


class RunError(UserError):
    """A sound command failed on the way: network, disk, memory, loss."""


# How torch, and the libraries of a GPU below it, say that there is no memory
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
NO_WORKSPACE = ("unable to find an engine", "unable to find a valid cudnn algorithm")  # cuDNN's, where none fits
OF_A_GPU = ("cuda", "cublas", "cudnn", "mps", "hip", *NO_WORKSPACE)  # words in an error about a GPU


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory: torch raises a RuntimeError for it on the CPU, and a class of its own on a GPU."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in (*NO_MEMORY, *NO_WORKSPACE))


# ------------------------------------------------------------------------------------------------------------ the words


# Letters that steer a terminal or have no encoding: controls, line and text direction, stray bytes of a file's name
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_REASON = 160  # letters of another library's error message that are passed on
NAMED = 3  # how many items a message names before it only counts the rest


def first_few(items: Sequence[object], most: int = NAMED) -> str:
    """Name the first few of the items and count the rest: `a, b, c and 7 more`."""
    named = ", ".join(printable(str(item)) for item in items[:most])
    return f"{named} and {len(items) - most} more" if len(items) > most else named


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2,039 photos`, `3 classes`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def spoken(split: str) -> str:
    """Return what a split is called in a sentence: "train" and "valid" are names of folders."""
    return {"train": "training", "valid": "validation"}.get(split, split)


def photos_of(split: str, count: int) -> str:
    """`819 test photos`, `1 validation photo` of the split valid; photos of no split are `90 photos`."""
    return counted(count, f"{spoken(split)} photo".strip())


def megabytes(*sizes: int) -> str:
    """`345.0 MB`, `12.0 of 345.0 MB`."""
    return " of ".join(f"{size / 1e6:,.1f}" for size in sizes) + " MB"


def nearest(word: str, candidates: Iterable[str], most: int = 4, cutoff: float = 0.6) -> list[str]:
    """Return the candidates that look most like a mistyped word, best first; `cutoff`: how alike, 0 to 1."""
    return difflib.get_close_matches(word, list(candidates), n=most, cutoff=cutoff)


def printable(text: str) -> str:
    """Escape what would steer the terminal or cannot be encoded."""
    return "".join(ascii(letter)[1:-1] if STEERING.fullmatch(letter) else letter for letter in text)


def printable_lines(message: str) -> str:
    """Make each line of a message printable: it may quote a file name, or the contents of an untrusted file.

    Later lines are indented, so a line break in a file name cannot fake a message.
    """
    first, *later = (printable(line) for line in message.split("\n"))
    return "\n".join([first, *(f"  {line.removeprefix('  ')}" for line in later)])


def percent(probability: float, digits: int) -> str:
    """Write a probability in percent, but never as 0 % or 100 %: `< 0.1%`, `> 99.9%`."""
    least = 10.0**-digits
    if 100 * probability < least:
        return f"< {least:.{digits}f}%"
    if 100 * probability > 100 - least:
        return f"> {100 - least:.{digits}f}%"
    return f"{probability:.{digits}%}"


def reason_of(error: object) -> str:
    """Return the message of a library's error as one line of at most LONGEST_REASON letters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"


# ---------------------------------------------------------------------------------------------------- optional packages


NEEDED = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "tqdm", "platformdirs", "filelock")  # requirements.txt
NEEDED_BY_EXPORTED = ("onnxruntime", "numpy", "PIL")  # to ask an exported folder
NEEDED_TO_EXPORT = ("onnx", "onnxscript", "onnxruntime")  # beside requirements.txt


def check_installed(needed: Sequence[str]) -> None:
    """Raise RunError if a needed package is missing, before its import ends in a traceback."""
    missing = []
    for name in needed:
        try:
            is_missing = importlib.util.find_spec(name) is None
        except ValueError:  # a program has put something else in its place
            is_missing = True
        missing += [name] * is_missing
    if missing:
        names = " ".join("pillow" if name == "PIL" else name for name in missing)
        how = "-r requirements.txt" if set(missing) & set(NEEDED) - set(NEEDED_BY_EXPORTED) else names
        raise RunError(f"needs {', '.join(missing)}, which this Python lacks: pip install {how}")
