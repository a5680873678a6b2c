"""What charts and pictures share: figures, axes and texts of a size in inches, colours, fonts.

Positions in a figure are inches from its bottom left; text sizes are points. It uses matplotlib without pyplot: nothing
opens a window.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from flower_classifier.base.files import write_whole
from flower_classifier.report.report_files import writing

DPI = 120
INK, FAINT, PALE = "#1d2b22", "#6b756f", "#f2f5f3"  # texts, texts beside them, lines and backgrounds
GREEN, LIGHT_GREEN, PALE_GREEN, GREY, RED = "#2f7d4f", "#86cb98", "#c3e0ca", "#9aa39d", "#c23b4e"
TINY, SMALL, CAPTION, NORMAL, TITLE, LARGE = 8.0, 8.5, 9.0, 10.0, 11.0, 13.0  # points
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")
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
    figure: Figure, left: float, bottom: float, width: float, height: float, title: str = "", size: float = TITLE
) -> Axes:
    """Add axes, placed and sized in inches: with a light frame, small numbers and a title above the left end."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    axes.set_title(title, loc="left", **text_style(size))
    axes.tick_params(colors=FAINT, labelsize=CAPTION, length=0)
    for spine in axes.spines.values():
        spine.set_color(PALE)
    return axes


def write_line(figure: Figure, line: str, left: float, top: float, width: float, size: float, color: str = INK) -> None:
    """Write a line of at most `width` inches into a figure, with its top left corner at `left` and `top`."""
    total_width, total_height = figure.get_size_inches()
    text = figure.text(left / total_width, top / total_height, line, va="top", **text_style(size, color))
    shorten(text, width * DPI)


def text_style(size: float, color: str = INK) -> Styles:
    """Return how text is set, in matplotlib's words: in fonts that cover most scripts, never as a formula ("$")."""
    return {"size": size, "color": color, "parse_math": False, "family": installed_fonts()}


@functools.cache
def installed_fonts() -> list[str]:
    """Return those of FONTS that this machine has; the first that knows a letter draws it."""
    installed = set(font_manager.get_font_names())
    return [font for font in FONTS if font in installed]


def shorten(text: Text, width: float) -> None:
    """Make a text fit into `width` pixels: by a smaller font, down to CAPTION, then by leaving out its middle."""
    while text.get_window_extent().width > width and (size := float(text.get_fontsize())) > CAPTION:
        text.set_fontsize(size - 0.5)
    whole = text.get_text()
    length = len(whole)
    while text.get_window_extent().width > width and length > 2:
        length -= 1
        text.set_text(f"{whole[: length - length // 2]}…{whole[len(whole) - length // 2 :]}")
