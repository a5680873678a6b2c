"""What predict.py can be asked to do: its options, and the values they may take.

An exported folder has a predict.py of its own, which takes the options of QuestionConfig alone.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flower_classifier.base.files import check_there, like_it
from flower_classifier.base.messages import NEEDED, NEEDED_BY_EXPORTED, InputError
from flower_classifier.base.options import Limits, Settings, argument, option
from flower_classifier.base.parser import ForeignNames
from flower_classifier.base.torchrun import world_size
from flower_classifier.config import foreign_names
from flower_classifier.config.allowed import CHECKPOINT_ENDINGS, DEFAULT_RATE, DEFAULT_TOP_K, checkpoint_in, is_exported
from flower_classifier.photos.tables import check_columns
from flower_classifier.photos.tar_files import is_tar_name, split_path

if TYPE_CHECKING:
    from flower_classifier.photos.label_tables import Labels

NAMES_HELP = (
    "mapping from class folder to the name people use; classes that it does not name keep the names given at training"
)


@dataclass(frozen=True, kw_only=True)
class QuestionConfig(Settings):
    """The questions about photos, whatever runs the network. Raises InputError, naming the option, for wrong values."""

    foreign: ClassVar[ForeignNames] = foreign_names.PREDICT

    images: tuple[Path, ...] = argument(
        "input",
        "photos (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF), folders of photos at any depth, or - for paths on "
        "standard input, one per line",
        metavar="IMAGE",
    )
    null: bool = option(
        False,
        "input",
        "paths on standard input end in a NUL, not in a line break, as `find -print0` writes them",
        aliases=("0",),
    )
    category_names: Path | None = option(
        None,
        "input",
        NAMES_HELP,
        metavar="JSON",
        unset="the names given at training, if any",
    )

    top_k: int | None = option(
        None,
        "output",
        "how many of the likeliest classes to show",
        metavar="K",
        limits=Limits(least=1),
        unset=str(DEFAULT_TOP_K),
    )
    min_probability: float = option(
        0.0,
        "output",
        'say "not sure" where the likeliest class has less than this probability; 0 never does',
        metavar="P",
        limits=Limits(least=0, most=1),
    )
    stranger_rate: float | None = option(
        None,
        "output",
        "say of a photo that it is none of the classes, at the price that so many in 100 photos of the classes are "
        "called so, too; 0 never does",
        metavar="PERCENT",
        limits=Limits(least=0, below=100),
        unset=f"{DEFAULT_RATE:g}",
    )
    sets: float | None = option(
        None,
        "output",
        "also name the smallest set of classes that holds the true one for so many of 100 photos, such as 95",
        metavar="PERCENT",
        limits=Limits(above=0, below=100),
    )
    format: str = option(
        "text",
        "output",
        "text for people; json (one array), jsonl (one object per line) or csv (one row per class) for programs",
        choices=("text", "json", "jsonl", "csv"),
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages that an answer needs."""
        return NEEDED_BY_EXPORTED

    def check_files(self) -> None:
        """Raise InputError for a file of names that is not there, and where there are no photos at all.

        Programs, which read other formats than text, get an answer for each photo, there or not.
        """
        if self.category_names:
            check_there(self.category_names, "category_names")
        if self.format == "text" and len(self.images) == 1:
            photo = self.images[0]
            if photo != Path("-") and not os.path.lexists(photo) and not split_path(photo):
                raise InputError(f"cannot open {photo}: there is no such file{like_it(photo)}")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(QuestionConfig):
    """One call's settings, checked. Raises InputError, naming the option, before work that would be in vain."""

    checkpoint: Path = argument(
        "input",
        "checkpoint.pth as train.py wrote it, or the folder that it lies in, or a folder that export.py made of it",
        metavar="CHECKPOINT",
        endings=CHECKPOINT_ENDINGS,
    )
    gpu: bool = option(False, "input", "use CUDA or Apple's MPS where there is one")

    neighbours: int = option(
        0,
        "output",
        "also name so many of the training photos that look most alike to the network",
        metavar="N",
        limits=Limits(least=0, most=1000),
    )
    training_photos: Path | None = option(
        None,
        "output",
        "the folder that training was given: --plot draws the --neighbours from there",
        metavar="DIR",
    )
    output: Path | None = option(
        None,
        "output",
        "write the answers (--format jsonl) into files in this folder, part by part: the same command goes on where it "
        "was killed, and torchrun shares the parts among processes",
        metavar="DIR",
    )
    plot: Path | None = option(
        None,
        "output",
        "draw the photo beside its probabilities (PNG, JPEG, WebP, PDF or SVG); for several photos, one picture each "
        "into the folder of this name",
        metavar="FILE.png",
    )
    heatmap: bool = option(False, "output", "show on the plotted photo which places speak for the likeliest class")

    evaluate: bool = option(
        False,
        "evaluation",
        "IMAGE is a folder, or a tar file, of one folder of photos per class: say how many answers are right, and how "
        "far probabilities can be believed (--format json: as one object)",
    )
    labels: Path | None = option(
        None,
        "evaluation",
        "take classes from a table and not from folders, or from the photos' names with `stem`, as train.py does; of a "
        "table with several splits the test photos are taken",
        metavar="FILE.csv",
    )
    columns: str | None = option(
        None,
        "evaluation",
        "the columns of the table that hold path, label and split, such as path=image,label=species,split=set",
        metavar="NAMES",
        unset="found by their usual names",
    )
    report: Path | None = option(
        None,
        "evaluation",
        "where --evaluate leaves its tables and pictures",
        metavar="DIR",
        unset="evaluation/, beside the checkpoint, with a folder for each IMAGE",
    )

    @property
    def label_source(self) -> Labels | None:
        """Where labels are written; None: folders say them."""
        from flower_classifier.photos.label_tables import Labels  # here: --help needs no Pillow

        return Labels(self.labels, columns=self.columns) if self.labels else None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate:
            self.check_evaluation()
        elif name := next((name for name in ("report", "labels", "columns") if getattr(self, name)), None):
            advice = "; --category_names takes what people call classes" if name == "labels" else ""
            raise InputError(f"works only together with --evaluate{advice}", name)
        if self.output and (self.format != "jsonl" or self.plot):
            raise InputError("is for --format jsonl, without --plot", "output")
        if world_size() > 1 and not self.output:
            raise InputError("is what torchrun's processes need: each would print all answers", "output")
        if world_size() > 1 and Path("-") in self.images:
            raise InputError("-: torchrun's processes share one standard input; give folders or paths")
        if self.heatmap and not self.plot:
            raise InputError("is drawn on the photo: it needs --plot", "heatmap")
        if self.training_photos and not (self.neighbours and self.plot):
            raise InputError("is where --plot finds the --neighbours: it needs both", "training_photos")
        if self.neighbours and self.format == "csv":
            raise InputError("are not in csv, whose rows are classes: take json or jsonl", "neighbours")
        object.__setattr__(self, "checkpoint", checkpoint_in(self.checkpoint))
        if self.names_a_photo:
            raise InputError(f"{self.checkpoint} looks like a photo: give the checkpoint last, after the photos")
        if self.asks_exported:
            self.check_exported()
        elif os.path.isdir(self.checkpoint):  # noqa: PTH112 -- Path.is_dir() may raise
            advice = "give the checkpoint last, after the photos"
            raise InputError(f"{self.checkpoint} is a folder without a checkpoint: {advice}")

    def check_files(self) -> None:
        """Raise InputError for what is not there."""
        super().check_files()
        check_there(self.checkpoint)

    @property
    def names_a_photo(self) -> bool:
        """Whether a photo stands in the checkpoint's place: the checkpoint may have been left out, or put first."""
        ending = self.checkpoint.suffix.lower()
        if ending in ("", *CHECKPOINT_ENDINGS):  # the usual ones need no list of Pillow's
            return False
        from flower_classifier.photos.images import photo_endings  # here: --help needs no Pillow

        return ending in photo_endings()

    @functools.cached_property
    def asks_exported(self) -> bool:
        """Whether an exported folder stands in the checkpoint's place."""
        return is_exported(self.checkpoint)

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages that an answer needs."""
        return super().needs if self.asks_exported else NEEDED

    def check_exported(self) -> None:
        """Refuse what an exported folder cannot do."""
        for name in ("gpu", "neighbours", "heatmap", "evaluate"):
            if getattr(self, name):
                advice = f"{self.checkpoint} is an exported folder, so ask the checkpoint that it was made of"
                raise InputError(f"needs the checkpoint itself: {advice}", name)

    def check_evaluation(self) -> None:
        """Refuse what does not go with --evaluate."""
        image = self.images[0]
        is_tar = is_tar_name(image.name) and os.path.isfile(image)  # noqa: PTH113 -- Path.is_file() may raise
        if len(self.images) != 1 or not (image.is_dir() or (is_tar and not self.labels)):
            what = "one folder, or tar file, of one folder of photos per class, or one folder with --labels"
            raise InputError(f"takes {what}", "evaluate")
        check_columns(self.labels, self.columns)
        single = ("plot", "heatmap", "null", "top_k", "min_probability", "sets", "neighbours", "output")
        if any(getattr(self, name) for name in single):
            named = ", ".join(f"--{name}" for name in single)
            raise InputError(f"judges all answers; {named} are for single ones", "evaluate")
        if self.format not in ("text", "json"):
            raise InputError(f"is text or json with --evaluate, not {self.format}", "format")
