"""Whitening: a linear map after which the photos of a class differ equally much in all directions.

    whitening = Whitening.of(rows, labels, shrinkage=0.4)
    whitening(features)                            what a head learns from
    whitening.folded(weight, bias)                 the same head's first layer, for features as they are

Directions in which photos of one class differ much say little about the class, and a head that learns by small steps
sees little else. With the covariance within the classes this is the map of linear discriminant analysis (Fisher 1936).
Photos are few and directions many, so the covariance is drawn towards one that is alike in all directions (Ledoit &
Wolf 2004); their formula for how far suits another aim, and draws it too little here (docs/features.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flower_classifier.base.messages import RunError
from flower_classifier.networks.devices import threads_for_work, torch_threads

# Photos beside the first of each class. With fewer, a head does better on the backbone's own output as it is: with 20
# photos of two classes, 93 to 96 % are right instead of 91 to 95 % (docs/features.md)
FEWEST = 32
BLOCK = 1_024  # photos whose features are held at a time


def enough_to_whiten(photos: int, classes: int) -> bool:
    """Return whether so many photos tell how those of a class differ."""
    return photos - classes >= FEWEST


@dataclass(frozen=True)
class Whitening:
    """Takes features (B, D) to whitened ones (B, D)."""

    centre: torch.Tensor  # (D,) float32
    matrix: torch.Tensor  # (D, D) float32, triangular

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Whiten features, float32 (B, D)."""
        with torch_threads(threads_for_work(len(features) * self.matrix.numel())):
            return (features - self.centre) @ self.matrix

    @classmethod
    def of(
        cls,
        features: Callable[[torch.Tensor], torch.Tensor],
        labels: torch.Tensor,
        shrinkage: float,
        is_balanced: bool = False,
    ) -> Whitening:
        """Find it for photos with these labels (N,). `features`: indices (B,) -> features, float32 (B, D).

        `is_balanced`: whether its centre is the mean of the classes' means, and not of all photos. Raises RunError for
        features that are not finite.
        """
        blocks = torch.arange(len(labels)).split(BLOCK)
        present, classes = labels.unique(return_inverse=True)
        sums: torch.Tensor | None = None
        for block in blocks:
            rows = features(block)
            sums = torch.zeros(len(present), rows.shape[1]) if sums is None else sums
            sums.index_add_(0, classes[block], rows)
        assert sums is not None  # there are photos
        centre, means = sums.sum(dim=0) / len(labels), sums / torch.bincount(classes)[:, None]
        if len(labels) == len(present):  # nothing says how photos of a class differ
            means = centre.expand_as(means)
        elif is_balanced:
            centre = means.mean(dim=0)
        scatter = torch.zeros(len(centre), len(centre))
        with torch_threads(threads_for_work(len(labels) * scatter.numel())):
            for block in blocks:
                deviations = features(block) - means[classes[block]]
                scatter.addmm_(deviations.T, deviations)
            if not scatter.isfinite().all():
                raise RunError("the network gives features that are not finite: are its weights broken?")
            return cls(centre, inverse_root(scatter / len(labels), shrinkage))

    def folded(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight (H, D) and bias (H,) of a layer on features, from those of the layer on whitened ones."""
        wide = weight.double() @ self.matrix.double().T
        return wide.to(weight.dtype), (bias.double() - wide @ self.centre.double()).to(bias.dtype)

    def unfolded(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of a layer on whitened features, from those of the layer on features as they are."""
        wide = torch.linalg.solve_triangular(self.matrix.double().T, weight.double(), upper=False, left=False)
        return wide.to(weight.dtype), (bias.double() + weight.double() @ self.centre.double()).to(bias.dtype)


def inverse_root(covariance: torch.Tensor, shrinkage: float) -> torch.Tensor:
    """Return an upper triangular W (D, D) with which |x W| is the Mahalanobis distance of x by a shrunken covariance.

    `shrinkage`: the share that is taken from a covariance alike in all directions, of the same mean variance.
    """
    alike = covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(covariance), dtype=covariance.dtype)
    return torch.linalg.inv(torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * alike)).T
