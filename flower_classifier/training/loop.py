"""The epoch loop: one for every learner, whether its batches are cached features or pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from flower_classifier.base.errors import RunError
from flower_classifier.base.messages import progress, watched
from flower_classifier.base.randomness import fold_seed
from flower_classifier.base.seconds import Seconds
from flower_classifier.features.inputs import Batch, Inputs, batches, whole
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.devices import seed_torch
from flower_classifier.training.finished import Row
from flower_classifier.training.state import TrainState


def fit(
    state: TrainState, train: Inputs, valid: Inputs, on_epoch: Callable[[Row, Seconds], None] | None = None
) -> None:
    """Train until the recipe's epochs are finished, or none gets better any more; call `on_epoch` after each.

    It is given the epoch's numbers and the time it took.

    It prints nothing and writes nothing. Whatever ends it, `state.finished` holds the epochs that were finished.
    Raises RunError for losses that are not finite.
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
    rows = train.rows(recipe.schedule.view_of(epoch))  # extracted in the first epoch that needs it
    started = time.perf_counter()
    order_seed = fold_seed(recipe.seed, "shuffle", epoch)
    shuffled = batches(rows, train.labels, recipe.batch_size, train.frozen.device, order_seed)
    seed_torch(recipe.seed, "dropout", epoch)
    try:
        with progress(len(rows), f"epoch {epoch}/{recipe.epochs}", "photo") as bar:
            train_loss = train_one_epoch(
                state.learner, watched(shuffled, bar), state.optimizer, state.average, recipe.label_smoothing
            )
        if state.scheduler:
            state.scheduler.step()
        evaluation = evaluate(state.average.module, whole(valid))
    except FloatingPointError as error:
        lower = f"lower the learning rate (now {recipe.learning_rate:g})"
        raise RunError(f"the loss is not finite ({error}) in epoch {epoch}: {lower}") from None
    return train_loss, evaluation, replace(train.seconds - before, training=time.perf_counter() - started)


def train_one_epoch(
    learner: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    average: AveragedModel,
    label_smoothing: float = 0.0,
) -> float:
    """Take one optimizer step per batch; return the mean loss over all samples, each as it was before its step.

    Raises FloatingPointError, before the step, for a loss that is not finite.
    """
    learner.train()
    total, count = 0.0, 0
    for inputs, labels in batches:  # (B, ...), (B,)
        loss = F.cross_entropy(learner(inputs), labels, label_smoothing=label_smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(learner)
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count
