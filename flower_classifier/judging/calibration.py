"""Which temperature makes a classifier's probabilities believable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.sizes import TEMPERATURE

FOLDS = 5
STANDARD_ERRORS = 2  # by which confidence and accuracy must differ: less is chance in 95 of 100 good classifiers
HALVINGS = 14  # of that range, on a logarithmic scale: to a relative precision of 4e-4


def calibrate(valid: Evaluation) -> float:
    """Return the temperature for the probabilities: 1, unless another one helps photos that it was not fitted to.

    Temperature scaling: Guo et al. 2017, section 4.2. A temperature that is fitted to noise makes good probabilities
    worse. So confidence and accuracy must differ by more than chance, and in cross-validation both calibration error
    and loss must be lower with temperatures than without. docs/calibration.md compares this rule with others.
    """
    if not is_off(valid):
        return 1.0
    held_out = chosen_by_others(valid, best_temperature)
    helps = held_out.calibration_error < valid.calibration_error and held_out.loss < valid.loss
    return best_temperature(valid) if helps else 1.0


def cross_validated(valid: Evaluation) -> Evaluation:
    """Return what the photos that chose the temperature say of it: each judged at one that other photos chose.

    The other folds not only fit a temperature, they also decide whether it is kept. If they only fitted it, the
    calibration error would be lower than without a temperature every time: that is how the temperature was chosen.
    """
    temperature = calibrate(valid)
    if temperature == 1:
        return valid.at(1.0)
    return replace(chosen_by_others(valid, calibrate), temperature=temperature)


def is_off(valid: Evaluation) -> bool:
    """Whether mean confidence and accuracy differ by more than STANDARD_ERRORS.

    Were the probabilities right, each photo's answer would be right with its confidence p, a variance of p (1 - p).
    Photos of which none is predicted wrongly say nothing: the lower the temperature, the better.
    """
    confidence = valid.confidence
    gap = (confidence - valid.right.double()).sum()
    return bool(valid.mistakes) and bool(gap.abs() > STANDARD_ERRORS * (confidence * (1 - confidence)).sum().sqrt())


def chosen_by_others(valid: Evaluation, choose: Callable[[Evaluation], float]) -> Evaluation:
    """Return the photos, each at the temperature that `choose` finds for the photos of the other folds."""
    folds = torch.arange(len(valid)) % FOLDS  # photos come class by class: each fold gets some of every class
    temperatures = torch.empty(len(valid), dtype=torch.float64)
    for fold in range(FOLDS):
        others = folds != fold
        temperatures[~others] = choose(Evaluation(valid.logits[others], valid.labels[others]))
    return replace(valid, others_temperatures=temperatures)


def best_temperature(valid: Evaluation) -> float:
    """Return the temperature T at which the mean cross-entropy of logits (N, C) / T is least.

    The cross-entropy is convex in 1 / T. Its slope there is the mean of each photo's expected logit minus the logit of
    its true class. Halving the range finds where that slope is 0.
    """
    logits = valid.logits.double()
    true = logits.gather(1, valid.labels[:, None]).squeeze(1)  # (N,)
    low, high = (math.log(limit) for limit in (TEMPERATURE.least, TEMPERATURE.most))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1)  # (N,)
        if (expected - true).mean() > 0:  # too confident
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
