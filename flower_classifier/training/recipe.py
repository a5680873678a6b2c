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
    weight_decay: float = 0.0  # by which AdamW shrinks weights, times the learning rate, at every step
    label_smoothing: float = 0.0  # share of a photo's label that is spread over all classes: Szegedy et al. 2016
    patience: int = 0  # epochs without a better one after which training stops; 0: it does not

    @property
    def schedule(self) -> Schedule:
        """Which view each epoch uses."""
        return Schedule(self.views, self.epochs)

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

    def optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer of a learner's parameters. Without weight decay AdamW is Adam."""
        return torch.optim.AdamW(self.parameter_groups(learner), fused=True)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return what changes the learning rate from epoch to epoch, if anything does.

        None: the parameters are averaged instead, which has the same effect.
        """
        return None
