"""Labels in photos' names, which --labels stem takes: cat.0.jpg, Abyssinian_1.jpg, great_pyrenees_12.jpg, 7_rose.jpg.

The name is a class and a number, one behind the other: in the same order in all photos, or nothing is read from them.
Where photos lie in no class folders, `labels_hint` says what --labels could be given.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flower_classifier.base.messages import first_few
from flower_classifier.photos.folders import class_name_of, has_photo_suffix
from flower_classifier.photos.tables import STEM, TABLE_ENDINGS

# A class begins and ends with no digit where the number stands, so that no name fits both
RULES = {
    "class and number": re.compile(r"(?P<label>(?!\d).*?)[ ._-]*(\(\d+\)|\d+)"),
    "number and class": re.compile(r"\d+[ ._-]*(?P<label>[^\d\W_].*?(?<!\d))"),
}


def explained(photos: Sequence[str], rule: re.Pattern[str]) -> list[str | None]:
    """Return the class in each photo's name by one rule; None where the name does not fit it."""
    names = map(posixpath.basename, photos)
    matches = [rule.fullmatch(posixpath.splitext(name)[0] if has_photo_suffix(name) else name) for name in names]
    labels = [match["label"].strip(" ._-") if match else "" for match in matches]
    return [class_name_of(label) if label else None for label in labels]


def best_rule(photos: Sequence[str]) -> re.Pattern[str]:
    """Return the rule that most names fit."""
    return max(RULES.values(), key=lambda rule: sum(label is not None for label in explained(photos, rule)))


def classes_in_names(photos: Sequence[str]) -> list[str]:
    """Return the classes, sorted, if one rule explains all photos, and at least two of each of several classes."""
    labels = explained(photos, best_rule(photos))
    counts = Counter(labels)
    convinces = None not in counts and len(counts) > 1 and min(counts.values()) > 1
    return sorted(label for label in counts if label) if convinces else []


def labels_hint(data_dir: Path, folders: Sequence[Path] = ()) -> str:
    """Return which --labels to add, by tables and photos' names in a data folder and folders in it; "" for none."""
    files = [path for folder in (data_dir, *folders) for path in sorted(folder.iterdir(), key=lambda path: path.name)]
    tables = [path for path in files if path.suffix.lower() in TABLE_ENDINGS and "submission" not in path.name.lower()]
    if tables:
        likeliest = min(tables, key=lambda path: not re.search("train|label|metadata", path.name.lower()))
        return f"add --labels {likeliest}, if it says of which class each is"
    classes = classes_in_names([path.name for path in files if has_photo_suffix(path.name)])
    return f"add --labels {STEM}, if their names say it ({first_few(classes)})" if classes else ""
