"""Many heads of one shape on the same features, trained together: one product of matrices serves them all.

Each head learns exactly what it would learn alone, but for rounding and for its draws of dropout (the idea of a grid of
heads in one pass is DINOv2's: Oquab et al. 2023, appendix B.3).

FoldHeads are heads that each learn from a share of the photos, and then answer for the photos they did not learn from.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.base.console import Bar
from flower_classifier.base.seeding import fold_seed
from flower_classifier.config.allowed import DEFAULT_SHRINKAGE
from flower_classifier.features.batches import shuffled, to_learner, whole
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.networks.devices import seed_torch, threads_for_work, torch_threads
from flower_classifier.networks.whitening import Whitening, enough_to_whiten
from flower_classifier.training.recipe import Recipe, balanced
from flower_classifier.training.state import average_in

TEMPERATURES = tuple(2.0 ** (step / 3) for step in range(-12, 13))  # 1/16 to 16, in steps of 26 %
NEVER = -1e9  # the logit of an impossible class; minus infinity times a probability of 0 would not be a number


@dataclass(frozen=True)
class HeadSettings:
    """How one head is built and learns."""

    hidden_units: tuple[int, ...]  # widths of its hidden layers
    dropout: float
    recipe: Recipe


class HeadStack:
    """Heads that start from the same head and learn from the same batches, each with its own settings.

    The settings may differ only in dropout, learning rate, weight decay and label smoothing; else it raises ValueError.
    `classes`: which classes each head knows, bool (H, C); None: all.
    """

    def __init__(
        self,
        head: nn.Sequential,
        settings: Sequence[HeadSettings],
        device: torch.device,
        classes: torch.Tensor | None = None,
    ) -> None:
        recipes = [replace(member.recipe, learning_rate=0, weight_decay=0, label_smoothing=0) for member in settings]
        if len({(member.hidden_units, recipe) for member, recipe in zip(settings, recipes, strict=True)}) > 1:
            raise ValueError("heads in a stack have the same widths, and see the same batches")
        self.settings, self.steps = list(settings), 0
        count, layers = len(settings), [layer for layer in head if isinstance(layer, nn.Linear)]
        parameters = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        # (H, out, in) and (H, out) of each layer in turn
        self.stacked = [
            tensor.detach().to(device).expand(count, *tensor.shape).clone().requires_grad_() for tensor in parameters
        ]
        self.averages = [tensor.detach().clone() for tensor in self.stacked]
        self.optimizer = torch.optim.AdamW(self.parameter_groups(), fused=True)
        self.dropout = torch.tensor([member.dropout for member in settings], device=device).view(-1, 1, 1)
        weights = settings[0].recipe.class_weights
        self.class_weights = torch.tensor(weights, device=device) if weights else None  # (C,)
        self.smoothing = torch.tensor([member.recipe.label_smoothing for member in settings], device=device)
        self.unknown = None if classes is None else ~classes[:, None].to(device)  # (H, 1, C)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return each head's part of the stacked tensors, with its own settings, for one optimizer."""
        groups: list[dict[str, object]] = []
        self.parts: list[list[nn.Parameter]] = []
        for index, member in enumerate(self.settings):
            parameters = nn.ParameterList(nn.Parameter(tensor.detach()[index]) for tensor in self.stacked)
            self.parts.append(list(parameters))
            groups += member.recipe.parameter_groups(parameters)
        return groups

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one optimizer step of every head on a batch (B, D) with labels (B,), of classes that all heads know."""
        with self.threads(len(inputs)):
            logits = self.logits(self.stacked, inputs, self.dropout)  # (H, B, C)
            losses = smoothed_losses(logits, labels, self.smoothing, self.unknown)
            if self.class_weights is not None:
                losses = losses * self.class_weights[labels]
            losses.mean(dim=1).sum().backward()  # no head's loss depends on another's parameters
            for index, parameters in enumerate(self.parts):
                for parameter, tensor in zip(parameters, self.stacked, strict=True):
                    assert tensor.grad is not None  # the logits depend on each of them
                    parameter.grad = tensor.grad[index]
            self.optimizer.step()
            for tensor in self.stacked:
                tensor.grad = None
            with torch.no_grad():
                self.average()

    def threads(self, samples: int) -> contextlib.AbstractContextManager[None]:
        """Return the context in which all heads process a batch: with as many threads as their work is worth."""
        return torch_threads(threads_for_work(samples * sum(tensor.numel() for tensor in self.stacked)))

    def average(self) -> None:
        """Move the averages towards the heads as they are now, as a run of one head does."""
        if self.steps:
            average_in(self.averages, [tensor.detach() for tensor in self.stacked], self.steps)
        else:
            for average, tensor in zip(self.averages, self.stacked, strict=True):
                average.copy_(tensor)
        self.steps += 1

    def fold(self, whitening: Whitening) -> None:
        """Let the averaged heads, which have learned from whitened features, answer for features as they are."""
        weight, bias = self.averages[:2]
        folded = [whitening.folded(*layer) for layer in zip(weight.cpu(), bias.cpu(), strict=True)]
        for tensor, values in zip((weight, bias), zip(*folded, strict=True), strict=True):
            tensor.copy_(torch.stack(values))

    @torch.inference_mode()
    def losses_and_hits(
        self, views: Sequence[torch.Tensor], labels: torch.Tensor, temperatures: Sequence[float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the averaged heads' losses for photos at some temperatures, (T, H, B), and which are right, (H, B).

        `views`: the photos' features (B, D) in each view; logits are means over the views.
        """
        with self.threads(len(labels)):
            logits = torch.stack([self.logits(self.averages, inputs) for inputs in views]).mean(dim=0)
            none = torch.zeros_like(self.smoothing)
            losses = [smoothed_losses(logits / temperature, labels, none) for temperature in temperatures]
            return torch.stack(losses), logits.argmax(dim=2) == labels

    @torch.inference_mode()
    def answers(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the averaged heads' logits (H, B, C) for features (B, D); NEVER for classes unknown to a head."""
        with self.threads(len(inputs)):
            logits = self.logits(self.averages, inputs)
            return logits if self.unknown is None else logits.masked_fill(self.unknown, NEVER)

    @staticmethod
    def logits(
        stacked: Sequence[torch.Tensor], inputs: torch.Tensor, dropout: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return every head's logits (H, B, C) for features (B, D)."""
        weight, bias = stacked[:2]
        count, width, _ = weight.shape
        first = F.linear(inputs, weight.flatten(0, 1), bias.flatten())  # (B, H * out): one product for all heads
        values = first.view(len(inputs), count, width).transpose(0, 1)  # (H, B, out)
        for weight, bias in zip(stacked[2::2], stacked[3::2], strict=True):
            values = F.relu(values)
            if dropout is not None:
                values = values * (torch.rand_like(values) >= dropout) / (1 - dropout)
            values = torch.baddbmm(bias[:, None], values, weight.transpose(1, 2))
        return values


def smoothed_losses(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: torch.Tensor, unknown: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the cross-entropy (H, B) of logits (H, B, C) with labels (B,), smoothed by each head's share (H,).

    `unknown`: classes that a head leaves out, bool (H, 1, C).
    """
    if unknown is None:
        likelihood = F.log_softmax(logits, dim=2)
        mean = likelihood.mean(dim=2)
    else:
        likelihood = F.log_softmax(logits.masked_fill(unknown, -torch.inf), dim=2)
        mean = likelihood.masked_fill(unknown, 0).sum(dim=2) / (~unknown).sum(dim=2)
    target = likelihood.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]
    share = smoothing[:, None]
    return -((1 - share) * target + share * mean)


# -------------------------------------------------------------------------- heads that learn from a share of the photos


# What the search for a head's settings mostly chooses for linear heads, on whitened features and on others
WHITENED_RATE, WHITENED_DECAY = 0.003, 0.1
LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 0.01, 1.0, 64
SEED = 0
LEAST_STEPS = 500  # of the optimizer: with few photos these take more epochs


class FoldHeads:
    """Linear heads on cached features, one after the other; each whitens them by the photos that it learns from.

    They learn in a fraction of the time that heads with hidden layers take, and do as well here (docs/strangers.md).
    `photos`: which of the training photos each head learns from, bool (H, N). `classes`: which classes it knows, bool
    (H, C); it must not learn from photos of other classes. `is_balanced`: whether each class weighs the same in a loss,
    and where the features are centred. A bias learns too slowly to make up for a centre amid the largest class: its
    photos would lie about as near to a small class as to their own.
    """

    def __init__(
        self, train: Inputs, schedule: Schedule, photos: torch.Tensor, classes: torch.Tensor, is_balanced: bool = False
    ) -> None:
        self.train, self.photos, self.classes, self.is_balanced = train, photos, classes, is_balanced
        steps = -(-int(photos.any(dim=0).sum()) // BATCH_SIZE)
        epochs = max(schedule.epochs, -(-LEAST_STEPS // steps))
        self.recipe = Recipe(epochs, LEARNING_RATE, BATCH_SIZE, schedule.views, SEED, WEIGHT_DECAY)

    @property
    def work(self) -> int:
        """How many photos the heads see while they learn, all heads and epochs together."""
        return int(self.photos.sum()) * self.recipe.epochs

    def learn(self, bar: Bar) -> None:
        """Let all heads learn for all epochs. The bar counts photos, by head."""
        pairs = zip(self.photos, self.classes, strict=True)
        self.heads = [self.learn_one(photos.nonzero()[:, 0], classes, bar) for photos, classes in pairs]

    def learn_one(self, indices: torch.Tensor, classes: torch.Tensor, bar: Bar) -> HeadStack:
        """Let a head learn from the photos at these indices; return it, for features as they are."""
        train, recipe, device = self.train, self.recipe, self.train.frozen.device
        labels, whitening = train.labels, None
        if train.frozen.classifier.can_be_whitened and enough_to_whiten(len(indices), int(classes.sum())):
            whitening = train.find_whitening(DEFAULT_SHRINKAGE, indices, self.is_balanced)
            train = train.whitened_by(whitening)
            recipe = replace(recipe, learning_rate=WHITENED_RATE, weight_decay=WHITENED_DECAY)
        if self.is_balanced:
            recipe = replace(recipe, class_weights=balanced(labels[indices].tolist(), len(classes)))
        seed_torch(recipe.seed, "head")
        head = nn.Sequential(nn.Linear(train.frozen.classifier.feature_width, len(classes)))
        stack = HeadStack(head, [HeadSettings((), 0.0, recipe)], device, classes[None])
        for epoch in range(1, recipe.epochs + 1):
            rows = train.rows(recipe.schedule.view_of(epoch))
            order = indices[shuffled(len(indices), fold_seed(recipe.seed, "shuffle", epoch))]
            for batch in order.split(recipe.batch_size):
                stack.step(to_learner(rows[batch], device), labels[batch].to(device))
                bar.update(len(batch))
        if whitening:
            stack.fold(whitening)
        return stack

    @torch.inference_mode()
    def logits_by(self, heads: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Return the logits (N, C) for all photos of a split. `heads`: index of the head that answers each, (N,)."""
        views, mean = inputs.frozen.config.answer_views, torch.zeros(len(heads), self.classes.shape[1])
        for view in views:
            begin = 0
            for rows, _ in whole(inputs, view):
                batch_heads = heads[begin : begin + len(rows)]
                for head in batch_heads.unique().tolist():
                    theirs = (batch_heads == head).nonzero()[:, 0]
                    mean[begin + theirs] += self.heads[head].answers(rows[theirs.to(rows.device)])[0].cpu()
                begin += len(rows)
        return mean / len(views)
