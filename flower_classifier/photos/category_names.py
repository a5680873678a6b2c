"""What people call the classes: a file that maps class folders to names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flower_classifier.base.files import input_file
from flower_classifier.base.messages import InputError, counted, first_few, nearest, warn
from flower_classifier.photos.folders import class_name_of
from flower_classifier.photos.tables import reject_duplicate_keys


def load_category_names(
    path: Path | None, classes: Sequence[str], stored: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Read a JSON mapping from class folder to the name that people use, such as cat_to_name.json.

    Returns the names of these classes alone. A class that the file leaves out keeps its `stored` name, say from a
    checkpoint. Raises InputError for a file that is no such mapping, or an empty name.
    """
    stored = stored or {}
    if path is None:
        return dict(stored)
    data = input_file(path, "category_names")
    try:
        names = json.loads(data.decode("utf-8-sig"), object_pairs_hook=reject_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON of names: {error}", "category_names") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f'{path} must map class folders to names, as in {{"21": "fire lily"}}', "category_names")
    if empty := [key for key, name in names.items() if not name.strip()]:
        raise InputError(
            f"{path} gives no name to {first_few(empty)}: write one, or leave the class out", "category_names"
        )
    as_in_classes = {class_name_of(name): name for name in classes}
    names = {as_in_classes.get(class_name_of(key), key): name for key, name in names.items()}
    if nameless := [name for name in classes if name not in names and name not in stored]:
        message = f"{path} names {len(classes) - len(nameless)} of {counted(len(classes), 'class', 'classes')}"
        warn(f"{message}; without a name: {first_few(nameless)}")
    warn_of_unknown_keys(path, names, [name for name in classes if name not in names], classes)
    named = {**stored, **names}
    return {name: named[name] for name in classes if name in named}


def warn_of_unknown_keys(path: Path, names: Mapping[str, str], missing: Sequence[str], classes: Sequence[str]) -> None:
    """Warn of keys that are no class but may be a misspelt one. `missing`: the classes that the file leaves out.

    A file that names every class may name others too, as cat_to_name.json does for a few of its flowers. If there are
    more unknown keys than missing classes, only those that look like a missing class count.
    """
    class_names = set(classes)
    strangers = [key for key in names if key not in class_names] if missing else []
    meant = {key: alike for key in strangers if (alike := looking_like(key, missing))}
    if len(strangers) > len(missing):
        strangers = list(meant)
    if strangers:
        first = next(iter(meant), None)
        hint = f" (is {first!r} meant for {meant[first]!r}?)" if first else ""
        warn(f"{path}: no class is called {first_few([repr(key) for key in strangers])}{hint}")


def looking_like(key: str, classes: Sequence[str]) -> str | None:
    """Return the class that a key probably misspells. Numbers match only if they are equal."""
    if key.strip().isdecimal():
        digits = key.strip().lstrip("0")
        return next((name for name in classes if name.isdecimal() and name.lstrip("0") == digits), None)
    by_letters = {name.casefold(): name for name in classes if not name.isdecimal()}
    close = nearest(key.strip().casefold(), by_letters, most=1)
    return by_letters[close[0]] if close else None
