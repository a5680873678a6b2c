"""What a model sees of a photo: squares of pixels, cut out and resampled by the one rule that is written down here.

`Preprocessing` says in plain numbers what a backbone expects, and travels with the weights inside the checkpoint.
`open_views` opens a photo and cuts views out of it: the plain one, and others that `Augmentation` describes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from flower_classifier.base.seeding import generator
from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import PhotoSource, load_image

# Version of the pixels that the code below and images.py compute. Raise it when they change: cached features of an
# earlier version are then computed again.
VERSION = 1
MAX_SIDE = 2048  # pixels that a model may ask for
LEAST_STD = 1e-6  # of a channel's values from 0 to 1: dividing by much less would overflow float32
LONGEST_ASPECT = 3  # a photo is cropped to this many times its short side first
# The views of a photo before the random crops, by the kind of augmentation: the plain photo, and what stands beside it.
# Each is turned by so many quarters, against the clock, and then mirrored or not
FIXED_VIEWS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "crops": ((0, False),),
    "mirror": ((0, False), (0, True)),
    "turns": ((0, False), (1, False), (2, False), (3, False)),
}
# A random view shows this share of the photo's area. ImageNet training goes down to 8 %, over hundreds of epochs; a
# head learns from few views, so each should show the flower.
CROP_AREA = (0.4, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)  # of a random view's crop, as in Szegedy et al. 2015, section 6
FITS = ("crop", "pad", "squash")  # how a photo that is no square becomes one
# Pillow's filter, and its reach in pixels
FILTERS = {"bilinear": (Image.Resampling.BILINEAR, 1), "bicubic": (Image.Resampling.BICUBIC, 2)}

# How far other code may be from our view of a photo, such as torchvision's preset and every export: by this many of 256
# levels, on this share of the values. If a weighted mean lies exactly midway between two levels, either is right: most
# do in a checkerboard, up to 3 in 100 in noise, 1 in 200 in photos.
TOLERANCE_LEVELS = 2  # nearly always 1: the rounding of rows and of columns may add up
TOLERANCE_SHARE = 0.03

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Augmentation:
    """How the views of a training photo differ: the kind, one of FIXED_VIEWS, and the seed that draws random crops.

    none: there is the plain photo alone. crops: random crops as well. mirror: its mirror image, and crops of which half
    are mirrored. turns: the photo turned by quarters, and crops that are turned and mirrored at random, for photos
    without up and down.
    """

    kind: str = "mirror"
    seed: int = 0

    @property
    def first_random(self) -> int:
        """The first view that is a random crop."""
        return len(FIXED_VIEWS[self.kind])

    def draw(self, view: int, name: str, height: int, width: int, shape: float) -> tuple[Box | None, int, bool]:
        """Return what a view of a photo shows: its box, None for the plain one; quarter turns; whether it is mirrored.

        `name`: of the photo, which the draw depends on, beside the seed and the view. `height`, `width`: in pixels.
        `shape`: the width of a crop of usual aspect 1, in its heights.
        """
        if view < self.first_random:
            return None, *FIXED_VIEWS[self.kind][view]
        if self.kind == "none":
            raise ValueError("without augmentation there is view 0 alone")
        rng = generator(self.seed, "view", view, name)
        top, left, crop_height, crop_width = random_crop(height, width, rng, shape)
        is_mirrored = self.kind != "crops" and rng.random() < 0.5
        quarters = int(rng.integers(4)) if self.kind == "turns" else 0
        return (left, top, left + crop_width, top + crop_height), quarters, is_mirrored


USUAL = Augmentation()


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of its input, in plain numbers that a checkpoint holds.

    Pixels: `fit` says how a photo becomes a square of `crop_size` (view 0). crop: the shorter side is resized to
    `resize_size`, and the centre is cut out. pad: the longer side is resized, and bars of the mean colour are added.
    squash: both sides are resized. Values: (uint8 / 255 - mean) / std for each of R, G and B, done on the device as
    part of the model.
    """

    resize_size: int  # pixels
    crop_size: int  # pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # bilinear or bicubic; always antialiased
    resampling: str = "pillow"  # whose arithmetic; there is one so far
    fit: str = "crop"  # one of FITS
    grey_range: GreyRange | None = None  # of grey of more than 8 bits; None: each photo is scaled by its own type

    @property
    def enough_pixels(self) -> int:
        """The pixels of a photo's shorter side that suffice for every view; a smaller photo is used as it is.

        The smallest random crop's sides are sqrt(0.4 * 3/4) = 0.55 of the photo's. So twice the plain view's pixels are
        enough for every crop.
        """
        return 2 * self.resize_size

    def plain_box(self, width: int, height: int) -> Box:
        """Return the plain view's box in a photo, in its pixels; the photo is trimmed, where photos are cropped.

        It rounds as torchvision does: the long side of the resized photo down, the beginning of the centre to even.
        """
        if self.fit != "crop":
            return 0.0, 0.0, float(width), float(height)
        short, side = min(width, height), self.crop_size
        resized_width = int(self.resize_size * width / short)
        resized_height = int(self.resize_size * height / short)
        left, top = centre(resized_width, side), centre(resized_height, side)
        return (
            left * width / resized_width,
            top * height / resized_height,
            (left + side) * width / resized_width,
            (top + side) * height / resized_height,
        )

    def area(self, box: Box) -> tuple[int, int, int, int]:
        """Return where in a view the pixels of a box lie: left, top, width, height; beside them are bars, if any."""
        side, (width, height) = self.crop_size, (box[2] - box[0], box[3] - box[1])
        if self.fit != "pad":
            return 0, 0, side, side
        longer = max(width, height)
        across, down = (max(1, math.floor(side * length / longer + 0.5)) for length in (width, height))
        return (side - across) // 2, (side - down) // 2, across, down

    def shown(self, width: int, height: int) -> Box:
        """Return the box of a photo that the plain view shows, in its pixels; with bars it is larger than the photo."""
        inner_width, inner_height = trimmed_size(width, height) if self.fit == "crop" else (width, height)
        left, top, right, bottom = box = self.plain_box(inner_width, inner_height)
        bar_left, bar_top, across, down = self.area(box)
        trimmed_left, trimmed_top = centre(width, inner_width), centre(height, inner_height)
        column, row = (right - left) / across, (bottom - top) / down  # pixels of the photo to one of the view
        left, top = trimmed_left + left - bar_left * column, trimmed_top + top - bar_top * row
        return left, top, left + self.crop_size * column, top + self.crop_size * row

    def to_plain(self) -> dict[str, object]:
        """Return what files hold of it: numbers, strings and lists.

        Of `fit` nothing where photos are cropped, of `grey_range` nothing where there is none, as it was for all photos
        once: files and keys of caches stay the same.
        """
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        unsaid = {"fit": "crop", "grey_range": None}
        return {name: value for name, value in plain.items() if name not in unsaid or value != unsaid[name]}

    @classmethod
    def from_plain(cls, contents: Mapping[str, Any]) -> Preprocessing:  # Any: a file may hold anything
        """Make one of what a file holds. Raises ValueError, KeyError or TypeError for what makes no sense."""
        lists = {name: tuple(contents[name]) for name in ("mean", "std", "grey_range") if name in contents}
        return cls(**{**contents, **lists})

    def __post_init__(self) -> None:
        are_whole = type(self.crop_size) is int and type(self.resize_size) is int
        sizes_fit = are_whole and 1 <= self.crop_size <= self.resize_size <= MAX_SIDE
        are_numbers = all(type(value) in (int, float) and abs(value) < 1e6 for value in (*self.mean, *self.std))
        numbers_fit = are_numbers and len(self.mean) == len(self.std) == 3 and min(self.std) >= LEAST_STD
        ways_fit = self.interpolation in tuple(FILTERS) and self.resampling == "pillow" and self.fit in FITS
        limits = (0, 1) if self.grey_range is None else self.grey_range
        limits_are_numbers = len(limits) == 2 and all(type(value) in (int, float) for value in limits)
        range_fits = limits_are_numbers and math.isfinite(limits[1] - limits[0]) and limits[0] < limits[1]
        if not (sizes_fit and numbers_fit and ways_fit and range_fits):
            raise ValueError(f"preprocessing that makes no sense: {self}")


