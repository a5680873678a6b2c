"""The epoch loop: one for every learner, whether its batches are cached features or pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flower_classifier.base.errors import RunError
from flower_classifier.base.messages import progress, watched
from flower_classifier.base.seconds import Seconds
from flower_classifier.features.inputs import Batch, Inputs
from flower_classifier.judging.as_predicted import evaluate_on
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.devices import seed_torch
from flower_classifier.training.finished import Row
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState


def fit(
    state: TrainState, train: Inputs, valid: Inputs, on_epoch: Callable[[Row, Seconds], None] | None = None
) -> None:
    """Train until the recipe's epochs are finished, or none gets better any more.

    `on_epoch` is called after each, with the epoch's numbers and the time it took. Nothing else is printed or written.
    Whatever ends it, `state.finished` holds the epochs that were finished. Raises RunError for losses that are not
    finite.
    """
    while state.epoch < state.recipe.epochs and not state.has_stalled:
        train_loss, evaluation, seconds = run_epoch(state, train, valid)
        row = state.record(train_loss, evaluation)
        if on_epoch:
            on_epoch(row, seconds)


def run_epoch(state: TrainState, train: Inputs, valid: Inputs) -> tuple[float, Evaluation, Seconds]:
    """Train for one epoch; return the training loss, the average's answers to the validation photos, and the time.

    Whatever is random in an epoch is a function of its number and the seed.
    """
    recipe, epoch, before = state.recipe, state.epoch + 1, train.seconds
    recipe.prepare(train, epoch)
    started = time.perf_counter()
    shuffled, number = recipe.batches(train, epoch), len(train.used)
    seed_torch(recipe.seed, "dropout", epoch)
    try:
        with progress(number, f"{recipe.stage}epoch {epoch}/{recipe.epochs}", "photo") as bar:
            train_loss = train_one_epoch(
                state.learner, watched(shuffled, bar), state.optimizer, state.average, recipe, epoch, number
            )
        evaluation = evaluate_on(state.average.module, valid)
    except FloatingPointError as error:
        lower = f"lower --{recipe.rate_option} (now {recipe.learning_rate:g})"
        raise RunError(f"the loss is not finite ({error}) in epoch {epoch}: {lower}") from None
    return train_loss, evaluation, replace(train.seconds - before, training=time.perf_counter() - started)


def train_one_epoch(
    learner: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    recipe: Recipe,
    epoch: int = 1,
    number: int = 1,
) -> float:
    """Take one optimizer step per batch; return the mean loss over all samples, each as it was before its step.

    `number` is that of the samples in an epoch. Raises FloatingPointError, before the step, for a loss that is not
    finite.
    """
    total, count = 0.0, 0
    for inputs, labels in batches:  # (B, ...), (B,)
        optimizer.zero_grad()
        total += backward(learner, inputs, labels, recipe) * len(labels)
        middle = count + len(labels) / 2  # of the step: at its beginning, the first of all would have no rate
        recipe.before_step(optimizer, epoch - 1 + middle / number)
        optimizer.step()
        average.update_parameters(learner)
        count += len(labels)
    return total / count


def backward(learner: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> float:
    """Add the gradients of a batch's mean loss, in parts where it is too large for one forward; return that loss.

    The parts have the batch's gradient: no learner that takes parts has layers that look across photos.
    """
    loss, size = 0.0, recipe.micro_batch(inputs.device) or len(labels)
    for some, their_labels in zip(inputs.split(size), labels.split(size), strict=True):
        learner.train()  # each time: some of timm's networks keep what belongs to the last forward until then
        with recipe.precision(inputs.device):
            logits = learner(some)
        part = recipe.loss(logits.float(), their_labels)
        if not torch.isfinite(part):
            raise FloatingPointError(part.item())
        share = len(their_labels) / len(labels)
        (part * share).backward()
        loss += part.item() * share
    return loss
