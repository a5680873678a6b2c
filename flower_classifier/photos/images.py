"""One photo, from any source to upright RGB; all code opens photos here.

`load_image` takes a file, its bytes, or a picture that a program has in memory. views.py cuts out what a
model sees.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import math
import re
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from flower_classifier.base.messages import InputError, is_out_of_memory, printable, reason_of
from flower_classifier.photos import mending
from flower_classifier.photos.grey import GreyRange, by_its_values, grey_to_8_bits, samples_of, values_of
from flower_classifier.photos.mending import JPEG_BEGINNING
from flower_classifier.photos.tar_files import file_of

# Recognised by content. AVIF and HEIF if this Pillow has them; MPO is the JPEG of many phones.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
# Of phones; taken for photos even where nothing is installed that opens them, so that they are not passed over
PHONE_ENDINGS = (".heic", ".heif", ".hif", ".avif")
# Twice Pillow's default MAX_IMAGE_PIXELS, where Pillow itself refuses: 0.5 GB as RGB, more than nearly all cameras take
MAX_PIXELS = 178_956_970
VALUES_OF_A_PHOTO = 4_096  # about, of a sample of its grey
LYING = (5, 6, 7, 8)  # EXIF's orientations that turn a picture by a quarter: its stored rows are its columns

# A file's path, its contents, an open file; or a picture in memory: Pillow's, or uint8 (H, W, 3) RGB or (H, W) grey
PhotoSource = Path | str | bytes | BinaryIO | Image.Image | np.ndarray


class ImageError(InputError):
    """The photo cannot be opened.

    `fault`: what is wrong with its contents; "" if the system may be to blame, so that it may open another time.
    """

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault

    def bare(self) -> ImageError:
        """Return the same error without its traceback, which would hold the picture."""
        return ImageError(str(self), self.fault)


@functools.cache
def photo_formats() -> tuple[str, ...]:
    """Return the allowed formats that this Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def photo_endings() -> frozenset[str]:
    """Return the file-name endings (".jpg", …) under which photos are looked for in a folder."""
    readable = (end for end, name in Image.registered_extensions().items() if name in photo_formats())
    return frozenset((*readable, *PHONE_ENDINGS))


BEGINNING = 32  # bytes that tell a format, and what a PNG's pixels are
# How files of these formats begin, for those whose name does not say it: "IMG_1", "1.jpg_large", "1.jpg.bak"
BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|....ftyp(?:avif|hei[cxms]|hev[cxms]|mif1|msf1)",
    re.DOTALL,
)
TIFF_BEGINNING = re.compile(rb"II[*+]\0|MM\0[*+]")
HEIC_BEGINNING = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)


def begins_as_photo(path: Path) -> bool:
    """Say whether a file's first bytes are those of an image."""
    with contextlib.suppress(OSError):
        return BEGINNINGS.match(first_bytes(path)) is not None
    return False


def load_image(
    source: PhotoSource, shorter_side: int | None = None, grey_range: GreyRange | None = None
) -> Image.Image:
    """Open a photo as RGB, upright by its EXIF orientation; of an animation, the first frame.

    The content decides the format, not the name. Transparent pixels show white. Grey of more than 8 bits is scaled to
    8 by `grey_range`, and without one by what its type can hold. With `shorter_side` (pixels) a large picture may come
    smaller, but no smaller than that: a camera's photo is then opened in a third of the time. A picture in memory is
    left as it is; the answer is a picture of its own.
    A damaged photo that is whole enough is opened, and noted for `mending.warn_of_damaged`.
    Raises ImageError, with the reason and the path if there is one, for whatever cannot be opened.
    """
    try:
        if isinstance(source, Image.Image | np.ndarray):
            samples = None if isinstance(source, np.ndarray) else samples_of(source)
            image = grey_to_8_bits(picture_of(source), samples, grey_range)
            return as_rgb(box_reduce(image, shorter_side) if shorter_side else image)
        return open_upright(Path(source) if isinstance(source, str) else source, shorter_side, grey_range)
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = trouble_with(source, error)
        photo = printable(str(source)) if isinstance(source, Path | str) else "the photo"
        # The system may be to blame, for lack of memory or of permissions. Pillow gives its own errors no errno.
        is_of_the_system = is_out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None)
        raise ImageError(f"cannot open {photo}: {reason}", fault="" if is_of_the_system else reason) from error


