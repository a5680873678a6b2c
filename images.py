"""One photo, from its file to the pixels a model takes; train and predict share it.

`load_image` opens a file as upright RGB. `Preprocessing` says in plain numbers what a backbone expects, and travels
with the weights inside the checkpoint. `open_views` opens a photo and cuts the squares of pixels out of it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from errors import InputError
from randomness import generator
from words import reason_of

# Told by content. AVIF and HEIF where this Pillow has them; MPO is what many phones make of a JPEG.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_PIXELS = 180_000_000  # about Pillow's own limit: 0.5 GB as RGB, and more than nearly every camera's
MAX_SIDE = 2048  # pixels that a model may ask for
LONGEST_ASPECT = 3  # what lies further out than this many short sides is trimmed before resizing
LYING = (5, 6, 7, 8)  # EXIF's orientations of a picture whose rows are columns of what is stored
FIRST_RANDOM_VIEW = 2  # the plain photo and its mirror image come before
# A random view shows this share of the photo's area. ImageNet training goes down to 8 %, over hundreds of epochs; the
# few views that a head learns from had better all show the flower.
CROP_AREA = (0.4, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)  # of a random view's crop, as in Szegedy et al. 2015, section 6

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a photo opens, or the error says why not
Image.MAX_IMAGE_PIXELS = None  # open_upright() checks the header itself, and says more


# ------------------------------------------------------------------------------------------------- file to RGB image


class ImageError(InputError):
    """A file that cannot be used as a photo."""


@functools.cache
def photo_formats() -> tuple[str, ...]:
    """Return the allowed formats that this Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file-name endings (".jpg", …) under which photos are looked for in a folder."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in photo_formats())


def load_image(path: Path, shorter_side: int | None = None) -> Image.Image:
    """Open a photo as RGB, upright by its EXIF orientation; of an animation, the first frame.

    The format is told by the content, not by the name. Transparent pixels show white, 16-bit grey is scaled to 8. With
    `shorter_side` (pixels) a large picture may come smaller, but no smaller than that: a camera's photo is then opened
    in a third of the time.
    Raises ImageError, with the path and the reason, for whatever cannot be opened.
    """
    try:
        return open_upright(path, shorter_side)
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ImageError(f"cannot open {path}: {trouble_with(path, error)}") from error


