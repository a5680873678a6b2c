"""How a learner learns: the hyperparameters of the first stage and of fine-tuning.

In fine-tuning the backbone learns with the head. An untrained head would spoil what a pretrained backbone knows, so the
head learns alone first, on the frozen backbone (Kumar et al. 2022).
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.base.seeding import fold_seed
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.batches import Batch, batches, fresh_batches
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.class_balance import are_unequal
from flower_classifier.networks.classifier import Classifier, parameter_depths
from flower_classifier.networks.devices import MICRO_BATCH, precision_of
from flower_classifier.photos.views import Augmentation


def balanced(labels: Sequence[int], classes: int) -> tuple[float, ...]:
    """Return class weights that make every class count the same in total; their mean over the labels is 1.

    A class without any photo does not count.
    """
    counts = Counter(labels)
    return tuple(len(labels) / (len(counts) * max(counts[label], 1)) for label in range(classes))


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of the first stage, and what they do.

    A field has the name of its option, but for the last one. While this stage lasts, all but the seed may change on
    resume.
    """

    epochs: int
    learning_rate: float  # Adam's step size
    batch_size: int  # photos per optimizer step
    views: int  # versions of every training photo, used in turn
    seed: int
    weight_decay: float = 0.0  # times the learning rate: the share by which AdamW shrinks weights at every step
    label_smoothing: float = 0.0  # share of a photo's label that is spread over all classes: Szegedy et al. 2016
    class_weights: tuple[float, ...] = ()  # how much a photo of each class counts; none: all the same
    patience: int = 0  # training stops when the loss was no lower for so many epochs; 0: never
    augment: str = "mirror"  # how the views differ: a kind of Augmentation
    judged_by_class: bool = False  # whether epochs, and heads, are compared by the mean over classes of their loss

    stage: ClassVar[str] = ""  # what progress calls it
    rate_option: ClassVar[str] = "learning_rate"  # the option that `learning_rate` comes from

    @property
    def metadata(self) -> dict[str, object]:
        """What the checkpoint says of the stage, beside the settings of the run."""
        return {}

    @classmethod
    def of(cls, config: TrainConfig) -> Recipe:
        """Return what a run asks for; `for_photos` adds what depends on the photos."""
        given = {entry.name: getattr(config, entry.name) for entry in fields(cls) if entry.name != "judged_by_class"}
        return cls(**{**given, "class_weights": ()})

    def for_photos(self, labels: Sequence[int], classes: int, class_weights: str) -> Recipe:
        """Return the recipe for training photos with these labels, those that can be opened.

        `class_weights`: train.py's option. Where classes are unequal, or are to count the same, a mean over photos
        would choose what is best for the large ones.
        """
        weights = balanced(labels, classes) if class_weights == "balanced" else ()
        by_class = bool(weights) or are_unequal(list(Counter(labels).values()))
        return replace(self, class_weights=weights, judged_by_class=by_class)

    @property
    def schedule(self) -> Schedule:
        """Which view each epoch uses."""
        return Schedule(self.views, self.epochs)

    @property
    def augmentation(self) -> Augmentation:
        """How the views differ."""
        return Augmentation(self.augment, self.seed)

    def prepare(self, train: Inputs, epoch: int) -> None:
        """Prepare what an epoch needs of the training photos, so that extraction does not count as training time."""
        train.prepare(self.schedule.view_of(epoch))

    def batches(self, train: Inputs, epoch: int) -> Iterator[Batch]:
        """Return an epoch's batches: all training photos, in the epoch's own order."""
        rows, order_seed = train.rows(self.schedule.view_of(epoch)), fold_seed(self.seed, "shuffle", epoch)
        return batches(rows, train.labels, self.batch_size, train.frozen.device, order_seed)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (B, C) with labels (B,): smoothed cross-entropy, weighted by class."""
        if not self.class_weights:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")  # (B,)
        return (losses * losses.new_tensor(self.class_weights)[labels]).mean()

    def parameter_groups(self, learner: nn.Module) -> list[dict[str, object]]:
        """Return the optimizer's groups of parameters, each with its settings.

        Only weights decay: pulling biases and norms to zero does not help (He et al. 2019, section 3.1). The parameters
        keep their order, because last.pth numbers them by it.
        """
        parameters = list(learner.parameters())
        if not self.weight_decay:
            return [{"params": parameters, "lr": self.learning_rate, "weight_decay": 0.0}]
        decays = ((parameter, self.weight_decay if parameter.dim() > 1 else 0.0) for parameter in parameters)
        return [{"params": [parameter], "lr": self.learning_rate, "weight_decay": decay} for parameter, decay in decays]

    def micro_batch(self, device: torch.device) -> int | None:
        """Return how many photos a forward takes; None: a whole batch, which is fastest for a small learner."""
        return None

    def optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer of a learner's parameters. Without weight decay AdamW is Adam."""
        return torch.optim.AdamW(self.parameter_groups(learner), fused=True)

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Prepare a step; `progress`: the point of the run, in epochs. Here there is nothing to do.

        The rates stay constant: averaging the parameters has the same effect as lowering the rates.
        """

    def precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a forward runs: float32, which is as fast as any for a small learner."""
        return contextlib.nullcontext()


