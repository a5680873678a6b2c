"""How far a classifier's answers keep their promises: a temperature for probabilities, and scores for prediction sets.

Both come from the validation photos. sets.csv says how well the sets keep their promise on other photos, and how large
they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from flower_classifier.config.allowed import LEAST_TEMPERATURE, MOST_TEMPERATURE
from flower_classifier.judging.conformal import least_probability
from flower_classifier.judging.evaluation import FOLDS, Evaluation

STANDARD_ERRORS = 2  # by which confidence and accuracy must differ: less is chance in 95 of 100 good classifiers
ENOUGH = 100  # photos; with fewer, temperatures of single epochs are noise (docs/measurements.md)
MOST_FITTED = 10_000  # photos that such a temperature is fitted to: more take time and change nothing
LEAST = 5  # right answers, and as many wrong ones: fewer of either can be one draw's bad luck
TOLERANCE = 1e-4  # of a temperature, relative


def calibrate(valid: Evaluation) -> float:
    """Return the temperature for the probabilities: 1, unless another one helps photos that it was not fitted to.

    Temperature scaling: Guo et al. 2017, section 4.2. A temperature that is fitted to noise makes good probabilities
    worse. So confidence and accuracy must differ by more than chance, and in cross-validation both calibration error
    and loss must be lower with temperatures than without. docs/calibration.md compares this rule with others.

    Were the probabilities right, each photo's answer would be right with its confidence p, a variance of p (1 - p).
    Photos of which nearly none is predicted wrongly (or rightly) say nothing: the lower (or higher) the temperature,
    the better.
    """
    confidence, wrong = valid.confidence, len(valid.mistakes)
    gap = (confidence - valid.right.double()).sum()
    chance = (confidence * (1 - confidence)).sum().sqrt()
    if not (LEAST <= wrong <= len(valid) - LEAST and gap.abs() > STANDARD_ERRORS * chance):
        return 1.0
    held_out = valid.cross_fitted(best_temperature)
    helps = held_out.calibration_error < valid.calibration_error and held_out.loss < valid.loss
    return best_temperature(valid) if helps else 1.0


def cross_validated(valid: Evaluation, temperature: float) -> Evaluation:
    """Evaluate the validation photos, which chose this temperature, each at one that was chosen without its fold.

    The other folds not only fit a temperature, they also decide whether it is used. If they only fitted it, the
    calibration error would be lower than without a temperature every time: that is how the temperature was chosen.
    """
    if temperature == 1:
        return valid.at(1.0)
    return replace(valid.cross_fitted(calibrate), temperature=temperature)


def comparable_losses(valid: Evaluation) -> torch.Tensor:
    """Return the losses of the validation photos, float64 (N,), by which epochs of a run are compared.

    They are at the temperature that suits the epoch best, as far as enough photos say which that is: what a temperature
    can mend does not count, since the run fits one in the end. A head that is held back is less sure than it could be.
    """
    if len(valid) < ENOUGH:
        return valid.losses
    every = -(-len(valid) // MOST_FITTED)
    return valid.at(best_temperature(valid.of(torch.arange(len(valid)) % every == 0))).losses


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
    while abs(step) > TOLERANCE * inverse and high / low > 1 + TOLERANCE:
        shares = (logits * inverse).softmax(dim=1)  # (N, C)
        expected = (shares * logits).sum(dim=1)  # (N,)
        variance = (shares * (logits - expected[:, None]) ** 2).sum(dim=1).double().mean().item()
        slope = (expected - true).double().mean().item()
        low, high = (low, inverse) if slope > 0 else (inverse, high)  # above 0: too confident
        newton = inverse - slope / variance if variance > 0 else low
        following = newton if low < newton < high else math.sqrt(low * high)
        step, inverse = following - inverse, following
    return 1 / inverse


# -------------------------------------------------------------------------------------------- prediction sets: sets.csv


LEVELS = (80.0, 90.0, 95.0, 99.0)  # percent, that a report looks at
SAME = 1e-6  # difference of two probabilities, of the same photo on the same device
ALL = "all classes"
TWICE = 2  # the smallest class: then it is worth a look whether sets are as good for both


def set_table(
    evaluation: Evaluation, scores: Sequence[float], class_sizes: Sequence[int] | None = None
) -> Iterator[list[object]]:
    """Yield the rows of sets.csv, header first: how often sets hold the true class, and how many classes they have.

    `scores`: those that sets are made from, lowest first. Where they come from these very photos, each fold's sets are
    made from the other folds. `class_sizes` (C,): the training photos of each class; with them come rows for each third
    of the photos, from the smallest classes to the largest. The promise is for all photos together, and so is how far
    the coverage may be from the level by chance: a standard deviation. Some photos make the sets, which gives a beta
    distribution (Vovk 2012), others judge them, which gives a binomial one.
    """
    yield ["level", "photos_of", "photos", "coverage", "expected_spread", "mean_size", "share_of_one_class"]
    every = torch.ones(len(evaluation), dtype=torch.bool)
    groups = {ALL: every}
    if class_sizes is not None and max(class_sizes) >= TWICE * min(class_sizes):
        training = torch.tensor(class_sizes)[evaluation.labels]  # (N,): training photos of each photo's class
        low, high = training.double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
        thirds = {"small classes": training <= low, "middle classes": (training > low) & (training <= high)}
        thirds["large classes"] = training > high
        groups |= {name: third for name, third in thirds.items() if third.any()}
    # On another device the probabilities may differ; then the photos count as other ones
    same = evaluation.true_class_scores
    judge_themselves = len(same) == len(scores) and all(abs(a - b) < SAME for a, b in zip(same, scores, strict=True))
    for level in LEVELS:
        if judge_themselves:
            least = evaluation.chosen_by_others(
                lambda deciding: least_probability(deciding.true_class_scores, level)  # noqa: B023 -- called at once
            )
            calibration_photos = len(evaluation) * (FOLDS - 1) // FOLDS
        else:
            least = torch.tensor(least_probability(scores, level), dtype=torch.float64)
            calibration_photos = len(scores)
        holds, sizes = evaluation.set_coverage(least)
        variance = level / 100 * (1 - level / 100) * (1 / (calibration_photos + 2) + 1 / len(evaluation))
        for name, group in groups.items():
            share, mean = holds[group].double().mean().item(), sizes[group].double().mean().item()
            error = round(math.sqrt(variance), 4) if name == ALL else ""
            single = (sizes[group] == 1).double().mean().item()
            photos = int(group.sum())
            yield [f"{level:g}", name, photos, round(share, 4), error, round(mean, 4), round(single, 4)]
