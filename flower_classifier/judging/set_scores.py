"""What sets of classes are made by, the validation photos' scores, and how such sets keep their promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.prediction_sets import least_probability

LEVELS = (80.0, 90.0, 95.0, 99.0)  # percent, that a report looks at
MOST_SCORES = 10_000  # that a checkpoint keeps: more would change a set by less than one photo in ten thousand
SAME = 1e-6  # difference of two probabilities, of the same photo on the same device


def scores_of(valid: Evaluation) -> list[float]:
    """Return the probability of each validation photo's true class, lowest first."""
    scores = true_probabilities(valid).sort().values
    if len(scores) > MOST_SCORES:
        scores = scores[torch.linspace(0, len(scores) - 1, MOST_SCORES).long()]
    return scores.tolist()


def true_probabilities(evaluation: Evaluation) -> torch.Tensor:
    """Return the probability of each photo's true class, float64 (N,)."""
    return evaluation.probabilities.gather(1, evaluation.labels[:, None])[:, 0]


def least_for(level: float) -> Callable[[Evaluation], float]:
    """Return what finds that probability from validation photos themselves."""
    return lambda valid: least_probability(scores_of(valid), level)


def coverage(evaluation: Evaluation, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return whether each photo's set holds its true class, bool (N,), and how many classes it has, int64 (N,).

    `least`: the probability from which on a class is in the set, (N,) or a scalar.
    """
    inside = evaluation.probabilities >= least.reshape(-1, 1)  # (N, C)
    inside[torch.arange(len(evaluation)), evaluation.predicted] = True
    return inside.gather(1, evaluation.labels[:, None])[:, 0], inside.sum(dim=1)


def are_made_by(scores: Sequence[float], evaluation: Evaluation) -> bool:
    """Say whether these photos are the ones that decided about the sets: their true classes are just as probable.

    On another device their probabilities may be others; then they are taken for photos like any.
    """
    own = scores_of(evaluation)
    return len(own) == len(scores) and all(abs(a - b) < SAME for a, b in zip(own, scores, strict=True))


def spread(number: int, photos: int, level: float) -> float:
    """Return how far the share of sets that hold the true class may be from the level by chance, 0 to 1.

    It is the standard deviation for sets that `number` validation photos decide about and so many other photos judge:
    the first draw gives a beta distribution (Vovk 2012), the second a binomial one.
    """
    share = level / 100
    return math.sqrt(share * (1 - share) * (1 / (number + 2) + 1 / photos))
