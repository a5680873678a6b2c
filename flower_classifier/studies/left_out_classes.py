"""How well strangers are told: some classes are left out of training, and are strangers then.

    rows = leave_classes_out(train, valid, test, config, recipe)         those of strangers.csv

A fifth of the classes is left out, five times; all features are there already, so it takes seconds.
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
from flower_classifier.judging.strangers import Clusters, auroc, scores_of, stranger_scores
from flower_classifier.networks.feature_bank import FeatureBank, balanced_sample, remember_nameless
from flower_classifier.training.heads import FoldHeads

ROUNDS = 5
FEWEST_CLASSES = 3  # of which one can be left out
MOST_PHOTOS = 10_000  # that heads learn from: more would change little and take long


@dataclass(frozen=True)
class Round:
    """How strange photos of classes that a head knows are, and photos of those that it does not."""

    left_out: int  # classes
    known: torch.Tensor  # (N,): p_known
    strangers: torch.Tensor  # (M,)
    known_doubts: torch.Tensor  # (N,): how far the probability of the likeliest class is below 0
    stranger_doubts: torch.Tensor  # (M,)
    judged_others: bool  # whether the known photos are others than those that the scores were compared with

    @property
    def cells(self) -> list[float]:
        """What strangers.csv says of it."""
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
    """Say whether there are classes enough, and photos of each to judge by."""
    classes = set(train.labels.tolist())
    return len(classes) >= FEWEST_CLASSES and all(classes <= set(part.labels.tolist()) for part in judged if part)


def leave_classes_out(train: Inputs, valid: Inputs, test: Inputs | None, schedule: Schedule) -> list[list[object]]:
    """Return the rows of strangers.csv, header first and means last. Heads learn by the `schedule` of a run."""
    labels = train.labels
    number = int(labels.max()) + 1
    rounds = min(ROUNDS, number)
    known = torch.stack([torch.arange(number) % rounds != one for one in range(rounds)])  # (R, C)
    sampled = torch.zeros(len(labels), dtype=torch.bool)
    sampled[balanced_sample(labels.tolist(), MOST_PHOTOS)] = True
    heads = FoldHeads(train, schedule, sampled & known[:, labels], known)
    with progress(heads.work, f"{rounds} heads, classes left out", "photo", scaled=True) as bar:
        heads.learn(bar)
    parts = [(part, features_of(part)) for part in (valid, test) if part]
    cells = []
    for one in range(rounds):
        memory = memory_of(train, heads.photos[one])
        seen = [Seen(*part, heads.logits_by(torch.full((len(part[1]),), one), part[0]), known[one]) for part in parts]
        cells.append(judge(memory, seen, int((~known[one]).sum())).cells)
    means = torch.tensor(cells, dtype=torch.float64).mean(dim=0).tolist()
    header: list[object] = ["round", "classes_left_out", "known_photos", "strangers", "auroc", "auroc_of_probability"]
    header += [f"strangers_found_at_{DEFAULT_RATE:g}", f"false_alarms_at_{DEFAULT_RATE:g}"]
    return [header, *([name, *map(shown, row)] for name, row in [*enumerate(cells, 1), ("mean", means)])]


def memory_of(train: Inputs, photos: torch.Tensor) -> FeatureBank:
    """Return a memory of some training photos, bool (N,), as a run would make it."""
    places = photos.nonzero()[:, 0].tolist()
    return remember_nameless(looking(nn.Identity(), train, places), train.labels[places].tolist())


def features_of(inputs: Inputs) -> torch.Tensor:
    """Return the features of all photos of a split, (N, D)."""
    places = range(len(inputs.used))
    return looking(nn.Identity(), inputs, places)(places)


class Seen:
    """What a head that knows some classes, bool (C,), makes of a split: features (N, D) and logits (N, C)."""

    def __init__(self, inputs: Inputs, features: torch.Tensor, logits: torch.Tensor, known: torch.Tensor) -> None:
        self.is_known, self.labels = known[inputs.labels], inputs.labels
        self.features, self.logits = features, logits

    def scores(self, clusters: Clusters, temperature: float) -> torch.Tensor:
        """Return how strange the photos are, (N, 2)."""
        return scores_of(clusters, self.features, (self.logits.double() / temperature).softmax(dim=1))


def judge(memory: FeatureBank, seen: Sequence[Seen], left_out: int) -> Round:
    """Compare photos of classes that a head knows with those of the classes left out, of which it says how many.

    The first split (valid) says what is strange; the last (test, if there is one) has the known photos that judge; all
    have strangers.
    """
    valid, last = seen[0], seen[-1]
    answers = Evaluation(valid.logits[valid.is_known], valid.labels[valid.is_known])
    temperature = calibrate(answers)
    scores = stranger_scores(memory, valid.features[valid.is_known], answers.at(temperature))
    familiarity, clusters = Familiarity(scores), Clusters(memory)
    all_scores = [part.scores(clusters, temperature) for part in seen]
    of_known = all_scores[-1][last.is_known]
    of_strangers = torch.cat([of_part[~part.is_known] for part, of_part in zip(seen, all_scores, strict=True)])
    p_known, p_strangers = (
        torch.tensor([familiarity.p_value(score) for score in scores], dtype=torch.float64)
        for scores in (of_known, of_strangers)
    )
    return Round(left_out, p_known, p_strangers, of_known[:, 0], of_strangers[:, 0], last is not valid)


def shown(number: float) -> object:
    """Round a number for a table; what is not known is nothing."""
    return "" if math.isnan(number) else round(number, 4)
