"""How a learner learns: the numbers that training goes by."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.base.randomness import fold_seed
from flower_classifier.features.batches import Batch, batches
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.schedule import Schedule


def balanced(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """Return weights with which every class counts the same in all; over the labels, their mean is 1."""
    counts = Counter(labels)
    return tuple(len(labels) / (classes * counts[label]) for label in range(classes))


@dataclass(frozen=True)
class Recipe:
    """Epochs, steps and rates of the first stage, and what they mean. All but the seed may change on resume."""

    epochs: int
    learning_rate: float  # Adam's step size
    batch_size: int  # photos per optimizer step
    views: int  # versions of every training photo, used in turn
    seed: int
    weight_decay: float = 0.0  # by which AdamW shrinks weights, times the learning rate, at every step
    label_smoothing: float = 0.0  # share of a photo's label that is spread over all classes: Szegedy et al. 2016
    class_weights: tuple[float, ...] = ()  # how much a photo of each class counts; none: all the same
    patience: int = 0  # epochs without a better one after which training stops; 0: it does not

    stage: ClassVar[str] = ""  # what progress calls it
    rate_option: ClassVar[str] = "learning_rate"  # the option that `learning_rate` comes from

    @property
    def told(self) -> dict[str, object]:
        """What the checkpoint says of the stage, beside the settings of the run."""
        return {}

    @property
    def schedule(self) -> Schedule:
        """Which view each epoch uses."""
        return Schedule(self.views, self.epochs)

    def prepare(self, train: Inputs, epoch: int) -> None:
        """Have ready what an epoch needs of the training photos: what is extracted for it takes time of its own."""
        train.prepare(self.schedule.view_of(epoch))

    def batches(self, train: Inputs, epoch: int) -> Iterator[Batch]:
        """Return an epoch's batches: all training photos, in an order of their own."""
        rows, order_seed = train.rows(self.schedule.view_of(epoch)), fold_seed(self.seed, "shuffle", epoch)
        return batches(rows, train.labels, self.batch_size, train.frozen.device, order_seed)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (B, C) with labels (B,): smoothed cross-entropy, weighted by class."""
        if not self.class_weights:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")  # (B,)
        return (losses * losses.new_tensor(self.class_weights)[labels]).mean()

    def parameter_groups(self, learner: nn.Module) -> list[dict[str, object]]:
        """Return what the optimizer steps, with the settings of each group.

        Only weights decay: pulling biases and norms to zero helps nothing (He et al. 2019, section 3.1). The parameters
        keep their order, by which last.pth knows them.
        """
        parameters = list(learner.parameters())
        if not self.weight_decay:
            return [{"params": parameters, "lr": self.learning_rate, "weight_decay": 0.0}]
        decays = ((parameter, self.weight_decay if parameter.dim() > 1 else 0.0) for parameter in parameters)
        return [{"params": [one], "lr": self.learning_rate, "weight_decay": decay} for one, decay in decays]

    def micro_batch(self, device: torch.device) -> int | None:
        """Return how many photos a forward takes; None: a whole batch, which for a small learner is best."""
        return None

    def optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer of a learner's parameters. Without weight decay AdamW is Adam."""
        return torch.optim.AdamW(self.parameter_groups(learner), fused=True)

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Prepare a step, at a point of the run that is counted in epochs. Nothing is to be done.

        The rates stay: the parameters are averaged instead, which has the same effect as letting them fall.
        """

    def precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a forward runs: of float32, which is as fast as any for a small learner."""
        return contextlib.nullcontext()
