"""Charts of a run and of an evaluation: curves, confusion matrix, reliability diagram.

Each draw_ function returns a figure. Sizes are inches: 10 of them are 1,200 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flower_classifier.report.figures import (
    CAPTION,
    FAINT,
    GREEN,
    GREY,
    INK,
    LARGE,
    LIGHT_GREEN,
    NORMAL,
    PALE,
    PALE_GREEN,
    RED,
    SMALL,
    TITLE,
    add_axes,
    installed_fonts,
    new_figure,
    shorten,
    text_style,
    write_line,
)

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
LABEL_WIDTH = 1.35
MOST_NAMED = 30  # classes whose names fit beside the confusion matrix
MOST_COUNTED = 15  # classes whose cells have room for a number
MOST_PAIRS = 12  # kinds of mistakes that are listed
DASHES = (0, (4, 3))


def draw_curves(history: Sequence[dict[str, float]], best_epoch: int) -> Figure:
    """Draw the losses and the validation accuracy by epoch, with the best epoch marked."""
    figure = new_figure(WIDTH, 4.2)
    epochs = [row["epoch"] for row in history]
    best = next(row for row in history if row["epoch"] == best_epoch)
    losses = add_chart(figure, 0.7, 0.62, 4.1, 3.0, "loss")
    for key, label, color in (("train_loss", "training", GREY), ("valid_loss", "validation", GREEN)):
        losses.plot(epochs, [row[key] for row in history], color=color, linewidth=2, marker=dots(epochs), label=label)
    losses.set_ylim(bottom=0)
    losses.legend(frameon=False, prop={"size": NORMAL, "family": installed_fonts()})
    accuracy = add_chart(figure, 5.6, 0.62, 4.1, 3.0, "validation accuracy")
    shares = [row["valid_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=GREEN, linewidth=2, marker=dots(epochs))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    for axes, key in ((losses, "valid_loss"), (accuracy, "valid_accuracy")):
        axes.set_xlabel("epoch", **text_style(NORMAL, FAINT))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.axvline(best_epoch, color=LIGHT_GREEN, linewidth=1.5, linestyle=DASHES, zorder=0)
        axes.plot([best_epoch], [best[key]], "o", color=GREEN, markersize=8)
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
    text = f"best epoch {best_epoch}: {best['valid_accuracy']:.2%}"
    accuracy.text(1, 1.03, text, ha="right", transform=accuracy.transAxes, **text_style(NORMAL, GREEN))
    return figure


def dots(epochs: Sequence[float]) -> str:
    """Return the marker of each epoch: a dot where there are few of them, else none."""
    return "o" if len(epochs) <= 3 else ""


def draw_confusion(evaluation: Evaluation, names: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix, one row per true class and one column per predicted class, and list its largest cells.

    `names` (C,) are what people call the classes. What is predicted correctly is not listed.
    """
    confusion = evaluation.confusion.numpy()
    number = len(confusion)
    named = number <= MOST_NAMED
    margin, side = (1.75, 5.3) if named else (0.75, 6.3)
    height = side + (2.35 if named else 1.3)
    figure = new_figure(WIDTH, height)
    axes = add_axes(figure, margin, height - side - 0.55, side, side, title, LARGE)
    axes.imshow(confusion_colors(confusion), interpolation="nearest")
    axes.set_ylabel("true class", **text_style(NORMAL, FAINT))
    numbers = "" if named else "   (numbers: classes in the order of per_class.csv)"
    axes.set_xlabel(f"predicted{numbers}", **text_style(NORMAL, FAINT))
    ticks = range(number) if named else range(0, number, 10)
    labels = [shortened(figure, name) for name in names] if named else [str(tick + 1) for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=90 if named else 0, **text_style(SMALL))
    axes.set_yticks(ticks, labels, **text_style(SMALL))
    if number <= MOST_COUNTED:
        write_counts(axes, confusion)
    list_pairs(figure, axes, evaluation, names, left=margin + side + 0.3, top=height - 0.5, numbered=not named)
    return figure


