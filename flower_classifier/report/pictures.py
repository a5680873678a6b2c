"""Pictures of photos: a prediction, the mistakes of an evaluation, photos in a grid. Sizes are inches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps

from flower_classifier.base.console import note
from flower_classifier.base.text import percent
from flower_classifier.report.figures import (
    CAPTION,
    DPI,
    FAINT,
    INK,
    LARGE,
    LIGHT_GREEN,
    PALE,
    PALE_GREEN,
    RED,
    SMALL,
    TITLE,
    add_axes,
    new_figure,
    shorten,
    text_style,
    write_line,
)

if TYPE_CHECKING:
    from flower_classifier.judging.heatmap import Heatmap  # which needs torch; pictures do not

MARGIN, GAP, HEADER = 0.3, 0.45, 0.4
PHOTO_BOX = (6.4, 4.2)  # what a photo is fitted into
NARROWEST_PHOTO = 1.6  # so that its file name has room
BARS_WIDTH, NUMBER_WIDTH = 5.6, 0.95
MOST_ROWS = 50
ROW_HEIGHTS = (0.48, 0.84)  # rows share the photo's height within these limits
COLUMNS, CELL = 4, 2.425  # of a grid of photos: 1,200 pixels wide
CAPTIONS, GRID_TOP = 0.5, 0.6  # below each photo of a sheet; above its grid
STRIP_HEIGHT, STRIP_SIDE, STRIP_GAP = 2.35, 1.6, 0.2  # of the row of training photos
BLANK = Image.new("RGB", (1, 1), PALE)  # for a training photo that is gone
TITLE_ROOM = 0.3  # above each photo of a plain grid


@dataclass(frozen=True)
class Cell:
    """A photo on a sheet, and the lines below it."""

    photo: Image.Image
    remark: str  # in red
    line: str
    file: str


def draw_prediction(
    photo: Image.Image,
    title: str,
    likeliest: Sequence[tuple[str, float]],
    heatmap: Heatmap | None = None,
    strip: Sequence[tuple[Image.Image | None, str, str]] = (),
    doubt: str = "",
) -> Figure:
    """Draw a photo beside a bar for each of its likeliest classes (name, probability), perhaps with a heatmap on it.

    `strip`: training photos to draw below (None: the file is gone), each with its class and how alike it is. `doubt`:
    why the bars are not to be believed, to stand above them.
    """
    if len(likeliest) > MOST_ROWS:
        note(f"the picture shows the first {MOST_ROWS} of {len(likeliest)} classes")
        likeliest = likeliest[:MOST_ROWS]
    scale = min(PHOTO_BOX[0] / photo.width, PHOTO_BOX[1] / photo.height)  # inches per pixel
    photo_width, photo_height = max(photo.width * scale, NARROWEST_PHOTO), photo.height * scale
    height = max(photo_height, ROW_HEIGHTS[0] * len(likeliest))
    bottom = MARGIN + (STRIP_HEIGHT if strip else 0)
    figure = new_figure(MARGIN + photo_width + GAP + BARS_WIDTH + MARGIN, bottom + height + HEADER)
    panel = add_axes(figure, MARGIN, bottom, photo_width, height)
    draw_photo(panel, photo, title)
    if heatmap:
        draw_heatmap(panel, heatmap)
        free = height == photo_height  # below the photo, the bars included
        room = figure.get_figwidth() - 2 * MARGIN if free else photo_width + GAP - 0.1
        top = bottom + height - photo_height - 0.07
        phrases = [f"bright: what speaks for {likeliest[0][0]}"]
        phrases += [] if heatmap.shows_all else ["frame: what the network sees"]
        lines = ["; ".join(phrases)] if room > PHOTO_BOX[0] else phrases
        for row, line in enumerate(lines):
            write_line(figure, line, MARGIN, top - 0.16 * row, room, SMALL, FAINT)
    left = MARGIN + photo_width + GAP
    if doubt:
        write_line(figure, doubt, left, bottom + height + 0.22, BARS_WIDTH, TITLE, RED)
    draw_bars(add_axes(figure, left, bottom, BARS_WIDTH, height), likeliest)
    if strip:
        draw_strip(figure, strip)
    return figure


def draw_strip(figure: Figure, strip: Sequence[tuple[Image.Image | None, str, str]]) -> None:
    """Draw training photos in a row at the bottom, cut square, each above its class and how alike it is."""
    width = figure.get_figwidth() - 2 * MARGIN
    write_line(figure, "training photos most like it", MARGIN, STRIP_HEIGHT - 0.05, width, TITLE, FAINT)
    side = min(STRIP_SIDE, width / len(strip) - STRIP_GAP)
    for column, (photo, name, similarity) in enumerate(strip):
        left = MARGIN + column * (side + STRIP_GAP)
        panel = add_axes(figure, left, STRIP_HEIGHT - 0.4 - side, side, side)
        panel.set_axis_off()
        pixels = round(side * DPI)
        square = ImageOps.fit(photo, (pixels, pixels), Image.Resampling.LANCZOS) if photo else BLANK
        panel.imshow(square, interpolation="none")
        write_line(figure, f"{similarity}  {name}", left, STRIP_HEIGHT - 0.47 - side, side, CAPTION)


def draw_sheet(cells: Sequence[Cell], title: str) -> Figure:
    """Draw photos in a grid, cut square, each above its lines."""
    rows = -(-len(cells) // COLUMNS)
    height = GRID_TOP + rows * (CELL + CAPTIONS)
    figure = new_figure(COLUMNS * CELL + MARGIN, height)
    side = round((CELL - MARGIN) * DPI)  # pixels of a photo
    page = Image.new("RGB", [round(inches * DPI) for inches in figure.get_size_inches()], "white")
    write_line(figure, title, MARGIN, height - 0.2, 9.4, LARGE)
    for index, cell in enumerate(cells):
        left, down = MARGIN + index % COLUMNS * CELL, GRID_TOP + index // COLUMNS * (CELL + CAPTIONS)
        photo = ImageOps.fit(cell.photo, (side, side), Image.Resampling.LANCZOS)
        page.paste(photo, (round(left * DPI), round(down * DPI)))
        top = height - down - CELL + MARGIN  # of the captions
        write_line(figure, cell.remark, left, top - 0.06, CELL - MARGIN, TITLE, RED)
        write_line(figure, cell.line, left, top - 0.26, CELL - MARGIN, TITLE)
        write_line(figure, cell.file, left, top - 0.46, CELL - MARGIN, CAPTION, FAINT)
    figure.figimage(np.asarray(page), zorder=-1)
    return figure


def draw_grid(photos: Sequence[tuple[Image.Image, str]]) -> Figure:
    """Draw photos in a grid, each under its title."""
    columns = min(len(photos), COLUMNS)
    rows = -(-len(photos) // COLUMNS)
    cell_height = CELL + TITLE_ROOM
    figure = new_figure(columns * CELL + MARGIN, rows * cell_height + MARGIN)
    for index, (photo, title) in enumerate(photos):
        row, column = divmod(index, COLUMNS)
        bottom = MARGIN + (rows - 1 - row) * cell_height
        panel = add_axes(figure, MARGIN + column * CELL, bottom, CELL - MARGIN, CELL - MARGIN)
        draw_photo(panel, photo, title)
    return figure


def draw_photo(axes: Axes, photo: Image.Image, title: str) -> None:
    """Fit the photo into the axes from the top left, smoothly resized whether it is huge or tiny."""
    axes.set_axis_off()
    panel = axes.get_window_extent()
    scale = min(panel.width / photo.width, panel.height / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    axes.imshow(photo.resize(size, Image.Resampling.LANCZOS), interpolation="none")
    axes.set_anchor("NW")
    text = axes.annotate(title, (0, 1), (0, 7), "axes fraction", "offset points", **text_style(TITLE, FAINT))
    shorten(text, panel.width)


def draw_heatmap(axes: Axes, heatmap: Heatmap) -> None:
    """Lay a heatmap over the photo in `axes`; where the network sees only some of the photo, frame that."""
    width, height = (round(limits[1] - limits[0]) for limits in (axes.get_xlim(), axes.get_ylim()[::-1]))
    left, top, right, bottom = heatmap.box
    extent = (left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5)
    size = max(1, round((right - left) * width)), max(1, round((bottom - top) * height))
    values = Image.fromarray(heatmap.values).resize(size, Image.Resampling.BICUBIC)
    limits = axes.get_xlim(), axes.get_ylim()
    heat = np.asarray(values).clip(0, 1)
    axes.imshow(heat, "inferno", alpha=0.15 + 0.55 * heat, extent=extent, vmin=0, vmax=1)
    if not heatmap.shows_all:
        corner, sides = (extent[0], extent[3]), (extent[1] - extent[0], extent[2] - extent[3])
        frame = axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="white", linewidth=1.2))
        frame.set_path_effects([withStroke(linewidth=2.4, foreground=INK)])  # to be seen on a white photo, too
    axes.set(xlim=limits[0], ylim=limits[1])


def draw_bars(axes: Axes, likeliest: Sequence[tuple[str, float]]) -> None:
    """Draw one row per class, likeliest first: its bar from 0 to 100 %, its name on it, its probability beside it."""
    axes.set_axis_off()
    inches = axes.get_window_extent().height / DPI
    row_height = min(max(inches / len(likeliest), ROW_HEIGHTS[0]), ROW_HEIGHTS[1])
    axes.set_xlim(0, BARS_WIDTH)
    axes.set_ylim(inches, 0)
    full = BARS_WIDTH - NUMBER_WIDTH
    for row, (name, probability) in enumerate(likeliest):
        middle, thickness = (row + 0.5) * row_height, 0.76 * row_height
        axes.barh(middle, full, thickness, color=PALE)
        axes.barh(middle, full * probability, thickness, color=PALE_GREEN if row else LIGHT_GREEN)
        percentage = percent(probability, digits=1)
        axes.text(BARS_WIDTH, middle, percentage, ha="right", va="center", **text_style(LARGE))
        text = axes.text(0.12, middle, name, va="center", **text_style(LARGE))
        shorten(text, (full - 0.24) * DPI)
