"""Pictures for people; the only importer of matplotlib (and not of pyplot: nothing here opens a window)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from terminal import InputError, note, percent

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
DPI = 120
MARGIN, GAP, HEADER = 0.3, 0.45, 0.4  # inches, as are all lengths here
PHOTO_BOX = (6.4, 4.2)  # what a photo is fitted into
NARROWEST_PHOTO = 1.6  # so that its file name has room
BARS_WIDTH, NUMBER_WIDTH = 5.6, 0.95
MOST_ROWS = 50
ROW_HEIGHTS = (0.48, 0.84)  # rows share the photo's height within these limits
INK, FAINT, LIKELIEST, OTHERS, TRACK = "#1d2b22", "#6b756f", "#86cb98", "#c3e0ca", "#f2f5f3"
FONT_SIZE, SMALLEST_FONT_SIZE, TITLE_SIZE = 13.0, 9.0, 11.0  # points
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")


def draw_prediction(path: Path, photo: Image.Image, title: str, likeliest: Sequence[tuple[str, float]]) -> None:
    """Draw a photo beside a bar for each of its likeliest classes (name, probability), and save it to `path`.

    The file's ending chooses the format. Raises InputError where the file cannot be written.
    """
    if len(likeliest) > MOST_ROWS:
        note(f"--plot shows the first {MOST_ROWS} of {len(likeliest)} classes")
        likeliest = likeliest[:MOST_ROWS]
    scale = min(PHOTO_BOX[0] / photo.width, PHOTO_BOX[1] / photo.height)  # inches a pixel
    photo_width, photo_height = max(photo.width * scale, NARROWEST_PHOTO), photo.height * scale
    height = max(photo_height, ROW_HEIGHTS[0] * len(likeliest))
    figure = Figure((MARGIN + photo_width + GAP + BARS_WIDTH + MARGIN, MARGIN + height + HEADER), DPI)
    FigureCanvasAgg(figure)  # without it, every measuring of a text would draw the whole figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box; the text output has it right
        draw_photo(add_panel(figure, MARGIN, photo_width, height), photo, title)
        draw_bars(add_panel(figure, MARGIN + photo_width + GAP, BARS_WIDTH, height), likeliest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, facecolor="white")
        except OSError as error:
            raise InputError(f"--plot: cannot write {path}: {error.strerror or error}") from None


def check_picture_path(path: Path) -> None:
    """Raise InputError for a file whose ending names none of the formats for pictures."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"--plot {path}: the name should end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")


def add_panel(figure: Figure, left: float, width: float, height: float) -> Axes:
    """Add bare axes of a size in inches, standing on the figure's bottom margin."""
    total_width, total_height = figure.get_size_inches()
    place = (left / total_width, MARGIN / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(place)
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