def shortened(figure: Figure, name: str) -> str:
    """Return a name that fits beside the confusion matrix."""
    text = figure.text(0, 0, name, **text_style(SMALL))
    shorten(text, LABEL_WIDTH * figure.dpi)
    text.remove()
    return text.get_text()


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
    for true, predicted in np.argwhere(confusion):
        color = "white" if shares[true, predicted] > 0.6 else INK  # white on dark cells
        number = str(confusion[true, predicted])
        axes.text(predicted, true, number, ha="center", va="center", **text_style(NORMAL, color))


def list_pairs(
    figure: Figure, axes: Axes, evaluation: Evaluation, names: Sequence[str], left: float, top: float, numbered: bool
) -> None:
    """Name the most frequent mistakes at the right; with `numbered`, their cells carry the same numbers."""
    width = figure.get_figwidth()
    pairs = evaluation.confused_pairs[:MOST_PAIRS]

    def write(text: str, inches_down: float, size: float, color: str = INK) -> None:
        write_line(figure, text, left, top - inches_down, width - left - 0.2, size, color)

    right, photos = int(evaluation.right.sum()), len(evaluation)
    write(f"{right:,} of {photos:,} right: {evaluation.accuracy:.2%}", 0, NORMAL)
    heading = ("most frequent mistakes" + ", numbered" * numbered) if pairs else "no mistakes"
    write(heading, 0.34, NORMAL, FAINT)
    for place, (true, predicted, times) in enumerate(pairs):
        mark = f"{place + 1}. " if numbered else ""
        write(f"{mark}{names[true]}  ({times}×)", 0.66 + 0.46 * place, CAPTION)
        write(f"predicted as {names[predicted]}", 0.85 + 0.46 * place, SMALL, RED)
        if numbered:
            offset = (-7, 0) if predicted > 3 else (7, 0)  # points: left of the cell, where there is room
            axes.annotate(
                str(place + 1), (predicted, true), offset, textcoords="offset points", ha="center", va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}, **text_style(SMALL),
            )  # fmt: skip


def draw_reliability(evaluation: Evaluation, title: str) -> Figure:
    """Draw accuracy by confidence, in bins. Where probabilities can be believed, the bars end on the diagonal."""
    figure = new_figure(7.2, 6.6)
    counts, confidence, accuracy = (values.numpy() for values in evaluation.reliability)
    bins = len(counts)
    edges = np.arange(bins) / bins
    chart = add_chart(figure, 0.85, 2.05, 5.95, 4.0, "accuracy by confidence")
    filled = counts > 0
    chart.bar(edges[filled], accuracy[filled], 1 / bins, align="edge", color=PALE_GREEN, edgecolor="white")
    chart.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=DASHES)
    chart.plot(confidence[filled], accuracy[filled], "o", color=GREEN, markersize=6)
    chart.set_ylim(-0.03, 1.03)
    chart.tick_params(labelbottom=False)
    chart.yaxis.set_major_formatter(PercentFormatter(1.0))
    photos = add_chart(figure, 0.85, 0.75, 5.95, 1.0, "photos")
    photos.bar(edges, counts, 1 / bins, align="edge", color=PALE, edgecolor=FAINT, linewidth=0.6)
    photos.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    photos.set_xlabel("confidence: the probability of the predicted class", **text_style(NORMAL, FAINT))
    photos.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (chart, photos):
        axes.set_xlim(0, 1)
    lines = [title, f"expected calibration error {evaluation.calibration_error:.2%}"]
    if evaluation.temperature == 1:
        lines.append("no temperature")
    else:
        raw = evaluation.at(1.0).calibration_error
        lines.append(f"temperature {evaluation.temperature:.2f} (error without it {raw:.2%})")
    if evaluation.is_cross_validated:
        lines.append("cross-validated: each photo at a temperature")
        lines.append("that was chosen without it")
    for place, line in enumerate(lines):
        style = text_style(NORMAL, FAINT) if place else text_style(TITLE)
        text = chart.text(0.03, 0.95 - 0.075 * place, line, va="top", **style)
        shorten(text, 4 * figure.dpi)
    return figure


def add_chart(figure: Figure, left: float, bottom: float, width: float, height: float, title: str) -> Axes:
    """Add axes with a quiet grid behind what they show."""
    axes = add_axes(figure, left, bottom, width, height, title)
    axes.grid(color=PALE, linewidth=1)
    axes.set_axisbelow(True)
    return axes