def open_views(
    source: PhotoSource,
    preprocessing: Preprocessing,
    views: Sequence[int] = (0,),
    augmentation: Augmentation = USUAL,
    name: str = "",
) -> np.ndarray:
    """Open a photo and cut views out of it, uint8 (V, S, S, 3): height, width, channel. Raises ImageError.

    View 0 is the plain photo; the augmentation says what the others are. `name`: of the photo, for random crops.
    """
    photo, side = load_image(source, preprocessing.enough_pixels, preprocessing.grey_range), preprocessing.crop_size
    is_cropped = preprocessing.fit == "crop"
    photo = trimmed(photo) if is_cropped else photo
    shape = 1.0 if is_cropped else photo.width / photo.height
    cut = functools.cache(lambda box: cut_to_square(photo, box, preprocessing))  # views 0, 1: once
    cut_out = np.empty((len(views), side, side, 3), np.uint8)
    for i, view in enumerate(views):
        box, quarters, is_mirrored = augmentation.draw(view, name, photo.height, photo.width, shape)
        pixels = cut(box or preprocessing.plain_box(*photo.size))
        pixels = np.rot90(pixels, quarters) if quarters else pixels
        cut_out[i] = mirrored(pixels) if is_mirrored else pixels
    return cut_out


def cut_to_square(photo: Image.Image, box: Box, preprocessing: Preprocessing) -> np.ndarray:
    """Resample a box of a photo to a view, uint8 (S, S, 3), with bars beside it where that is asked for."""
    left, top, width, height = preprocessing.area(box)
    pixels = resampled(photo, box, (width, height), preprocessing.interpolation)
    side = preprocessing.crop_size
    if (width, height) == (side, side):
        return pixels
    view = np.empty((side, side, 3), np.uint8)
    view[:] = [math.floor(255 * value + 0.5) for value in preprocessing.mean]
    view[top : top + height, left : left + width] = pixels
    return view


