"""Charts of a run and of an evaluation: curves, reliability diagram, a search's heads, confusion matrix.

Each draw_ function returns a figure. Positions and sizes are inches where nothing else is said: 10 of them are 1,200
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flower_classifier.judging.verdict import share_text
from flower_classifier.report import style
from flower_classifier.report.pictures import (
    add_axes,
    installed_fonts,
    new_figure,
    shorten,
    text_style,
    text_width,
    write_line,
)
from flower_classifier.report.report_files import Record

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
SOME_PHOTOS = 500  # as many as validate, where that is not known: a share of them has one digit after the point
LEAST_SPAN = 0.05  # of an axis of shares
DASHES = (0, (4, 3))


def draw_curves(
    history: Sequence[Record], best_epoch: int, began: int | None = None, photos: int = SOME_PHOTOS
) -> Figure:
    """Draw the losses and the validation accuracy by epoch, with the best epoch marked.

    `began`: the number of epochs after which fine-tuning began, where it did. `photos`: how many validated.
    """
    figure = new_figure(WIDTH, 4.2)
    epochs = [row["epoch"] for row in history]
    dots = "o" if len(epochs) <= 3 else ""  # where there are few
    best = next(row for row in history if row["epoch"] == best_epoch)
    losses = add_chart(figure, 0.7, 0.62, 4.1, 3.0, "loss")
    for key, label, color in (("train_loss", "training", style.GREY), ("valid_loss", "validation", style.GREEN)):
        losses.plot(epochs, [row[key] for row in history], color=color, linewidth=2, marker=dots, label=label)
    losses.set_ylim(0, 1.05 * losses.get_ylim()[1])
    losses.legend(frameon=False, labelcolor=style.INK, prop={"size": style.NORMAL, "family": installed_fonts()})
    accuracy = add_chart(figure, 5.6, 0.62, 4.1, 3.0, "validation accuracy")
    shares = [row["valid_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=style.GREEN, linewidth=2, marker=dots)
    accuracy.set_ylim(limits_of_shares(shares))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    second = (began + 0.5, epochs[-1] + 0.5) if began is not None and epochs[-1] > began else None
    for axes, key in ((losses, "valid_loss"), (accuracy, "valid_accuracy")):
        if second:
            axes.axvspan(*second, color=style.PALE_GREEN, alpha=0.4, linewidth=0, zorder=0.5)
        axes.set_xlabel("epoch (shaded: fine-tuning)" if second else "epoch", **text_style(style.NORMAL, style.FAINT))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.axvline(best_epoch, color=style.LIGHT_GREEN, linewidth=1.5, linestyle=DASHES, zorder=1.5)  # above the grid
        axes.plot([best_epoch], [best[key]], "o", color=style.GREEN, markersize=8)
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
            axes.set_xticks(epochs)
    text = f"best epoch {best_epoch}: {share_text(best['valid_accuracy'], photos)}"
    accuracy.text(1, 1.03, text, ha="right", transform=accuracy.transAxes, **text_style(style.NORMAL, style.GREEN))
    return figure


def limits_of_shares(shares: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for shares, 0 to 1: so close to them that it has no number below 0 or above 1."""
    least, most = min(shares), max(shares)
    if most - least < LEAST_SPAN:
        most = min(most + LEAST_SPAN / 2, 1)
        least = max(most - LEAST_SPAN, 0)
    air = 0.04 * (most - least)
    return least - air, most + air


def draw_reliability(evaluation: Evaluation, title: str) -> Figure:
    """Draw accuracy by confidence, in bins. Where probabilities can be believed, the bars end on the diagonal."""
    lines = [title, str(evaluation.verdict), f"expected calibration error {evaluation.calibration_error:.2%}"]
    if evaluation.temperature == 1:
        lines.append("no temperature")
    else:
        raw = evaluation.at(1.0).calibration_error
        lines.append(f"temperature {evaluation.temperature:.2f} (error without it {raw:.2%})")
    if evaluation.is_cross_validated:
        lines.append("cross-validated: each photo at a temperature that was chosen without it")
    height = 6.75 + 0.24 * len(lines)
    figure = new_figure(7.2, height)
    for row, line in enumerate(lines):  # above the chart, where no bar can be behind them
        size, color = (style.NORMAL, style.FAINT) if row else (style.TITLE, style.INK)
        write_line(figure, line, 0.85, height - 0.25 - 0.24 * row, 5.95, size, color)
    counts, confidence, accuracy = (values.numpy() for values in evaluation.reliability)
    bins = len(counts)
    edges = np.arange(bins) / bins
    chart = add_chart(figure, 0.85, 2.05, 5.95, 4.0, "accuracy by confidence")
    filled = counts > 0
    chart.bar(edges[filled], accuracy[filled], 1 / bins, align="edge", color=style.PALE_GREEN, edgecolor="white")
    chart.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1, linestyle=DASHES)
    chart.plot(confidence[filled], accuracy[filled], "o", color=style.GREEN, markersize=6)
    chart.set_ylim(-0.03, 1.03)
    chart.tick_params(labelbottom=False)
    chart.yaxis.set_major_formatter(PercentFormatter(1.0))
    photos = add_chart(figure, 0.85, 0.75, 5.95, 1.0, "photos")
    photos.bar(edges, counts, 1 / bins, align="edge", color=style.PALE, edgecolor=style.FAINT, linewidth=0.6)
    photos.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    photos.set_xlabel("confidence: the probability of the predicted class", **text_style(style.NORMAL, style.FAINT))
    photos.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (chart, photos):
        axes.set_xlim(0, 1)
    return figure


