"""The kinds of findings, and the doctor's files: a table of all findings, and for each kind sheets of the photos."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.messages import counted, note, printable
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.left_out import LEAVE_OUT, NO, YES
from flower_classifier.photos.splits import Split, Splits
from flower_classifier.photos.views import Preprocessing
from flower_classifier.report.evaluation_report import PHOTO_SIDE
from flower_classifier.report.report_files import endings, write_table, writing

if TYPE_CHECKING:
    from flower_classifier.report.pictures import Cell


TABLE = "doctor.csv"
MOST_PHOTOS = 24  # on a sheet
MOST_SHEETS = 100  # of a kind
NAMED = 2  # photos of each kind that the summary names


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    name: str  # in doctor.csv
    shows: str  # what it is, for people: in the summary, on the contact sheet and in the documentation
    score_means: str  # findings of a kind are sorted by it, the highest score first
    cells: int = 1  # on a sheet, with the photos that each is to be compared with; 0: there is no sheet
    is_fact: bool = False  # whether a photo that judges is to be left out, too: it cannot be used, or it is a copy


# A new kind needs a line here and in docs/doctor.md, and code in doctor/doctor.py that yields it
KINDS = (
    Kind("unreadable", "files that cannot be opened", "1", 0, is_fact=True),
    Kind("leak", "photos that are also in another split", "how alike the two are, at most 1", 2, is_fact=True),
    Kind("two_labels", "photos that lie under two classes", "how alike the two are, at most 1", 2, is_fact=True),
    Kind("same_photo", "photos that are there twice", "how alike the two are, at most 1", 2, is_fact=True),
    Kind(
        "label",
        "photos that look like another class",
        "how many times likelier the other class is, as a power of ten: 2 is a hundred times",
        4,
    ),
    Kind("outlier", "photos unlike any class", "how far it is beyond the middle half of the photos, in its widths", 4),
    Kind("blurry", "blurry photos", "how far it is beyond the middle half of the photos, in its widths"),
    Kind("dark", "dark photos", "how dark it is: 1 is black"),
    Kind("washed_out", "photos with hardly any contrast", "how little contrast it has: 1 is none"),
    Kind("tiny", "photos smaller than half of what the network sees", "how many times it is enlarged"),
    Kind("narrow", "photos of which the network sees less than a third", "its longer side, in its shorter sides"),
    Kind("small_class", "classes with few training photos", "how many are missing", 0),
    Kind("alike_classes", "pairs of classes that are often confused", "share of their photos that are, 0 to 1", 0),
)


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong with a photo or a class."""

    path: str  # below the data folder; a class ends in "/"
    kind: str  # the name of one of the KINDS
    score: float
    suggestion: str  # what to do about it, or what it looks like
    other: str = ""  # the photo or the class that it is like
    class_name: str = ""  # the folder of the photo's class, or of the class itself
    other_class: str = ""  # the folder of the other photo's class, or of the class that it looks like
    split: str = ""  # train, valid or test, of a photo

    @property
    def stays(self) -> bool:
        """Whether it is about a photo that judges, against which no facts speak: it stays unless a person says no."""
        is_fact = any(kind.is_fact for kind in KINDS if kind.name == self.kind)
        return self.split in ("valid", "test") and not is_fact

    @property
    def row(self) -> list[object]:
        """Its row in doctor.csv."""
        answer = (NO if self.stays else YES) if self.split else ""
        return [self.path, self.kind, round(self.score, 4), self.suggestion, self.other, answer]


HEADER = ["path", "finding", "score", "suggestion", "other", LEAVE_OUT]


# --------------------------------------------------------------------------------------------- the table and the sheets


