"""Pictures of photos: a prediction, mistakes. With charts.py the only importer of matplotlib.

Not of pyplot: nothing here opens a window.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image, ImageOps

from errors import InputError, RunError
from heatmap import Heatmap
from messages import note
from words import percent

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
DPI = 120
MARGIN, GAP, HEADER = 0.3, 0.45, 0.4  # inches, as are all lengths here but for texts' sizes
PHOTO_BOX = (6.4, 4.2)  # what a photo is fitted into
NARROWEST_PHOTO = 1.6  # so that its file name has room
BARS_WIDTH, NUMBER_WIDTH = 5.6, 0.95
MOST_ROWS = 50
ROW_HEIGHTS = (0.48, 0.84)  # rows share the photo's height within these limits
INK, FAINT, LIKELIEST, OTHERS, TRACK = "#1d2b22", "#6b756f", "#86cb98", "#c3e0ca", "#f2f5f3"
MISTAKEN = "#c23b4e"
FAST_PNG = {"compress_level": 3}  # half the time of the usual 6, and a tenth larger
COLUMNS, CELL, CAPTION, GRID_TOP = 4, 2.425, 0.5, 0.6  # of the grid of mistakes: 1,200 pixels wide
FONT_SIZE, SMALLEST_FONT_SIZE, TITLE_SIZE = 13.0, 9.0, 11.0  # points
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")


@dataclass(frozen=True)
class Mistake:
    """A photo that was named wrongly."""

    photo: Image.Image
    file: str
    said: str
    probability: float  # of what was said
    true: str


def draw_prediction(
    photo: Image.Image, title: str, likeliest: Sequence[tuple[str, float]], heatmap: Heatmap | None = None
) -> Figure:
    """Draw a photo beside a bar for each of its likeliest classes (name, probability), perhaps with a heatmap on it."""
    if len(likeliest) > MOST_ROWS:
        note(f"the picture shows the first {MOST_ROWS} of {len(likeliest)} classes")
        likeliest = likeliest[:MOST_ROWS]
    scale = min(PHOTO_BOX[0] / photo.width, PHOTO_BOX[1] / photo.height)  # inches a pixel
    photo_width, photo_height = max(photo.width * scale, NARROWEST_PHOTO), photo.height * scale
    height = max(photo_height, ROW_HEIGHTS[0] * len(likeliest))
    figure = new_figure(MARGIN + photo_width + GAP + BARS_WIDTH + MARGIN, MARGIN + height + HEADER)
    panel = add_panel(figure, MARGIN, MARGIN, photo_width, height)
    draw_photo(panel, photo, title)
    if heatmap:
        draw_heatmap(panel, heatmap, likeliest[0][0])
    draw_bars(add_panel(figure, MARGIN + photo_width + GAP, MARGIN, BARS_WIDTH, height), likeliest)
    return figure


def draw_mistakes(mistakes: Sequence[Mistake], title: str) -> Figure:
    """Draw photos that were named wrongly in a grid: what was said and how surely, and what is true."""
    rows = -(-len(mistakes) // COLUMNS)
    height = GRID_TOP + rows * (CELL + CAPTION)
    figure = new_figure(COLUMNS * CELL + MARGIN, height)
    side = round((CELL - MARGIN) * DPI)  # pixels of a photo, which is cut square
    page = Image.new("RGB", [round(inches * DPI) for inches in figure.get_size_inches()], "white")
    write_line(figure, title, MARGIN, height - 0.2, 9.4, INK, FONT_SIZE)
    for place, mistake in enumerate(mistakes):
        left, down = MARGIN + place % COLUMNS * CELL, GRID_TOP + place // COLUMNS * (CELL + CAPTION)
        photo = ImageOps.fit(mistake.photo, (side, side), Image.Resampling.LANCZOS)
        page.paste(photo, (round(left * DPI), round(down * DPI)))
        said = f"{mistake.said}  {percent(mistake.probability, digits=0)}"
        top = height - down - CELL + MARGIN  # of the caption
        write_line(figure, said, left, top - 0.06, CELL - MARGIN, MISTAKEN, TITLE_SIZE)
        write_line(figure, f"is {mistake.true}", left, top - 0.26, CELL - MARGIN, INK, TITLE_SIZE)
        write_line(figure, mistake.file, left, top - 0.46, CELL - MARGIN, FAINT, SMALLEST_FONT_SIZE)
    figure.figimage(np.asarray(page), zorder=-1)
    return figure


def write_line(figure: Figure, line: str, left: float, top: float, width: float, color: str, size: float) -> None:
    """Write a line of at most `width` inches into a figure; `left` and `top` are inches from its bottom left."""
    total_width, total_height = figure.get_size_inches()
    text = figure.text(left / total_width, top / total_height, line, va="top", color=color, **text_style(size))
    shorten(text, width * DPI)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure((width, height), DPI)
    FigureCanvasAgg(figure)  # without it, every measuring of a text would draw the whole figure
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure; the file's ending chooses the format. Raises RunError where that cannot be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box; the text output has it right
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, facecolor="white", pil_kwargs=FAST_PNG if path.suffix.lower() == ".png" else None)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def check_picture_path(path: Path) -> None:
    """Raise InputError for a file whose ending names none of the formats for pictures."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: the name should end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", "plot")


