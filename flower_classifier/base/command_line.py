"""How the commands read their command lines: flags as people type them, help that is documentation, short errors."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from flower_classifier.base.words import nearest

GPU_ON, GPU_OFF = {"gpu", "cuda", "mps", "true", "yes", "on"}, {"cpu", "false", "no", "off"}
NOT_TYPED = object()  # the value of a flag that the command line leaves out
WIDEST_TEXT = 100  # columns
WRONG_COMMAND_LINE = 2  # the exit code of every wrong input, as argparse has it too
MISSING = "the following arguments are required: "  # as argparse says it, before what is missing
NUMBERS = re.compile(r"-?[\d,]+")

Values = dict[str, Any]  # of options, by their names; Any: each option has a type of its own


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
    """argparse with one-line errors, nearest matches, and flags that take `-` and `_` alike.

    `doc` is the command's docstring, of three paragraphs: what it does, examples, what it writes or needs. `python -OO`
    drops docstrings, and with them what the help says beside the options.
    """

    def __init__(self, prog: str, doc: str | None) -> None:
        what, examples, more = doc.strip().split("\n\n") if doc else ("", "", "")
        super().__init__(
            prog=prog,
            description=f"{what}\n\n{more}" if doc else None,
            epilog=f"examples:\n{examples}" if doc else None,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.many: set[str] = set()
        self.endings: dict[str, tuple[str, ...]] = {}
        self.typed: list[str] = []

    def take_many(self, action: argparse.Action) -> None:
        """Let a flag take several numbers, `--flag 512 256`; its type gets them as `512,256`."""
        self.many.update(action.option_strings)

    def know_by(self, action: argparse.Action, endings: tuple[str, ...]) -> None:
        """Know the file that a positional argument names by its ending, to say which of two is missing."""
        self.endings[str(action.metavar)] = endings

    def parse(self, argv: Sequence[str] | None = None) -> Values:
        """Return the values of what was typed, and of nothing else: defaults are for the settings class to fill in.

        A mistake ends the process with code 2 and one or two lines.
        """
        valued = {flag for flag, action in self._option_string_actions.items() if action.nargs != 0}
        self.typed = normalise(sys.argv[1:] if argv is None else argv, self.many, valued)
        flags = [action.dest for action in self._actions if action.option_strings and action.dest != "help"]
        untyped = argparse.Namespace(**dict.fromkeys(flags, NOT_TYPED))
        parsed, unknown = self.parse_known_intermixed_args(self.typed, untyped)
        if unknown:
            flag = unknown[0].split("=")[0]
            close = nearest(flag, self._option_string_actions, most=1) if flag.startswith("-") else []
            self.error(f"unknown argument {unknown[0]!r}" + (f": did you mean {close[0]}?" if close else ""))
        return {name: value for name, value in vars(parsed).items() if value is not NOT_TYPED}

    def error(self, message: str) -> NoReturn:
        """End with code 2; the usage text of twenty flags would bury the message."""
        message = self.other_missing(message) or message
        self.exit(WRONG_COMMAND_LINE, f"{self.prog}: {message}\n(python {self.prog} --help shows the options)\n")

    def other_missing(self, message: str) -> str | None:
        """Say that IMAGE is missing where argparse, which counts, finds CHECKPOINT missing beside `checkpoint.pth`."""
        endings = self.endings.get(message.removeprefix(MISSING))
        first = next(action for action in self._actions if not action.option_strings)
        found = [word for word in self.typed if endings and word.endswith(endings)]
        return f"{MISSING}{first.metavar}, before {found[0]}" if found else None


def normalise(argv: Sequence[str], many: Collection[str] = (), valued: Collection[str] = ()) -> list[str]:
    """Rewrite what argparse cannot take as people type it.

    `--learning-rate` becomes `--learning_rate`. For the flags in `many`, `--flag 512 256` becomes `--flag 512,256`,
    so that a folder may follow. For those in `valued`, which take a value, `--flag -1` becomes `--flag=-1`: argparse
    might take a negative number for a flag. The value of an old-style `--gpu gpu` or `--gpu True` goes, `--gpu False`
    goes whole.
    """
    arguments: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if word == "--":  # what follows are paths, and "./-a.jpg" is one that argparse cannot take for a flag
            return [*arguments, *(f"./{path}" if path.startswith("-") else path for path in words)]
        arguments += rewritten(word, words, many, valued) if word.startswith("--") else [word]
    return arguments


def rewritten(word: str, following: deque[str], many: Collection[str], valued: Collection[str]) -> list[str]:
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
        while following and NUMBERS.fullmatch(following[0]):
            numbers.append(following.popleft())
        joined = ",".join(number.strip(",") for number in numbers)
        if joined.startswith("-"):
            return [f"{flag}={joined}"]
        return [flag, joined] if joined else [flag]
    if flag in valued and not equals and following and is_negative(following[0]):
        return [f"{flag}={following.popleft()}"]
    return [flag + equals + value]


def is_negative(word: str) -> bool:
    """Say whether a word is a number below 0, in whatever way it is written: `-1`, `-.5`, `-1e-3`."""
    try:
        float(word)
    except ValueError:
        return False
    return word.startswith("-")
