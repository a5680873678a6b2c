"""What export.py can be asked to do: its options, and the values they may take."""

from dataclasses import dataclass
from pathlib import Path

from flower_classifier.base.files import check_there
from flower_classifier.base.messages import NEEDED, NEEDED_TO_EXPORT, InputError
from flower_classifier.base.options import Settings, argument, option
from flower_classifier.config.allowed import CHECKPOINT_ENDINGS, checkpoint_in
from flower_classifier.config.predict_options import NAMES_HELP


@dataclass(frozen=True)
class ExportConfig(Settings):
    """One call's settings, checked. Raises InputError, naming the option, before work that would be in vain."""

    checkpoint: Path = argument(
        "input",
        "checkpoint.pth as train.py wrote it, or the folder that it lies in",
        metavar="CHECKPOINT",
        endings=CHECKPOINT_ENDINGS,
    )
    folder: Path = argument(
        "output", "the folder to write; an earlier export in its place is replaced when all is done", metavar="FOLDER"
    )
    category_names: Path | None = option(
        None,
        "input",
        NAMES_HELP,
        metavar="JSON",
        unset="the names given at training, if any",
    )
    title: str | None = option(
        None, "output", "what the page is called", metavar="TEXT", unset="the folder's name, in words"
    )
    int8: Path | None = option(
        None,
        "output",
        "write the network with 8-bit numbers: a half to a quarter as large; DIR is a folder with one folder of photos "
        "per class, of which half set the numbers' ranges, and the others tell what accuracy it costs",
        metavar="DIR",
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages that an export needs."""
        return (*NEEDED, *NEEDED_TO_EXPORT)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "checkpoint", checkpoint_in(self.checkpoint))
        if self.checkpoint.is_dir():
            raise InputError(
                f"{self.checkpoint} is a folder without a checkpoint: give the checkpoint first, then the new folder"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file: give a folder to write")
        if self.int8 and not self.int8.is_dir():
            raise InputError(f"{self.int8}: there is no such folder", "int8")

    def check_files(self) -> None:
        """Raise InputError for what is not there."""
        check_there(self.checkpoint)
        if self.category_names:
            check_there(self.category_names, "category_names")
