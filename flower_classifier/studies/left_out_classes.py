"""How well strangers are detected: some classes are left out of training, so that their photos are strangers.

    rows = leave_classes_out(train, valid, test, schedule)         those of strangers.csv

A fifth of the classes is left out, five times; all features are computed already, so it takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from flower_classifier.base.console import progress
from flower_classifier.config.allowed import DEFAULT_RATE
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.calibration import calibrate
from flower_classifier.judging.conformal import Familiarity
from flower_classifier.judging.evaluation import Evaluation, looking
from flower_classifier.judging.strangers import Clusters, auroc, strangeness, stranger_scores
from flower_classifier.networks.feature_bank import FeatureBank, balanced_sample, remember_nameless
from flower_classifier.training.heads import FoldHeads

ROUNDS = 5
FEWEST_CLASSES = 3  # with fewer, none can be left out
MOST_PHOTOS = 10_000  # that heads learn from: more would change little and take long


@dataclass(frozen=True)
class Round:
    """How strange the photos of the known and of the left-out classes look to one head."""

    left_out: int  # classes
    known: torch.Tensor  # (N,): p_known
    strangers: torch.Tensor  # (M,)
    known_doubts: torch.Tensor  # (N,): the negative probability of the likeliest class
    stranger_doubts: torch.Tensor  # (M,)
    judged_others: bool  # whether the known photos are not the ones that the scores were compared with

    @property
    def cells(self) -> list[float]:
        """Its cells in strangers.csv."""
        rate = DEFAULT_RATE / 100
        alarms = (self.known <= rate).double().mean().item() if self.judged_others else float("nan")
        return [
            self.left_out,
            len(self.known),
            len(self.strangers),
            auroc(-self.known, -self.strangers),
            auroc(self.known_doubts, self.stranger_doubts),
            (self.strangers <= rate).double().mean().item(),
            alarms,
        ]


def can_leave_out(train: Inputs, *judged: Inputs | None) -> bool:
    """Return whether there are enough classes, and each split that judges has photos of all of them."""
    classes = set(train.labels.tolist())
    return len(classes) >= FEWEST_CLASSES and all(classes <= set(inputs.labels.tolist()) for inputs in judged if inputs)


def leave_classes_out(train: Inputs, valid: Inputs, test: Inputs | None, schedule: Schedule) -> list[list[object]]:
    """Return the rows of strangers.csv, header first and means last. `schedule`: of the heads, as in the run."""
    labels = train.labels
    class_count = int(labels.max()) + 1
    rounds = min(ROUNDS, class_count)
    class_mask = torch.stack([torch.arange(class_count) % rounds != index for index in range(rounds)])  # (R, C)
    sampled = torch.zeros(len(labels), dtype=torch.bool)
    sampled[balanced_sample(labels.tolist(), MOST_PHOTOS)] = True
    heads = FoldHeads(train, schedule, sampled & class_mask[:, labels], class_mask)
    with progress(heads.work, f"{rounds} heads, classes left out", "photo", scaled=True) as bar:
        heads.learn(bar)
    judged = [(inputs, features_of(inputs)) for inputs in (valid, test) if inputs]
    cells = []
    for index in range(rounds):
        memory = memory_of(train, heads.photos[index])
        seen = []
        for inputs, features in judged:
            logits = heads.logits_by(torch.full((len(features),), index), inputs)
            seen.append(Seen(inputs, features, logits, class_mask[index]))
        cells.append(judge(memory, seen, int((~class_mask[index]).sum())).cells)
    means = torch.tensor(cells, dtype=torch.float64).mean(dim=0).tolist()
    header: list[object] = ["round", "classes_left_out", "known_photos", "strangers", "auroc", "auroc_of_probability"]
    header += [f"strangers_found_at_{DEFAULT_RATE:g}", f"false_alarms_at_{DEFAULT_RATE:g}"]
    return [header, *([name, *map(cell_of, row)] for name, row in [*enumerate(cells, 1), ("mean", means)])]


def memory_of(train: Inputs, photos: torch.Tensor) -> FeatureBank:
    """Return a bank of the training photos where `photos`, bool (N,), is true, as a run would make it."""
    indices = photos.nonzero()[:, 0].tolist()
    return remember_nameless(looking(nn.Identity(), train, indices), train.labels[indices].tolist())


def features_of(inputs: Inputs) -> torch.Tensor:
    """Return the features of all photos of a split, (N, D)."""
    indices = range(len(inputs.used))
    return looking(nn.Identity(), inputs, indices)(indices)


class Seen:
    """A split's features (N, D), and its logits (N, C) of a head that knows the classes in `class_mask`, bool (C,)."""

    def __init__(self, inputs: Inputs, features: torch.Tensor, logits: torch.Tensor, class_mask: torch.Tensor) -> None:
        self.is_known, self.labels = class_mask[inputs.labels], inputs.labels
        self.features, self.logits = features, logits

    def scores(self, clusters: Clusters, temperature: float) -> torch.Tensor:
        """Return how strange the photos are, (N, 2)."""
        return strangeness(clusters, self.features, (self.logits.double() / temperature).softmax(dim=1))


def judge(memory: FeatureBank, seen: Sequence[Seen], left_out: int) -> Round:
    """Compare known-class photos with left-out-class photos; `left_out` is the number of such classes.

    The known photos of the first split (valid) set the scale; those of the last split (test, if there is one) are
    judged by it, and so are the strangers of all splits.
    """
    valid, last = seen[0], seen[-1]
    answers = Evaluation(valid.logits[valid.is_known], valid.labels[valid.is_known])
    temperature = calibrate(answers)
    scores = stranger_scores(memory, valid.features[valid.is_known], answers.at(temperature))
    familiarity, clusters = Familiarity(scores), Clusters(memory)
    all_scores = [split.scores(clusters, temperature) for split in seen]
    of_known = all_scores[-1][last.is_known]
    pairs = zip(seen, all_scores, strict=True)
    of_strangers = torch.cat([split_scores[~split.is_known] for split, split_scores in pairs])
    p_known, p_strangers = (
        torch.tensor([familiarity.p_value(score) for score in scores], dtype=torch.float64)
        for scores in (of_known, of_strangers)
    )
    return Round(left_out, p_known, p_strangers, of_known[:, 0], of_strangers[:, 0], last is not valid)


def cell_of(value: float) -> object:
    """Round a value for a table; NaN becomes an empty cell."""
    return "" if math.isnan(value) else round(value, 4)
