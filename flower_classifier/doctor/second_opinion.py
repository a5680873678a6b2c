"""Judge each photo by a head that did not learn from it: its likeliest class, and its distance from all classes.

    opinion = second_opinion(splits, classes, memory, groups)
    opinion.logits, opinion.distances          of all photos of train, valid and (perhaps) test, in this order

Training photos are shared out among five folds, and each is judged by a head that learned from the other four. The
other splits' photos are judged by a head that learned from all training photos. Duplicates share a fold; otherwise a
wrong label would confirm itself through its twin. Each class counts the same, however few its photos are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.base.console import progress
from flower_classifier.config.allowed import StrangerMeasure
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.evaluation import FOLDS, feature_reader, folds_of
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.feature_bank import FeatureBank, remember
from flower_classifier.training.heads import FoldHeads

SCHEDULE = Schedule(views=2, epochs=20)  # the heads learn from the photos and their mirror images, or crops, in turn


@dataclass(frozen=True)
class Opinion:
    """What the heads say of the N photos of all splits."""

    labels: torch.Tensor  # (N,): what the folders say
    logits: torch.Tensor  # (N, C), of a head that did not learn from the photo, nor from its twins
    as_trained: torch.Tensor  # (N,): the likeliest class; for valid and test by the head that learned from all of train
    distances: torch.Tensor  # (N,): from the classes (strangers.py), each photo left out of its class
    is_training: torch.Tensor  # bool (N,)

    @property
    def predicted(self) -> torch.Tensor:
        """The likeliest class of every photo, (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def rivals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Each photo's likeliest other class, and the power of ten by which it is likelier than its own, (N,) each.

        Ranking by these powers finds more wrong labels than ranking by the difference of the two probabilities, which
        is much the same for all photos whose own class is improbable (docs/doctor.md).
        """
        label_logits = self.logits.gather(1, self.labels[:, None])[:, 0]
        rivals = self.logits.scatter(1, self.labels[:, None], -torch.inf).max(dim=1)
        return rivals.indices, (rivals.values - label_logits) / torch.tensor(10.0).log()


def second_opinion(
    splits: Sequence[Inputs], classes: int, memory: FeatureBank, groups: Sequence[Sequence[int]]
) -> Opinion:
    """Train a head for each fold of the training photos (the first of `splits`) and one for all of them, and judge.

    `memory`: the features of all photos of all splits. `groups`: the indices of photos that are duplicates.
    """
    train, *judged = splits
    train_count, labels = len(train.used), torch.tensor(memory.labels)
    is_training = torch.arange(len(labels)) < train_count
    judges = fold_of_each_photo(labels, is_training, groups)
    learned_from = torch.stack([judges[:train_count] != head for head in range(FOLDS + 1)])  # the last head: from all
    class_mask = torch.ones(len(learned_from), classes, dtype=torch.bool)
    heads = FoldHeads(train, train.schedule, learned_from, class_mask, is_balanced=True)
    with progress(heads.work, f"{len(learned_from)} heads", "photo", scaled=True) as bar:
        heads.learn(bar)
    sizes = [len(inputs.used) for inputs in splits]
    pairs = zip(judges.split(sizes), splits, strict=True)
    logits = torch.cat([heads.logits_by(split_judges, inputs) for split_judges, inputs in pairs])
    learned = [heads.logits_by(torch.full((len(inputs.used),), FOLDS), inputs).argmax(dim=1) for inputs in judged]
    as_trained = torch.cat([logits[:train_count].argmax(dim=1), *learned])
    return Opinion(labels, logits, as_trained, distances_of(memory, judges, learned_from), is_training)


def fold_of_each_photo(
    labels: torch.Tensor, is_training: torch.Tensor, groups: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the head that judges each photo, (N,): that of its fold, or FOLDS, the head that learned from all."""
    judges = torch.full_like(labels, FOLDS)
    judges[is_training] = folds_of(labels[is_training])
    for group in groups:
        if taught := [index for index in group if is_training[index]]:
            judges[list(group)] = judges[taught[0]].item()
    return judges


def distances_of(memory: FeatureBank, judges: torch.Tensor, learned_from: torch.Tensor) -> torch.Tensor:
    """Return each photo's distance, (N,), from the classes of the training photos that its judge learned from."""
    points, distances = memory.own_rows.double(), torch.zeros(len(judges), dtype=torch.float64)
    for head, taught in enumerate(learned_from):
        indices = (judges == head).nonzero()[:, 0]
        if len(indices):
            rows = taught.nonzero()[:, 0].tolist()
            photos, labels = [memory.photos[row] for row in rows], [memory.labels[row] for row in rows]
            bank = replace(memory, photos=photos, labels=labels, rows=memory.rows[rows])
            clusters = Clusters(bank, StrangerMeasure())
            distances[indices] = clusters.relative(points[indices])
    return distances


def memory_of_all(splits: Sequence[Inputs]) -> FeatureBank:
    """Return the features of the photos of all splits, as a bank."""
    labels = torch.cat([inputs.labels for inputs in splits])
    sizes = [len(inputs.used) for inputs in splits]
    readers = [feature_reader(nn.Identity(), inputs, range(size)) for inputs, size in zip(splits, sizes, strict=True)]

    def features_at(indices: Sequence[int]) -> torch.Tensor:
        features, begin = [], 0
        for reader, size in zip(readers, sizes, strict=True):  # the indices are ascending
            if in_split := [index - begin for index in indices if begin <= index < begin + size]:
                features.append(reader(in_split))
            begin += size
        return torch.cat(features)

    return remember(features_at, labels.tolist())
