"""What a checkpoint remembers of the training photos: their features and their names.

    memory = remember(extract, labels, photos)
    memory.nearest(answer.features, 5)          the training photos that look most alike to the network

Features are scaled to unit length, so that distances are those of the cosine, and projected to the directions in which
the photos differ most (principal components). That takes half a kilobyte for a photo, beside its name. A checkpoint
keeps as many photos as ten megabytes hold, equally many of each class where there are enough.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch.nn import functional as F

from flower_classifier.networks.devices import threads_for_work, torch_threads

MOST_AXES = 256
MOST_BYTES = 10_000_000  # of all in it; half of that at most for the axes
FITTED = 2_048  # photos that the axes are found from: more would change them little and take long
BLOCK = 1_024  # photos whose features are held at a time
MOST_EXACT = 1_280  # photos or features, whichever are fewer, of which all axes are found and the first ones taken
SPARE, ITERATIONS = 32, 4  # more axes than are wanted, so that these are good; and how often they are improved
LEAST_VARIANCE = 1e-6  # along an axis, as a share of that along the first
NUMBER_BYTES = 2  # of a number in bfloat16
LARGEST = 2.1  # absolute value in it: unit vectors are at most 2 apart

Extract = Callable[[Sequence[int]], torch.Tensor]  # indices of photos -> their features, float32 (B, D)


@dataclass(frozen=True)
class FeatureBank:
    """Training photos as points in a space of features."""

    photos: list[str]  # (M,) names in the folder that training was given
    labels: list[int]  # (M,)
    centre: torch.Tensor  # (D,) float32: the mean of the unit features
    axes: torch.Tensor  # (D, K) bfloat16, nearly orthonormal
    rows: torch.Tensor  # (M, K) bfloat16: each photo along the axes, from the centre

    def nearest(self, features: torch.Tensor, count: int) -> list[tuple[int, float]]:
        """Return the indices of the `count` photos whose features are most like these (D,), with their cosines.

        Each is the cosine of these features with what is remembered of the photo's, centre + axes @ row.
        """
        unit = F.normalize(features.float(), dim=0)
        products = unit @ self.centre + self.own_rows @ (unit @ self.own_axes)  # (M,)
        top = (products / self.lengths).clamp(-1, 1).topk(min(count, len(products)))
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    @functools.cached_property
    def own_axes(self) -> torch.Tensor:
        """The axes in float32."""
        return self.axes.float()

    @functools.cached_property
    def own_rows(self) -> torch.Tensor:
        """The rows in float32."""
        return self.rows.float()

    @functools.cached_property
    def lengths(self) -> torch.Tensor:
        """The length of what is remembered of each photo's features, (M,)."""
        gram, along = self.own_axes.T @ self.own_axes, self.centre @ self.own_axes
        of_rows = ((self.own_rows @ gram) * self.own_rows).sum(dim=1)
        squared = self.centre @ self.centre + 2 * self.own_rows @ along + of_rows
        return squared.clamp(min=1e-12).sqrt()

    def to_plain(self) -> dict[str, object]:
        """Return what a checkpoint holds of it."""
        tensors = {"centre": self.centre, "axes": self.axes, "rows": self.rows}
        return {"photos": self.photos, "labels": self.labels, **tensors}

    def check(self, width: int, classes: int) -> None:
        """Raise ValueError where it makes no sense for features of this width and so many classes."""
        if type(self.photos) is not list or type(self.labels) is not list:
            raise ValueError("a memory without lists")
        tensors, count = (self.centre, self.axes, self.rows), len(self.photos)
        if [tensor.dtype for tensor in tensors] != [torch.float32, torch.bfloat16, torch.bfloat16]:
            raise ValueError("a memory of other types")
        axes = self.axes.shape[-1]
        if [tuple(tensor.shape) for tensor in tensors] != [(width,), (width, axes), (count, axes)]:
            raise ValueError("a memory of another shape")
        if not 0 < axes <= MOST_AXES or not 0 < count <= MOST_BYTES:
            raise ValueError("a memory of another size")
        if not all(tensor.isfinite().all() and tensor.abs().max() <= LARGEST for tensor in tensors):
            raise ValueError("a memory with impossible numbers")
        paths = [PurePath(photo) if isinstance(photo, str) else None for photo in self.photos]
        if not all(
            path and not path.anchor and ".." not in path.parts for path in paths
        ):  # a stranger may have written it
            raise ValueError("a memory of photos outside their folder")
        if len(self.labels) != count or not all(type(label) is int and 0 <= label < classes for label in self.labels):
            raise ValueError("a memory of other classes")


