"""The second stage: the backbone learns with the head.

A head that has learned nothing yet would first spoil what a pretrained backbone knows. So the head learns alone before,
on the frozen backbone (Kumar et al. 2022).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import nn

from flower_classifier.features.batches import Batch
from flower_classifier.features.fresh_photos import fresh_batches
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import MICRO_BATCH, precision_of
from flower_classifier.networks.layer_depths import parameter_depths
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.train_config import TrainConfig

LAST = 2 / 3  # the depth from which on layers are the `last`
FIRST_LAYER = 0.1  # rate of the first layer, as a share of the last one's; in between each layer has a bit more
HEAD = 3.0  # rate of the head, as a multiple of the last layer's
DECAY = 0.05  # weight decay of the backbone: as is usual for AdamW, and too little to matter in a few epochs
WARM_UP = 0.1  # share of the steps in which the rates rise
MOST_GRADIENT = 1.0  # norm beyond which gradients are scaled down


@dataclass(frozen=True)
class FineTuning(Recipe):
    """The recipe of a second stage, which begins when `began` epochs are finished and ends at `epochs`.

    `learning_rate` is the last layer's. Each parameter's rate rises for a tenth of the steps and then falls to zero as
    a cosine does (Loshchilov & Hutter 2017).
    """

    began: int = 0
    unfreeze: str = "all"  # one of UNFREEZE
    depths: Mapping[str, float] = field(default_factory=dict)  # of the backbone's parameters that learn, by name in it
    stage: ClassVar[str] = "fine-tuning, "
    rate_option: ClassVar[str] = "backbone_lr"

    @property
    def told(self) -> dict[str, object]:
        """What the checkpoint says of the stage: when it began, and train.py's options."""
        return {
            "fine_tuned_after": self.began,  # epochs
            "fine_tune": self.epochs - self.began,
            "unfreeze": self.unfreeze,
            "backbone_lr": self.learning_rate,
        }

    def prepare(self, train: Inputs, epoch: int) -> None:
        """Prepare nothing: photos are read in the epoch itself."""

    def batches(self, train: Inputs, epoch: int) -> Iterator[Batch]:
        """Return an epoch's batches: all training photos, in an order and with looks of their own."""
        return fresh_batches(train, self.batch_size, self.seed, epoch)

    def parameter_groups(self, learner: nn.Module) -> list[dict[str, object]]:
        """Return what the optimizer steps, a group each, with its rate and its decay."""
        groups = []
        for name, parameter in learner.named_parameters():
            if not parameter.requires_grad:
                continue
            part, _, inner = name.partition(".")
            if part == "head":
                rate, decay = HEAD * self.learning_rate, self.weight_decay
            else:
                rate, decay = FIRST_LAYER ** (1 - self.depths[inner]) * self.learning_rate, DECAY
            decay = decay if is_weight(name, parameter) else 0.0
            groups.append({"params": [parameter], "lr": rate, "full": rate, "weight_decay": decay})
        return groups

    def micro_batch(self, device: torch.device) -> int:
        """Return how many photos a forward takes; a step adds up their gradients.

        On a CPU 8 are up to twice as fast as 64, whose activations do not fit into its caches. On any device, memory
        does not grow with the batch.
        """
        return MICRO_BATCH[device.type]

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rates, and scale large gradients down."""
        share = self.share_of_rate((progress - self.began) / (self.epochs - self.began))
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * share
        nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], MOST_GRADIENT)

    @staticmethod
    def share_of_rate(done: float) -> float:
        """Return which share of its rate a parameter has when this share of the stage is done."""
        if done < WARM_UP:
            return done / WARM_UP
        return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2

    def precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a forward runs: of bfloat16 where the frozen network has it too."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_of(device) == torch.bfloat16)


def second_recipe(config: TrainConfig, first: Recipe, classifier: Classifier, began: int) -> FineTuning:
    """Return the recipe of the second stage, as a run asks for it, which begins after so many epochs of the first.

    The network is run once, to know the order of its layers. Without --unfreeze a CPU, which is slow, trains fewer.
    """
    shared = {entry.name: getattr(first, entry.name) for entry in fields(Recipe)}
    own = {"epochs": began + config.fine_tune, "learning_rate": config.backbone_lr, "began": began}
    unfreeze = config.unfreeze or ("last" if classifier.mean.device.type == "cpu" else "all")
    return FineTuning(**{**shared, **own}, unfreeze=unfreeze, depths=depths_of(classifier, unfreeze))


def is_weight(name: str, parameter: torch.Tensor) -> bool:
    """Say whether a parameter is the matrix or the kernel of a layer: no bias, norm, scale, token or position."""
    return name.endswith("weight") and sum(side > 1 for side in parameter.shape) > 1


def depths_of(classifier: Classifier, unfreeze: str) -> dict[str, float]:
    """Return the backbone's parameters that learn, by name, with their depth from 0 to 1. `unfreeze`: of UNFREEZE."""
    least = LAST if unfreeze == "last" else 0.0
    depths = parameter_depths(classifier.backbone, classifier.preprocessing.crop_size)
    return {name: depth for name, depth in depths.items() if depth >= least}
