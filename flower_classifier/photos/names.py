"""What people call the classes: a file that maps class folders to names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import warn
from flower_classifier.base.words import counted, first_few, nearest


def load_category_names(path: Path | None, classes: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Read a JSON mapping from class folder to the name that people use, such as cat_to_name.json.

    Returns the names of these classes alone. Raises InputError for a file that is no such mapping.
    """
    if path is None:
        return {}
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file", "category_names")  # but a folder, or a pipe that might never end
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_repetition)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "category_names") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON of names: {error}", "category_names") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f'{path} must map class folders to names, as in {{"21": "fire lily"}}', "category_names")
    if missing := [name for name in classes if name not in names]:
        close = nearest(missing[0], names, most=1)
        warn(
            f"{path} names {len(classes) - len(missing)} of {counted(len(classes), 'class', 'classes')}; "
            f"without a name: {first_few(missing)}" + (f" ({close[0]!r} has one)" if close else "")
        )
    return {name: names[name] for name in classes if name in names}


def without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a mapping of what a JSON file holds. Raises ValueError for a key that it gives two values."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is given twice")
    return mapping
