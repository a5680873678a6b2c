"""The confusion matrix as a picture: its cells, and beside it how many are right and which mistakes there are.

Positions and sizes are inches where nothing else is said: 10 of them are 1,200 pixels. Of many classes, those that are
taken for each other stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flower_classifier.base.messages import counted
from flower_classifier.report import style
from flower_classifier.report.pictures import add_axes, new_figure, shorten, text_style, text_width, write_line

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
LIST_WIDTH, PAIR_HEIGHT = 2.45, 0.46  # of the mistakes beside the matrix; of each of them
LABEL_WIDTH, LABEL_HEIGHT = 1.35, 0.145  # of a class's name beside the matrix: the most it may be, and what it is
AXIS_ROOM = 0.65  # beside the names: what the axis is called, and the page's margin
LEAST_SIDE = WIDTH - LABEL_WIDTH - AXIS_ROOM - LIST_WIDTH - 0.5  # of the matrix, where the names are long
MOST_COUNTED = 15  # classes whose cells have room for a number
MOST_ORDERED = 1_000  # classes, of more of which no cell could be seen, and each merge would look at all pairs
MOST_ATTRACTORS = 3  # that are named
MARKS = "abcdefghjkmn"  # of the mistakes that are listed: letters, since classes may be called by numbers; no i and l
MARK_SIZE = (9.0, 12.0)  # points that a mark takes, with a little air
DISTANCES, DIRECTIONS = (7.0, 10.0, 14.0, 19.0, 26.0, 36.0), 16  # of a mark from its cell's edge, in points; around it
NEAR = 8.0  # points up to which it is clear whose mark it is

Pair = tuple[int, int, int]  # true class, predicted class, photos


def draw_confusion(evaluation: Evaluation, names: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix, one row per true class and one column per predicted class, and list its largest cells.

    `names` (C,) are what people call the classes; of many classes, every second, third, … is named beside the matrix,
    and they are ordered by likeness. What is predicted correctly is not listed.
    """
    classes = len(names)
    step = math.ceil(classes * LABEL_HEIGHT / LEAST_SIDE)
    order, remark = np.arange(classes), f"   (one in {step} is named)" if step > 1 else ""
    if step > 1 and classes <= MOST_ORDERED:
        order, remark = (
            order_by_likeness(evaluation.likeness.numpy()),
            f"   (alike ones side by side; one in {step} is named)",
        )
    position = np.argsort(order)  # of each class in the picture
    confusion = evaluation.confusion.numpy()[np.ix_(order, order)]
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)  # of the class's photos, if it has any
    figure = new_figure(WIDTH, 1)  # its height is known when the names have been measured
    labels, longest = fit_labels(figure, [names[index] for index in order[::step]])
    margin = longest + AXIS_ROOM
    side = WIDTH - margin - LIST_WIDTH - 0.5
    upright = longest < 0.9 * side / len(labels)  # where names have room beside each other, they need no turning
    mistakes = Mistakes.of(evaluation)
    height = 0.55 + max(side + AXIS_ROOM + (0.15 if upright else longest), mistakes.height)
    figure.set_size_inches(WIDTH, height)
    axes = add_axes(figure, margin, height - side - 0.55, side, side, title, style.LARGE)
    # Green on the diagonal, red elsewhere; so deep that one photo of many can be seen
    depth = np.where(confusion > 0, 0.2 + 0.8 * shares, 0.0)[:, :, None]
    right, wrong, paper = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (style.GREEN, style.RED, "#ffffff")
    )
    ink = np.where(np.eye(classes, dtype=bool)[:, :, None], right, wrong)
    axes.imshow(paper + depth * (ink - paper), interpolation="nearest")
    axes.set_ylabel(f"true class{remark}", **text_style(style.NORMAL, style.FAINT))
    axes.set_xlabel(f"predicted class{remark}", **text_style(style.NORMAL, style.FAINT))
    ticks = range(0, classes, step)
    axes.set_xticks(ticks, labels, rotation=0 if upright else 90, **text_style(style.SMALL))
    axes.set_yticks(ticks, labels, **text_style(style.SMALL))
    if step > 1:
        axes.tick_params(length=3, color=style.FAINT)  # which show whose name it is
        mark_cells(axes, confusion, [(position[true], position[predicted]) for true, predicted, _ in mistakes.listed])
    if classes <= MOST_COUNTED:
        write_counts(axes, confusion, shares)
    write_facts(figure, evaluation, names, mistakes, left=margin + side + 0.3, top=height - 0.5, marked=step > 1)
    return figure


