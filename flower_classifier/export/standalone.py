"""Which files of this package an exported folder's predict.py needs: found by reading imports, so no list grows old."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "matplotlib")  # a file that needs one of them to be imported is left out


def files_needed_by(script: Path) -> list[Path]:
    """Return the package's files that a script imports, and those that they do, wherever in them an import stands.

    A file that loads torch is left out, so only functions that an exported folder never calls may import it: a test
    runs the folder's script without torch.
    """
    found: dict[Path, None] = {}
    waiting = [script]
    while waiting:
        for path in imported_files(waiting.pop()):
            if path not in found and not is_heavy(path):
                found[path] = None
                waiting.append(path)
    return sorted({*found, *(folder / "__init__.py" for path in found for folder in path.parents if is_room(folder))})


def is_room(folder: Path) -> bool:
    """Say whether a folder is the package, or one of its rooms."""
    return PACKAGE in (folder, folder.parent)


def is_heavy(path: Path) -> bool:
    """Say whether importing a file of the package loads one of the heavy libraries."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if any(name.split(".")[0] in HEAVY for name in imported_names(current, at_once=True)):
            return True
        waiting += imported_files(current, at_once=True)
    return False


def imported_files(script: Path, at_once: bool = False) -> list[Path]:
    """Return the package's files that a file imports itself."""
    paths = (PACKAGE.parent.joinpath(*name.split(".")) for name in imported_names(script, at_once))
    files = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths)
    return [path for path in files if path.is_file() and PACKAGE in path.parents]


def imported_names(script: Path, at_once: bool) -> Iterator[str]:
    """Yield the modules that a file names in imports; `at_once`: only those that run when it is imported itself."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    for node in top_level(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when a file is imported: not those in functions or for type checkers."""
    for node in tree.body:
        if isinstance(node, ast.If):
            is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            yield from () if is_for_types else node.body
        else:
            yield node
