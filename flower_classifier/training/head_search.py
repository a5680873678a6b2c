"""Search for the head's settings: many heads learn at once from the features that are there, and validation chooses.

    outcome = search(train, valid, classifier, recipe)
    outcome.chosen.settings            those of the head to train
    outcome.table()                    every head that was tried, the best first

The choice is the simplest head whose validation loss is within one standard error of the lowest (Breiman et al. 1984,
section 3.4.3). The standard error is that of the difference between two heads' losses, since the photos are the same.
Each head is judged at its own best temperature, because regularised heads are less confident, and the run that follows
fits a temperature too. Where so few answers are right, or wrong, that the run would fit none, heads are judged without.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from flower_classifier.base.console import Bar, progress
from flower_classifier.base.messages import InputError
from flower_classifier.base.options import Values
from flower_classifier.base.seeding import fold_seed
from flower_classifier.base.signals import ended_by_ctrl_c
from flower_classifier.config.allowed import DEFAULT_HIDDEN_UNITS
from flower_classifier.features.batches import batches, whole
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.calibration import LEAST
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import loss_gap
from flower_classifier.judging.verdict import share_text
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import seed_torch
from flower_classifier.training.heads import TEMPERATURES, HeadSettings, HeadStack
from flower_classifier.training.recipe import Recipe

# What is tried of each option, unless one was given: a linear head can use higher learning rates and has no dropout
LINEAR: Values = {
    "hidden_units": ((),),
    "dropout": (0.0,),
    "learning_rate": (0.003, 0.01, 0.03),
    "weight_decay": (0.0, 0.1, 1.0),
}
HIDDEN: Values = {
    "hidden_units": ((DEFAULT_HIDDEN_UNITS,),),
    "dropout": (0.2, 0.5),
    "learning_rate": (0.001, 0.003),
    "weight_decay": (0.0, 1.0),
}
# The same for heads on whitened features, which are four times as many and ask for smaller steps. Half the views did as
# well only where steps were too large
WHITENED_LINEAR: Values = {**LINEAR, "learning_rate": (0.001, 0.003), "weight_decay": (0.1, 1.0)}
WHITENED_HIDDEN: Values = {**HIDDEN, "learning_rate": (0.001,)}
LABEL_SMOOTHING = (0.0, 0.1)
MOST_NUMBERS = 10**8  # parameters that learn at once: with moments, gradients and averages, 2 GB
OPTIONS = ("hidden_units", "views", "dropout", "weight_decay", "label_smoothing", "learning_rate")


@dataclass
class Trial:
    """A head that was tried, and what its best epoch reached."""

    settings: HeadSettings
    epoch: int = 0
    # (N,), of the validation photos; weighted where the recipe judges by class
    losses: torch.Tensor = field(default_factory=lambda: torch.tensor([torch.inf]))
    accuracy: float = 0.0
    is_sound: bool = True  # whether its loss has been finite in every epoch

    @property
    def loss(self) -> float:
        """Its mean loss on the validation photos, in its best epoch: the one where this is lowest."""
        return self.losses.mean().item()

    @property
    def options(self) -> Values:
        """Its settings by the names of train.py's options."""
        recipe = self.settings.recipe
        of_head = {"hidden_units": self.settings.hidden_units, "dropout": self.settings.dropout}
        return {name: of_head[name] if name in of_head else getattr(recipe, name) for name in OPTIONS}

    @property
    def simplicity(self) -> tuple[float, ...]:
        """The key that sorts heads from simple to complex: size, photos seen, then how little they are held back."""
        settings, recipe = self.settings, self.settings.recipe
        held_back = (-recipe.weight_decay, -settings.dropout, -recipe.label_smoothing)
        return (sum(settings.hidden_units), recipe.views, *held_back, recipe.learning_rate)

    def size(self, classifier: Classifier) -> int:
        """Return how many parameters a head has, without biases."""
        widths = [classifier.feature_width, *self.settings.hidden_units, classifier.config.num_classes]
        return sum(inputs * outputs for inputs, outputs in itertools.pairwise(widths))


