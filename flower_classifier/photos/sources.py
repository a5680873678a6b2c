"""What programs give for a photo, made into what several workers can open at once."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageFile

from flower_classifier.base.messages import InputError, reason_of
from flower_classifier.photos.images import ImageError, PhotoSource

WHAT_TO_GIVE = "give a path, the bytes of a file, a file opened in binary mode, a Pillow image, an array or a tensor"
Item = TypeVar("Item")


class Tensor(Protocol):
    """A tensor of torch's, which need not be installed: uint8 (3, H, W) RGB, (1, H, W) or (H, W) grey."""

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Return its values."""


# What a program may give for one photo
Photo = PhotoSource | os.PathLike[str] | bytearray | memoryview | Tensor


def is_one_photo(photos: object) -> bool:
    """Say whether a program has given one photo, or something in its place, and not many.

    Raises InputError for many in no order: their answers could not be told apart.
    """
    if isinstance(photos, Set | Mapping):
        raise InputError(f"photos in a {type(photos).__name__} have no order: give a list of them")
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray)
    return isinstance(photos, one) or is_tensor(photos) or hasattr(photos, "read") or not isinstance(photos, Iterable)


def chunks_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last of what is left; no more of them are taken ahead."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def settled(photo: object) -> PhotoSource | ImageError:
    """Return a photo that several workers may open at once, or say why it is none. Call it in one thread.

    A file is read here and now. So is that of a lazy Pillow image: decoding the program's own object would keep its
    pixels for as long as the program keeps that.
    """
    if isinstance(photo, str | bytes | np.ndarray):
        return photo
    if isinstance(photo, os.PathLike):
        return Path(os.fsdecode(photo))
    if isinstance(photo, bytearray | memoryview):
        return bytes(photo)
    try:
        if isinstance(photo, Image.Image):
            return picture_of_its_own(photo)
        return array_of(photo) if is_tensor(photo) else contents_of(photo)
    except Exception as error:  # files of programs raise nearly anything
        reason = reason_of(error)
        return ImageError(f"cannot open the photo: {reason}", fault=reason)


def picture_of_its_own(photo: Image.Image) -> Image.Image:
    """Return a Pillow image whose pixels are not read yet as another of the same file; any other one as it is."""
    file = getattr(photo, "fp", None) if isinstance(photo, ImageFile.ImageFile) and photo.tell() == 0 else None
    if file is not None:  # Pillow drops it when it has read the pixels
        position = file.tell()
        with contextlib.suppress(Exception):  # as for a picture that begins in the middle of its file
            file.seek(0)
            other = Image.open(io.BytesIO(file.read()), formats=[photo.format] if photo.format else None)
            file.seek(position)
            if other.size == photo.size:  # else the program has asked for a smaller one, by draft()
                return other
        file.seek(position)
    photo.load()
    return photo


def contents_of(photo: object) -> bytes:
    """Return all that an open file holds. Raises ValueError for what is no file, or holds text."""
    read = getattr(photo, "read", None)
    if read is None:
        raise ValueError(f"it is {'None' if photo is None else f'of type {type(photo).__name__}'}: {WHAT_TO_GIVE}")
    file: BinaryIO = photo  # type: ignore[assignment]  # as far as it is asked for
    if not isinstance(photo, io.TextIOBase):
        if getattr(photo, "seekable", bool)():
            file.seek(0)
        contents = read()
        if isinstance(contents, bytes | bytearray | memoryview):
            return bytes(contents)
    raise ValueError(f"its read() gives no bytes: {WHAT_TO_GIVE}")


def is_tensor(photo: object) -> bool:
    """Say whether this is a tensor of torch's, which is imported then."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(photo, torch.Tensor)


def array_of(tensor: object) -> np.ndarray:
    """Return a tensor's picture, uint8 (H, W, 3) or (H, W). Raises ValueError for one of other numbers or axes.

    The first of three axes are the channels, as everywhere in torch and in what torchvision reads.
    """
    assert is_tensor(tensor)
    shape, kind = tuple(tensor.shape), str(tensor.dtype)  # type: ignore[attr-defined]
    if kind != "torch.uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))):
        expected = "torch.uint8 of shape (3, height, width), (1, height, width) or (height, width)"
        raise ValueError(f"it is a tensor of {kind} of shape {shape}, and not {expected}")
    values: np.ndarray = tensor.numpy(force=True)  # type: ignore[attr-defined]
    if len(shape) == 2:
        return values
    return values[0] if shape[0] == 1 else np.ascontiguousarray(values.transpose(1, 2, 0))
