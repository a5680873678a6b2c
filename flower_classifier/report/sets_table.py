"""sets.csv: how well sets of classes keep their promise, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from flower_classifier.judging.evaluation import FOLDS, Evaluation, chosen_by_others
from flower_classifier.judging.prediction_sets import least_probability
from flower_classifier.judging.set_scores import LEVELS, are_made_by, coverage, least_for, spread

ALL = "all classes"
MUCH_LARGER = 2  # times the smallest class: then it is worth a look whether sets are as good for both


def set_table(
    evaluation: Evaluation, scores: Sequence[float], class_sizes: Sequence[int] | None = None
) -> Iterator[list[object]]:
    """Yield the rows of sets.csv, header first: how often sets hold the true class, and how many classes they have.

    `scores`: what sets are made by, lowest first. Photos that have made them are judged by folds: each fold's sets are
    made by the others. `class_sizes` (C,): the training photos of each class, by which rows are added for the third of
    the photos whose classes have fewest, and for the other thirds; the promise is for all together.
    """
    yield ["level", "photos_of", "photos", "coverage", "expected_spread", "mean_size", "share_of_one_class"]
    every = torch.ones(len(evaluation), dtype=torch.bool)
    groups = {ALL: every, **thirds(evaluation, class_sizes)}
    judge_themselves = are_made_by(scores, evaluation)
    for level in LEVELS:
        if judge_themselves:
            least, number = chosen_by_others(evaluation, least_for(level)), len(evaluation) * (FOLDS - 1) // FOLDS
        else:
            least, number = torch.tensor(least_probability(scores, level), dtype=torch.float64), len(scores)
        holds, sizes = coverage(evaluation, least)
        for name, chosen in groups.items():
            share, mean = holds[chosen].double().mean().item(), sizes[chosen].double().mean().item()
            error = round(spread(number, len(evaluation), level), 4) if name == ALL else ""
            single = (sizes[chosen] == 1).double().mean().item()
            photos = int(chosen.sum())
            yield [f"{level:g}", name, photos, round(share, 4), error, round(mean, 4), round(single, 4)]


def thirds(evaluation: Evaluation, class_sizes: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """Return which photos (N,) belong to classes with few, more and most training photos, where these differ much."""
    if class_sizes is None or max(class_sizes) < MUCH_LARGER * min(class_sizes):
        return {}
    sizes = torch.tensor(class_sizes)[evaluation.labels]  # (N,)
    low, high = sizes.double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    groups = {"small classes": sizes <= low, "middle classes": (sizes > low) & (sizes <= high)}
    groups["large classes"] = sizes > high
    return {name: chosen for name, chosen in groups.items() if chosen.any()}