def draw_tuning(heads: Sequence[Record]) -> Figure:
    """Draw the validation loss and accuracy of every head of a search, the chosen one marked and its options named."""
    figure = new_figure(WIDTH, 4.6)
    chart = add_chart(figure, 0.9, 0.62, 5.7, 3.5, f"{len(heads)} heads, each at its best epoch")
    for label, color, hidden in (("linear head", style.GREEN, False), ("with a hidden layer", style.GREY, True)):
        group = [head for head in heads if (str(head["hidden_units"]) != "0") == hidden]
        points = [(float(head["valid_loss"]), float(head["valid_accuracy"])) for head in group]
        if group:
            chart.plot(*zip(*points, strict=True), "o", color=color, markersize=6, alpha=0.75, label=label)
    choice = next(head for head in heads if int(head["chosen"]))
    point = float(choice["valid_loss"]), float(choice["valid_accuracy"])
    chart.plot(*point, "o", color="none", markeredgecolor=style.RED, markeredgewidth=2, markersize=13, label="chosen")
    chart.set_xlabel("validation loss (at each head's best temperature)", **text_style(style.NORMAL, style.FAINT))
    chart.set_ylim(limits_of_shares([float(head["valid_accuracy"]) for head in heads]))
    chart.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    chart.set_ylabel("validation accuracy", **text_style(style.NORMAL, style.FAINT))
    chart.legend(
        frameon=False, labelcolor=style.INK, prop={"size": style.NORMAL, "family": installed_fonts()}, loc="lower left"
    )
    lines = [f"{name.replace('_', ' ')}  {choice[name]}" for name in list(choice)[: list(choice).index("epoch")]]
    reached = [f"loss  {point[0]:.3f}", f"accuracy  {point[1]:.1%}", f"in epoch  {choice['epoch']}"]
    for row, line in enumerate(["the choice", *lines, "", *reached]):
        size, color = (style.NORMAL, style.FAINT) if row else (style.TITLE, style.INK)
        figure.text(7.1 / WIDTH, (4.12 - 0.27 * row) / 4.6, line, va="top", **text_style(size, color))
    return figure


def add_chart(figure: Figure, left: float, bottom: float, width: float, height: float, title: str) -> Axes:
    """Add axes with a quiet grid behind what they show."""
    axes = add_axes(figure, left, bottom, width, height, title)
    axes.grid(color=style.PALE, linewidth=1)
    axes.set_axisbelow(True)
    return axes


# ----------------------------------------------------------------------------------------------------- confusion matrix


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
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)  # of the class's photos, if it has any
    classes = len(confusion)
    step = math.ceil(classes * LABEL_HEIGHT / LEAST_SIDE)
    figure = new_figure(WIDTH, 1)  # its height is known when the names have been measured
    labels, longest = fit_labels(figure, names[::step])
    margin = longest + AXIS_ROOM
    side = WIDTH - margin - LIST_WIDTH - 0.5
    upright = longest < 0.9 * side / len(labels)  # where names have room beside each other, they need no turning
    pairs = evaluation.confused_pairs[: len(MARKS)]
    height = 0.55 + max(side + AXIS_ROOM + (0.15 if upright else longest), 1.12 + PAIR_HEIGHT * len(pairs))
    figure.set_size_inches(WIDTH, height)
    axes = add_axes(figure, margin, height - side - 0.55, side, side, title, style.LARGE)
    # Green on the diagonal, red elsewhere; so deep that one photo of many can be seen
    depth = np.where(confusion > 0, 0.2 + 0.8 * shares, 0.0)[:, :, None]
    right, wrong, paper = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (style.GREEN, style.RED, "#ffffff")
    )
    ink = np.where(np.eye(classes, dtype=bool)[:, :, None], right, wrong)
    axes.imshow(paper + depth * (ink - paper), interpolation="nearest")
    remark = f"   (one in {step} is named)" if step > 1 else ""
    axes.set_ylabel(f"true class{remark}", **text_style(style.NORMAL, style.FAINT))
    axes.set_xlabel(f"predicted class{remark}", **text_style(style.NORMAL, style.FAINT))
    ticks = range(0, classes, step)
    axes.set_xticks(ticks, labels, rotation=0 if upright else 90, **text_style(style.SMALL))
    axes.set_yticks(ticks, labels, **text_style(style.SMALL))
    if step > 1:
        axes.tick_params(length=3, color=style.FAINT)  # which show whose name it is
        mark_cells(axes, confusion, pairs)
    if classes <= MOST_COUNTED:
        write_counts(axes, confusion, shares)
    list_pairs(figure, evaluation, names, pairs, left=margin + side + 0.3, top=height - 0.5, marked=step > 1)
    return figure


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
    for (true, predicted), text in texts.items():
        color = "white" if shares[true, predicted] > 0.6 else style.INK  # white on dark cells
        axes.text(predicted, true, text, ha="center", va="center", **text_style(size, color))


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

    def write(text: str, inches_down: float, size: float, color: str = style.INK) -> None:
        write_line(figure, text, left, top - inches_down, LIST_WIDTH, size, color)

    for line, text in enumerate(evaluation.verdict.lines):  # as one line it would be cut off
        write(text, 0.22 * line, style.NORMAL)
    heading = ("most frequent mistakes" + ", by letter" * marked) if pairs else "no mistakes"
    write(heading, 0.56, style.NORMAL, style.FAINT)
    for row, (true, predicted, times) in enumerate(pairs):
        mark = f"{MARKS[row]}  " if marked else ""
        write(f"{mark}{names[true]}  ({times:,}×)", 0.88 + PAIR_HEIGHT * row, style.CAPTION)
        write(f"predicted as {names[predicted]}", 1.07 + PAIR_HEIGHT * row, style.SMALL, style.RED)