@dataclass(frozen=True)
class Outcome:
    """What a search has found: all heads with the lowest loss first."""

    tried: list[Trial]
    seconds: float = 0.0

    @property
    def chosen(self) -> Trial:
        """The simplest head within one standard error of the best."""
        return min(self.within, key=lambda trial: (trial.simplicity, trial.loss))

    @property
    def within(self) -> list[Trial]:
        """The heads whose loss is within one standard error of the lowest."""
        best = self.tried[0]
        gaps = [(trial, *loss_gap(trial.losses, best.losses)) for trial in self.tried]
        return [trial for trial, difference, error in gaps if difference <= error]

    @property
    def choice_text(self) -> str:
        """What was chosen of how many, in a line."""
        choice = self.chosen
        options = ", ".join(f"--{name} {option_text(value)}" for name, value in choice.options.items())
        by_class = " by class" * choice.settings.recipe.judged_by_class
        accuracy = share_text(choice.accuracy, len(choice.losses))
        reached = f"validation loss{by_class} {choice.loss:.4f}, accuracy {accuracy}"
        return f"{len(self.tried)} heads tried in {self.seconds:.0f} s; the choice: {options} ({reached})"

    def table(self) -> Iterator[list[object]]:
        """Yield the rows of tuning.csv, header first."""
        yield [*OPTIONS, "epoch", "valid_loss", "valid_accuracy", "behind_best", "standard_error", "chosen"]
        best, choice = self.tried[0], self.chosen
        for trial in self.tried:
            difference, error = loss_gap(trial.losses, best.losses)
            numbers = [round(value, 5) for value in (trial.loss, trial.accuracy, difference, error)]
            yield [*map(option_text, trial.options.values()), trial.epoch, *numbers, int(trial is choice)]


def option_text(value: object) -> str:
    """Write an option's value as the command line takes it."""
    return (" ".join(map(str, value)) or "0") if isinstance(value, tuple) else f"{value:g}"


def grid(recipe: Recipe, fixed: Mapping[str, object], are_whitened: bool = False) -> list[HeadSettings]:
    """Return the heads to try: all combinations of values, for features that are whitened or not.

    `fixed`: the value of each option that does not vary.
    """
    half, every = recipe.views // 2, (recipe.views,)
    either = (half, recipe.views) if 0 < half < recipe.epochs else every  # else they see the same views
    settings = []
    whitened = ((WHITENED_LINEAR, every), (WHITENED_HIDDEN, every))
    for shape, views in whitened if are_whitened else ((LINEAR, either), (HIDDEN, every)):
        free = {**shape, "label_smoothing": LABEL_SMOOTHING, "views": views}
        axes: dict[str, tuple[object, ...]] = {**free, **{name: (value,) for name, value in fixed.items()}}
        for values in itertools.product(*axes.values()):
            options: Values = dict(zip(axes, values, strict=True))
            units, dropout = options.pop("hidden_units"), options.pop("dropout")
            settings.append(HeadSettings(units, dropout if units else 0.0, replace(recipe, **options)))
    return list(dict.fromkeys(settings))


def search(
    train: Inputs, valid: Inputs, classifier: Classifier, recipe: Recipe, fixed: Mapping[str, object] | None = None
) -> Outcome:
    """Train all heads of the grid for the recipe's epochs; Ctrl-C ends that early, and the best so far are compared.

    `fixed`: values, by option, that all heads have. Raises InputError if no head is sound.
    """
    tried = [Trial(settings) for settings in grid(recipe, fixed or {}, train.whitening is not None)]
    for view in range(max(trial.settings.recipe.schedule.used for trial in tried)):
        train.prepare(view)  # before the search, which Ctrl-C ends without stopping the run
    started = time.perf_counter()
    total = len(train.labels) * recipe.epochs * len(tried)
    with (
        ended_by_ctrl_c(
            lambda: any(trial.epoch for trial in tried),
            "the search is ended; going on with the heads so far (Ctrl-C again stops)",
        ),
        progress(total, f"{len(tried)} heads", "photo", scaled=True) as bar,
    ):
        for members in shares(tried, classifier):
            learn(members, train, valid, classifier, bar)
    sound = [trial for trial in tried if trial.is_sound and trial.epoch]
    if not sound:
        raise InputError("finds no head whose loss is finite", "tune")
    return Outcome(sorted(sound, key=lambda trial: trial.loss), time.perf_counter() - started)