# ---------------------------------------------------------------------------------------------------------- fine-tuning


LAST = 2 / 3  # layers from this depth on are the `last`
FIRST_LAYER = 0.1  # rate of the first layer, as a share of the last one's; in between each layer has a bit more
HEAD = 3.0  # rate of the head, as a multiple of the last layer's
BACKBONE_DECAY = 0.05  # weight decay of the backbone: as is usual for AdamW, and too little to matter in a few epochs
WARM_UP = 0.1  # share of the steps in which the rates rise
MOST_GRADIENT = 1.0  # norm beyond which gradients are scaled down


@dataclass(frozen=True)
class FineTuning(Recipe):
    """The recipe of a second stage, which begins when `began` epochs are finished and ends at `epochs`.

    `learning_rate` is the last layer's. Each parameter's rate rises for a tenth of the steps and then falls to zero
    along a cosine (Loshchilov & Hutter 2017).
    """

    began: int = 0
    unfreeze: str = "all"  # one of UNFREEZE
    depths: Mapping[str, float] = field(default_factory=dict)  # of the backbone's parameters that learn, by name
    stage: ClassVar[str] = "fine-tuning, "
    rate_option: ClassVar[str] = "backbone_lr"

    @property
    def metadata(self) -> dict[str, object]:
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
        """Return an epoch's batches: all training photos, in the epoch's own order, freshly augmented."""
        return fresh_batches(train, self.batch_size, epoch)

    def parameter_groups(self, learner: nn.Module) -> list[dict[str, object]]:
        """Return a group for each parameter that learns, with its rate and its weight decay."""
        groups = []
        for name, parameter in learner.named_parameters():
            if not parameter.requires_grad:
                continue
            module, _, inner = name.partition(".")
            if module == "head":
                rate, decay = HEAD * self.learning_rate, self.weight_decay
            else:
                rate, decay = FIRST_LAYER ** (1 - self.depths[inner]) * self.learning_rate, BACKBONE_DECAY
            # A matrix or a kernel of a layer, not a bias, norm, scale, token or position
            is_weight = name.endswith("weight") and sum(side > 1 for side in parameter.shape) > 1
            decay = decay if is_weight else 0.0
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
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, MOST_GRADIENT)

    @staticmethod
    def share_of_rate(done: float) -> float:
        """Return the factor of all rates when this share of the stage is done."""
        if done < WARM_UP:
            return done / WARM_UP
        return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2

    def precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a forward runs: bfloat16 where the frozen network uses it too."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_of(device) == torch.bfloat16)


def second_recipe(config: TrainConfig, first: Recipe, classifier: Classifier, began: int) -> FineTuning:
    """Return the recipe of the second stage that a run asks for; it begins after `began` epochs of the first.

    It runs the network once to find the order of its layers. Without --unfreeze, a CPU trains only the last layers,
    because it is slow.
    """
    shared = {entry.name: getattr(first, entry.name) for entry in fields(Recipe)}
    changed = {"epochs": began + config.fine_tune, "learning_rate": config.backbone_lr, "began": began}
    unfreeze = config.unfreeze or ("last" if classifier.mean.device.type == "cpu" else "all")
    return FineTuning(**{**shared, **changed}, unfreeze=unfreeze, depths=depths_of(classifier, unfreeze))


def depths_of(classifier: Classifier, unfreeze: str) -> dict[str, float]:
    """Return the backbone's parameters that learn, by name, with their depth, 0 to 1. `unfreeze`: one of UNFREEZE."""
    least = LAST if unfreeze == "last" else 0.0
    depths = parameter_depths(classifier.backbone, classifier.preprocessing.crop_size)
    return {name: depth for name, depth in depths.items() if depth >= least}
