"""Which training photos are held out to validate or to test on, where there are no such photos.

    train, valid = hold_out(Photos(data_dir, by_class, class_folders), 0.2, seed, rule)

Photos of a group are all held out or all learned from. Else an accuracy says how well a network recognises a scene that
it has seen, and not how well it tells classes.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flower_classifier.base.messages import InputError, counted, first_few, note, spoken, warn
from flower_classifier.base.seeding import generator
from flower_classifier.photos.copies import linked, same_bytes
from flower_classifier.photos.folders import ByClass
from flower_classifier.photos.near_copies import near_copies_once
from flower_classifier.photos.tables import read_values
from flower_classifier.photos.tar_files import split_path, status_if_there

FOLDER, STEM, NONE = "folder", "stem", "none"  # what --groups takes beside a table
# A name up to its last run of digits, and the separators before that: scene01_frame7 is of scene01_frame
SERIES = re.compile(r"(.*?)[\s._()-]*\d+\D*")
LEAST_SERIES = 3  # photos whose names differ by a number alone
MOSTLY = 0.8  # share of the photos in such series, from which on they are taken for that


@dataclass(frozen=True)
class Photos:
    """The photos that some are held out of."""

    root: Path  # the data folder
    by_class: ByClass  # paths below root, with "/", in the order that they are drawn in
    class_folders: Mapping[str, str]  # the folder of each class below root, of those that have one
    labelled_by: str = ""  # what says the classes, where folders do not
    cache_dir: Path | None = None  # keeps what was found to be near copies

    @functools.cached_property
    def names(self) -> list[str]:
        """The photos, class by class; others know a photo by its index here."""
        return [photo for photos in self.by_class.values() for photo in photos]

    @functools.cached_property
    def classes(self) -> list[str]:
        """The class of each photo."""
        return [name for name, photos in self.by_class.items() for _ in photos]

    @property
    def indices(self) -> dict[str, range]:
        """The indices of each class."""
        ends = itertools.accumulate(map(len, self.by_class.values()), initial=0)
        return dict(zip(self.by_class, itertools.starmap(range, itertools.pairwise(ends)), strict=True))

    @property
    def paths(self) -> list[Path]:
        """The photos' files."""
        return [self.root / name for name in self.names]


def hold_out(
    photos: Photos, share: float, seed: int, rule: str | None = None, split: str = "valid", already: float = 0.0
) -> tuple[ByClass, ByClass]:
    """Return what to learn from and what to hold out, about a `share` of every class; say how many.

    `rule`: what belongs together, as for `groups_of`. `split`: what they are for, valid or test. `already`: the share
    of every class that was held out before; `share` is one of all photos, those included.

    Where all photos of a class are near copies of one another, some are held out all the same, with a warning; where
    another rule makes one group of a class, none of it is held out. Raises InputError where nothing is.
    """
    groups, indices_of = [frozenset(group) for group in groups_of(photos, rule)], photos.indices
    if not groups and rule not in (None, NONE):
        warn(f"{photos.root}: by --groups {rule} no photos belong together: each is taken for itself")
    whole = [
        name
        for name, indices in indices_of.items()
        if len(indices) > 1 and any(group.issuperset(indices) for group in groups)
    ]
    if whole and rule is None:
        groups = [group for group in groups if not any(group.issuperset(indices_of[name]) for name in whole)]
        warn(
            f"{photos.root}: all photos of {first_few(whole)} are near copies of one another: some are held out "
            "nonetheless, and say little of other photos"
        )
    held = choose(indices_of, share / (1 - already), seed, groups)
    if not held and groups:
        raise InputError(f"makes one group of each class in {photos.root}, so none can be held out", "groups")
    if not held:
        where = photos.labelled_by or photos.root
        raise InputError(f"{where}: no class has two photos, so there is none to hold out")
    if whole and rule is not None:
        warn(f"{photos.root}: nothing is held out of {first_few(whole)}: by --groups {rule} each class is one group")
    kind = spoken(split)
    missing = f"{kind} photos in {photos.labelled_by}" if photos.labelled_by else f"{kind} folder in {photos.root}"
    of_all = len(held) / len(photos.names) * (1 - already)
    note(f"no {missing}: held out {held_in_words(photos, held, share, of_all, groups, rule)}")
    if rule is None and split == "valid":  # once is enough
        hint_at_series(photos, held)
    names, by_class = {photos.names[index] for index in held}, photos.by_class.items()
    train = {name: [photo for photo in of_class if photo not in names] for name, of_class in by_class}
    valid = {name: [photo for photo in of_class if photo in names] for name, of_class in by_class}
    return train, {name: of_class for name, of_class in valid.items() if of_class}


def held_in_words(
    photos: Photos,
    held: Collection[int],
    share: float,
    of_all: float,
    groups: Sequence[Collection[int]],
    rule: str | None,
) -> str:
    """Say how many photos are held out, the share asked for and the one that became, and what is kept together."""
    count, as_what = counted(len(held), "training photo"), "as such" if photos.labelled_by else "as one"
    if not groups:
        return f"{count} ({share:.0%} of each class) {as_what}"
    actual, asked = f"{of_all:.0%}", f"{share:.0%}"
    how_many = asked if actual == asked else f"{actual} instead of {asked}"
    what = "near copies" if rule is None else f"photos that belong together by --groups {rule}"
    in_groups = f"{sum(map(len, groups)):,} {what}, in {counted(len(groups), 'group')}"
    return f"{count} ({how_many}) {as_what}; {in_groups}, are not torn apart"


