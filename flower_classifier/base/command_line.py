"""How the commands read their command lines: flags as people type them, help that is documentation, short errors."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import deque
from collections.abc import Collection, Sequence
from typing import NoReturn

from flower_classifier.base.words import nearest

GPU_ON, GPU_OFF = {"gpu", "cuda", "mps", "true", "yes", "on"}, {"cpu", "false", "no", "off"}
WIDEST_TEXT = 100  # columns
WRONG_COMMAND_LINE = 2  # the exit code of every wrong input, as argparse has it too


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
        self.exit(WRONG_COMMAND_LINE, f"{self.prog}: {message}\n(python {self.prog} --help shows the options)\n")


def normalise(argv: Sequence[str], many: Collection[str] = ()) -> list[str]:
    """Rewrite what argparse cannot take as people type it.

    `--learning-rate` becomes `--learning_rate`. For the flags in `many`, `--flag 512 256` becomes `--flag 512,256`,
    so that a folder may follow. The value of an old-style `--gpu gpu` or `--gpu True` goes, `--gpu False` goes whole.
    """
    arguments, words = [], deque(argv)
    while words:
        word = words.popleft()
        if word == "--":  # what follows are paths, and "./-a.jpg" is one that argparse cannot take for a flag
            return [*arguments, *(f"./{path}" if path.startswith("-") else path for path in words)]
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