def mirrored(pixels: np.ndarray) -> np.ndarray:
    """Return the mirror image of uint8 (S, S, 3): three bytes moved as one, which takes a third of the time."""
    return np.ascontiguousarray(np.ascontiguousarray(pixels).view("V3")[:, ::-1]).view(np.uint8)


def random_crop(height: int, width: int, rng: np.random.Generator, shape: float = 1.0) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop with an area in CROP_AREA and an aspect in CROP_ASPECT.

    `shape`: what such an aspect is a multiple of.
    """
    area = height * width * rng.uniform(*CROP_AREA)
    aspect = shape * math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    crop_height = min(max(1, round(math.sqrt(area / aspect))), height)
    crop_width = min(max(1, round(math.sqrt(area * aspect))), width)
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width


# -------------------------------------------------------------------------------------------------------- resampling
#
# The contract, which every export of a model keeps too, within the tolerance above:
#
# 1. Where photos are cropped, what of a photo (upright, RGB) lies further out than LONGEST_ASPECT short sides is
#    trimmed: the middle stays, `trimmed_size` pixels from `centre` on. Nothing of what is trimmed counts from here on.
# 2. A view is a square of S x S pixels, resampled out of a box of the photo: float coordinates in pixels, where pixel
#    (x, y) covers x to x + 1 and y to y + 1. Pixel i of a row lies at left + (i + 0.5) * (right - left) / S. Where
#    photos are padded, S is smaller for the box's shorter side, and bars fill the square: `Preprocessing.area`.
# 3. A value there is the mean of the photo's, weighted by a filter of the distance: bilinear the triangle (reaching 1
#    pixel), bicubic Keys's with a = -0.5 (reaching 2). Where the box has more pixels than the view, the filter is as
#    many times wider (antialiasing). Pixels just outside the box count where the photo has them; beyond the photo's
#    edge there are none, and the weights of the others are scaled to a sum of 1.
# 4. Rows first, then columns; after each, values are rounded (halves up) and kept within 0 and 255.
# 5. The plain view's box is `Preprocessing.plain_box`: what remains of the photo when its shorter side is resized to R
#    and the centre S x S is cut out, as the presets of torchvision's weights do; or all of the photo where photos are
#    padded or squashed. A random view's box is its crop.


def resampled(photo: Image.Image, box: Box, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resample a box of a photo to a size (width, height), uint8 (height, width, 3): points 2 to 4 of the contract.

    `photo.resize(size, filter, box)` is the same but for the order of rows and columns, which Pillow 13 chooses
    by their cost: where bicubic overshoots and is cut at 0 or 255 in between, that moves values by several levels.
    """
    kind, reach = FILTERS[interpolation]
    left, top, right, bottom = box
    lengths = (right - left) / size[0], (bottom - top) / size[1]
    across, down = (1 + math.ceil(reach * max(1, length)) for length in lengths)
    first_column, first_row = max(0, int(left) - across), max(0, int(top) - down)
    end_column, end_row = min(photo.width, math.ceil(right) + across), min(photo.height, math.ceil(bottom) + down)
    region = photo.crop((first_column, first_row, end_column, end_row))  # all that counts; more costs time
    row_box = (left - first_column, 0, right - first_column, region.height)
    rows = region.resize((size[0], region.height), kind, row_box)
    return np.asarray(rows.resize(size, kind, (0, top - first_row, size[0], bottom - first_row)))


def trimmed(image: Image.Image) -> Image.Image:
    """Cut off a panorama's far ends; any other picture comes back as it is.

    A strip of 20,000 x 3 would otherwise be a view's whole row of a few pixels, enlarged.
    """
    width, height = trimmed_size(*image.size)
    if (width, height) == image.size:
        return image
    left, top = centre(image.width, width), centre(image.height, height)
    return image.crop((left, top, left + width, top + height))


def trimmed_size(width: int, height: int) -> tuple[int, int]:
    """Return a photo's width and height after trimming."""
    limit = LONGEST_ASPECT * min(width, height)
    return min(width, limit), min(height, limit)


def centre(length: int, size: int) -> int:
    """Return where the middle `size` pixels of a length begin, rounded as in torchvision's center_crop: to even."""
    return round((length - size) / 2.0)
