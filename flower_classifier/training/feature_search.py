"""Search for the features that a head learns from: layers, square roots or not, and how far to shrink the covariance.

    choice = choose_features(train, valid, classifier, layers="several")      the others vary

Each kind is judged on the validation photos by linear discriminant analysis, a head in closed form that need not learn:
in whitened features, the squared distance to a class's mean. Heads that learn rank the kinds in the same order
(docs/features.md). The defaults stay unless another kind's loss is lower by more than a standard error.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from flower_classifier.base.options import Values
from flower_classifier.config.allowed import DEFAULT_SHRINKAGE
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import loss_gap
from flower_classifier.judging.verdict import share_text
from flower_classifier.networks.classifier import Classifier
from flower_classifier.training.heads import TEMPERATURES

SHRINKAGES = (0.1, 0.2, DEFAULT_SHRINKAGE, 0.8)
BLOCK = 1_024  # photos whose rows are held at a time


class FeatureKind(NamedTuple):
    """What of a photo's features a head learns from: values of train.py's options."""

    layers: str = "several"
    no_roots: bool = False
    shrinkage: float = DEFAULT_SHRINKAGE


def kinds(**fixed: object) -> list[FeatureKind]:
    """Return all kinds to try. `fixed`: the value of each option that does not vary."""
    free: Values = {"layers": ("several", "last"), "no_roots": (False, True), "shrinkage": SHRINKAGES}
    axes: Values = {**free, **{name: (value,) for name, value in fixed.items()}}
    return [FeatureKind(*values) for values in itertools.product(*axes.values())]


@dataclass(frozen=True)
class FeatureTrial:
    """A kind of features that was tried, and how a head in closed form does on them."""

    kind: FeatureKind
    losses: torch.Tensor  # (N,), of the validation photos, at the temperature that suits them best
    accuracy: float


@dataclass(frozen=True)
class FeatureChoice:
    """The kind of features that was chosen, of how many, and how long that took."""

    chosen: FeatureTrial
    tried: int
    seconds: float
    weights: torch.Tensor | None = None  # (N,), of the validation photos, where means over classes were compared

    def __str__(self) -> str:
        trial = self.chosen
        accuracy = share_text(trial.accuracy, len(trial.losses))
        loss = (trial.losses if self.weights is None else trial.losses * self.weights).mean().item()
        by_class = "" if self.weights is None else " by class"
        reached = f"validation loss{by_class} {loss:.4f}, accuracy {accuracy}"
        kind = (
            f"--layers {trial.kind.layers}, --shrinkage {trial.kind.shrinkage:g}{', --no_roots' * trial.kind.no_roots}"
        )
        return f"{self.tried} kinds of features tried in {self.seconds:.0f} s; the choice: {kind} (by LDA {reached})"


def choose_features(
    train: Inputs, valid: Inputs, classifier: Classifier, by_class: bool = False, **fixed: object
) -> FeatureChoice:
    """Try all kinds of features; let the classifier look at the chosen one. Its head must then be renewed.

    `by_class`: compare means over classes. `fixed`: the value of each option that does not vary.
    """
    started, tried = time.perf_counter(), []
    default_kind = FeatureKind(**{"layers": classifier.config.layers, **fixed})  # type: ignore[arg-type]
    for kind in kinds(**fixed):
        classifier.look_at(kind.layers, not kind.no_roots)
        whitening = train.find_whitening(kind.shrinkage)
        tried.append(judge(kind, train.whitened_by(whitening), valid.whitened_by(whitening)))
    weights = balancing_weights(valid.labels) if by_class else None
    best = min(tried, key=lambda trial: (trial.losses if weights is None else trial.losses * weights).mean().item())
    default = next(trial for trial in tried if trial.kind == default_kind)
    gap, standard_error = loss_gap(default.losses, best.losses, weights)
    chosen = default if gap <= standard_error else best
    classifier.look_at(chosen.kind.layers, not chosen.kind.no_roots)
    return FeatureChoice(chosen, len(tried), time.perf_counter() - started, weights)


def judge(kind: FeatureKind, train: Inputs, valid: Inputs, learned_views: Sequence[int] = (0,)) -> FeatureTrial:
    """Judge linear discriminant analysis on whitened inputs: the class whose mean is nearest is the likeliest.

    `learned_views`: of the training photos, whose means are taken.
    """
    present, classes = train.labels.unique(return_inverse=True)
    every = torch.arange(len(classes))
    sums = torch.zeros(len(present), train.features()[every[:1]].shape[1])
    for block in every.split(BLOCK):
        for view in learned_views:
            sums.index_add_(0, classes[block], train.rows(view)[block])
    means = sums / (len(learned_views) * torch.bincount(classes)[:, None])  # (C, D)
    every, views = torch.arange(len(valid.labels)), valid.frozen.config.answer_views
    by_view = [torch.cat([valid.rows(view)[block] for block in every.split(BLOCK)]) for view in views]
    logits = torch.stack([rows @ means.T for rows in by_view]).mean(dim=0) - means.square().sum(dim=1) / 2  # (N, C)
    labels = torch.searchsorted(present, valid.labels)
    by_temperature = torch.stack([F.cross_entropy(logits / t, labels, reduction="none") for t in TEMPERATURES])
    best = int(by_temperature.mean(dim=1).argmin())
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return FeatureTrial(kind, by_temperature[best], accuracy)