def shares(tried: Sequence[Trial], classifier: Classifier) -> Iterator[list[Trial]]:
    """Yield the heads in shares that fit into memory together; usually that is one share of all heads."""
    share: list[Trial] = []
    for trial in tried:
        if share and sum(member.size(classifier) for member in [*share, trial]) > MOST_NUMBERS:
            yield share
            share = []
        share.append(trial)
    yield share


def learn(members: Sequence[Trial], train: Inputs, valid: Inputs, classifier: Classifier, bar: Bar) -> None:
    """Train heads for all epochs, and keep what each one's best epoch reached."""
    recipe, device = members[0].settings.recipe, train.frozen.device
    groups = list(grouped(members, classifier, device))
    for epoch in range(1, recipe.epochs + 1):
        order_seed = fold_seed(recipe.seed, "shuffle", epoch)  # as in a run of one head
        views = [group[0].settings.recipe.schedule.view_of(epoch) for group, _ in groups]
        batches_by_group = [
            batches(train.rows(view), train.labels, recipe.batch_size, device, order_seed) for view in views
        ]
        seed_torch(recipe.seed, "dropout", epoch)
        for group_batches in zip(*batches_by_group, strict=True):
            for (group, stack), (inputs, labels) in zip(groups, group_batches, strict=True):
                stack.step(inputs, labels)
                bar.update(len(labels) * len(group))
        for group, stack in groups:
            judge(group, stack, epoch, valid)


def grouped(
    members: Sequence[Trial], classifier: Classifier, device: torch.device
) -> Iterator[tuple[list[Trial], HeadStack]]:
    """Yield heads of the same widths that see the same views, each group with the stack that they are trained in."""

    def alike(trial: Trial) -> tuple[tuple[int, ...], int]:
        return trial.settings.hidden_units, trial.settings.recipe.views

    for (units, _), group in itertools.groupby(sorted(members, key=alike), key=alike):
        same = list(group)
        config = replace(classifier.config, hidden_units=units)
        head = config.build_head(classifier.feature_width, same[0].settings.recipe.seed)
        yield same, HeadStack(head, [trial.settings for trial in same], device)


def judge(members: Sequence[Trial], stack: HeadStack, epoch: int, valid: Inputs) -> None:
    """Keep what heads reach on the validation photos, if it is better than before."""
    views = [whole(valid, view) for view in valid.frozen.config.answer_views]
    by_batch = [
        stack.losses_and_hits([inputs for inputs, _ in batch], batch[0][1], TEMPERATURES)
        for batch in zip(*views, strict=True)
    ]
    # (T, H, N), (H, N)
    by_temperature, hits = (torch.cat(tensors, dim=-1).cpu() for tensors in zip(*by_batch, strict=True))
    means = by_temperature.mean(dim=2)  # (T, H)
    for index, trial in enumerate(members):
        right = int(hits[index].sum())
        may_keep_one = LEAST <= right <= hits.shape[1] - LEAST
        at = int(means[:, index].argmin()) if may_keep_one else TEMPERATURES.index(1.0)
        losses = by_temperature[at, index]
        if trial.settings.recipe.judged_by_class:  # then their mean is that over classes
            losses = losses * balancing_weights(valid.labels)
        trial.is_sound &= bool(losses.isfinite().all())
        if losses.mean() < trial.loss:
            trial.epoch, trial.losses, trial.accuracy = epoch, losses, right / hits.shape[1]
