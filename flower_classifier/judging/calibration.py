"""Which temperature makes a classifier's probabilities believable."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.sizes import TEMPERATURE

FOLDS = 5
HALVINGS = 20  # of that range, on a logarithmic scale: to a relative precision of 1e-5


def calibrate(valid: Evaluation) -> float:
    """Return the temperature for the probabilities: 1, unless another one lowers the loss of held-out photos.

    Temperature scaling: Guo et al. 2017, section 4.2. A well regularised head needs none, and a temperature
    fitted to noise makes it worse. So a temperature is only taken if its mean gain in cross-validation is more than
    one standard error of that gain (the rule of Breiman et al. 1984, section 3.4.3).
    """
    if len(valid) < 2 * FOLDS or not valid.mistakes:  # without mistakes, lower is always better
        return 1.0
    gains = torch.empty(len(valid), dtype=torch.float64)
    folds = torch.arange(len(valid)) % FOLDS  # photos come class by class: each fold gets some of every class
    for fold in range(FOLDS):
        fitted = best_temperature(valid.logits[folds != fold], valid.labels[folds != fold])
        held_out = valid.logits[folds == fold].double(), valid.labels[folds == fold]
        gains[folds == fold] = losses(*held_out) - losses(held_out[0] / fitted, held_out[1])
    helps = gains.mean() > gains.std() / math.sqrt(len(valid))
    return best_temperature(valid.logits, valid.labels) if helps else 1.0


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every photo (N,), in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def best_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T at which the mean cross-entropy of logits (N, C) / T is least.

    The cross-entropy is convex in 1 / T. Its slope there is the mean of each photo's expected logit minus the logit of
    its true class. Halving the range finds where that slope is 0.
    """
    logits = logits.double()
    true = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)
    low, high = (math.log(limit) for limit in (TEMPERATURE.least, TEMPERATURE.most))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1)  # (N,)
        if (expected - true).mean() > 0:  # too confident
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def cross_validated(valid: Evaluation) -> Evaluation:
    """INTERIM."""
    return valid.at(calibrate(valid))
