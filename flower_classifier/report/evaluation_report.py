"""What --evaluate leaves: the numbers, for people and for programs, and the folder with tables and pictures.

The reports of several folders lie side by side, each under its folder's name. evaluation.json says in each which folder
and which checkpoint it is of, so a second folder of the same name gets a place of its own.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flower_classifier.base.files import write_whole
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.photos.images import ImageError
from flower_classifier.report.report_files import REPORT_FILES, RESULT_FILE, files_of, writing

Facts = dict[str, object]


def subject_of(folder: Path, checkpoint: Path) -> Facts:
    """Return what is evaluated, by what: the same for the same files, however their paths are written."""
    return {"folder": os.path.realpath(folder), "checkpoint": os.path.realpath(checkpoint)}


def facts_of(
    subject: Facts, split: str, evaluation: Evaluation | None, bad: Sequence[tuple[Path, ImageError]]
) -> Facts:
    """Return what an evaluation found, in plain types, under the keys that programs read.

    `split` is "train", "valid", "test" or "". Without an evaluation, since no photo could be opened, there are no other
    numbers than that of photos: 0.
    """
    return {
        **subject,
        "split": split or None,
        **(evaluation.results if evaluation else {"photos": 0}),
        "bad_photos": [{"path": str(path), "error": str(error)} for path, error in bad],
    }


def report_folder(checkpoint: Path, folder: Path) -> Path:
    """Return where the report of a folder goes: into evaluation/, beside the checkpoint, under the folder's name.

    Where another folder of that name, or another checkpoint beside this one, has left its report there, or something
    else lies there, the name gets a number: test, test-2, test-3.
    """
    subject, name = subject_of(folder, checkpoint), Path(os.path.realpath(folder)).name or "root"
    places = (checkpoint.parent / "evaluation" / f"{name}{end}" for end in itertools.chain([""], numbered()))
    return next(place for place in places if not os.path.lexists(place) or subject_in(place) == subject)


def reports_on(checkpoint: Path, resumed: bool) -> list[Path]:
    """Return the files and folders that report on a checkpoint: in its run's folder, and in those of its evaluations.

    Of a run that is `resumed`, a report on the search before the first epoch is not among them: it stays true.
    """
    wanted, folders = os.path.realpath(checkpoint), sorted((checkpoint.parent / "evaluation").glob("*"))
    evaluations = [folder for folder in folders if (subject_in(folder) or {}).get("checkpoint") == wanted]
    of_run = [file.name for file in REPORT_FILES if not (resumed and file.part == "tuning")]
    of_evaluation = [*files_of("evaluation"), *files_of("result")]
    in_run = [checkpoint.parent / "run" / name for name in of_run]
    return in_run + [folder / name for folder in evaluations for name in of_evaluation]


def numbered() -> Iterator[str]:
    """Return -2, -3, and so on."""
    return (f"-{number}" for number in itertools.count(2))


def subject_in(report: Path) -> Facts | None:
    """Return what a report is of; None for a folder that holds no report."""
    try:
        facts = json.loads((report / RESULT_FILE).read_text(encoding="utf-8"))
        return {"folder": facts["folder"], "checkpoint": os.path.realpath(report / facts["checkpoint"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_facts(report: Path, facts: Facts) -> None:
    """Write the numbers into a report, and make its folder. Raises RunError where that fails.

    The checkpoint goes by its way from there, if it lies above: a run that makes room for another moves both together.
    """
    with writing(report / RESULT_FILE):
        report.mkdir(parents=True, exist_ok=True)
        place, checkpoint = Path(os.path.realpath(report)), Path(str(facts["checkpoint"]))
        if checkpoint.parent in place.parents:
            facts = {**facts, "checkpoint": os.path.relpath(checkpoint, place)}
        write_whole(report / RESULT_FILE, f"{json.dumps(facts, indent=2)}\n".encode())
