"""Charts of a run and of an evaluation: curves, confusion matrix, reliability diagram.

Each draw_ function returns a figure, which `report.py` saves. Sizes are inches: 10 of them are 1,200 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluation import BINS, Evaluation
from plots import FAINT, INK, LIKELIEST, MISTAKEN, OTHERS, TRACK, new_figure, shorten, text_style, write_line

WIDTH = 10.0  # inches
VALID, TRAIN, WRONG = "#2f7d4f", "#9aa39d", MISTAKEN
SMALL, NORMAL, LARGE = 8.5, 10.0, 13.0  # points
LABEL_WIDTH = 1.35  # inches
MOST_NAMED = 30  # classes whose names fit beside the confusion matrix
MOST_COUNTED = 15  # classes whose cells have room for a number
MOST_PAIRS = 12  # confusions that are listed


def draw_curves(history: Sequence[dict[str, float]], best_epoch: int) -> Figure:
    """Draw the losses and the validation accuracy by epoch, the best epoch marked."""
    figure = new_figure(WIDTH, 4.2)
    epochs = [row["epoch"] for row in history]
    best = next(row for row in history if row["epoch"] == best_epoch)
    losses = add_axes(figure, 0.7, 0.62, 4.1, 3.0, "loss")
    for key, label, color in (("train_loss", "training", TRAIN), ("valid_loss", "validation", VALID)):
        losses.plot(epochs, [row[key] for row in history], color=color, linewidth=2, marker=dots(epochs), label=label)
    losses.set_ylim(bottom=0)
    losses.legend(frameon=False, prop={"size": NORMAL, "family": text_style(NORMAL)["family"]})
    accuracy = add_axes(figure, 5.6, 0.62, 4.1, 3.0, "validation accuracy")
    shares = [row["valid_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=VALID, linewidth=2, marker=dots(epochs))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    for axes, key in ((losses, "valid_loss"), (accuracy, "valid_accuracy")):
        axes.set_xlabel("epoch", color=FAINT, **text_style(NORMAL))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.axvline(best_epoch, color=LIKELIEST, linewidth=1.5, linestyle=(0, (4, 3)), zorder=0)
        axes.plot([best_epoch], [best[key]], "o", color=VALID, markersize=8)
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
    text = f"best epoch {best_epoch}: {best['valid_accuracy']:.2%}"
    accuracy.text(1, 1.03, text, ha="right", color=VALID, transform=accuracy.transAxes, **text_style(NORMAL))
    return figure


def draw_confusion(evaluation: Evaluation, names: Sequence[str], title: str) -> Figure:
    """Draw who was taken for whom: a row a true class, a column a said one, the most frequent confusions listed."""
    confusion = evaluation.confusion.numpy()
    number = len(confusion)
    named = number <= MOST_NAMED
    margin, side = (1.75, 5.3) if named else (0.75, 6.3)
    height = side + (2.35 if named else 1.3)
    figure = new_figure(WIDTH, height)
    bottom = height - side - 0.55
    axes = figure.add_axes((margin / WIDTH, bottom / height, side / WIDTH, side / height))
    axes.imshow(confusion_colors(confusion), interpolation="nearest")
    frame(axes)
    axes.set_title(title, loc="left", color=INK, **text_style(LARGE))
    axes.set_ylabel("is", color=FAINT, **text_style(NORMAL))
    axes.set_xlabel(
        "was taken for" + ("" if named else "   (numbers: classes in the order of per_class.csv)"),
        color=FAINT,
        **text_style(NORMAL),
    )
    ticks = range(number) if named else range(0, number, 10)
    labels = [shortened(figure, name) for name in names] if named else [str(tick + 1) for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=90 if named else 0, color=INK, **text_style(SMALL))
    axes.set_yticks(ticks, labels, color=INK, **text_style(SMALL))
    if number <= MOST_COUNTED:
        shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
        for true, said in np.argwhere(confusion):
            style = {
                "ha": "center",
                "va": "center",
                "color": "white" if shares[true, said] > 0.6 else INK,
            }  # on dark green
            axes.text(said, true, str(confusion[true, said]), **style, **text_style(NORMAL))
    list_pairs(figure, axes, evaluation, names, left=margin + side + 0.3, top=height - 0.5, numbered=not named)
    return figure


def shortened(figure: Figure, name: str) -> str:
    """Return a name that fits beside the confusion matrix."""
    text = figure.text(0, 0, name, **text_style(SMALL))
    shorten(text, LABEL_WIDTH * figure.dpi)
    text.remove()
    return text.get_text()


def confusion_colors(confusion: np.ndarray) -> np.ndarray:
    """Colour the cells (C, C, 3) by their share of the true class's photos: what is right green, what is wrong red."""
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    depth = np.where(confusion > 0, 0.2 + 0.8 * shares, 0.0)[:, :, None]  # a single photo of many still shows
    right, wrong, paper = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (VALID, WRONG, "#ffffff")
    )
    ink = np.where(np.eye(len(confusion), dtype=bool)[:, :, None], right, wrong)
    return paper + depth * (ink - paper)