def order_by_likeness(likeness: np.ndarray) -> np.ndarray:
    """Return the classes in an order in which alike ones are near each other, int64 (C,).

    `likeness`: symmetric, (C, C). The two most alike groups of classes are joined, then again, until there is one
    (average linkage: Sokal and Michener 1958); each is turned so that the classes at the seam are the most alike.
    """
    groups = [[index] for index in range(len(likeness))]
    order = groups[0]
    between = likeness.astype(float)  # mean likeness of the classes of two groups
    np.fill_diagonal(between, -np.inf)
    sizes = np.ones(len(likeness))
    for _ in range(len(likeness) - 1):
        first, second = np.unravel_index(between.argmax(), between.shape)
        turned = [
            (left, right)
            for left in (groups[first], groups[first][::-1])
            for right in (groups[second], groups[second][::-1])
        ]
        left, right = max(turned, key=lambda sides: likeness[sides[0][-1], sides[1][0]])
        order = groups[first] = left + right
        total = sizes[first] + sizes[second]
        joined = (sizes[first] * between[first] + sizes[second] * between[second]) / total
        between[first] = between[:, first] = joined
        between[second] = between[:, second] = -np.inf
        between[first, first] = -np.inf
        sizes[first] = total
    return np.array(order)


def fit_labels(figure: Figure, names: Sequence[str]) -> tuple[list[str], float]:
    """Return names that fit beside the confusion matrix, and how many inches the longest takes."""
    labels, longest = [], 0.0
    for name in names:
        text = figure.text(0, 0, name, **text_style(style.SMALL))
        shorten(text, LABEL_WIDTH * figure.dpi)
        labels.append(text.get_text())
        longest = max(longest, text_width(text) / figure.dpi)
        text.remove()
    return labels, longest


def write_counts(axes: Axes, confusion: np.ndarray, shares: np.ndarray) -> None:
    """Write the number of photos, in about four letters (`9999`, `10k`), into each cell that has any."""
    texts = {}
    for true, predicted in np.argwhere(confusion):
        photos = confusion[true, predicted]
        texts[true, predicted] = str(photos) if photos < 10_000 else f"{photos // 1000}k"
    room = axes.get_window_extent().width / axes.figure.dpi * 72 / len(confusion)  # points
    longest = max(map(len, texts.values()), default=0)
    needed = 0.64 * longest * style.NORMAL  # a digit is 0.64 of its font's size wide
    size = style.NORMAL if needed < room else style.TINY
    if 6 * needed < room:  # a few classes
        size = style.LARGE
    for (true, predicted), text in texts.items():
        color = "white" if shares[true, predicted] > 0.6 else style.INK  # white on dark cells
        axes.text(predicted, true, text, ha="center", va="center", **text_style(size, color))


