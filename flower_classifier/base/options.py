"""An option is written once, as a field of a settings class; the parser, the checks and docs/options.md come from that.

    @dataclass(frozen=True)
    class Settings:
        data_dir: Path = argument("data", "folder of photos", metavar="DATA_DIR")
        epochs: int = option(20, "training", "passes over the photos", metavar="N", limits=Limits(least=1))
        gpu: bool = option(False, "training", "use a GPU where there is one")

        def __post_init__(self) -> None:
            check(self)

    settings = parse(Settings, "train.py", __doc__)

The field's name is the flag's. Its annotation says what the flag takes: nothing for `bool`, several numbers for
`tuple[int, ...]` (`--flag 512 256`, and 0 for none), else one value. A field without a default is a positional
argument, which for `tuple[Path, ...]` may be given more than once. A settings class may have a field `typed`, a
frozenset of the names of the options that the command line gave.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from flower_classifier.base.command_line import Parser, Values
from flower_classifier.base.errors import InputError
from flower_classifier.base.limits import Limits
from flower_classifier.base.words import reason_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TYPED = "typed"  # the field that is no option, but says which were given
Value = TypeVar("Value")
Settings = TypeVar("Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class Option:
    """What an option has beside its name, type and default."""

    group: str  # the heading in --help that it stands under
    help: str
    metavar: str | None = None  # what its value is called; None: as the option, in capitals
    limits: Limits | None = None  # of the number, or of each of several
    most: int | None = None  # how many numbers there may be, of several
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()  # other names, bare: "lr" for --lr, "0" for -0
    unset: str | None = None  # what a default of None stands for, in words
    endings: tuple[str, ...] = ()  # of a positional argument's file, by which it is known where another is missing


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


# ----------------------------------------------------------------------------------------------- one setting of a class


@dataclass(frozen=True)
class Setting:
    """An option as a settings class has it: with its name, type and default."""

    name: str
    kind: Callable[[str], object]  # bool, int, float, str or Path
    several: bool  # a tuple of them
    default: object  # MISSING: it has to be given
    option: Option

    @property
    def positional(self) -> bool:
        """Whether it is known by its place on the command line."""
        return self.default is MISSING

    @property
    def flags(self) -> list[str]:
        """How it is written on the command line, by its own name first."""
        return [f"--{name}" if len(name) > 1 else f"-{name}" for name in (self.name, *self.option.aliases)]

    @property
    def metavar(self) -> str:
        """What its value is called."""
        return self.option.metavar or self.name.upper()

    def check(self, value: Any) -> None:  # noqa: ANN401 -- of whatever type the setting has
        """Raise InputError for a value out of the limits or not among the choices."""
        option, numbers = self.option, value if self.several else (value,)
        if option.most is not None and len(numbers) > option.most:
            raise InputError(f"must be at most {option.most} numbers, not {len(numbers)}", self.name)
        if option.limits and not all(option.limits.allow(number) for number in numbers):
            wanted = f"{option.limits}, or 0 for none" if self.several else option.limits
            raise InputError(f"must be {wanted}, not {reason_of(' '.join(map(str, numbers)))}", self.name)
        if option.choices and value not in option.choices:
            raise InputError(f"must be one of {', '.join(option.choices)}, not {reason_of(value)}", self.name)


@functools.cache
def settings_of(settings_class: type[DataclassInstance]) -> tuple[Setting, ...]:
    """Return the options of a settings class, in order."""
    kinds = get_type_hints(settings_class)
    found = []
    for known in fields(settings_class):
        if known.name == TYPED:
            continue
        kind = kinds[known.name]
        if isinstance(kind, UnionType):  # `int | None`: not given, or an int
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        several = get_origin(kind) is tuple
        kind = get_args(kind)[0] if several else kind
        found.append(Setting(known.name, kind, several, known.default, known.metadata["option"]))
    return tuple(found)


def given_by(settings: DataclassInstance) -> Values:
    """Return the value of each option, by its name."""
    return {setting.name: getattr(settings, setting.name) for setting in settings_of(type(settings))}


def check(settings: DataclassInstance) -> None:
    """Raise InputError, naming the option, for the first value out of its limits. None is one that was not given."""
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.name)
        if value is not None:
            setting.check(value)


# ------------------------------------------------------------------------------------------------------ command line


def parse(settings_class: type[Settings], prog: str, doc: str | None, argv: Sequence[str] | None = None) -> Settings:
    """Return the settings that a command line (default: this process's) asks for, checked.

    Raises SystemExit after --help and for a command line that cannot be parsed, InputError for a value out of range.
    """
    typed = build_parser(settings_class, prog, doc).parse(argv)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
    if any(known.name == TYPED for known in fields(settings_class)):
        values[TYPED] = frozenset(typed)
    return settings_class(**values)


def build_parser(settings_class: type[DataclassInstance], prog: str, doc: str | None) -> Parser:
    """Build the parser of a command; `doc` is its docstring, which --help shows."""
    parser = Parser(prog, doc)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in settings_of(settings_class):
        title = setting.option.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add(setting, groups[title], parser)
    return parser


def add(setting: Setting, group: argparse._ArgumentGroup, parser: Parser) -> None:
    """Add one option to its group."""
    text = setting.option.help + (f" (default: {setting.option.unset})" if setting.option.unset else "")
    details: dict[str, Any] = {"help": text.replace("%", "%%")}  # argparse's keywords; Any: each has a type of its own
    if setting.kind is bool:
        group.add_argument(*setting.flags, action="store_true", **details)
        return
    details |= {"type": setting.kind, "metavar": setting.option.metavar, "choices": setting.option.choices or None}
    if setting.positional:
        action = group.add_argument(setting.name, nargs="+" if setting.several else None, **details)
        if setting.option.endings:
            parser.know_by(action, setting.option.endings)
    elif setting.several:
        details["type"] = functools.partial(parse_numbers, kind=setting.kind)
        parser.take_many(group.add_argument(*setting.flags, default=setting.default, **details))
    else:
        group.add_argument(*setting.flags, default=setting.default, **details)


def parse_numbers(text: str, kind: Callable[[str], object]) -> tuple[object, ...]:
    """Parse `512`, `512,256` or `0` (none)."""
    try:
        numbers = tuple(kind(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should be numbers, such as 512 or 512,256") from None
    return () if numbers == (0,) else numbers


# ----------------------------------------------------------------------------------------------------- documentation


def table(settings_class: type[DataclassInstance]) -> str:
    """Return the options of a settings class as Markdown: a heading and a table for each group."""
    settings = settings_of(settings_class)
    titles = dict.fromkeys(setting.option.group for setting in settings)
    return "\n".join(
        f"### {title}\n\n{rows(setting for setting in settings if setting.option.group == title)}" for title in titles
    )


def rows(settings: Iterable[Setting]) -> str:
    """Return a Markdown table of options, a row for each."""
    lines = ["| option | default | values | what it does |", "|---|---|---|---|"]
    for setting in settings:
        cells = (written(setting), default_of(setting), values_of(setting), marked(setting.option.help))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def written(setting: Setting) -> str:
    """Say how an option is written, by each of its names."""
    if setting.positional:
        return f"`{setting.metavar}{' …' if setting.several else ''}`"
    value = "" if setting.kind is bool else f" {setting.metavar}{' …' if setting.several else ''}"
    return ", ".join(f"`{flag}{value}`" for flag in setting.flags)


def default_of(setting: Setting) -> str:
    """Say what holds where an option is not given."""
    if setting.positional:
        return "required"
    if setting.kind is bool:
        return "off"
    if setting.default is None:
        return marked(setting.option.unset or "")
    return f"`{setting.default}`"


def values_of(setting: Setting) -> str:
    """Say which values an option may have, where not all of a type."""
    if setting.option.choices:
        return ", ".join(f"`{choice}`" for choice in setting.option.choices)
    limits, most = setting.option.limits, setting.option.most
    if setting.several and not setting.positional:
        return f"each {limits}{f', at most {most} of them' if most else ''}; 0 for none"
    return str(limits or "")


def marked(text: str) -> str:
    """Mark flags as code."""
    return re.sub(r"(?<![`\w-])--\w+", r"`\g<0>`", text)
