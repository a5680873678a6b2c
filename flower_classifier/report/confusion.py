"""The confusion matrix: which classes are predicted as which, and the most frequent mistakes by name.

Positions and sizes are inches where nothing else is said, as in charts.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flower_classifier.report.figures import (
    CAPTION,
    FAINT,
    GREEN,
    INK,
    LARGE,
    NORMAL,
    RED,
    SMALL,
    TINY,
    add_axes,
    new_figure,
    shorten,
    text_style,
    write_line,
)

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
LIST_WIDTH, PAIR_HEIGHT = 2.45, 0.46  # of the mistakes beside the matrix; of each of them
LABEL_WIDTH, LABEL_HEIGHT = 1.35, 0.145  # of a class's name beside the matrix: the most it may be, and what it is
AXIS_ROOM = 0.65  # beside the names: what the axis is called, and the page's margin
LEAST_SIDE = WIDTH - LABEL_WIDTH - AXIS_ROOM - LIST_WIDTH - 0.5  # of the matrix, where the names are long
MOST_COUNTED = 15  # classes whose cells have room for a number
MARKS = "abcdefghjkmn"  # of the mistakes that are listed: letters, since classes may be called by numbers; no i and l
MARK_SIZE = (9.0, 12.0)  # points that a mark takes, with a little air
DISTANCES, DIRECTIONS = (7.0, 10.0, 14.0, 19.0, 26.0, 36.0), 16  # of a mark from its cell's edge, in points; around it
NEAR = 8.0  # points up to which it is clear whose mark it is

Pair = tuple[int, int, int]  # true class, predicted class, photos


def draw_confusion(evaluation: Evaluation, names: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix, one row per true class and one column per predicted class, and list its largest cells.

    `names` (C,) are what people call the classes; of many classes, every second, third, … is named beside the matrix.
    What is predicted correctly is not listed.
    """
    confusion = evaluation.confusion.numpy()
    classes = len(confusion)
    step = math.ceil(classes * LABEL_HEIGHT / LEAST_SIDE)
    figure = new_figure(WIDTH, 1)  # its height is known when the names have been measured
    labels, longest = fit_labels(figure, names[::step])
    margin = longest + AXIS_ROOM
    side = WIDTH - margin - LIST_WIDTH - 0.5
    upright = longest < 0.9 * side / len(labels)  # where names have room beside each other, they need no turning
    pairs = evaluation.confused_pairs[: len(MARKS)]
    height = 0.55 + max(side + AXIS_ROOM + (0.15 if upright else longest), 0.9 + PAIR_HEIGHT * len(pairs))
    figure.set_size_inches(WIDTH, height)
    axes = add_axes(figure, margin, height - side - 0.55, side, side, title, LARGE)
    axes.imshow(confusion_colors(confusion), interpolation="nearest")
    remark = f"   (one in {step} is named)" if step > 1 else ""
    axes.set_ylabel(f"true class{remark}", **text_style(NORMAL, FAINT))
    axes.set_xlabel(f"predicted class{remark}", **text_style(NORMAL, FAINT))
    ticks = range(0, classes, step)
    axes.set_xticks(ticks, labels, rotation=0 if upright else 90, **text_style(SMALL))
    axes.set_yticks(ticks, labels, **text_style(SMALL))
    if step > 1:
        axes.tick_params(length=3, color=FAINT)  # which show whose name it is
        mark_cells(axes, confusion, pairs)
    if classes <= MOST_COUNTED:
        write_counts(axes, confusion)
    list_pairs(figure, evaluation, names, pairs, left=margin + side + 0.3, top=height - 0.5, marked=step > 1)
    return figure


def fit_labels(figure: Figure, names: Sequence[str]) -> tuple[list[str], float]:
    """Return names that fit beside the confusion matrix, and how many inches the longest takes."""
    labels, longest = [], 0.0
    for name in names:
        text = figure.text(0, 0, name, **text_style(SMALL))
        shorten(text, LABEL_WIDTH * figure.dpi)
        labels.append(text.get_text())
        longest = max(longest, text.get_window_extent().width / figure.dpi)
        text.remove()
    return labels, longest


def shares_of_class(confusion: np.ndarray) -> np.ndarray:
    """Divide each row (C,) of a confusion matrix by the photos of its class; 0 where a class has none."""
    return confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)


def confusion_colors(confusion: np.ndarray) -> np.ndarray:
    """Return the cells' colours (C, C, 3), 0 to 1: green on the diagonal, red elsewhere, deeper for a larger share."""
    shares = shares_of_class(confusion)
    depth = np.where(confusion > 0, 0.2 + 0.8 * shares, 0.0)[:, :, None]  # so that one photo of many can be seen
    right, wrong, paper = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (GREEN, RED, "#ffffff"))
    ink = np.where(np.eye(len(confusion), dtype=bool)[:, :, None], right, wrong)
    return paper + depth * (ink - paper)