def capacity(width: int, photos: Sequence[str]) -> tuple[int, int]:
    """Return how many axes and how many photos a memory of features of this width has room for."""
    axes = min(MOST_AXES, width, max(len(photos) - 1, 1), max(MOST_BYTES // 2 // (NUMBER_BYTES * width), 1))
    name_bytes = max(len(photo.encode("utf-8", "surrogatepass")) for photo in photos) + 16  # and what a list takes
    left = MOST_BYTES - NUMBER_BYTES * width * axes - 4 * width
    return axes, max(left // (NUMBER_BYTES * axes + name_bytes), 1)


def balanced_sample(labels: Sequence[int], count: int) -> list[int]:
    """Return the indices of `count` photos, or all, in order: the first of each class, then the second, and so on."""
    seen: dict[int, int] = {}
    ranks = []
    for index, label in enumerate(labels):
        ranks.append((seen.get(label, 0), label, index))
        seen[label] = seen.get(label, 0) + 1
    return sorted(index for _, _, index in sorted(ranks)[:count])


def principal_axes(centred: torch.Tensor, count: int) -> torch.Tensor:
    """Return at most `count` directions in which rows (N, D) around their mean differ most, (D, K), orthonormal.

    Exact ones are found up to a size; beyond that, where they would take longest of all, by subspace iteration from a
    fixed start (Halko et al. 2011, algorithm 4.4): the first ones the same, the last ones nearly as good.
    """
    by_rows = len(centred) < centred.shape[1]
    basis: torch.Tensor | None = None
    if min(centred.shape) > MOST_EXACT:
        basis = torch.randn(centred.shape[1], count + SPARE, generator=torch.Generator().manual_seed(0))
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q  # (D, count + SPARE)
        along = centred @ basis  # (N, count + SPARE)
        gram = along.T @ along
    else:
        gram = centred @ centred.T if by_rows else centred.T @ centred  # the smaller one
    values, vectors = (ascending.flip(-1)[..., :count] for ascending in torch.linalg.eigh(gram))
    varied = values > LEAST_VARIANCE * values[0]  # along the others, rounding is all there is
    varied[0] = True
    vectors = vectors[:, varied]
    if basis is not None:
        return basis @ vectors
    return F.normalize(centred.T @ vectors, dim=0) if by_rows else vectors


def remember(
    extract: Extract, labels: Sequence[int], photos: Sequence[str] | None = None, most_axes: int | None = None
) -> FeatureBank:
    """Make a memory of photos, whose features are computed in blocks, so that never many are held at a time.

    Without `photos` their names are not known, and it is for distances alone. `most_axes`: None for as many as there is
    room for.
    """
    names = [""] * len(labels) if photos is None else list(photos)
    fitted = F.normalize(extract(balanced_sample(labels, FITTED)), dim=1)
    count = capacity(fitted.shape[1], names)[0] if most_axes is None else most_axes
    centre = fitted.mean(dim=0)
    centred = fitted - centre  # (N, D)
    with torch_threads(threads_for_work(centred.numel() * min(centred.shape))):
        axes = principal_axes(centred, count).bfloat16()  # (D, K)
    blocks = torch.arange(len(labels)).split(BLOCK)
    rows = [((F.normalize(extract(block.tolist()), dim=1) - centre) @ axes.float()).bfloat16() for block in blocks]
    return FeatureBank(names, list(labels), centre, axes, torch.cat(rows))