def trouble_with(path: Path, error: Exception) -> str:
    """Say why a photo cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if path.stat().st_size == 0 else f"it is no {', '.join(photo_formats())} image"
    return reason_of(error)


def open_upright(path: Path, shorter_side: int | None) -> Image.Image:
    """Decode a photo, turn it upright, and make RGB of it."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError("it is no regular file")  # reading a pipe, say, might wait for ever
    with Image.open(path, formats=photo_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many (at most {MAX_PIXELS:,})")
        if shorter_side:
            image.draft(None, (shorter_side, shorter_side))  # takes fewer of a JPEG's frequencies; others ignore it
        image.load()
        turn_upright(image)
        return as_rgb(shrunk(image, shorter_side) if shorter_side else image)


def upright_size(path: Path) -> tuple[int, int]:
    """Return a photo's width and height, turned upright, from its header alone: for a photo that can be opened.

    An orientation that a PNG gives behind its pixels, where hardly any has it, is not seen.
    """
    with Image.open(path, formats=photo_formats()) as image:
        # A TIFF's `size` is turned already in newer versions of Pillow
        width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
        with contextlib.suppress(Exception):  # unreadable EXIF turns nothing
            if Image.Image.getexif(image).get(ExifTags.Base.Orientation) in LYING:  # PNG's own would decode it all
                return height, width
    return width, height


def turn_upright(image: Image.Image) -> None:
    """Turn the picture as its EXIF orientation says; unreadable EXIF turns nothing."""
    with contextlib.suppress(Exception):  # a good photo must not fail for its damaged metadata
        ImageOps.exif_transpose(image, in_place=True)


def shrunk(image: Image.Image, shorter_side: int) -> Image.Image:
    """Average blocks of pixels of a picture that has more than enough, before anything else is made of all of them."""
    factor = min(image.size) // shorter_side
    if factor < 2:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    elif image.mode in ("1", "P", "PA"):  # whose values are no amounts
        image = as_rgb(image)
    return image.reduce(factor)


def as_rgb(image: Image.Image) -> Image.Image:
    """Make RGB of any of Pillow's modes, looking as a person would see it on white paper."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey, 32-bit grey, float: Pillow's own conversion clips these
        image = Image.fromarray(eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), overlay)
    return image.convert("RGB")


def eight_bits(grey: np.ndarray) -> np.ndarray:
    """Scale grey values (H, W) to 0…255 by the range their type and size imply: 1.0, 255, 65535, or their own."""
    is_float = np.issubdtype(grey.dtype, np.floating)
    finite = grey[np.isfinite(grey)].astype(np.float64)
    highest, lowest = finite.max(initial=0.0), finite.min(initial=0.0)
    values = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=highest, neginf=lowest)
    ranges = (1.0, 255.0, 65535.0) if is_float else (65535.0,)
    top = next((limit for limit in ranges if highest <= limit), highest)
    return np.round((values - lowest) * (255.0 / (top - lowest))).astype(np.uint8)


# --------------------------------------------------------------------------------------------- RGB image to model input


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of its input, in plain numbers that a checkpoint holds.

    Pixels: the shorter side is resized to `resize_size`, the centre `crop_size` square is cut out (view 0). Values:
    (uint8 / 255 - mean) / std for each of R, G and B, done on the device as part of the model.
    """

    resize_size: int  # pixels
    crop_size: int  # pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # bilinear or bicubic; always antialiased

    @property
    def enough_pixels(self) -> int:
        """How many pixels a photo's shorter side needs at least, where it has them, for any view to be cut out of it.

        The smallest random crop's sides are sqrt(0.4 * 3/4) = 0.55 of the photo's, so of twice as many pixels as the
        plain view needs every crop has enough.
        """
        return 2 * self.resize_size

    def __post_init__(self) -> None:
        sizes_fit = 1 <= self.crop_size <= self.resize_size <= MAX_SIDE
        are_numbers = all(isinstance(number, int | float) and abs(number) < 1e6 for number in (*self.mean, *self.std))
        numbers_fit = are_numbers and len(self.mean) == len(self.std) == 3 and min(self.std) > 0
        if not (sizes_fit and numbers_fit and self.interpolation in ("bilinear", "bicubic")):
            raise ValueError(f"{self} makes no sense")


def open_views(
    path: Path, preprocessing: Preprocessing, views: Sequence[int] = (0,), seed: int = 0, name: str = ""
) -> torch.Tensor:
    """Open a photo and cut views out of it, uint8 (V, 3, crop, crop). Raises ImageError.

    View 0 is the plain photo, view 1 its mirror image. All further ones are random crops, half of them mirrored, drawn
    from the view's number, the seed and the photo's name.
    """
    pixels = to_pixels(load_image(path, preprocessing.enough_pixels))
    plain = functools.cache(lambda: preset_view(pixels, preprocessing))  # for the first two views

    def cut(view: int) -> torch.Tensor:
        if view >= FIRST_RANDOM_VIEW:
            return random_view(pixels, preprocessing, generator(seed, "view", view, name))
        return plain() if view == 0 else F.horizontal_flip(plain())

    return torch.stack([cut(view) for view in views])


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Copy an RGB image into a uint8 tensor (3, H, W), trimming a panorama's far ends.

    A strip of 20,000 x 3 would otherwise be resized to 1,700,000 x 256 before its centre is cut out.
    """
    pixels = F.pil_to_tensor(image)  # (3, H, W)
    limit = LONGEST_ASPECT * min(image.size)
    return F.center_crop(pixels, [min(image.height, limit), min(image.width, limit)])


def preset_view(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Apply the weights' own preset: resize the shorter side, cut the centre. Returns uint8 (3, crop, crop)."""
    mode = InterpolationMode(preprocessing.interpolation)
    resized = F.resize(pixels, [preprocessing.resize_size], interpolation=mode, antialias=True)
    return F.center_crop(resized, [preprocessing.crop_size, preprocessing.crop_size])


def random_view(pixels: torch.Tensor, preprocessing: Preprocessing, rng: np.random.Generator) -> torch.Tensor:
    """Cut a random crop, mirrored half of the time, drawn from `rng` alone. Returns uint8 (3, crop, crop)."""
    top, left, height, width = random_crop(pixels.shape[1], pixels.shape[2], rng)
    size = [preprocessing.crop_size, preprocessing.crop_size]
    mode = InterpolationMode(preprocessing.interpolation)
    view = F.resized_crop(pixels, top, left, height, width, size, interpolation=mode, antialias=True)
    return F.horizontal_flip(view) if rng.random() < 0.5 else view


def random_crop(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop with an area in CROP_AREA and an aspect in CROP_ASPECT."""
    area = height * width * rng.uniform(*CROP_AREA)
    aspect = math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    crop_height = min(max(1, round(math.sqrt(area / aspect))), height)
    crop_width = min(max(1, round(math.sqrt(area * aspect))), width)
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width
