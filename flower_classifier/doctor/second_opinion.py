"""What heads make of photos that did not teach them: which class a photo looks like, and how far it is from all.

    opinion = second_opinion(parts, classes, memory, groups)
    opinion.logits, opinion.distances          of all photos of train, valid and (perhaps) test, in this order

Training photos are shared out among five folds, and each is judged by a head that learned from the other four. The
other splits' photos are judged by a head that learned from all training photos. Photos that are one go into one fold,
and its head judges them all: else a wrong label would vouch for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.base.console import progress
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.evaluation import FOLDS, looking
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.feature_bank import FeatureBank, remember_nameless
from flower_classifier.training.heads import FoldHeads

SCHEDULE = Schedule(views=2, epochs=20)  # of the heads: the photos and their mirror images, in turn


@dataclass(frozen=True)
class Opinion:
    """What is made of the photos of all splits, (N) in all."""

    labels: torch.Tensor  # (N,): what the folders say
    logits: torch.Tensor  # (N, C), of a head that did not learn from the photo, nor from its twins
    as_trained: torch.Tensor  # (N,): the likeliest class, where the head has learned from all training photos
    distances: torch.Tensor  # (N,): relative ones, as strangers have, from classes that the photo is left out of
    is_training: torch.Tensor  # bool (N,)

    @property
    def predicted(self) -> torch.Tensor:
        """The likeliest class of every photo, (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def rivals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest class of every photo but its own, and the power of ten by which it is likelier, (N,) each.

        This order finds more wrong labels than the difference of the probabilities does, which is much the same for all
        photos whose own class is improbable (docs/doctor.md).
        """
        own = self.logits.gather(1, self.labels[:, None])[:, 0]
        others = self.logits.scatter(1, self.labels[:, None], -torch.inf).max(dim=1)
        return others.indices, (others.values - own) / torch.tensor(10.0).log()


def second_opinion(
    parts: Sequence[Inputs], classes: int, memory: FeatureBank, groups: Sequence[Sequence[int]]
) -> Opinion:
    """Let heads learn from a part of the training photos (the first of `parts`), and judge the others.

    `memory`: of the photos of all parts. `groups`: those of them that are one, by their indices.
    """
    train, *judged = parts
    number, labels = len(train.used), torch.tensor(memory.labels)
    is_training = torch.arange(len(labels)) < number
    judges = fold_of_each_photo(is_training, groups)
    learned_from = torch.stack([judges[:number] != head for head in range(FOLDS + 1)])  # the last: from all
    known = torch.ones(len(learned_from), classes, dtype=torch.bool)
    heads = FoldHeads(train, SCHEDULE, learned_from, known)
    with progress(heads.work, f"{len(learned_from)} heads", "photo", scaled=True) as bar:
        heads.learn(bar)
    sizes = [len(part.used) for part in parts]
    by_part = zip(judges.split(sizes), parts, strict=True)
    logits = torch.cat([heads.logits_by(own, part) for own, part in by_part])
    learned = [heads.logits_by(torch.full((len(part.used),), FOLDS), part).argmax(dim=1) for part in judged]
    as_trained = torch.cat([logits[:number].argmax(dim=1), *learned])
    return Opinion(labels, logits, as_trained, distances_of(memory, judges, learned_from), is_training)


def fold_of_each_photo(is_training: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the head that judges each photo, (N,): that of its fold, or FOLDS for one that learned from all.

    Photos come class by class: each fold gets some of every class.
    """
    judges = torch.where(is_training, torch.arange(len(is_training)) % FOLDS, FOLDS)
    for group in groups:
        if taught := [index for index in group if is_training[index]]:
            judges[list(group)] = judges[taught[0]].item()
    return judges


def distances_of(memory: FeatureBank, judges: torch.Tensor, learned_from: torch.Tensor) -> torch.Tensor:
    """Return each photo's distance from the classes, (N,): those of the photos that its judge learned from."""
    points, distances = memory.own_rows.double(), torch.zeros(len(judges), dtype=torch.float64)
    for head, taught in enumerate(learned_from):
        wanted = (judges == head).nonzero()[:, 0]
        if len(wanted):
            clusters = Clusters(part_of(memory, taught.nonzero()[:, 0].tolist()))
            distances[wanted] = clusters.relative(points[wanted])
    return distances


def memory_of_all(parts: Sequence[Inputs]) -> FeatureBank:
    """Return where the network sees the photos of all splits."""
    labels = torch.cat([part.labels for part in parts])
    looks, sizes = [], [len(part.used) for part in parts]
    for part, size in zip(parts, sizes, strict=True):
        looks.append(looking(nn.Identity(), part, range(size)))

    def look(places: Sequence[int]) -> torch.Tensor:
        seen, begin = [], 0
        for own, size in zip(looks, sizes, strict=True):  # places come in order
            if inside := [place - begin for place in places if begin <= place < begin + size]:
                seen.append(own(inside))
            begin += size
        return torch.cat(seen)

    return remember_nameless(look, labels.tolist())


def part_of(memory: FeatureBank, places: Sequence[int]) -> FeatureBank:
    """Return a memory of some of its photos."""
    return replace(
        memory,
        photos=[memory.photos[place] for place in places],
        labels=[memory.labels[place] for place in places],
        rows=memory.rows[list(places)],
    )
