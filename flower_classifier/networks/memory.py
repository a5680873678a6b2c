"""What a checkpoint remembers of the training photos: where the network saw each of them, and what they are called.

    memory = remember(features, labels, photos, root)
    memory.nearest(answer.features, 5)          the training photos that look most alike to the network

Features are scaled to unit length, so that distances are those of the cosine, and projected to the directions in which
the photos differ most (principal components). That takes half a kilobyte for a photo, beside its name. A checkpoint
keeps as many photos as ten megabytes hold, of each class as many as of any other, as far as there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch.nn import functional as F

MOST_AXES = 256
MOST_BYTES = 10_000_000  # of all in it; half of that at most for the axes
FITTED = 2_048  # photos that the axes are found from: more would change them little and take long
LEAST_VARIANCE = 1e-6  # along an axis, as a share of that along the first
NUMBER_BYTES = 2  # of a number in bfloat16


@dataclass(frozen=True)
class Memory:
    """Training photos as points in a space of features."""

    root: str  # the folder of photos as training was given it, in which their names lead to them
    photos: list[str]  # (M,) names
    labels: list[int]  # (M,)
    centre: torch.Tensor  # (D,) float32: the mean of the unit features
    axes: torch.Tensor  # (D, K) bfloat16, nearly orthonormal
    rows: torch.Tensor  # (M, K) bfloat16: each photo along the axes

    def project(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take features (B, D) to where they lie along the axes, (B, K), and how far off them, squared, (B,)."""
        centred = F.normalize(features.float(), dim=1) - self.centre
        along = centred @ self.axes.float()
        return along, (centred.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0)

    def nearest(self, features: torch.Tensor, number: int) -> list[tuple[int, float]]:
        """Return the indices of the photos nearest to features (D,), and how similar they are: a cosine, at most 1.

        It is the cosine of the features themselves, as far as the axes show it.
        """
        along, off = self.project(features[None])
        squared = (self.rows.float() - along).square().sum(dim=1) + off  # (M,), of the distance of unit vectors
        found = squared.topk(min(number, len(squared)), largest=False)
        cosines = (1 - found.values / 2).tolist()
        return list(zip(found.indices.tolist(), cosines, strict=True))

    def to_plain(self) -> dict[str, object]:
        """Return what a checkpoint holds of it."""
        tensors = {"centre": self.centre, "axes": self.axes, "rows": self.rows}
        return {"root": self.root, "photos": self.photos, "labels": self.labels, **tensors}

    def check(self, width: int, classes: int) -> None:
        """Raise ValueError where it makes no sense for features of this width and so many classes."""
        number, axes = len(self.photos), self.axes.shape[-1]
        shapes = [tuple(tensor.shape) for tensor in (self.centre, self.axes, self.rows)]
        if shapes != [(width,), (width, axes), (number, axes)] or not number:
            raise ValueError("a memory of another shape")
        if not all(tensor.isfinite().all() for tensor in (self.centre, self.axes, self.rows)):
            raise ValueError("a memory that is not finite")
        if not all(isinstance(text, str) for text in (self.root, *self.photos)):
            raise ValueError("a memory of photos without names")
        if any(is_elsewhere(photo) for photo in self.photos):
            raise ValueError("a memory of photos outside their folder")
        if len(self.labels) != number or not all(type(label) is int and 0 <= label < classes for label in self.labels):
            raise ValueError("a memory of other classes")


def is_elsewhere(photo: str) -> bool:
    """Say whether a photo's name would lead out of its folder, as a stranger may have written it."""
    path = PurePath(photo)
    return path.is_absolute() or ".." in path.parts


def room_for(width: int, photos: Sequence[str]) -> tuple[int, int]:
    """Return how many axes and how many photos a memory of features of this width has room for."""
    axes = min(MOST_AXES, width, max(len(photos) - 1, 1), MOST_BYTES // 2 // (NUMBER_BYTES * width))
    name = max(len(photo.encode("utf-8", "surrogateescape")) for photo in photos) + 16  # and what a list takes
    left = MOST_BYTES - NUMBER_BYTES * width * axes - 4 * width
    return axes, left // (NUMBER_BYTES * axes + name)


def balanced_sample(labels: Sequence[int], number: int) -> list[int]:
    """Return the indices of so many photos, or all, in order: the first of each class, then the second, and so on."""
    seen: dict[int, int] = {}
    ranks = []
    for index, label in enumerate(labels):
        ranks.append((seen.get(label, 0), label, index))
        seen[label] = seen.get(label, 0) + 1
    return sorted(index for _, _, index in sorted(ranks)[:number])


def remember(features: torch.Tensor, labels: Sequence[int], photos: Sequence[str], root: str) -> Memory:
    """Make a memory of photos with these features (M, D), as many as `room_for` allows."""
    axes, _ = room_for(features.shape[1], photos)
    unit = F.normalize(features.float(), dim=1)
    fitted = unit[balanced_sample(labels, FITTED)]
    centre = fitted.mean(dim=0)
    directions = principal_axes(fitted - centre, axes).bfloat16()
    rows = ((unit - centre) @ directions.float()).bfloat16()
    return Memory(root, list(photos), list(labels), centre, directions, rows)


def principal_axes(centred: torch.Tensor, number: int) -> torch.Tensor:
    """Return the directions (D, K) along which centred rows (N, D) vary most: from the smaller of two Gram matrices."""
    by_rows = len(centred) < centred.shape[1]
    gram = centred @ centred.T if by_rows else centred.T @ centred
    values, vectors = (found.flip(-1)[..., :number] for found in torch.linalg.eigh(gram))
    varied = values > LEAST_VARIANCE * values[0]  # along the others, rounding is all there is
    varied[0] = True
    vectors = vectors[:, varied]
    return F.normalize(centred.T @ vectors, dim=0) if by_rows else vectors