def mark_cells(axes: Axes, confusion: np.ndarray, cells: Sequence[tuple[int, int]]) -> None:
    """Write a letter beside each of the cells, row and column; where it is far from the cell, a line leads there."""
    points = 72 / axes.figure.dpi  # per pixel

    def middles(cells: np.ndarray) -> np.ndarray:
        """Return where on the page the middles of cells (K, 2), row and column, are: points (K, 2)."""
        return axes.transData.transform(cells[:, ::-1]) * points

    frame = axes.get_window_extent()
    cell = frame.width * points / len(confusion)
    marked = np.array(cells, dtype=int).reshape(-1, 2)  # (M, 2)
    page = np.array([[frame.x0, frame.y0], [frame.x1, frame.y1]]) * points
    offsets = place_marks(middles(marked), middles(np.argwhere(confusion)), cell, page)
    for mark, (true, predicted), (right, up) in zip(MARKS, marked, offsets, strict=False):
        far = np.hypot(right, up) > cell / 2 + NEAR
        line = {"arrowstyle": "-", "color": style.FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": cell / 2}
        axes.annotate(
            mark, (predicted, true), (right, up), textcoords="offset points", ha="center", va="center",
            arrowprops=line if far else None, **text_style(style.SMALL),
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


# ------------------------------------------------------------------------------------------------- facts beside it


@dataclass(frozen=True)
class Mistakes:
    """Which mistakes there are, and which of them are named beside the matrix."""

    pairs: Sequence[Pair]  # most frequent first
    attractors: Sequence[tuple[int, int, int]]  # class, photos of others that are taken for it, of how many classes

    @classmethod
    def of(cls, evaluation: Evaluation) -> Mistakes:
        """Find them: the pairs that are confused, and the classes that photos of several others are taken for."""
        wrong = evaluation.confusion.clone().fill_diagonal_(0)
        taken, sources = wrong.sum(dim=0).tolist(), (wrong > 0).sum(dim=0).tolist()  # (C,) each
        several = [(label, taken[label], sources[label]) for label in range(len(taken)) if sources[label] > 1]
        several.sort(key=lambda attractor: -attractor[1])
        return cls(evaluation.confused_pairs, several[: above_ties([a[1] for a in several], MOST_ATTRACTORS)])

    @property
    def frequent(self) -> int:
        """How many of the pairs can be named as the most frequent ones; 0 where too many are equally so."""
        return above_ties([times for _, _, times in self.pairs], len(MARKS))

    @property
    def listed(self) -> Sequence[Pair]:
        """The pairs that are named: the most frequent ones; where too many are equally so, some of them."""
        return self.pairs[: self.frequent or len(MARKS)]

    @property
    def heading(self) -> str:
        """What stands above the list."""
        if not self.pairs:
            return "no mistakes"
        if self.frequent == len(self.pairs):
            return "all mistakes"
        return "most frequent mistakes" if self.frequent else f"{len(self.listed)} of {len(self.pairs):,} confusions"

    @property
    def rest(self) -> str:
        """What stands below the list: what is to be known of the pairs that are not named."""
        more = len(self.pairs) - len(self.listed)
        if not more:
            return ""
        times = self.pairs[len(self.listed)][2]
        if not self.frequent:
            return f"all {len(self.pairs):,} came equally often: {times:,}×"
        return f"and {counted(more, 'pair')} of classes, {times:,}× at most"

    @property
    def height(self) -> float:
        """How much room all of it takes, the verdict above it included, in inches."""
        attractors = 0.4 + 0.2 * len(self.attractors) if self.attractors else 0.0
        return 1.2 + attractors + PAIR_HEIGHT * len(self.listed) + (0.2 if self.rest else 0.0)


def above_ties(counts: Sequence[int], most: int) -> int:
    """Return how many of these counts, largest first, can be named, at most `most`: none that equals one left out."""
    return len(counts) if len(counts) <= most else sum(count > counts[most] for count in counts)


def write_facts(
    figure: Figure,
    evaluation: Evaluation,
    names: Sequence[str],
    mistakes: Mistakes,
    left: float,
    top: float,
    marked: bool,
) -> None:
    """Say at the right how many are right, which classes attract mistakes, and which mistakes there are.

    With `marked`, mistakes go by the letters that are beside their cells.
    """

    def write(text: str, down: float, size: float, color: str = style.INK) -> float:
        """Write a line at the list's width, and return where the next one begins: inches below the top."""
        write_line(figure, text, left, top - down, LIST_WIDTH, size, color)
        return down + 0.022 * size

    down = 0.0
    for text in evaluation.verdict.lines:  # as one line it would be cut off
        down = write(text, down, style.NORMAL)
    down += 0.12
    if mistakes.attractors:
        down = write("attract mistakes", down, style.NORMAL, style.FAINT) + 0.04
        for label, photos, sources in mistakes.attractors:
            down = write(f"{names[label]}: {photos:,} photos of {sources:,} classes", down, style.CAPTION)
        down += 0.14
    by_letter = ", by letter" if marked and mistakes.listed else ""
    down = write(mistakes.heading + by_letter, down, style.NORMAL, style.FAINT) + 0.1
    for row, (true, predicted, times) in enumerate(mistakes.listed):
        mark = f"{MARKS[row]}  " if marked else ""
        write(f"{mark}{names[true]}  ({times:,}×)", down, style.CAPTION)
        write(f"predicted as {names[predicted]}", down + 0.19, style.SMALL, style.RED)
        down += PAIR_HEIGHT
    if mistakes.rest:
        write(mistakes.rest, down, style.SMALL, style.FAINT)
