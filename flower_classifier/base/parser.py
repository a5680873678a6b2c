"""The parser of a command line: argparse with one-line errors, and with the names that other programs give to options.

A flag may be written as people write it: with `-`, `_` or neither in it, with one, two or three dashes before it, in
upper or lower case, and under another program's name. An argument may be given by its name: `--data_dir flowers`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import textwrap
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from flower_classifier.base.messages import nearest

GPU_ON = {"gpu", "cuda", "mps", "true", "yes", "on", "y", "1"}  # old-style values of --gpu
GPU_OFF = {"cpu", "false", "no", "off", "n", "0"}
NOT_TYPED = object()  # the value of a flag that the command line leaves out
WIDEST_TEXT = 100  # columns
WRONG_COMMAND_LINE = 2  # the exit code of every wrong input, as argparse has it too
ARGUMENTS_MISSING = "the following arguments are required: "  # as argparse says it, before what is missing
NUMBERS = re.compile(r"-?[\d,]+")
FLAG = re.compile(r"(-+)([^\W\d][\w-]*)(?:=(.*))?", re.DOTALL)  # dashes, a name, perhaps a value
LONG_DASH = re.compile(r"^[–—](?=[^\W\d])")  # what a word processor makes of two dashes
LIKE_A_TYPO = 0.8  # how alike a flag must be to one that is asked for: a wrong hint is worse than none

Values = dict[str, Any]  # of options, by their names; Any: each option has a type of its own


@dataclass(frozen=True)
class ForeignNames:
    """What other programs call the options of a command, and what to say of options that it does not have.

    Names are bare and in lower case, with `_`: "topk" for --topk.
    """

    same: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of an option or argument, by its name here
    hints: Mapping[str, str] = field(default_factory=dict)  # by the foreign name
    with_device: frozenset[str] = frozenset()  # names of --gpu that always have a value
    of_values: Mapping[str, str] = field(default_factory=dict)  # hints for an option of ours that takes no value
    of_missing: Mapping[str, str] = field(default_factory=dict)  # hints for an argument that is missing, by its name
    of_surplus: str = ""  # hint for a word that no argument takes


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
    """argparse with one-line errors, nearest matches, and flags as people write them.

    `doc` is the command's docstring, of three paragraphs: what it does, examples, what it writes or needs. `python -OO`
    drops docstrings, and with them what the help says beside the options.
    """

    def __init__(self, prog: str, doc: str | None, foreign: ForeignNames | None = None) -> None:
        purpose, examples, notes = doc.strip().split("\n\n") if doc else ("", "", "")
        self.foreign = foreign or ForeignNames()
        others = "\n\nOther usual names are understood too, such as --topk or --image_path." if foreign else ""
        super().__init__(
            prog=prog,
            description=f"{purpose}\n\n{notes}" if doc else None,
            epilog=f"examples:\n{examples}{others}" if doc else None,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.many: set[str] = set()  # flags that take several numbers, `--flag 512 256`; a type gets them as `512,256`
        self.endings: dict[str, tuple[str, ...]] = {}  # of an argument's file: they tell which of two is missing
        self.typed: list[str] = []
        self.written: dict[str, tuple[str, str]] = {}  # by the option: how it was written first, and its value
        self.named: dict[str, list[str]] = {}  # the arguments that were given by their names
        self.gpu: tuple[bool, str] | None = None  # what --gpu said first, and how it was typed

    def parse(self, argv: Sequence[str] | None = None) -> Values:
        """Return the values of the typed options alone; the settings class fills in the defaults.

        A mistake ends the process with code 2 and one or two lines.
        """
        self.typed = list(sys.argv[1:] if argv is None else argv)
        words = self.normalise(self.typed)
        values: Values = {}
        for action in [action for action in self._actions if action.dest in self.named]:
            self._actions.remove(action)  # what stands there without a name is another argument's
            try:
                texts = [self._get_value(action, text) for text in self.named[action.dest]]
            except argparse.ArgumentError as error:
                self.error(str(error))
            values[action.dest] = texts if action.nargs == "+" else texts[0]
        flags = [action.dest for action in self._actions if action.option_strings and action.dest != "help"]
        untyped = argparse.Namespace(**dict.fromkeys(flags, NOT_TYPED))
        parsed, unknown = self.parse_known_intermixed_args(words, untyped)
        if unknown:
            self.refuse(unknown)
        for name in self.named:  # a path of the like among those of an argument that takes many
            endings = self.endings[name]
            several = [word for words in vars(parsed).values() if isinstance(words, list) for word in words]
            if surplus := [str(word) for word in several if endings and str(word).endswith(endings)]:
                self.refuse(surplus)
        return values | {name: value for name, value in vars(parsed).items() if value is not NOT_TYPED}

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with code 2 for words that nothing takes, and say what may have been meant."""
        word = next((word for word in unknown if word.startswith("-")), None)
        if word is None:
            for flag, following in zip(self.typed, self.typed[1:], strict=False):
                action = self._option_string_actions.get(self.flag_of(flag))
                if action and action.nargs == 0 and not following.startswith("-"):
                    hint = behind(self.foreign.of_values, action.dest)
                    self.error(f"{flag} takes no value, and {following!r} follows it{hint}")
            for name, (written, value) in self.written.items():
                if name in self.named:
                    self.error(f"with {written} {value}, {unknown[0]!r} is one too many: give each argument once")
            self.error(
                f"unknown argument {unknown[0]!r}" + (f": {self.foreign.of_surplus}" if self.foreign.of_surplus else "")
            )
        flag = word.split("=")[0]
        name = bare(flag)
        hints = {other.replace("_", ""): hint for other, hint in self.foreign.hints.items()}
        if hint := behind(hints, name.replace("_", "")):
            self.error(f"unknown argument {word!r}{hint}")
        names = {bare(option): option for option in self._option_string_actions}
        others = self.by_other_name().items()
        names |= {other: f"--{name}" for other, name in others if f"--{name}" in self._option_string_actions}
        close = nearest(name, names, most=1, cutoff=LIKE_A_TYPO)
        self.error(f"unknown argument {word!r}" + (f": did you mean {names[close[0]]}?" if close else ""))

    def by_other_name(self) -> dict[str, str]:
        """Return the option or argument that each other name means; an argument's own name is one of them."""
        is_option = {action.dest: bool(action.option_strings) for action in self._actions}
        others = {other: name for name, names in self.foreign.same.items() if name in is_option for other in names}
        return others | {name: name for name in is_option if not is_option[name]}

    def error(self, message: str) -> NoReturn:
        """End with code 2; the usage text of twenty flags would bury the message."""
        message = self.other_missing(message) or message
        if message.startswith(ARGUMENTS_MISSING):
            message += behind(self.foreign.of_missing, message.removeprefix(ARGUMENTS_MISSING).lower())
        self.exit(WRONG_COMMAND_LINE, f"{self.prog}: {message}\n(python {self.prog} --help shows the options)\n")

    def other_missing(self, message: str) -> str | None:
        """Say that IMAGE is missing, if `checkpoint.pth` was typed: argparse just counts, and misses CHECKPOINT."""
        missing = message.removeprefix(ARGUMENTS_MISSING)
        endings = next((self.endings[action.dest] for action in self._actions if action.metavar == missing), ())
        first = next((action for action in self._actions if not action.option_strings), None)
        matching = [word for word in self.typed if endings and word.endswith(endings)]
        return f"{ARGUMENTS_MISSING}{first.metavar}, before {matching[0]}" if matching and first else None

    def normalise(self, argv: Sequence[str]) -> list[str]:
        """Rewrite a typed command line for argparse.

        `--learning-rate` and `---learning_rate` become `--learning_rate`, and so do the names that other programs have
        for it. For a flag that takes several numbers, `--flag 512 256` becomes `--flag 512,256`, so that a folder may
        follow. For one that takes a value, `--flag -1` becomes `--flag=-1`: argparse might take a negative number for a
        flag. The value of an old-style `--gpu gpu` or `--gpu True` goes, `--gpu False` goes whole.
        """
        arguments: list[str] = []
        words = deque(argv)
        while words:
            word = LONG_DASH.sub("--", words.popleft(), count=1)
            if word == "--":  # paths follow; argparse cannot take "./-a.jpg" for a flag
                return [*arguments, *(f"./{path}" if path.startswith("-") else path for path in words)]
            flag = self.flag_of(word)
            arguments += self.rewritten(flag, word, words) if flag.startswith("--") else [word]
        return arguments

    def flag_of(self, word: str) -> str:
        """Return the flag that a word is, as argparse knows it; "" for none.

        A word with one dash is one only if it is known, as in `-top_k` or `-GPU`.
        """
        match = FLAG.fullmatch(word)
        if not match:
            return ""
        dashes, name = match[1], match[2].replace("-", "_")
        others = self.by_other_name()
        joined = {option.replace("_", ""): option for option in [*map(bare, self._option_string_actions), *others]}
        for spelling in (name, name.lower(), joined.get(name.lower().replace("_", ""), "")):
            if dashes == "-" and f"-{spelling}" in self._option_string_actions:
                return f"-{spelling}"
            if f"--{spelling}" in self._option_string_actions or spelling in others:
                return f"--{others.get(spelling, spelling)}"
        return "" if dashes == "-" else f"--{name}"

    def rewritten(self, flag: str, word: str, following: deque[str]) -> list[str]:
        """Rewrite one flag, which was typed as `word`; take its values from the words that follow."""
        written, equals, value = word.partition("=")
        action = self._option_string_actions.get(flag)
        argument = next((action for action in self._actions if flag == f"--{action.dest}"), None)
        if flag == "--gpu" and action:
            return self.rewritten_gpu(word, following)
        if argument and not argument.option_strings:
            if not equals and (not following or (following[0].startswith("-") and following[0] != "-")):
                self.error(f"argument {written}: expected one argument")
            value = value if equals else following.popleft()
            self.note_value(argument.dest, written, value, may_repeat=argument.nargs == "+")
            self.named.setdefault(argument.dest, []).append(value)
            return []
        if flag in self.many:
            numbers = [value] if equals else []
            while following and NUMBERS.fullmatch(following[0]):
                numbers.append(following.popleft())
            joined = ",".join(text.strip(",") for text in numbers)
            if flag.lstrip("-") in self.written:  # as of other programs, where each gives another hidden layer
                before, earlier = self.written[flag.lstrip("-")]
                both = f"{flag} {earlier} {joined}".replace(",", " ")
                self.error(f"{before} {earlier} and {written} {joined} are the same option: {both} gives both")
            self.note_value(action.dest if action else flag, written, joined)
            if joined.startswith("-"):
                return [f"{flag}={joined}"]
            return [flag, joined] if joined else [flag]
        takes_value = action is not None and action.nargs != 0
        if action:
            if equals and not takes_value:
                self.error(f"{written} takes no value, and has {value!r}{behind(self.foreign.of_values, action.dest)}")
            self.note_value(action.dest, written, value if equals or not takes_value else (*following, "")[0])
        if takes_value and not equals and following and following[0].startswith("-"):
            with contextlib.suppress(ValueError):  # it is a flag, and not `-1`, `-.5`, `-1e-3`
                float(following[0])
                return [f"{flag}={following.popleft()}"]
        return [flag + equals + value]

    def rewritten_gpu(self, word: str, following: deque[str]) -> list[str]:
        """Rewrite `--gpu`, `--gpu 1`, `--device cuda:0` to --gpu, and `--gpu False` or `--device cpu` to nothing."""
        written, equals, value = word.partition("=")
        has_value = bare(written) in self.foreign.with_device  # which is no word of another argument
        if not equals and following and (has_value or device_of(following[0]) in GPU_ON | GPU_OFF):
            value = following.popleft()
            if not has_value and os.path.exists(value):  # noqa: PTH110 -- "" is none
                self.error(f"{written} {value}: {value} is a path here, too: write {written}={value}, or ./{value}")
        if has_value and value.isdecimal():  # the number of a GPU, as CUDA counts them
            value = f"cuda:{value}"
        if (value or has_value) and device_of(value) not in GPU_ON | GPU_OFF:
            self.error(f"{written} must be cuda, gpu, mps or cpu, not {value!r}")
        is_on, typed = not value or device_of(value) in GPU_ON, f"{written} {value}".strip()
        was_on, before = self.gpu = self.gpu or (is_on, typed)
        if is_on != was_on:
            self.error(f"{before} and {typed} contradict each other: give one of them")
        return ["--gpu"] if is_on else []

    def note_value(self, name: str, written: str, value: str, may_repeat: bool = False) -> None:
        """Keep how an option was written. Ends with code 2 if another of its names has given it another value.

        Of one option that is given twice by the same name the last counts, as programs have it.
        """
        before, earlier = self.written.setdefault(name, (written, value))
        is_argument = all(action.dest != name or not action.option_strings for action in self._actions)
        differs = value != earlier and not may_repeat
        if differs and (is_argument or bare(before) != bare(written)):
            same = f"{before} {earlier} and {written} {value}".replace("  ", " ")
            self.error(f"{same} are the same {'argument' if is_argument else 'option'}: give it once")


def device_of(value: str) -> str:
    """Return the kind of a device: `CUDA:0` is cuda."""
    return value.lower().split(":")[0]


def behind(hints: Mapping[str, str], name: str) -> str:
    """Return what there is to say of a name, behind a colon; nothing where there is no hint."""
    return f": {hints[name]}" if name in hints else ""


def bare(flag: str) -> str:
    """Return a flag's name, as the tables of names have it: `---Top-K` is top_k."""
    return flag.lstrip("-").replace("-", "_").lower()
