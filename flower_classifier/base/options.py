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
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from flower_classifier.base.messages import InputError, reason_of
from flower_classifier.base.parser import ForeignNames, Parser, Values

TYPED = "typed"  # the field that is no option, but says which were given
Value = TypeVar("Value")
Config = TypeVar("Config", bound="Settings")


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
        if re.search(r",0\d", text):  # 1,024 would be two layers
            raise argparse.ArgumentTypeError(f"{text!r} may be one number: write {text.replace(',', '')} for that")
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

    foreign: ClassVar[ForeignNames | None] = None  # what other programs call these options

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
        settings = cls(**values)
        settings.check_files()
        return settings

    def check_files(self) -> None:
        """Raise InputError for a file that is not there: a command line's mistake is told before torch is loaded."""

    @classmethod
    def parser(cls, prog: str, doc: str | None) -> Parser:
        """Return the parser of a command; `doc` is its docstring, which --help shows."""
        parser = Parser(prog, doc, cls.foreign)
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
                parser.endings[setting.name] = setting.endings
                continue
            if setting.several:
                details["type"] = setting.parse_numbers
                parser.many.update(setting.flags)
            group.add_argument(*setting.flags, default=setting.default, **details)
        return parser


def filled_path(text: str) -> Path:
    """Parse a path, with `~` as the home folder; an empty one, of an unset variable, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: is a variable of the shell not set?")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no user is called so, or has no home
        return Path(text)


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