def write_counts(axes: Axes, confusion: np.ndarray) -> None:
    """Write the number of photos into each cell that has any."""
    shares = shares_of_class(confusion)
    texts = {(true, predicted): short_count(confusion[true, predicted]) for true, predicted in np.argwhere(confusion)}
    room = axes.get_window_extent().width / axes.figure.dpi * 72 / len(confusion)  # points
    longest = max(map(len, texts.values()), default=0)
    size = NORMAL if longest * 0.64 * NORMAL < room else TINY  # a digit is 0.64 of its font's size wide
    for (true, predicted), text in texts.items():
        color = "white" if shares[true, predicted] > 0.6 else INK  # white on dark cells
        axes.text(predicted, true, text, ha="center", va="center", **text_style(size, color))


def short_count(photos: int) -> str:
    """Write a number of photos in about four letters: `9999`, `10k`."""
    return str(photos) if photos < 10_000 else f"{photos // 1000}k"


def mark_cells(axes: Axes, confusion: np.ndarray, pairs: Sequence[Pair]) -> None:
    """Write a letter beside the cell of each pair; where it is far from the cell, a line leads there."""
    points = 72 / axes.figure.dpi  # per pixel

    def middles(cells: np.ndarray) -> np.ndarray:
        """Return where on the page the middles of cells (K, 2), row and column, are: points (K, 2)."""
        return axes.transData.transform(cells[:, ::-1]) * points

    frame = axes.get_window_extent()
    cell = frame.width * points / len(confusion)
    marked = np.array(pairs, dtype=int).reshape(-1, 3)[:, :2]  # (M, 2)
    page = np.array([[frame.x0, frame.y0], [frame.x1, frame.y1]]) * points
    offsets = place_marks(middles(marked), middles(np.argwhere(confusion)), cell, page)
    for mark, (true, predicted), (right, up) in zip(MARKS, marked, offsets, strict=False):
        far = np.hypot(right, up) > cell / 2 + NEAR
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": cell / 2}
        axes.annotate(
            mark, (predicted, true), (right, up), textcoords="offset points", ha="center", va="center",
            arrowprops=line if far else None, **text_style(SMALL),
        )  # fmt: skip


def place_marks(marked: np.ndarray, inked: np.ndarray, cell: float, page: np.ndarray) -> list[np.ndarray]:
    """Return how far from its cell each mark stands: points (2,), to the right and up.

    `marked` (M, 2) are the middles of the cells that get a mark, `inked` (K, 2) those of all cells that have photos,
    `cell` is a cell's side, `page` (2, 2) the lower left and the upper right corner that marks stay between. Each mark
    gets the nearest position at which it covers neither an inked cell nor another mark; where there is none, the one at
    which it covers least.
    """
    around = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    circle = np.stack([-np.cos(around), np.sin(around)], axis=1)  # (D, 2), the left one first
    offsets = np.concatenate([(cell / 2 + away) * circle for away in DISTANCES])  # (P, 2), nearest first
    size, placed, nearest = np.array(MARK_SIZE), np.empty((0, 2)), []
    for middle in marked:
        candidates = middle + offsets  # (P, 2)
        outside = ((candidates - size / 2 < page[0]) | (candidates + size / 2 > page[1])).any(axis=1)
        covered = overlaps(candidates, inked, (size + cell) / 2) + 10 * overlaps(candidates, placed, size)
        best = (covered + 100 * outside).argmin()  # of equals the first
        placed = np.append(placed, candidates[best : best + 1], axis=0)
        nearest.append(offsets[best])
    return nearest


def overlaps(candidates: np.ndarray, obstacles: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Count, for each candidate (P, 2), the obstacles (K, 2) that are nearer than `reach` (2,) in both directions."""
    return (np.abs(candidates[:, None] - obstacles[None]) < reach).all(axis=2).sum(axis=1)


def list_pairs(
    figure: Figure,
    evaluation: Evaluation,
    names: Sequence[str],
    pairs: Sequence[Pair],
    left: float,
    top: float,
    marked: bool,
) -> None:
    """Name the most frequent mistakes at the right; with `marked`, by the letters that are beside their cells."""

    def write(text: str, inches_down: float, size: float, color: str = INK) -> None:
        write_line(figure, text, left, top - inches_down, LIST_WIDTH, size, color)

    right, photos = int(evaluation.right.sum()), len(evaluation)
    write(f"{right:,} of {photos:,} right: {evaluation.accuracy:.2%}", 0, NORMAL)
    heading = ("most frequent mistakes" + ", by letter" * marked) if pairs else "no mistakes"
    write(heading, 0.34, NORMAL, FAINT)
    for row, (true, predicted, times) in enumerate(pairs):
        mark = f"{MARKS[row]}  " if marked else ""
        write(f"{mark}{names[true]}  ({times:,}×)", 0.66 + PAIR_HEIGHT * row, CAPTION)
        write(f"predicted as {names[predicted]}", 0.85 + PAIR_HEIGHT * row, SMALL, RED)