def add_panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add bare axes of a place and size in inches."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    axes.set_axis_off()
    return axes


def draw_photo(axes: Axes, photo: Image.Image, title: str) -> None:
    """Fit the photo into its panel from the top left, smoothly resized whether it is huge or tiny."""
    panel = axes.get_window_extent()
    scale = min(panel.width / photo.width, panel.height / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    axes.imshow(photo.resize(size, Image.Resampling.LANCZOS), interpolation="none")
    axes.set_anchor("NW")
    text = axes.annotate(title, (0, 1), (0, 7), "axes fraction", "offset points", color=FAINT, **text_style(TITLE_SIZE))
    shorten(text, panel.width)


def draw_heatmap(axes: Axes, heatmap: Heatmap, name: str) -> None:
    """Lay a heatmap over the photo in `axes`, within a frame around the part that the network sees."""
    width, height = (round(limits[1] - limits[0]) for limits in (axes.get_xlim(), axes.get_ylim()[::-1]))
    left, top, right, bottom = heatmap.box
    extent = (left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5)
    size = max(1, round((right - left) * width)), max(1, round((bottom - top) * height))
    values = Image.fromarray(heatmap.values).resize(size, Image.Resampling.BICUBIC)
    limits = axes.get_xlim(), axes.get_ylim()
    heat = np.asarray(values).clip(0, 1)
    axes.imshow(heat, "inferno", alpha=0.15 + 0.55 * heat, extent=extent, vmin=0, vmax=1)
    corner, sides = (extent[0], extent[3]), (extent[1] - extent[0], extent[2] - extent[3])
    axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="white", linewidth=1.2))
    axes.set(xlim=limits[0], ylim=limits[1])
    text = f"bright: what speaks for {name}; frame: what the network sees"
    line = axes.annotate(
        text, (0, 0), (0, -7), "axes fraction", "offset points", va="top", color=FAINT, **text_style(8)
    )
    shorten(line, axes.get_window_extent().width)


def draw_bars(axes: Axes, likeliest: Sequence[tuple[str, float]]) -> None:
    """Draw a row for each class, likeliest first: its bar from 0 to 100 %, its name on it, its probability beside."""
    inches = axes.get_window_extent().height / DPI
    row_height = min(max(inches / len(likeliest), ROW_HEIGHTS[0]), ROW_HEIGHTS[1])
    axes.set_xlim(0, BARS_WIDTH)
    axes.set_ylim(inches, 0)
    full = BARS_WIDTH - NUMBER_WIDTH
    for row, (name, probability) in enumerate(likeliest):
        middle, thickness = (row + 0.5) * row_height, 0.76 * row_height
        axes.barh(middle, full, thickness, color=TRACK)
        axes.barh(middle, full * probability, thickness, color=OTHERS if row else LIKELIEST)
        number = percent(probability, digits=1)
        axes.text(BARS_WIDTH, middle, number, ha="right", va="center", color=INK, **text_style(FONT_SIZE))
        text = axes.text(0.12, middle, name, va="center", color=INK, **text_style(FONT_SIZE))
        shorten(text, (full - 0.24) * DPI)


def text_style(size: float) -> dict[str, object]:
    """Return how text is set: in fonts that together cover most scripts, and never read as a formula ("$")."""
    return {"size": size, "parse_math": False, "family": installed_fonts()}


@functools.cache
def installed_fonts() -> list[str]:
    """Return those of FONTS that this machine has; the first that knows a letter draws it."""
    installed = set(font_manager.get_font_names())
    return [font for font in FONTS if font in installed]


def shorten(text: Text, width: float) -> None:
    """Make a text fit into `width` pixels: by a smaller font, then by leaving out its middle."""
    while text.get_window_extent().width > width and text.get_fontsize() > SMALLEST_FONT_SIZE:
        text.set_fontsize(text.get_fontsize() - 0.5)
    whole = text.get_text()
    kept = len(whole)
    while text.get_window_extent().width > width and kept > 2:
        kept -= 1
        text.set_text(f"{whole[: kept - kept // 2]}…{whole[len(whole) - kept // 2 :]}")
