"""Write docs/options.md: every option of the commands, from the classes that define them. `make docs`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # a script's own folder comes first, where `options` is this file

from flower_classifier.base.options import Option, Settings  # noqa: E402 -- found there
from flower_classifier.config.export_options import ExportConfig  # noqa: E402
from flower_classifier.config.predict_options import PredictConfig, QuestionConfig  # noqa: E402
from flower_classifier.config.train_options import TrainConfig  # noqa: E402

PAGE = """# Options

`make docs` writes this page: the options are in `config/`, all else in `docs/options.py`. Change it there. Flags may be
written with `-` or `_`, before or behind the files, with one dash or three, and in upper case. An argument may be given
by its name, and what other solutions of the exercise call an option is understood; of two different values an error
says so.

## train.py

`python train.py DATA_DIR [options]` trains, and leaves a checkpoint in `--save_dir`.

{train}
{train_names}
## predict.py

`python predict.py IMAGE … CHECKPOINT [options]` names what is in photos. An `IMAGE` may be a folder, which stands for
all photos below it. Of several photos each gets a heading; those that cannot be opened are named at the end, and the
[exit code](#exit-codes) is then not 0 ([more on predicting](predicting.md)).

{predict}
{predict_names}
An exported folder has a `predict.py` of its own. It takes photos alone, and the options that need no checkpoint:
{own}.

## export.py

`python export.py CHECKPOINT FOLDER [options]` makes of a checkpoint [a folder that needs no torch](export.md).

{export}
## Environment

| variable | what it does |
|---|---|
| `FLOWERS_PRECISION` | `float32` or `bfloat16`, for pretrained networks ([more](how_it_works.md#speed-and-precision)) |
| `FLOWERS_URL` | where `--download` fetches the photos from |
| `FLOWERS_DEBUG` | `1` shows the traceback behind an error |
| `TMPDIR` | a folder for temporary files, where `/tmp` cannot be written to |
| `TORCH_HOME` | where torchvision keeps pretrained weights, in `hub/checkpoints/` |
| `XDG_CACHE_HOME` | on Linux, the folder that the feature cache lies in, unless `--cache_dir` says where |

## Exit codes

| code | what happened |
|---|---|
| 0 | done |
| 1 | a run failed: network, disk, memory, a loss that is not finite; or predict.py answered in part: see below |
| 2 | the input or the command line is wrong: nothing is trained, no photo is answered |
| 129 | hung up: the terminal was closed |
| 130 | interrupted (Ctrl-C) |
| 141 | whoever reads stdout, such as `head`, has left |
| 143 | terminated |

If predict.py cannot open one photo of 5,001, all others are answered, stderr names that one, its last line is `5,000 of
5,001 photos answered; 1 could not be opened`, and the exit code is 1. If it can open none of them, or the command is
wrong, the exit code is 2. A picture of `--plot` that cannot be drawn is code 1, too.

Two kinds of 2 can be told apart. For a wrong command line nothing goes to stdout, and if a flag or an argument is
unknown or missing, the last line on stderr says how to see the options. For photos that are missing or cannot be
opened, `--format json` still prints a whole array, which is `[]` for an empty folder, and csv its header.

After an interrupt the finished epochs are saved first; a second interrupt ends the program at once.
"""


def page() -> str:
    """Return the page as Markdown."""
    own = ", ".join(f"`--{setting.name}`" for setting in QuestionConfig.options() if not setting.positional)
    tables = {"train": TrainConfig, "predict": PredictConfig, "export": ExportConfig}
    names = {f"{name}_names": other_names(settings) for name, settings in tables.items()}
    return PAGE.format(own=own, **names, **{name: table(settings) for name, settings in tables.items()})


def other_names(settings_class: type[Settings]) -> str:
    """Say which other names of options and arguments are understood."""
    if not settings_class.foreign:
        return ""
    options = {setting.name: setting for setting in settings_class.options()}
    sentences = []
    for name, others in settings_class.foreign.same.items():
        is_argument = options[name].positional
        written_as = str(options[name].metavar) if is_argument else f"--{name}"
        names = (name, *others) if is_argument else others
        sentences.append(f"for `{written_as}` " + ", ".join(f"`{other}`" for other in names))
    return f"Other names that are understood, behind dashes: {'; '.join(sentences)}.\n"


def table(settings_class: type[Settings]) -> str:
    """Return the options of a settings class as Markdown: a heading and a table for each group."""
    settings = settings_class.options()
    titles = dict.fromkeys(setting.group for setting in settings)
    return "\n".join(
        f"### {title}\n\n{rows(setting for setting in settings if setting.group == title)}" for title in titles
    )


def rows(settings: Iterable[Option]) -> str:
    """Return a Markdown table of options, a row for each."""
    lines = ["| option | default | values | what it does |", "|---|---|---|---|"]
    for setting in settings:
        cells = (written(setting), default_of(setting), values_of(setting), marked(setting.help))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def written(setting: Option) -> str:
    """Say how an option is written, by each of its names."""
    value = (setting.metavar or setting.name.upper()) + " …" * setting.several
    if setting.positional:
        return f"`{value}`"
    value = "" if setting.kind is bool else f" {value}"
    return ", ".join(f"`{flag}{value}`" for flag in setting.flags)


def default_of(setting: Option) -> str:
    """Say what holds where an option is not given."""
    if setting.positional:
        return "required"
    if setting.kind is bool:
        return "off"
    if setting.default is None:
        return marked(setting.unset or "")
    return f"`{setting.default}`"


def values_of(setting: Option) -> str:
    """Say which values an option may have, where not all of a type."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    limits, most = setting.limits, setting.most
    if setting.several and not setting.positional:
        return f"each {limits}{f', at most {most} of them' if most else ''}; 0 for none"
    return str(limits or "")


def marked(text: str) -> str:
    """Mark flags as code."""
    return re.sub(r"(?<![`\w-])--\w+", r"`\g<0>`", text)


if __name__ == "__main__":
    (PROJECT / "docs" / "options.md").write_text(page(), encoding="utf-8")