def choose(
    by_class: Mapping[str, Sequence[int]], share: float, seed: int, groups: Sequence[Collection[int]]
) -> set[int]:
    """Draw a seeded `share` of every class, but at least one photo; return their indices.

    A group goes whole, and only where that brings its class nearer to the share. A class of one photo, or of one group,
    is left whole.
    """
    group_of = {index: rank for rank, group in enumerate(groups) for index in group}
    # By group. One that lies in several classes goes by the first of them; one that is all of a class is not held out
    is_held = {
        group_of[indices[0]]: False
        for indices in by_class.values()
        if indices[0] in group_of and len({group_of.get(index) for index in indices}) == 1
    }
    held: set[int] = set()
    for name, indices in by_class.items():
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        members: dict[int, list[int]] = {}  # of each group; a photo alone is one too
        for position in generator(seed, "hold out", name).permutation(len(indices)):
            index = indices[position]
            members.setdefault(group_of.get(index, -1 - index), []).append(index)
        free = [group for group in members if group not in is_held]
        of_class = [index for group in members if is_held.get(group) for index in members[group]]
        if len(of_class) == len(indices):
            continue  # all lie in other classes too, which are held out there: some must be left to learn from
        for group in free:
            with_it = len(of_class) + len(members[group])
            is_held[group] = with_it < len(indices) and abs(with_it - count) < abs(len(of_class) - count)
            if is_held[group]:
                of_class += members[group]
        if not of_class and free and len(members) > 1:  # every group is larger than what is to be held out
            smallest = min(free, key=lambda group: len(members[group]))
            is_held[smallest] = True
            of_class = members[smallest]
        held.update(of_class)
    return held


def hint_at_series(photos: Photos, held: set[int]) -> None:
    """Say where the photos' names look like those of series that lie on both sides."""
    series: dict[tuple[str, tuple[str, str]], list[int]] = {}
    for index, (class_name, name) in enumerate(zip(photos.classes, photos.names, strict=True)):
        if key := series_of(name):
            series.setdefault((class_name, key), []).append(index)
    long = {key: indices for key, indices in series.items() if len(indices) >= LEAST_SERIES}
    by_class = Counter(class_name for class_name, _ in long)
    are_series = sum(map(len, long.values())) >= MOSTLY * len(photos.names)
    torn = [stem for (_, (_, stem)), indices in long.items() if 0 < len(held.intersection(indices)) < len(indices)]
    if torn and are_series and min(by_class[name] for name in photos.by_class) > 1:
        names = first_few(sorted(torn))
        note(f"names look like {counted(len(torn), 'series', 'series')} ({names}): --groups stem keeps each together")


# ------------------------------------------------------------------------------------------------ what belongs together


def groups_of(photos: Photos, rule: str | None) -> list[list[int]]:
    """Return the groups of photos that belong together, as indices.

    `rule`: None for near copies, "folder", "stem", "none", or the path of a table with the columns path and group.
    Copies, byte for byte, belong together by every rule but "none". Raises InputError for a table that does not serve.
    """
    if rule == NONE:
        return []
    paths = photos.paths
    statuses = list(map(status_if_there, paths))
    copies = same_bytes(paths, [status.size for status in statuses])
    if rule is None:
        return linked([*copies, *near_copies_once(paths, photos.classes, statuses, photos.cache_dir)])
    groups: dict[object, list[int]] = {}
    for index, key in enumerate(keys_by(rule, photos)):
        if key:
            groups.setdefault(key, []).append(index)
    return linked([*copies, *groups.values()])


def keys_by(rule: str, photos: Photos) -> list[object]:
    """Return what photos of a group have in common, of each photo; None where it is in no group."""
    if rule == FOLDER:
        folders = [photos.class_folders.get(class_name) for class_name in photos.classes]
        return [folder_of(photos.root, name, folder) for name, folder in zip(photos.names, folders, strict=True)]
    if rule == STEM:
        return [series_of(name) for name in photos.names]
    table = Path(rule)
    if not table.suffix:
        raise InputError(f"must be {FOLDER}, {STEM}, {NONE} or a table (FILE.csv), not {rule}", "groups")
    groups = read_values(table, "groups", photos.root, photos.names, f"that may be held out of {photos.root}", "group")
    if alone := [name for name, group in zip(photos.names, groups, strict=True) if not group]:
        warn(f"{table} lacks {counted(len(alone), 'photo')}, which are in no group: {first_few(alone)}")
    return [(group[-1] or None) if group else None for group in groups]


def folder_of(root: Path, name: str, class_folder: str | None) -> str | None:
    """Return the folder below its class's that a photo lies in; None where it lies in the class's folder itself.

    Without a class folder, it is the folder that the photo lies in. In a tar file the first folder is the class's.
    """
    if location := split_path(root / name):
        class_folder, name = location[1].partition("/")[0], location[1]
    if class_folder is None or not name.startswith(f"{class_folder}/"):
        return name.rpartition("/")[0]
    below, slash, _ = name.removeprefix(f"{class_folder}/").partition("/")
    return f"{class_folder}/{below}" if slash else None


def series_of(name: str) -> tuple[str, str] | None:
    """Return a photo's folder and the stem of its name, which frames of a series share; None for a name of digits."""
    path = PurePosixPath(name)
    match = SERIES.fullmatch(path.stem)
    stem = match[1] if match else path.stem
    return (str(path.parent), stem) if stem else None
