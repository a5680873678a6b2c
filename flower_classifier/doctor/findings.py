"""The kinds of findings, and the doctor's files: a table of all findings, and for each kind a sheet of photos."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.messages import counted, note, printable
from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.left_out import LEAVE_OUT, NO, YES
from flower_classifier.report.evaluation_report import PHOTO_SIDE
from flower_classifier.report.report_files import endings, write_table, writing

if TYPE_CHECKING:
    from flower_classifier.report.pictures import Cell


TABLE = "doctor.csv"
MOST_PHOTOS = 16  # on a sheet
NAMED = 2  # photos of each kind that the summary names


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    name: str  # in doctor.csv
    shows: str  # what it is, for people: in the summary, on the contact sheet and in the documentation
    score_means: str  # findings of a kind are sorted by it, the highest score first
    is_fact: bool = False  # whether a photo that judges is to be left out, too: it cannot be used, or it is a copy


# A new kind needs a line here and in docs/doctor.md, and code in doctor/doctor.py that yields it
KINDS = (
    Kind("unreadable", "files that cannot be opened", "1", is_fact=True),
    Kind("leak", "photos that are also in another split", "how alike the two are, at most 1", is_fact=True),
    Kind("two_labels", "photos that lie under two classes", "how alike the two are, at most 1", is_fact=True),
    Kind("same_photo", "photos that are there twice", "how alike the two are, at most 1", is_fact=True),
    Kind(
        "label",
        "photos that look like another class",
        "how many times likelier the other class is, as a power of ten: 2 is a hundred times",
    ),
    Kind("outlier", "photos unlike any class", "how far it is beyond the middle half of the photos, in its widths"),
    Kind("blurry", "blurry photos", "how far it is beyond the middle half of the photos, in its widths"),
    Kind("dark", "dark photos", "how dark it is: 1 is black"),
    Kind("washed_out", "photos with hardly any contrast", "how little contrast it has: 1 is none"),
    Kind("tiny", "photos smaller than half of what the network sees", "how many times it is enlarged"),
    Kind("narrow", "photos of which the network sees less than a third", "its longer side, in its shorter sides"),
    Kind("small_class", "classes with few training photos", "how many are missing"),
    Kind("alike_classes", "pairs of classes that are often confused", "share of their photos that are, 0 to 1"),
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
    root: Path,
    findings: Sequence[Finding],
    names: Mapping[str, str],
    grey_range: GreyRange | None = None,
) -> None:
    """Write doctor.csv and the sheets into a folder; earlier sheets are replaced.

    An earlier table is renamed, since a person may have edited it. `root`: the data folder. `names`: what people call
    the classes. Raises RunError where a file cannot be written.
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
        for kind in KINDS:
            (folder / f"{kind.name}.png").unlink(missing_ok=True)
    for kind in KINDS:
        of_kind = [finding for finding in findings if finding.kind == kind.name]
        if cells := cells_of(of_kind, root, names, grey_range):
            drawn = sum(bool(cell.remark) for cell in cells)  # a twin's second photo has no remark
            how_many = f"the first {drawn:,} of {len(of_kind):,}" if drawn < len(of_kind) else f"{drawn:,}"
            save_figure(draw_sheet(cells, f"{kind.shows}: {how_many}"), folder / f"{kind.name}.png")


def cells_of(
    findings: Sequence[Finding], root: Path, names: Mapping[str, str], grey_range: GreyRange | None
) -> list[Cell]:
    """Return the cells of a sheet: each photo, followed by its twin if it has one. Classes are not drawn."""
    from flower_classifier.report.pictures import Cell

    cells: list[Cell] = []
    for finding in findings:
        has_twin = bool(finding.other) and not finding.other.endswith("/")
        if len(cells) + 1 + has_twin > MOST_PHOTOS:
            break
        with contextlib.suppress(ImageError):  # it cannot be opened, which the table says
            photos = [(finding.path, finding.class_name)] + [(finding.other, finding.other_class)] * has_twin
            opened = [load_image(root / photo, PHOTO_SIDE, grey_range) for photo, _ in photos]
            remarks = [finding.suggestion, ""]
            for image, (photo, label), remark in zip(opened, photos, remarks, strict=False):
                named = f"label: {names.get(label, label)}"
                cells.append(Cell(image, printable(remark), printable(named), printable(photo)))
    return cells


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