def trouble_with(source: PhotoSource, error: Exception) -> str:
    """Say why a photo cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, UnidentifiedImageError):
        return fault_of_unidentified(source)
    if isinstance(error, Image.DecompressionBombError):
        numbers = re.findall(r"(\d+) pixels", str(error))  # the photo's, and the most that Pillow opens
        if len(numbers) == 2:
            return too_many_pixels(*map(int, numbers))
    return reason_of(error)


def fault_of_unidentified(source: PhotoSource) -> str:
    """Say what is wrong with a photo of which Pillow can make nothing."""
    with contextlib.suppress(OSError):  # it may be gone by now
        if not isinstance(source, Image.Image | np.ndarray) and not first_bytes(source):
            return "it is empty"
        if isinstance(source, bytes | Path | str) and BEGINNINGS.match(first_bytes(source)):
            is_rare = is_rare_tiff(source)
            return "it is a kind of TIFF that cannot be read here: save it as PNG" if is_rare else "it is damaged"
    others = [name for name in photo_formats() if name != "HEIF"]  # a damaged HEIC is called that
    return f"it is no {', '.join(others)} image"


def is_rare_tiff(source: Path | str | bytes) -> bool:
    """Say whether a file is a TIFF with a sound header, of samples that Pillow does not know."""
    contents = io.BytesIO(source) if isinstance(source, bytes) else file_of(Path(source))
    try:
        if TIFF_BEGINNING.match(first_bytes(source)):
            TiffImagePlugin.TiffImageFile(contents).close()
    except SyntaxError as error:
        return "unknown" in str(error)
    except Exception:  # a damaged header makes it raise nearly anything
        return False
    return False


def too_many_pixels(count: int, most: int) -> str:
    """Say that a photo is too large."""
    return f"{count:,} pixels are too many (at most {most:,})"


def open_upright(
    source: Path | bytes | BinaryIO, shorter_side: int | None, grey_range: GreyRange | None
) -> Image.Image:
    """Decode a photo, turn it upright, and make RGB of it; of a damaged one what there is, if that is enough.

    Raises ValueError for a path that is neither a file's nor a folder's.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(file, Path):
        file = file_of(file)
    if isinstance(file, Path):
        mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError("it is no regular file")  # reading a pipe, say, might wait for ever
    try:
        return decode(file, shorter_side, grey_range)[0]
    except (OSError, SyntaxError) as error:
        if getattr(error, "errno", None) is not None:  # Pillow gives its own errors none
            raise
        contents = mending.mend(all_bytes(file), error)
        if contents is None:
            raise
        try:
            image, damage = decode(io.BytesIO(contents), shorter_side, grey_range, mended=contents)
        except (OSError, SyntaxError):  # of mended contents, which nobody has
            raise error from None
    mending.damages[str(source) if isinstance(source, Path) else "a photo"] = damage
    return image


def decode(
    file: Path | BinaryIO, shorter_side: int | None, grey_range: GreyRange | None, mended: bytes | None = None
) -> tuple[Image.Image, str]:
    """Return a photo from a file, upright and RGB, and what is wrong with it if its contents are `mended`.

    Raises ValueError where too much of a mended one is missing.
    """
    with open_any(file) as image:
        full_size = image.size
        if shorter_side:
            image.draft(None, (shorter_side, shorter_side))  # takes fewer of a JPEG's frequencies; others ignore it
        # A progressive JPEG holds all its frequencies until the last of them has been read
        check_size(full_size if image.info.get("progressive") else image.size)
        image.load()
        damage = mending.damage_of(image, mended) if mended else ""
        samples = samples_of(image)
        with contextlib.suppress(Exception):  # a good photo must not fail for its damaged metadata
            ImageOps.exif_transpose(image, in_place=True)
        scaled = grey_to_8_bits(image, samples, grey_range)
        return as_rgb(box_reduce(scaled, shorter_side) if shorter_side else scaled), damage


def open_any(source: Path | BinaryIO) -> Image.Image:
    """Open an image of an allowed format; its pixels wait until they are asked for.

    Raises ValueError for HEIC where pillow-heif is not installed, which alone opens it.
    """
    try:
        return Image.open(source, formats=photo_formats())
    except Image.DecompressionBombError:  # by its full size
        if not first_bytes(source).startswith(JPEG_BEGINNING):
            raise
        return JpegImagePlugin.JpegImageFile(source)  # which may be decoded to an eighth
    except UnidentifiedImageError:
        if not HEIC_BEGINNING.match(first_bytes(source)):
            raise
        if importlib.util.find_spec("pillow_heif") is None:
            raise ValueError("it is HEIC, as iPhones write: pip install pillow-heif") from None
    from pillow_heif import register_heif_opener

    register_heif_opener()
    photo_formats.cache_clear()
    return Image.open(source, formats=photo_formats())


