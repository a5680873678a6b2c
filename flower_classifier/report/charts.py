"""Charts of a run and of an evaluation: curves, reliability diagram, a search's heads.

Each draw_ function returns a figure. Positions and sizes are inches where nothing else is said: 10 of them are 1,200
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flower_classifier.judging.verdict import share_text, wilson
from flower_classifier.report import style
from flower_classifier.report.pictures import (
    add_axes,
    installed_fonts,
    new_figure,
    text_style,
    write_line,
)
from flower_classifier.report.report_files import Record

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation  # which needs torch; charts do not

WIDTH = 10.0
SOME_PHOTOS = 500  # as many as validate, where that is not known: a share of them has one digit after the point
LEAST_SPAN, LEAST_PHOTOS = 0.05, 4  # of an axis of shares: what it spans at least, also in photos
FEW = 10  # photos, of fewer of which a share says little
DASHES = (0, (4, 3))


def draw_curves(
    history: Sequence[Record], best_epoch: int, began: int | None = None, photos: int | None = None
) -> Figure:
    """Draw the losses and the validation accuracy by epoch, with the best epoch marked.

    Where a run is judged by class, its balanced accuracy stands beside the accuracy.

    `began`: the number of epochs after which fine-tuning began, where it did. `photos`: how many validated, where that
    is known.
    """
    figure = new_figure(WIDTH, 4.2)
    epochs = [row["epoch"] for row in history]
    dots = "o" if len(epochs) <= 3 else ""  # where there are few
    best = next(row for row in history if row["epoch"] == best_epoch)
    losses = add_chart(figure, 0.7, 0.62, 4.1, 3.0, "loss")
    for key, label, color in (("train_loss", "training", style.GREY), ("valid_loss", "validation", style.GREEN)):
        losses.plot(epochs, [row[key] for row in history], color=color, linewidth=2, marker=dots, label=label)
    losses.set_ylim(0, 1.05 * losses.get_ylim()[1])
    accuracy = add_chart(figure, 5.6, 0.62, 4.1, 3.0, "validation accuracy")
    shares = [row["valid_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=style.GREEN, linewidth=2, marker=dots, label="of photos")
    if is_by_class := all("valid_balanced_accuracy" in row for row in history):
        balanced = [row["valid_balanced_accuracy"] for row in history]
        accuracy.plot(epochs, balanced, color=style.GREY, linewidth=2, marker=dots, label="balanced: mean over classes")
        shares += balanced
    for axes in (losses, accuracy) if is_by_class else (losses,):
        axes.legend(frameon=False, labelcolor=style.INK, prop={"size": style.NORMAL, "family": installed_fonts()})
    accuracy.set_ylim(limits_of_shares(shares, photos))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    second = (began + 0.5, epochs[-1] + 0.5) if began is not None and epochs[-1] > began else None
    for axes, key in ((losses, "valid_loss"), (accuracy, "valid_accuracy")):
        if second:
            axes.axvspan(*second, color=style.PALE_GREEN, alpha=0.4, linewidth=0, zorder=0.5)
        axes.set_xlabel("epoch (shaded: fine-tuning)" if second else "epoch", **text_style(style.NORMAL, style.FAINT))
        axes.set_xticks(epoch_ticks(epochs[-1]))
        axes.axvline(best_epoch, color=style.LIGHT_GREEN, linewidth=1.5, linestyle=DASHES, zorder=1.5)  # above the grid
        axes.plot([best_epoch], [best[key]], "o", color=style.GREEN, markersize=8)
        if len(epochs) == 1:
            axes.set_xlim(0, 2)
    text = f"best epoch {best_epoch}: {share_text(best['valid_accuracy'], photos or SOME_PHOTOS)}"
    if is_by_class:
        text += f", balanced {share_text(best['valid_balanced_accuracy'], photos or SOME_PHOTOS)}"
    accuracy.text(1, 1.03, text, ha="right", transform=accuracy.transAxes, **text_style(style.NORMAL, style.GREEN))
    if photos:
        digits = 2 if photos > 10 else 3  # 1.1%, 12.5%
        which = f"one of the {photos:,} validation photos" if photos > 1 else "the only validation photo"
        worth = f"{which} is worth {100 / photos:.{digits}g}%"
        style_of_worth = text_style(style.SMALL, style.FAINT)
        figure.text(9.7 / WIDTH, 0.12 / 4.2, worth, ha="right", **style_of_worth)
    return figure


def epoch_ticks(last: int) -> list[int]:
    """Return the epochs that have a number on their axis: round ones, and the last one, which none of them crowds."""
    round_ones = MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    gap = round_ones[1] - round_ones[0]
    return [int(epoch) for epoch in round_ones if 0 < epoch <= last - 0.6 * gap] + [last]


def limits_of_shares(shares: Sequence[float], photos: int | None = None) -> tuple[float, float]:
    """Return the ends of an axis for shares, 0 to 1: so close to them that it has no number below 0 or above 1.

    `photos`: of which they are shares. The axis is not so short that a photo or two more would look like much.
    """
    least, most = min(shares), max(shares)
    span = min(max(LEAST_SPAN, LEAST_PHOTOS / photos if photos else 0.0), 1.0)
    if most - least < span:
        most = min(most + span / 2, 1)
        least = max(most - span, 0)
    air = 0.04 * (most - least)
    return least - air, most + air


def draw_reliability(evaluation: Evaluation, title: str) -> Figure:
    """Draw accuracy by confidence, in bins. Where probabilities can be believed, the bars end near the diagonal.

    Above each bar stands how many photos it is of, and a line through its end shows how far chance may move that. Of
    fewer than FEW photos a bar is grey.
    """
    lines = [title, *reliability_facts(evaluation)]
    height = 5.9 + 0.24 * len(lines)
    figure = new_figure(7.2, height)
    for row, line in enumerate(lines):  # above the chart, where no bar can be behind them
        size, color = (style.NORMAL, style.FAINT) if row else (style.TITLE, style.INK)
        write_line(figure, line, 0.85, height - 0.25 - 0.24 * row, 6.1, size, color)
    counts, confidence, accuracy = (values.numpy() for values in evaluation.reliability)
    bins = len(counts)
    chart = add_chart(figure, 0.85, 0.95, 5.95, 4.2, "accuracy by confidence, and of how many photos")
    chart.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1, linestyle=DASHES)
    for index in np.flatnonzero(counts):
        photos, share = int(counts[index]), accuracy[index]
        bar, line = (style.PALE_GREEN, style.GREEN) if photos >= FEW else (style.PALE_GREY, style.GREY)
        chart.bar(index / bins, share, 1 / bins, align="edge", color=bar, edgecolor="white", zorder=1.5)
        interval = wilson(round(share * photos), photos)
        middle = (index + 0.5) / bins
        chart.plot([confidence[index]] * 2, interval, color=line, linewidth=1.5, clip_on=False, zorder=2.6)
        chart.plot(confidence[index], share, "o", color=line, markersize=6, clip_on=False, zorder=3)
        text = f"{photos:,}" if photos < 10_000 else f"{photos // 1000}k"
        chart.text(middle, 1.05, text, ha="center", va="center", **text_style(style.SMALL, style.INK))
    chart.set_xlim(0, 1)
    chart.set_ylim(-0.03, 1.1)
    chart.set_yticks(np.linspace(0, 1, 6))
    for axis in (chart.xaxis, chart.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    chart.set_xlabel("confidence: the probability of the predicted class", **text_style(style.NORMAL, style.FAINT))
    key = f"upright lines: what chance allows (95% interval); grey: fewer than {FEW} photos, which say little"
    write_line(figure, key, 0.85, 0.32, 6.1, style.SMALL, style.FAINT)
    return figure


def reliability_facts(evaluation: Evaluation) -> list[str]:
    """Return what the reliability diagram shows, in lines of words."""
    verdict, sure = evaluation.verdict, evaluation.confidence.mean().item()
    believed = f"{sure:.0%} sure on average, right {verdict.share:.0%} of the time: {verdict.on_confidence(sure)}"
    error = share_text(evaluation.calibration_error, len(evaluation))
    lines = [str(verdict), believed, f"expected calibration error {error}: how far from the dashed line, on average"]
    if evaluation.temperature == 1:
        lines.append("no temperature: the validation photos gave no reason to change probabilities")
    else:
        raw = share_text(evaluation.at(1.0).calibration_error, len(evaluation))
        lines.append(
            f"temperature {evaluation.temperature:.2f}, which validation photos chose (error without it {raw})"
        )
    if evaluation.is_cross_validated:
        lines.append("cross-validated: each photo at a temperature that was chosen without it")
    return lines


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
