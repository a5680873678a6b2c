"""`--without`: the photos that a table lists, such as the doctor's, are left out of a run.

    path,finding,…,leave_out
    train/a/1.jpg,label,…,yes      is left out, as every listed photo is where a table has no column leave_out
    test/a/2.jpg,label,…,no        stays

The doctor says no of photos that judge (validation and test photos) where all that speaks against them is that they
look wrong: without the hard photos an accuracy is higher, and the model no better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flower_classifier.base.messages import InputError, counted, first_few, note, photos_of, reason_of, warn
from flower_classifier.photos.splits import Split, Splits
from flower_classifier.photos.tables import read_values

LEAVE_OUT = "leave_out"  # the column
YES, NO = "yes", "no"
ANSWERS = {YES: True, "y": True, "1": True, "true": True, "x": True} | dict.fromkeys(("", NO, "n", "0", "false"), False)
MUCH_OF_A_CLASS = 0.2  # share of a class's photos in a split; losing more than that, and than one, is warned of


def leave_out(splits: Splits, table: Path) -> Splits:
    """Return the splits less the photos that a table lists, by their paths below the data folder.

    Warn of classes that lose more than MUCH_OF_A_CLASS of their photos in a split, or all, and where no test photo is
    left: there is no test split then. Raises InputError for a table that cannot be read, for an answer that is neither
    yes nor no, and where no training photo would be left of a class, or no validation photo at all.
    """
    photos = [photo for split in splits.parts for photo in split.photos]
    cells = read_values(table, "without", splits.train.root, photos, f"in {splits.train.root}", LEAVE_OUT, default=YES)
    answers = {photo: [answer_in(table, cell) for cell in listed] for photo, listed in zip(photos, cells, strict=True)}
    train, valid, *test = (
        split.take([index for index, photo in enumerate(split.photos) if not any(answers[photo])])
        for split in splits.parts
    )
    remaining = set(train.labels)
    if lost := [name for label, name in enumerate(splits.classes) if label not in remaining]:
        names = first_few(lost)
        raise InputError(f"{table} lists all training photos of {names}: leave some, or move the class away")
    if not len(valid):
        raise InputError(f"{table} lists all validation photos: leave some")
    if test and not len(test[0]):
        warn(f"{table} lists all test photos: there will be no test result")
    going = sum(map(any, answers.values()))
    note(f"going on without {counted(going, 'photo')} of {len(photos):,}, listed in {table}")
    staying = [
        photos_of(split.name, count)
        for split in splits.parts
        if (count := sum(bool(answers[photo]) and not any(answers[photo]) for photo in split.photos))
    ]
    if staying:
        note(f"the column {LEAVE_OUT} lets {' and '.join(staying)} stay: write {YES} there to leave them out, too")
    for before, after in zip(splits.parts, (train, valid, *test), strict=True):
        if len(after):
            warn_of_losses(splits.classes, before, after, table)
    return replace(splits, train=train, valid=valid, test=test[0] if test and len(test[0]) else None)


def answer_in(table: Path, cell: str) -> bool:
    """Return whether a cell of the column leave_out says yes. Raises InputError for one that says something else."""
    if (answer := ANSWERS.get(cell.strip().lower())) is None:
        raise InputError(f"{table}: the column {LEAVE_OUT} says {reason_of(cell)}: write {YES} or {NO}", "without")
    return answer


def warn_of_losses(classes: Sequence[str], before: Split, after: Split, table: Path) -> None:
    """Warn of the classes that lose all of their photos in a split, or more than MUCH_OF_A_CLASS of them."""
    counts, remaining = Counter(before.labels), Counter(after.labels)
    if emptied := [name for label, name in enumerate(classes) if counts[label] and not remaining[label]]:
        warn(
            f"{table} leaves no {before.spoken} photos of {first_few(emptied)}: an accuracy there says nothing of them"
        )
    losses = {label: counts[label] - remaining[label] for label in sorted(counts) if remaining[label]}
    if large := [label for label, loss in losses.items() if loss > max(MUCH_OF_A_CLASS * counts[label], 1)]:
        named = first_few([f"{classes[label]} ({losses[label]:,} of {counts[label]:,})" for label in large])
        warn(
            f"{table} leaves out more than {MUCH_OF_A_CLASS:.0%} of the {before.spoken} photos of "
            f"{counted(len(large), 'class', 'classes')}: {named}; are these wrong?"
        )
