"""What heads make of photos that did not teach them: which class a photo looks like, and how far it is from all.

    opinion = second_opinion(parts, classes)
    opinion.logits, opinion.distances          of all photos of train, valid and (perhaps) test, in this order

Training photos are shared out among five folds, and each is judged by a head that learned from the other four. The
other splits' photos are judged by a head that learned from all training photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.base.messages import progress
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.schedule import Schedule
from flower_classifier.judging.as_predicted import looking
from flower_classifier.judging.evaluation import FOLDS
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.memory import Memory, remember, room_for
from flower_classifier.training.part_heads import BATCH_SIZE, PartHeads

SCHEDULE = Schedule(views=2, epochs=20)  # of the heads: the photos and their mirror images, in turn
LEAST_STEPS = 500  # of the optimizer: few photos are learned from in more epochs


@dataclass(frozen=True)
class Opinion:
    """What is made of the photos of all splits, (N) in all."""

    labels: torch.Tensor  # (N,): what the folders say
    logits: torch.Tensor  # (N, C), of a head that did not learn from the photo
    distances: torch.Tensor  # (N,): relative ones, as strangers have, from classes that the photo is left out of
    points: torch.Tensor  # (N, K): features of unit length, less their mean, along the axes that they vary most along
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


def second_opinion(parts: Sequence[Inputs], classes: int) -> Opinion:
    """Let heads learn from a part of the training photos (the first of `parts`), and judge the others."""
    train, *judged = parts
    number = len(train.used)
    folds = torch.arange(number) % FOLDS  # photos come class by class: each fold gets some of every class
    learned_from = torch.stack([*(folds != fold for fold in range(FOLDS)), torch.ones(number, dtype=torch.bool)])
    epochs = max(SCHEDULE.epochs, -(-LEAST_STEPS // -(-number // BATCH_SIZE)))
    heads = PartHeads(
        train, replace(SCHEDULE, epochs=epochs), learned_from, torch.ones(len(learned_from), classes, dtype=torch.bool)
    )
    with progress(heads.work, f"{len(learned_from)} heads", "photo", scaled=True) as bar:
        heads.learn(bar)
    logits = [heads.logits(train)[folds, torch.arange(number)], *(heads.logits(part)[-1] for part in judged)]
    labels = torch.cat([part.labels for part in parts])
    is_training = torch.arange(len(labels)) < number
    memory = memory_of_all(parts, labels)
    distances = torch.empty(len(labels), dtype=torch.float64)
    points = memory.own_rows.double()
    for fold, taught in enumerate(learned_from):
        clusters = Clusters(part_of(memory, taught.nonzero()[:, 0].tolist()))
        wanted = (folds == fold).nonzero()[:, 0] if fold < FOLDS else (~is_training).nonzero()[:, 0]
        if len(wanted):
            distances[wanted] = clusters.relative(points[wanted])
    return Opinion(labels, torch.cat(logits), distances, memory.own_rows, is_training)


def memory_of_all(parts: Sequence[Inputs], labels: torch.Tensor) -> Memory:
    """Return where the network sees the photos of all splits."""
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

    names = [""] * len(labels)
    axes, _ = room_for(look([0]).shape[1], names)
    return remember(look, labels.tolist(), names, axes)


def part_of(memory: Memory, places: Sequence[int]) -> Memory:
    """Return a memory of some of its photos."""
    return replace(
        memory,
        photos=[memory.photos[place] for place in places],
        labels=[memory.labels[place] for place in places],
        rows=memory.rows[list(places)],
    )