def first_bytes(source: Path | str | bytes | BinaryIO) -> bytes:
    """Return the first bytes of a file, which tell its format."""
    if isinstance(source, bytes):
        return source[:BEGINNING]
    if isinstance(source, Path | str):
        file = file_of(Path(source))
        if not isinstance(file, Path):
            return first_bytes(file)
        with file.open("rb") as opened:
            return opened.read(BEGINNING)
    source.seek(0)
    beginning = source.read(BEGINNING)
    source.seek(0)
    return beginning


def all_bytes(file: Path | BinaryIO) -> bytes:
    """Return all that a file holds."""
    if isinstance(file, Path):
        return file.read_bytes()
    file.seek(0)
    return file.read()


def picture_of(source: Image.Image | np.ndarray) -> Image.Image:
    """Return a picture in memory, upright, without changing what was given. Raises ValueError for other arrays."""
    if isinstance(source, np.ndarray):
        is_picture = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not is_picture or not source.size:
            kind = f"{source.dtype} of shape {source.shape}"
            raise ValueError(f"it is an array of {kind}, and not uint8 of shape (height, width, 3) or (height, width)")
        return Image.fromarray(source)
    check_size(source.size)
    source.load()  # first, so that a damaged file is not taken for damaged metadata
    try:
        return ImageOps.exif_transpose(source)
    except Exception:  # unreadable EXIF turns nothing
        return source.copy()


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError for more than MAX_PIXELS, of what is to be decoded: Pillow's own limit may have been lifted."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(too_many_pixels(width * height, MAX_PIXELS))


def open_header(file: Path | BinaryIO) -> Image.Image:
    """Open an image, mended if need be, whose pixels nobody will ask for."""
    try:
        return open_any(file)
    except UnidentifiedImageError as error:
        contents = mending.mend(all_bytes(file), error)
        if contents is None:
            raise
        return open_any(io.BytesIO(contents))


def upright_size(path: Path) -> tuple[int, int]:
    """Return a photo's upright width and height, from its header alone. The photo has to be one that can be opened.

    A PNG's orientation is missed if it stands behind the pixels, which is rare.
    """
    with open_header(file_of(path)) as image:
        # A TIFF's `size` is turned already in newer versions of Pillow
        width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
        with contextlib.suppress(Exception):  # unreadable EXIF turns nothing
            if Image.Image.getexif(image).get(ExifTags.Base.Orientation) in LYING:  # PNG's own would decode it all
                return height, width
    return width, height


def grey_sample(path: Path) -> np.ndarray:
    """Return some values of a photo in deep grey, evenly spread, that are numbers; (N,).

    None (N = 0) of a photo of another kind, or that cannot be opened.
    """
    with contextlib.suppress(Exception), open_any(file_of(path)) as image:  # opening the photo will report it
        check_size(image.size)
        if samples := samples_of(image):
            image.load()
            step = max(1, math.ceil(math.sqrt(image.width * image.height / VALUES_OF_A_PHOTO)))
            values = values_of(image, samples)[step // 2 :: step, step // 2 :: step].ravel()
            return values[np.isfinite(values)]
    return np.empty(0)


def box_reduce(image: Image.Image, shorter_side: int) -> Image.Image:
    """Average blocks of pixels of a picture that is far larger than needed, before any other work on it."""
    factor = min(image.size) // shorter_side
    if factor < 2:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    elif image.mode in ("1", "P", "PA"):  # palette indices and bits cannot be averaged
        image = as_rgb(image)
    return image.reduce(factor)


def as_rgb(image: Image.Image) -> Image.Image:
    """Make RGB of any of Pillow's modes, looking as a person would see it on white paper."""
    if image.mode.startswith(("I", "F")):  # 16-bit grey, 32-bit grey, float: Pillow's own conversion clips these
        image = Image.fromarray(by_its_values(np.asarray(image)))
    elif image.has_transparency_data:
        overlay = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), overlay)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy an RGB image
