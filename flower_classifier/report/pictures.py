"""Pictures of photos: a prediction and its heat map, mistakes, photos in a grid; and what charts share with them.

Positions in a figure are inches from its bottom left, sizes are inches; text sizes are points. It uses matplotlib
without pyplot: nothing opens a window.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image, ImageDraw, ImageOps

from flower_classifier.base.files import write_whole
from flower_classifier.base.messages import note, percent
from flower_classifier.photos.views import Box
from flower_classifier.report import style
from flower_classifier.report.report_files import writing

if TYPE_CHECKING:
    from flower_classifier.judging.heatmap import Heatmap  # which needs torch; pictures do not

DPI = 120
FONTS = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"),
    *("Noto Sans Devanagari", "Lohit Devanagari", "Kohinoor Devanagari", "Nirmala UI", "Noto Sans Thai"),
    *("Malgun Gothic", "Noto Emoji", "Symbola", "Arial Unicode MS"),
)
FAST_PNG = {"compress_level": 3}  # takes half the time of the usual 6, and a tenth more room

Styles = dict[str, Any]  # what matplotlib takes by keyword; Any: each keyword has a type of its own


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure((width, height), DPI)
    FigureCanvasAgg(figure)  # without it, every measuring of a text would draw the whole figure
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure, whole or not at all; the file's ending chooses the format. Raises RunError where that fails."""
    ending, picture = path.suffix.lower().removeprefix("."), io.BytesIO()
    only_png: Styles = {"pil_kwargs": FAST_PNG} if ending == "png" else {}  # SVG takes none at all
    with missing_letters_allowed():
        figure.savefig(picture, format=ending, facecolor="white", **only_png)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, picture.getvalue())


def image_of(figure: Figure) -> Image.Image:
    """Return a figure as a picture in memory, RGB, which notebooks show by themselves."""
    figure.set_facecolor("white")  # whatever a notebook's theme says
    return Image.fromarray(pixels_of(figure)).convert("RGB")


def pixels_of(figure: Figure) -> np.ndarray:
    """Draw a figure; return its pixels, uint8 (H, W, 4): red, green, blue and how opaque they are."""
    assert isinstance(figure.canvas, FigureCanvasAgg)  # which new_figure gave it
    with missing_letters_allowed():
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@contextlib.contextmanager
def missing_letters_allowed() -> Iterator[None]:
    """Keep matplotlib from warning of letters that no font has: it draws a box, and the text output has them right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def add_axes(
    figure: Figure, left: float, bottom: float, width: float, height: float, title: str = "", size: float = style.TITLE
) -> Axes:
    """Add axes, placed and sized in inches: with a light frame, small numbers and a title above the left end."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    axes.set_title(title, loc="left", **text_style(size))
    axes.tick_params(colors=style.FAINT, labelsize=style.CAPTION, length=0)
    for spine in axes.spines.values():
        spine.set_color(style.PALE)
    return axes


def write_line(
    figure: Figure, line: str, left: float, top: float, width: float, size: float, color: str = style.INK
) -> None:
    """Write a line of at most `width` inches into a figure, with its top left corner at `left` and `top`."""
    total_width, total_height = figure.get_size_inches()
    text = figure.text(left / total_width, top / total_height, line, va="top", **text_style(size, color))
    shorten(text, width * DPI)


def text_style(size: float, color: str = style.INK) -> Styles:
    """Return how text is set, in matplotlib's words: in fonts that cover most scripts, never as a formula ("$")."""
    return {"size": size, "color": color, "parse_math": False, "family": installed_fonts()}


@functools.cache
def installed_fonts() -> list[str]:
    """Return those of FONTS that this machine has; the first that knows a letter draws it."""
    installed = set(font_manager.get_font_names())
    return [font for font in FONTS if font in installed]


def text_width(text: Text) -> float:
    """Return how wide a text is, in pixels."""
    with missing_letters_allowed():
        return float(text.get_window_extent().width)


def shorten(text: Text, width: float) -> None:
    """Make a text fit into `width` pixels: by a smaller font, down to style.CAPTION, then by leaving out its middle."""
    while text_width(text) > width and (size := float(text.get_fontsize())) > style.CAPTION:
        text.set_fontsize(size - 0.5)
    whole = text.get_text()
    length = len(whole)
    while text_width(text) > width and length > 2:
        length -= 1
        text.set_text(f"{whole[: length - length // 2]}…{whole[len(whole) - length // 2 :]}")


# --------------------------------------------------------------------------------------------------- pictures of photos


MARGIN, GAP, HEADER = 0.3, 0.45, 0.4
PHOTO_BOX = (6.4, 4.2)  # what a photo is fitted into
NARROWEST_PHOTO = 1.6  # so that its file name has room
BARS_WIDTH, NUMBER_WIDTH = 5.6, 0.95
MOST_ROWS = 50
ROW_HEIGHTS = (0.48, 0.84)  # rows share the photo's height within these limits
COLUMNS, CELL = 4, 2.425  # of a grid of photos: 1,200 pixels wide
CAPTIONS, GRID_TOP = 0.5, 0.6  # below each photo of a sheet; above its grid
STRIP_HEIGHT, STRIP_SIDE, STRIP_GAP = 2.35, 1.6, 0.2  # of the row of training photos
BLANK = Image.new("RGB", (1, 1), style.PALE)  # for a training photo that is gone
TITLE_ROOM = 0.3  # above each photo of a plain grid


