"""Does a photo show any class that training knew? Two kinds of evidence say how unlike the classes it is.

    clusters = Clusters(checkpoint.trust.feature_bank, checkpoint.trust.stranger_measure)
    clusters.strangeness(features, probabilities)        (N, 2), for StrangerTest.p_value

A stranger betrays itself in one of two ways. One that is much like the classes, such as another flower, makes the
probabilities undecided. One that is like none of them, such as an ant or a screenshot, may well get a high probability,
but lies far from all training photos. So there is a score of each kind, and conformal.py makes a p-value of both.
docs/strangers.md says which scores these are, and how well they do.
"""

import torch
from torch.nn import functional as F

from flower_classifier.config.allowed import StrangerMeasure
from flower_classifier.judging.conformal import doubts
from flower_classifier.judging.evaluation import Evaluation, thinned
from flower_classifier.networks.devices import threads_for_work, torch_threads
from flower_classifier.networks.feature_bank import FeatureBank
from flower_classifier.networks.whitening import inverse_root

# Share of a covariance that is taken from all directions alike. Photos are few, directions many: of 0.02 to 0.8, 0.5
# tells strangers best (docs/strangers.md)
SHRINKAGE = 0.5
BLOCK = 256  # photos whose distances to all classes are held at a time


class Clusters:
    """The classes in a memory: clouds of points around their means, all of one shape."""

    def __init__(self, memory: FeatureBank, measure: StrangerMeasure) -> None:
        self.memory, self.measure = memory, measure
        rows, labels = memory.own_rows.double(), torch.tensor(memory.labels)
        present, inverse = labels.unique(return_inverse=True)
        sums = torch.zeros(len(present), rows.shape[1], dtype=torch.float64).index_add_(0, inverse, rows)
        means = sums / torch.bincount(inverse)[:, None]  # (C, K)
        with torch_threads(threads_for_work(rows.numel() * rows.shape[1])):
            self.centre = rows.mean(dim=0)
            around_all = rows - self.centre
            around_own = (
                rows - means[inverse] if len(rows) > len(present) else around_all
            )  # else their shape is unknown
            self.to_class, self.to_all = (
                inverse_root(deviations.T @ deviations / len(rows), SHRINKAGE)  # (K, K)
                for deviations in (around_own, around_all)
            )
            self.means = means @ self.to_class

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Return how far features (N, D) are from the nearest class, less a share of how far from all, float64 (N,).

        Both are squared, so it may be below 0: the relative Mahalanobis distance (Ren et al. 2021) of features that are
        scaled to unit length. There the share is 1; with two classes both distances are much the same then.
        """
        axes = self.memory.own_axes  # (D, K)
        with torch_threads(threads_for_work(len(features) * axes.numel())):
            points = (F.normalize(features.float(), dim=1) - self.memory.centre) @ axes  # (N, K)
        return self.relative(points.double())

    def relative(self, points: torch.Tensor) -> torch.Tensor:
        """Return the same of points (N, K), float64, in the memory's space."""
        distances = []
        with torch_threads(threads_for_work(len(points) * self.to_all.numel())):
            for block in points.split(BLOCK):  # (B, K)
                to_nearest = torch.cdist(block @ self.to_class, self.means).amin(dim=1) ** 2
                to_all = ((block - self.centre) @ self.to_all).square().sum(dim=1)
                distances.append(to_nearest - self.measure.background * to_all)
        return torch.cat(distances)

    def strangeness(self, features: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Return how strange photos are by either kind of evidence, float64 (N, 2): higher is stranger.

        `features` (N, D) and `probabilities` (N, C), as in a prediction. A third kind, another order or another way to
        measure one needs new versions of the formats of checkpoint.pth and last.pth, which keep such scores.
        """
        undecided = torch.from_numpy(doubts(probabilities.double().numpy()))
        return torch.stack([undecided, self.distances(features)], dim=1)


def stranger_scores(
    memory: FeatureBank, features: torch.Tensor, valid: Evaluation, measure: StrangerMeasure
) -> torch.Tensor:
    """Return the scores that a checkpoint keeps, of validation photos with these features (N, D)."""
    return thinned(Clusters(memory, measure).strangeness(features, valid.probabilities))


def auroc(known_scores: torch.Tensor, strange_scores: torch.Tensor) -> float:
    """Return how often a stranger (M,) has a higher score than a known photo (N,), ties by half: 0.5 is chance."""
    both = torch.cat([known_scores, strange_scores])
    _, inverse, counts = both.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]  # from 1; ties have their mean
    n, m = len(known_scores), len(strange_scores)
    above = ranks[n:].sum().item() - m * (m + 1) / 2
    return above / (n * m)
