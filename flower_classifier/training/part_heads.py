"""Heads that each learn from a part of the photos, to be asked about the others: those that did not teach them."""

from __future__ import annotations

import torch
from torch import nn

from flower_classifier.base.messages import Bar
from flower_classifier.base.randomness import fold_seed
from flower_classifier.features.batches import shuffled, to_learner, whole
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.schedule import Schedule
from flower_classifier.networks.devices import seed_torch
from flower_classifier.training.head_stack import HeadSettings, HeadStack
from flower_classifier.training.recipe import Recipe

# What the search for a head's settings mostly chooses of linear ones
LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 0.01, 1.0, 64
SEED = 0
LEAST_STEPS = 500  # of the optimizer: few photos are learned from in more epochs


class PartHeads:
    """Linear heads on cached features, all of which learn at once.

    Linear ones learn in a fraction of the time that hidden layers take, and are as good at what is asked of them here
    (docs/strangers.md). `photos`: which of the training photos each learns from, bool (H, N). `classes`: which classes
    it knows, bool (H, C); of photos of other classes it may not learn.
    """

    def __init__(self, train: Inputs, schedule: Schedule, photos: torch.Tensor, classes: torch.Tensor) -> None:
        self.train, self.photos, self.classes = train, photos, classes
        steps = -(-int(photos.any(dim=0).sum()) // BATCH_SIZE)
        epochs = max(schedule.epochs, -(-LEAST_STEPS // steps))
        self.recipe = Recipe(epochs, LEARNING_RATE, BATCH_SIZE, schedule.views, SEED, WEIGHT_DECAY)

    @property
    def work(self) -> int:
        """How many photos they will have seen when they have learned, each by each head."""
        return int(self.photos.sum()) * self.recipe.epochs

    def learn(self, bar: Bar) -> None:
        """Learn for all epochs. The bar counts photos, by head."""
        train, recipe, device = self.train, self.recipe, self.train.frozen.device
        width = train.rows()[:1].shape[1]
        seed_torch(recipe.seed, "head")
        head = nn.Sequential(nn.Linear(width, self.classes.shape[1]))
        settings = [HeadSettings((), 0.0, recipe)] * len(self.photos)
        self.stack = HeadStack(head, settings, device, self.classes)
        places, labels = self.photos.any(dim=0).nonzero()[:, 0], train.labels
        for epoch in range(1, recipe.epochs + 1):
            rows = train.rows(recipe.schedule.view_of(epoch))
            order = places[shuffled(len(places), fold_seed(recipe.seed, "shuffle", epoch))]
            for batch in order.split(recipe.batch_size):
                shares = self.photos[:, batch]
                self.stack.step(to_learner(rows[batch], device), labels[batch].to(device), shares.float().to(device))
                bar.update(int(shares.sum()))

    @torch.inference_mode()
    def logits_by(self, heads: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Return the logits (N, C) for all photos of a split, each by one of the heads (N,), by their places."""
        views, mean = inputs.frozen.config.answer_views, torch.zeros(len(heads), self.classes.shape[1])
        for view in views:
            begin = 0
            for rows, _ in whole(inputs, view):
                own = heads[begin : begin + len(rows)]
                mean[begin : begin + len(rows)] += self.stack.answers(rows).cpu()[own, torch.arange(len(rows))]
                begin += len(rows)
        return mean / len(views)