def write_findings(
    folder: Path,
    splits: Splits,
    findings: Sequence[Finding],
    names: Mapping[str, str],
    preprocessing: Preprocessing,
) -> None:
    """Write doctor.csv and the sheets into a folder; earlier sheets are replaced.

    An earlier table is renamed, since a person may have edited it. `splits`: the training photos stand for their
    classes. `names`: what people call the classes. `preprocessing`: what the network sees of a photo. Raises RunError
    where a file cannot be written.
    """
    from flower_classifier.report.pictures import draw_sheet, save_figure

    table = folder / TABLE
    names_aside = (f"{table.stem}-earlier{ending}{table.suffix}" for ending in endings())
    aside = next(folder / name for name in names_aside if not (folder / name).exists())
    with writing(table):
        if table.exists():
            table.rename(aside)
            note(f"the table that was there is now {aside}")
    write_table(table, [HEADER, *(finding.row for finding in findings)])
    with writing(folder):
        for path in folder.glob("*.png"):
            if re.sub(r"-\d+$", "", path.stem) in {kind.name for kind in KINDS}:
                path.unlink()
    drawer = RowDrawer(splits.train, splits.classes, {finding.path for finding in findings}, names, preprocessing)
    for kind in KINDS:
        of_kind = [finding for finding in findings if finding.kind == kind.name] if kind.cells else []
        each = MOST_PHOTOS // max(kind.cells, 1)
        begins = range(0, len(of_kind), each)
        if len(begins) > MOST_SHEETS:
            note(f"sheets show the first {MOST_SHEETS * each:,} of {len(of_kind):,} {kind.shows}; {TABLE} has them all")
        for number, begin in enumerate(begins[:MOST_SHEETS], 1):
            shown = of_kind[begin : begin + each]
            which, page = f"{len(of_kind):,}", ""
            if len(begins) > 1:
                which = f"{begin + 1:,} to {begin + len(shown):,} of {len(of_kind):,}"
                page = f"-{number:0{len(str(len(begins[:MOST_SHEETS])))}}"
            if cells := [cell for finding in shown for cell in drawer.row(finding, kind.cells)]:
                save_figure(draw_sheet(cells, f"{kind.shows}: {which}"), folder / f"{kind.name}{page}.png")


@dataclass(frozen=True)
class RowDrawer:
    """Opens the photos of findings for the sheets."""

    train: Split
    classes: Sequence[str]
    doubted: Collection[str]  # photos that do not stand for their classes
    names: Mapping[str, str]
    preprocessing: Preprocessing

    def row(self, finding: Finding, length: int) -> list[Cell]:
        """Return a photo's cell, and those of the photos that it is to be compared with: its twin, or some of a class.

        That is the class that a label's photo looks like, and an outlier's own. A photo that cannot be opened has no
        cells; the table has it.
        """
        from flower_classifier.report.pictures import BLANK, Cell

        try:
            cells = [self.cell(finding.path, finding.class_name, finding.suggestion, finding.kind == "narrow")]
            if finding.other and not finding.other.endswith("/"):
                cells.append(self.cell(finding.other, finding.other_class))
        except ImageError:
            return []
        class_name = finding.other_class or finding.class_name
        for photo in self.examples[class_name]:
            if len(cells) == length:
                break
            with contextlib.suppress(ImageError):
                cells.append(self.cell(photo, class_name))
        return cells + [Cell(BLANK, "", "", "")] * (length - len(cells))

    @functools.cached_property
    def examples(self) -> dict[str, list[str]]:
        """The training photos of each class that nothing is said against, by the class's folder."""
        examples: dict[str, list[str]] = {name: [] for name in self.classes}
        for photo, label in zip(self.train.photos, self.train.labels, strict=True):
            if photo not in self.doubted:
                examples[self.classes[label]].append(photo)
        return examples

    def cell(self, photo: str, class_name: str, remark: str = "", shows_seen: bool = False) -> Cell:
        """Return the cell of a photo. Raises ImageError for one that cannot be opened."""
        from flower_classifier.report.pictures import Cell

        image = load_image(self.train.root / photo, PHOTO_SIDE, self.preprocessing.grey_range)
        seen = self.preprocessing.shown(*image.size) if shows_seen else None
        label = f"label: {self.names.get(class_name, class_name)}"
        return Cell(image, printable(remark), printable(label), printable(photo), seen)


def summary_of(findings: Sequence[Finding], photos: int, classes: int, leaked: Sequence[str]) -> str:
    """Return how much was examined, in one line, and then a line for each kind of finding.

    `leaked`: how leaks change the accuracy; one line each.
    """
    lines = [f"{counted(photos, 'photo')} of {counted(classes, 'class', 'classes')} examined"]
    for kind in KINDS:
        if of_kind := [finding.path for finding in findings if finding.kind == kind.name]:
            first = ", ".join(printable(path) for path in of_kind[:NAMED])
            more = ", …" if len(of_kind) > NAMED else ""
            lines.append(f"{len(of_kind):7,}  {kind.shows}: {first}{more}")
            if kind.name == "leak":
                lines += [f"{'':9}{line}" for line in leaked]
    if staying := {finding.path for finding in findings if finding.stays}:
        photos_that_stay = counted(len(staying), "validation or test photo")
        lines.append(f"{photos_that_stay} may only look wrong: --without lets them stay ({LEAVE_OUT} in {TABLE})")
    return "\n".join(lines if findings else [*lines, "nothing found that looks wrong"])
