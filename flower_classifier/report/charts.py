"""Charts of a run and of an evaluation: curves and reliability diagram.

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
    FAINT,
    GREEN,
    GREY,
    INK,
    LIGHT_GREEN,
    NORMAL,
    PALE,
    PALE_GREEN,
    RED,
    TITLE,
    add_axes,
    installed_fonts,
    new_figure,
    shorten,
    text_style,
)
from flower_classifier.report.tables import Record

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
LEAST_SPAN = 0.05  # of an axis of shares
DASHES = (0, (4, 3))


def draw_curves(history: Sequence[Record], best_epoch: int, began: int | None = None) -> Figure:
    """Draw the losses and the validation accuracy by epoch, with the best epoch marked.

    `began`: the number of epochs after which fine-tuning began, where it did.
    """
    figure = new_figure(WIDTH, 4.2)
    epochs = [row["epoch"] for row in history]
    best = next(row for row in history if row["epoch"] == best_epoch)
    losses = add_chart(figure, 0.7, 0.62, 4.1, 3.0, "loss")
    for key, label, color in (("train_loss", "training", GREY), ("valid_loss", "validation", GREEN)):
        losses.plot(epochs, [row[key] for row in history], color=color, linewidth=2, marker=dots(epochs), label=label)
    losses.set_ylim(0, 1.05 * losses.get_ylim()[1])
    losses.legend(frameon=False, labelcolor=INK, prop={"size": NORMAL, "family": installed_fonts()})
    accuracy = add_chart(figure, 5.6, 0.62, 4.1, 3.0, "validation accuracy")
    shares = [row["valid_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=GREEN, linewidth=2, marker=dots(epochs))
    accuracy.set_ylim(limits_of_shares(shares))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    second = (began + 0.5, epochs[-1] + 0.5) if began is not None and epochs[-1] > began else None
    for axes, key in ((losses, "valid_loss"), (accuracy, "valid_accuracy")):
        if second:
            axes.axvspan(*second, color=PALE_GREEN, alpha=0.4, linewidth=0, zorder=0.5)
        axes.set_xlabel("epoch (shaded: fine-tuning)" if second else "epoch", **text_style(NORMAL, FAINT))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.axvline(best_epoch, color=LIGHT_GREEN, linewidth=1.5, linestyle=DASHES, zorder=1.5)  # above the grid
        axes.plot([best_epoch], [best[key]], "o", color=GREEN, markersize=8)
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
            axes.set_xticks(epochs)
    text = f"best epoch {best_epoch}: {best['valid_accuracy']:.2%}"
    accuracy.text(1, 1.03, text, ha="right", transform=accuracy.transAxes, **text_style(NORMAL, GREEN))
    return figure


def dots(epochs: Sequence[float]) -> str:
    """Return the marker of each epoch: a dot where there are few of them, else none."""
    return "o" if len(epochs) <= 3 else ""


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
    for row, line in enumerate(lines):
        style = text_style(NORMAL, FAINT) if row else text_style(TITLE)
        text = chart.text(0.03, 0.95 - 0.075 * row, line, va="top", **style)
        shorten(text, 4 * figure.dpi)
    return figure


def draw_tuning(heads: Sequence[Record]) -> Figure:
    """Draw the validation loss and accuracy of every head of a search, the chosen one marked and its options named."""
    figure = new_figure(WIDTH, 4.6)
    chart = add_chart(figure, 0.9, 0.62, 5.7, 3.5, f"{len(heads)} heads, each at its best epoch")
    for label, color, hidden in (("linear head", GREEN, False), ("with a hidden layer", GREY, True)):
        group = [head for head in heads if (str(head["hidden_units"]) != "0") == hidden]
        points = [(float(head["valid_loss"]), float(head["valid_accuracy"])) for head in group]
        if group:
            chart.plot(*zip(*points, strict=True), "o", color=color, markersize=6, alpha=0.75, label=label)
    choice = next(head for head in heads if int(head["chosen"]))
    point = float(choice["valid_loss"]), float(choice["valid_accuracy"])
    chart.plot(*point, "o", color="none", markeredgecolor=RED, markeredgewidth=2, markersize=13, label="chosen")
    chart.set_xlabel("validation loss (at each head's best temperature)", **text_style(NORMAL, FAINT))
    chart.set_ylim(limits_of_shares([float(head["valid_accuracy"]) for head in heads]))
    chart.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    chart.set_ylabel("validation accuracy", **text_style(NORMAL, FAINT))
    chart.legend(frameon=False, labelcolor=INK, prop={"size": NORMAL, "family": installed_fonts()}, loc="lower left")
    lines = [f"{name.replace('_', ' ')}  {choice[name]}" for name in list(choice)[: list(choice).index("epoch")]]
    reached = [f"loss  {point[0]:.3f}", f"accuracy  {point[1]:.1%}", f"in epoch  {choice['epoch']}"]
    for row, line in enumerate(["the choice", *lines, "", *reached]):
        style = text_style(TITLE if row == 0 else NORMAL, INK if row == 0 else FAINT)
        figure.text(7.1 / WIDTH, (4.12 - 0.27 * row) / 4.6, line, va="top", **style)
    return figure


def add_chart(figure: Figure, left: float, bottom: float, width: float, height: float, title: str) -> Axes:
    """Add axes with a quiet grid behind what they show."""
    axes = add_axes(figure, left, bottom, width, height, title)
    axes.grid(color=PALE, linewidth=1)
    axes.set_axisbelow(True)
    return axes