def list_pairs(
    figure: Figure, axes: Axes, evaluation: Evaluation, names: Sequence[str], left: float, top: float, numbered: bool
) -> None:
    """Name the most frequent confusions at the right; with `numbered`, their cells carry the same numbers."""
    width = figure.get_figwidth()
    pairs = evaluation.confused_pairs[:MOST_PAIRS]

    def write(text: str, inches_down: float, color: str, size: float = NORMAL) -> None:
        write_line(figure, text, left, top - inches_down, width - left - 0.2, color, size)

    right, photos = int(evaluation.right.sum()), len(evaluation)
    write(f"{right:,} of {photos:,} right: {evaluation.accuracy:.2%}", 0, INK)
    write(("most confused" + ", numbered beside their cells" * numbered) if pairs else "no confusions", 0.34, FAINT)
    for place, (true, said, times) in enumerate(pairs):
        mark = f"{place + 1}. " if numbered else ""
        write(f"{mark}{names[true]}  ({times}×)", 0.66 + 0.46 * place, INK, SMALL + 0.5)
        write(f"taken for {names[said]}", 0.85 + 0.46 * place, WRONG, SMALL)
        if numbered:
            offset = (-7, 0) if said > 3 else (7, 0)  # points: left of the cell, where there is room
            axes.annotate(
                str(place + 1), (said, true), offset, textcoords="offset points", ha="center", va="center", color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}, **text_style(SMALL),
            )  # fmt: skip


def draw_reliability(evaluation: Evaluation, title: str) -> Figure:
    """Draw accuracy by confidence, in bins: where probabilities can be believed, the bars end on the diagonal."""
    figure = new_figure(7.2, 6.6)
    counts, confidence, accuracy = (values.numpy() for values in evaluation.reliability)
    edges = np.arange(BINS) / BINS
    chart = add_axes(figure, 0.85, 2.05, 5.95, 4.0, "accuracy, by how sure the answer was")
    filled = counts > 0
    chart.bar(edges[filled], accuracy[filled], 1 / BINS, align="edge", color=OTHERS, edgecolor="white")
    chart.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    chart.plot(confidence[filled], accuracy[filled], "o", color=VALID, markersize=6)
    chart.set_ylim(-0.03, 1.03)
    chart.tick_params(labelbottom=False)
    chart.yaxis.set_major_formatter(PercentFormatter(1.0))
    photos = add_axes(figure, 0.85, 0.75, 5.95, 1.0, "photos")
    photos.bar(edges, counts, 1 / BINS, align="edge", color=TRACK, edgecolor=FAINT, linewidth=0.6)
    photos.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    photos.set_xlabel("probability of the answer", color=FAINT, **text_style(NORMAL))
    photos.xaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (chart, photos):
        axes.set_xlim(0, 1)
    raw = evaluation.at(1.0).calibration_error
    said = [
        title,
        f"expected calibration error {evaluation.calibration_error:.2%}",
        f"temperature {evaluation.temperature:.2f}" + ("" if evaluation.temperature == 1 else f" (without: {raw:.2%})"),
    ]
    for place, line in enumerate(said):
        color, size = (INK, LARGE - 2) if place == 0 else (FAINT, NORMAL)
        text = chart.text(0.03, 0.95 - 0.075 * place, line, color=color, va="top", **text_style(size))
        shorten(text, 4 * figure.dpi)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float, title: str) -> Axes:
    """Add axes of a place and size in inches, with a title and quiet lines."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    axes.set_title(title, loc="left", color=INK, **text_style(NORMAL + 1))
    axes.grid(color=TRACK, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=SMALL + 0.5, length=0)
    frame(axes)
    return axes


def frame(axes: Axes) -> None:
    """Draw a light frame."""
    for spine in axes.spines.values():
        spine.set_color(TRACK)
    axes.tick_params(length=0)


def dots(epochs: Sequence[float]) -> str:
    """Mark each epoch where there are few of them."""
    return "o" if len(epochs) <= 3 else ""
