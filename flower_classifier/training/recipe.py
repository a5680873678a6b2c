"""How a learner learns: the numbers that training goes by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from flower_classifier.features.schedule import Schedule


@dataclass(frozen=True)
class Recipe:
    """Epochs, steps and rates of a run. All but the seed may change where a run is resumed."""

    epochs: int
    learning_rate: float  # Adam's step size
    batch_size: int  # photos per optimizer step
    views: int  # versions of every training photo, used in turn
    seed: int

    @property
    def schedule(self) -> Schedule:
        """Which view each epoch uses."""
        return Schedule(self.views, self.epochs)

    def parameter_groups(self, learner: nn.Module) -> list[dict[str, object]]:
        """Return what the optimizer steps, with the settings of each group: one group of all parameters."""
        return [{"params": list(learner.parameters()), "lr": self.learning_rate}]

    def optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer of a learner's parameters."""
        return torch.optim.Adam(self.parameter_groups(learner), fused=True)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return what changes the learning rate from epoch to epoch, if anything does.

        None: the parameters are averaged instead, which has the same effect.
        """
        return None
