"""Write docs/files.md: every file of the package in a line, the first sentence of its docstring. `make docs`."""

from __future__ import annotations

import ast
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "flower_classifier"
# In the order in which they import each other, as in docs/contributing.md
ROOMS = [
    "base",
    "photos",
    "config",
    "networks",
    "features",
    "judging",
    "report",
    "predicting",
    "training",
    "doctor",
    "studies",
    "export",
]
TITLE = """# Every file in a line

`make docs` writes this page from the first line of each file's docstring; change it there. The rooms stand in the
order in which they import each other ([contributing](contributing.md)).
"""


def page() -> str:
    """Return the page as Markdown."""
    rooms = [f"\n## {room}\n\n{first_line(PACKAGE / room / '__init__.py')}\n\n{table(room)}" for room in ROOMS]
    return TITLE + "".join(rooms)


def table(room: str) -> str:
    """Return a Markdown table of a room's files, a row for each."""
    files = [path for path in sorted((PACKAGE / room).glob("*.py")) if path.name != "__init__.py"]
    rows = [f"| `{path.name}` | {first_line(path)} |" for path in files]
    return "\n".join(["| file | what it holds |", "|---|---|", *rows]) + "\n"


def first_line(path: Path) -> str:
    """Return the first line of a file's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    (PROJECT / "docs" / "files.md").write_text(page(), encoding="utf-8")