@dataclass(frozen=True)
class Cell:
    """A photo on a sheet, and the lines below it."""

    photo: Image.Image
    remark: str  # in red
    line: str
    file: str
    seen: Box | None = None  # what a network sees of the photo, in its pixels; with it the photo is shown whole


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
    why the bars are not to be believed, to stand above them; they are grey then.
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
            write_line(figure, line, MARGIN, top - 0.16 * row, room, style.SMALL, style.FAINT)
    left = MARGIN + photo_width + GAP
    if doubt:
        write_line(figure, doubt, left, bottom + height + 0.22, BARS_WIDTH, style.TITLE, style.RED)
    draw_bars(add_axes(figure, left, bottom, BARS_WIDTH, height), likeliest, are_doubted=bool(doubt))
    if strip:
        draw_strip(figure, strip)
    return figure


def draw_strip(figure: Figure, strip: Sequence[tuple[Image.Image | None, str, str]]) -> None:
    """Draw training photos in a row at the bottom, cut square, each above its class and how alike it is."""
    width = figure.get_figwidth() - 2 * MARGIN
    write_line(figure, "training photos most like it", MARGIN, STRIP_HEIGHT - 0.05, width, style.TITLE, style.FAINT)
    side = min(STRIP_SIDE, width / len(strip) - STRIP_GAP)
    for column, (photo, name, similarity) in enumerate(strip):
        left = MARGIN + column * (side + STRIP_GAP)
        panel = add_axes(figure, left, STRIP_HEIGHT - 0.4 - side, side, side)
        panel.set_axis_off()
        pixels = round(side * DPI)
        square = ImageOps.fit(photo, (pixels, pixels), Image.Resampling.LANCZOS) if photo else BLANK
        panel.imshow(square, interpolation="none")
        write_line(figure, f"{similarity}  {name}", left, STRIP_HEIGHT - 0.47 - side, side, style.CAPTION)


def draw_sheet(cells: Sequence[Cell], title: str) -> Figure:
    """Draw photos in a grid, cut square, each above its lines."""
    rows = -(-len(cells) // COLUMNS)
    height = GRID_TOP + rows * (CELL + CAPTIONS)
    figure = new_figure(COLUMNS * CELL + MARGIN, height)
    side = round((CELL - MARGIN) * DPI)  # pixels of a photo
    page = Image.new("RGB", [round(inches * DPI) for inches in figure.get_size_inches()], "white")
    write_line(figure, title, MARGIN, height - 0.2, 9.4, style.LARGE)
    for index, cell in enumerate(cells):
        left, down = MARGIN + index % COLUMNS * CELL, GRID_TOP + index // COLUMNS * (CELL + CAPTIONS)
        page.paste(square_of(cell, side), (round(left * DPI), round(down * DPI)))
        top = height - down - CELL + MARGIN  # of the captions
        write_line(figure, cell.remark, left, top - 0.06, CELL - MARGIN, style.TITLE, style.RED)
        write_line(figure, cell.line, left, top - 0.26, CELL - MARGIN, style.TITLE)
        write_line(figure, cell.file, left, top - 0.46, CELL - MARGIN, style.CAPTION, style.FAINT)
    figure.figimage(np.asarray(page), zorder=-1)
    return figure


def square_of(cell: Cell, side: int) -> Image.Image:
    """Return a cell's photo, cut to a square; or whole, in a red frame what a network sees, the rest pale."""
    if not cell.seen:
        return ImageOps.fit(cell.photo, (side, side), Image.Resampling.LANCZOS)
    photo = ImageOps.contain(cell.photo, (side, side), Image.Resampling.LANCZOS)
    scale = max(photo.size) / max(cell.photo.size)
    left, top, right, bottom = (round(pixels * scale) for pixels in cell.seen)
    box = max(left, 0), max(top, 0), min(right, photo.width), min(bottom, photo.height)
    pale = Image.blend(photo, Image.new("RGB", photo.size, "white"), 0.6)
    pale.paste(photo.crop(box), box)
    ImageDraw.Draw(pale).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=style.RED, width=2)
    square = Image.new("RGB", (side, side), style.PALE)
    square.paste(pale, ((side - photo.width) // 2, (side - photo.height) // 2))
    return square


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
    text = axes.annotate(
        title, (0, 1), (0, 7), "axes fraction", "offset points", **text_style(style.TITLE, style.FAINT)
    )
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
        frame.set_path_effects([withStroke(linewidth=2.4, foreground=style.INK)])  # to be seen on a white photo, too
    axes.set(xlim=limits[0], ylim=limits[1])


def draw_bars(axes: Axes, likeliest: Sequence[tuple[str, float]], are_doubted: bool) -> None:
    """Draw one row per class, likeliest first: its bar from 0 to 100 %, its name on it, its probability beside it.

    Bars that are doubted are grey.
    """
    axes.set_axis_off()
    inches = axes.get_window_extent().height / DPI
    row_height = min(max(inches / len(likeliest), ROW_HEIGHTS[0]), ROW_HEIGHTS[1])
    axes.set_xlim(0, BARS_WIDTH)
    axes.set_ylim(inches, 0)
    full = BARS_WIDTH - NUMBER_WIDTH
    greens, greys = (style.LIGHT_GREEN, style.PALE_GREEN), (style.LIGHT_GREY, style.PALE_GREY)
    first, others = greys if are_doubted else greens
    for row, (name, probability) in enumerate(likeliest):
        middle, thickness = (row + 0.5) * row_height, 0.76 * row_height
        axes.barh(middle, full, thickness, color=style.PALE)
        axes.barh(middle, full * probability, thickness, color=others if row else first)
        percentage = percent(probability, digits=1)
        axes.text(BARS_WIDTH, middle, percentage, ha="right", va="center", **text_style(style.LARGE))
        text = axes.text(0.12, middle, name, va="center", **text_style(style.LARGE))
        shorten(text, (full - 0.24) * DPI)
