"""An option is written once, as a field of a settings class; the parser, the checks and docs/options.md come from that.

    @dataclass(frozen=True)
    class TrainConfig(Settings):
        data_dir: Path = argument("data", "folder of photos", metavar="DATA_DIR")
        epochs: int = option(20, "training", "passes over the photos", metavar="N", limits=Limits(least=1))
        gpu: bool = option(False, "training", "use a GPU where there is one")

    config = TrainConfig.parse("train.py", __doc__)

The field's name is the flag's. Its annotation says what the flag takes: nothing for `bool`, several numbers for
`tuple[int, ...]` (`--flag 512 256`, and 0 for none), else one value. A field without a default is a positional
argument, which for `tuple[Path, ...]` may be given more than once. A settings class may have a field `typed`, a
frozenset of the names of the options that the command line gave.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from flower_classifier.base.messages import InputError, nearest, reason_of

TYPED = "typed"  # the field that is no option, but says which were given
Value = TypeVar("Value")
Config = TypeVar("Config", bound="Settings")
Values = dict[str, Any]  # of options, by their names; Any: each option has a type of its own


@dataclass(frozen=True)
class Option:
    """An option: what its field says of it, and below that what `Settings.options` reads off the settings class."""

    group: str  # the heading in --help that it stands under
    help: str
    metavar: str | None = None  # what its value is called; None: as the option, in capitals
    limits: Limits | None = None  # of the number, or of each of several
    most: int | None = None  # how many numbers there may be, of several
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()  # other names, bare: "lr" for --lr, "0" for -0
    unset: str | None = None  # what a default of None stands for, in words
    endings: tuple[str, ...] = ()  # of this argument's file; they tell which of two positional arguments was left out

    name: str = ""
    kind: Callable[[str], object] = str  # bool, int, float, str or Path
    several: bool = False  # a tuple of them
    default: object = None
    positional: bool = False  # without a default

    @property
    def flags(self) -> list[str]:
        """How it is written on the command line, by its own name first."""
        return [f"--{name}" if len(name) > 1 else f"-{name}" for name in (self.name, *self.aliases)]

    def check(self, value: Any) -> None:  # noqa: ANN401 -- of whatever type the setting has
        """Raise InputError for a value out of the limits or not among the choices."""
        numbers = value if self.several else (value,)
        if self.most is not None and len(numbers) > self.most:
            raise InputError(f"must be at most {self.most} numbers, not {len(numbers)}", self.name)
        if self.limits and not all(map(self.limits.allow, numbers)):
            allowed = f"{self.limits}, or 0 for none" if self.several else self.limits
            raise InputError(f"must be {allowed}, not {reason_of(' '.join(map(str, numbers)))}", self.name)
        if self.choices and value not in self.choices:
            raise InputError(f"must be one of {', '.join(self.choices)}, not {reason_of(value)}", self.name)

    def parse_numbers(self, text: str) -> tuple[object, ...]:
        """Parse `512`, `512,256` or `0` (none)."""
        try:
            numbers = tuple(self.kind(word) for word in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} should be numbers, such as 512 or 512,256") from None
        return () if numbers == (0,) else numbers


def option(
    default: Value,
    group: str,
    help: str,  # as argparse calls it
    *,
    metavar: str | None = None,
    limits: Limits | None = None,
    most: int | None = None,
    choices: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    unset: str | None = None,
) -> Value:
    """Return a field of a settings class that is an option; Option says what the words mean."""
    details = Option(group, help, metavar, limits, most, choices, aliases, unset)
    return field(default=default, metadata={"option": details})


def argument(group: str, help: str, *, metavar: str, endings: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """Return a field of a settings class that is a positional argument; it is typed as dataclasses.field is."""
    return field(metadata={"option": Option(group, help, metavar, endings=endings)})


# -------------------------------------------------------------------------------------------------- a settings class


@dataclass(frozen=True)
class Settings:
    """What a command can be asked to do: a subclass has a field for each option.

    Raises InputError, naming the option, for the first value out of its limits. None means: not given.
    """

    def __post_init__(self) -> None:
        for setting in self.options():
            value = getattr(self, setting.name)
            if value is not None:
                setting.check(value)

    @classmethod
    @functools.cache
    def options(cls) -> tuple[Option, ...]:
        """Return the options, in order."""
        kinds = get_type_hints(cls)
        settings = []
        for attribute in fields(cls):
            if attribute.name == TYPED:
                continue
            kind = kinds[attribute.name]
            if isinstance(kind, UnionType):  # `int | None`: not given, or an int
                (kind,) = (member for member in get_args(kind) if member is not NoneType)
            several = get_origin(kind) is tuple
            setting = replace(
                attribute.metadata["option"],
                name=attribute.name,
                kind=get_args(kind)[0] if several else kind,
                several=several,
                default=attribute.default,
                positional=attribute.default is MISSING,
            )
            settings.append(setting)
        return tuple(settings)

    @property
    def values(self) -> Values:
        """The value of each option, by its name."""
        return {setting.name: getattr(self, setting.name) for setting in self.options()}

    @classmethod
    def parse(cls: type[Config], prog: str, doc: str | None, argv: Sequence[str] | None = None) -> Config:
        """Return the settings that a command line (default: this process's) asks for, checked.

        Raises SystemExit after --help and for a command line that cannot be parsed, InputError for a value out of
        range.
        """
        typed = cls.parser(prog, doc).parse(argv)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
        if any(attribute.name == TYPED for attribute in fields(cls)):
            values[TYPED] = frozenset(typed)
        return cls(**values)

    @classmethod
    def parser(cls, prog: str, doc: str | None) -> Parser:
        """Return the parser of a command; `doc` is its docstring, which --help shows."""
        parser = Parser(prog, doc)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for setting in cls.options():
            if setting.group not in groups:
                groups[setting.group] = parser.add_argument_group(setting.group)
            group = groups[setting.group]
            text = setting.help + (f" (default: {setting.unset})" if setting.unset else "")
            details: dict[str, Any] = {"help": text.replace("%", "%%")}  # argparse's keywords, of various types
            if setting.kind is bool:
                group.add_argument(*setting.flags, action="store_true", **details)
                continue
            kind = filled_path if setting.kind is Path else setting.kind
            details |= {"type": kind, "metavar": setting.metavar, "choices": setting.choices or None}
            if setting.positional:
                group.add_argument(setting.name, nargs="+" if setting.several else None, **details)
                parser.endings[str(setting.metavar)] = setting.endings
                continue
            if setting.several:
                details["type"] = setting.parse_numbers
                parser.many.update(setting.flags)
            group.add_argument(*setting.flags, default=setting.default, **details)
        return parser


def filled_path(text: str) -> Path:
    """Parse a path: an empty one, of a shell's variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: is a variable of the shell not set?")
    return Path(text)


# ----------------------------------------------------------------------------------------------------------- the parser


GPU_ON, GPU_OFF = {"gpu", "cuda", "mps", "true", "yes", "on"}, {"cpu", "false", "no", "off"}
NOT_TYPED = object()  # the value of a flag that the command line leaves out
WIDEST_TEXT = 100  # columns
WRONG_COMMAND_LINE = 2  # the exit code of every wrong input, as argparse has it too
ARGUMENTS_MISSING = "the following arguments are required: "  # as argparse says it, before what is missing
NUMBERS = re.compile(r"-?[\d,]+")


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
        purpose, examples, notes = doc.strip().split("\n\n") if doc else ("", "", "")
        super().__init__(
            prog=prog,
            description=f"{purpose}\n\n{notes}" if doc else None,
            epilog=f"examples:\n{examples}" if doc else None,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        self.many: set[str] = set()  # flags that take several numbers, `--flag 512 256`; a type gets them as `512,256`
        self.endings: dict[str, tuple[str, ...]] = {}  # of an argument's file: they tell which of two is missing
        self.typed: list[str] = []

    def parse(self, argv: Sequence[str] | None = None) -> Values:
        """Return the values of the typed options alone; the settings class fills in the defaults.

        A mistake ends the process with code 2 and one or two lines.
        """
        self.typed = self.normalise(sys.argv[1:] if argv is None else argv)
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
        """Say that IMAGE is missing, if `checkpoint.pth` was typed: argparse just counts, and misses CHECKPOINT."""
        endings = self.endings.get(message.removeprefix(ARGUMENTS_MISSING))
        first = next(action for action in self._actions if not action.option_strings)
        matching = [word for word in self.typed if endings and word.endswith(endings)]
        return f"{ARGUMENTS_MISSING}{first.metavar}, before {matching[0]}" if matching else None

    def normalise(self, argv: Sequence[str]) -> list[str]:
        """Rewrite a typed command line for argparse.

        `--learning-rate` becomes `--learning_rate`. For a flag that takes several numbers, `--flag 512 256` becomes
        `--flag 512,256`, so that a folder may follow. For one that takes a value, `--flag -1` becomes `--flag=-1`:
        argparse might take a negative number for a flag. The value of an old-style `--gpu gpu` or `--gpu True` goes,
        `--gpu False` goes whole.
        """
        arguments: list[str] = []
        words = deque(argv)
        while words:
            word = words.popleft()
            if word == "--":  # paths follow; argparse cannot take "./-a.jpg" for a flag
                return [*arguments, *(f"./{path}" if path.startswith("-") else path for path in words)]
            arguments += self.rewritten(word, words) if word.startswith("--") else [word]
        return arguments

    def rewritten(self, word: str, following: deque[str]) -> list[str]:
        """Rewrite one flag; take its values from the words that follow."""
        flag, equals, value = word.partition("=")
        flag = "--" + flag[2:].replace("-", "_")
        if flag == "--gpu":
            if not equals and following and following[0].lower() in GPU_ON | GPU_OFF:
                value = following.popleft()
            if value.lower() in GPU_OFF:
                return []
            return [flag] if not value or value.lower() in GPU_ON else [f"{flag}={value}"]
        if flag in self.many:
            numbers = [value] if equals else []
            while following and NUMBERS.fullmatch(following[0]):
                numbers.append(following.popleft())
            joined = ",".join(text.strip(",") for text in numbers)
            if joined.startswith("-"):
                return [f"{flag}={joined}"]
            return [flag, joined] if joined else [flag]
        action = self._option_string_actions.get(flag)
        takes_value = action is not None and action.nargs != 0
        if takes_value and not equals and following and following[0].startswith("-"):
            with contextlib.suppress(ValueError):  # it is a flag, and not `-1`, `-.5`, `-1e-3`
                float(following[0])
                return [f"{flag}={following.popleft()}"]
        return [flag + equals + value]


# --------------------------------------------------------------------------------------------------- limits of a number


@dataclass(frozen=True)
class Limits:
    """Which numbers are allowed: from `least`, or `above` a number, to `most`, or `below` one. None: no limit."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""

    def allow(self, value: float) -> bool:
        """Say whether a value is within the limits; nan never is."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """`from 1 to 100,000`, `above 0 and at most 1000`, `at least 0 and below 1`."""
        if self.least is not None and self.most is not None:
            words = f"from {in_words(self.least)} to {in_words(self.most)}"
        else:
            ends = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
            words = " and ".join(f"{word} {in_words(end)}" for word, end in ends.items() if end is not None)
        return f"{words} {self.unit}".rstrip()


def in_words(value: float) -> str:
    """Write a number as people read it: `0.5`, `1000`, `100,000`, `2^63`."""
    if isinstance(value, int) and value > 2**31 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if abs(value) >= 10_000 else f"{value}"
