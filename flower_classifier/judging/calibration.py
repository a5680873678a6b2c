"""Which temperature makes a classifier's probabilities believable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from flower_classifier.judging.evaluation import Evaluation, chosen_by_others
from flower_classifier.networks.sizes import LEAST_TEMPERATURE, MOST_TEMPERATURE

STANDARD_ERRORS = 2  # by which confidence and accuracy must differ: less is chance in 95 of 100 good classifiers
LEAST = 5  # answers that are right, and answers that are wrong: fewer can be one draw's bad luck
PRECISION = 1e-4  # of a temperature, relative


def calibrate(valid: Evaluation) -> float:
    """Return the temperature for the probabilities: 1, unless another one helps photos that it was not fitted to.

    Temperature scaling: Guo et al. 2017, section 4.2. A temperature that is fitted to noise makes good probabilities
    worse. So confidence and accuracy must differ by more than chance, and in cross-validation both calibration error
    and loss must be lower with temperatures than without. docs/calibration.md compares this rule with others.
    """
    if not is_off(valid):
        return 1.0
    held_out = judged_by_others(valid, best_temperature)
    helps = held_out.calibration_error < valid.calibration_error and held_out.loss < valid.loss
    return best_temperature(valid) if helps else 1.0


def cross_validated(valid: Evaluation, temperature: float) -> Evaluation:
    """Return the validation photos, which chose this temperature, each judged at one that was chosen without it.

    The other folds not only fit a temperature, they also decide whether it is kept. If they only fitted it, the
    calibration error would be lower than without a temperature every time: that is how the temperature was chosen.
    """
    if temperature == 1:
        return valid.at(1.0)
    return replace(judged_by_others(valid, calibrate), temperature=temperature)


def is_off(valid: Evaluation) -> bool:
    """Whether mean confidence and accuracy differ by more than STANDARD_ERRORS.

    Were the probabilities right, each photo's answer would be right with its confidence p, a variance of p (1 - p).
    Photos of which nearly none is predicted wrongly (or rightly) say nothing: the lower (or higher) the temperature,
    the better.
    """
    confidence, wrong = valid.confidence, len(valid.mistakes)
    gap = (confidence - valid.right.double()).sum()
    chance = (confidence * (1 - confidence)).sum().sqrt()
    return LEAST <= wrong <= len(valid) - LEAST and bool(gap.abs() > STANDARD_ERRORS * chance)


def judged_by_others(valid: Evaluation, choose: Callable[[Evaluation], float]) -> Evaluation:
    """Return the photos, each at the temperature that `choose` finds for the photos of the other folds."""
    return replace(valid, others_temperatures=chosen_by_others(valid.at(1.0), choose))


def best_temperature(valid: Evaluation) -> float:
    """Return the temperature T at which the mean cross-entropy of logits (N, C) / T is least.

    The cross-entropy is convex in 1 / T. Its slope there is the mean of each photo's expected logit minus the logit of
    its true class, and its curvature the mean variance of the logits. Newton's method finds where the slope is 0; a
    step that leaves the range where it must be is replaced by halving that range, on a logarithmic scale.
    """
    logits = valid.logits
    true = logits.gather(1, valid.labels[:, None]).squeeze(1)  # (N,)
    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE  # of 1 / T
    inverse, step = 1.0, 1.0
    while abs(step) > PRECISION * inverse and high / low > 1 + PRECISION:
        shares = (logits * inverse).softmax(dim=1)  # (N, C)
        expected = (shares * logits).sum(dim=1)  # (N,)
        variance = (shares * (logits - expected[:, None]) ** 2).sum(dim=1).double().mean().item()
        slope = (expected - true).double().mean().item()
        low, high = (low, inverse) if slope > 0 else (inverse, high)  # above 0: too confident
        newton = inverse - slope / variance if variance > 0 else low
        following = newton if low < newton < high else math.sqrt(low * high)
        step, inverse = following - inverse, following
    return 1 / inverse
