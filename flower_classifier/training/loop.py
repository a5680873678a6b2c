"""The epoch loop: one for every learner, whether its batches are cached features or pixels."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from flower_classifier.base.console import progress, watched
from flower_classifier.base.messages import RunError, is_out_of_memory
from flower_classifier.base.torchrun import rank
from flower_classifier.features.batches import Batch
from flower_classifier.features.inputs import Inputs, Timings
from flower_classifier.judging.evaluation import evaluate_on
from flower_classifier.networks.checkpoint import Row
from flower_classifier.networks.devices import halve, seed_torch, threads_for, torch_threads
from flower_classifier.training.ddp import Alone, learner_of
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import Average, TrainState

STEPS_UNSEEN = 50  # from one check that the loss is finite to the next


def fit(
    state: TrainState, train: Inputs, valid: Inputs, on_epoch: Callable[[Row, Timings], None] | None = None
) -> None:
    """Train until the recipe's epochs are finished, or its patience is used up.

    `on_epoch` is called after each, with the epoch's row and the time it took. Nothing else is printed or written.
    Whatever ends it, `state.finished` holds the epochs that were finished. Raises RunError for losses that are not
    finite.
    """
    learner = learner_of(state, train)
    while state.epoch < state.recipe.epochs and not state.has_stalled:
        recipe, epoch, before = state.recipe, state.epoch + 1, train.seconds
        recipe.prepare(train, epoch)
        started = time.perf_counter()
        try:
            learner.begin_epoch(epoch)
            train_loss = learn(state, learner, train, epoch)
            evaluation = evaluate_on(state.average.module, valid)  # the average's answers
        except FloatingPointError as error:
            lower = f"lower --{recipe.rate_option} (now {recipe.learning_rate:g})"
            raise RunError(f"the loss is not finite ({error}) in epoch {epoch}: {lower}") from None
        seconds = replace(train.seconds - before, training=time.perf_counter() - started)
        row = state.record(train_loss, evaluation)
        if on_epoch:
            on_epoch(row, seconds)


def learn(state: TrainState, learner: Alone, train: Inputs, epoch: int) -> float:
    """Take an epoch's steps; return its training loss. `learner`: the state's, perhaps in step with other processes'.

    All randomness in an epoch is a function of its number and the seed; dropout's draws depend on the process too.
    """
    recipe, samples = state.recipe, len(train.used)
    rank_seed = [rank()] if rank() else []  # rank 0 draws what a single process would
    seed_torch(recipe.seed, "dropout", epoch, *rank_seed)
    with progress(samples, f"{recipe.stage}epoch {epoch}/{recipe.epochs}", "photo") as bar:
        seen = watched(recipe.batches(train, epoch), bar, learner.processes)
        return train_one_epoch(learner, seen, state.optimizer, state.average, recipe, epoch, samples)


def train_one_epoch(
    learner: Alone,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    average: Average,
    recipe: Recipe,
    epoch: int = 1,
    samples: int = 1,
) -> float:
    """Take one optimizer step per batch; return the mean loss over all samples, each as it was before its step.

    `samples`: how many an epoch has. A learner in step with other processes' gets a share of each batch. Raises
    FloatingPointError for a loss that is not finite, some steps later: checking each one would make GPU and CPU wait
    for each other.
    """
    total, count, most = torch.zeros(()), 0, None
    with torch_threads(threads_for(learner.module, recipe.batch_size)):
        for step, (inputs, labels) in enumerate(batches, 1):  # (B, ...), (B,)
            size = learner.batch_size(labels, min(recipe.batch_size, samples - count))
            with learner.step():
                optimizer.zero_grad()
                loss, most = backward(learner, inputs, labels, recipe, most or recipe.micro_batch(inputs.device), size)
                total = total.to(loss) + loss * size
                middle = count + size / 2  # of the step: at its beginning, the very first step's rate would be 0
                recipe.before_step(optimizer, epoch - 1 + middle / samples)
                optimizer.step()
                average.update_parameters(learner.module)
            count += size
            if step % STEPS_UNSEEN == 0:
                check_finite(learner.sum(total))
    return check_finite(learner.sum(total)) / count


def check_finite(loss: torch.Tensor) -> float:
    """Return a sum of losses as a float. Raises FloatingPointError if it is not finite."""
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(value)
    return value


def backward(
    learner: Alone, inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe, most: int | None, size: int
) -> tuple[torch.Tensor, int | None]:
    """Add the gradients of a batch's mean loss; return that loss, and how many photos a forward takes from now on.

    `most`: how many it takes now; None: all. On a GPU out-of-memory error retry with half as many, unless gradients may
    already have been shared. `size`: photos in the whole batch over all processes.
    """
    while True:
        try:
            return add_gradients(learner, inputs, labels, recipe, most or max(len(labels), 1), size), most
        except Exception as error:
            if inputs.device.type == "cpu" or not is_out_of_memory(error) or most is None or most == 1:
                raise
            if learner.processes > 1:
                raise
        learner.module.zero_grad()
        most = halve(most, len(labels), inputs.device, "to learn from")


def add_gradients(
    learner: Alone, inputs: torch.Tensor, labels: torch.Tensor, recipe: Recipe, most: int, size: int
) -> torch.Tensor:
    """Add the gradients of a batch's mean loss, at most `most` photos at a time; return these photos' share of it.

    The micro-batches' gradients add up to the batch's, because no layer of such a learner mixes photos: its batch norms
    keep their statistics. The loss stays on the device, in float64 where the device has that.
    """
    wide = torch.float32 if inputs.device.type == "mps" else torch.float64
    loss = torch.zeros((), dtype=wide, device=inputs.device)
    if is_idle := not len(labels):  # fewer photos than processes: a black one with weight 0 takes part here
        inputs, labels = inputs.new_zeros(1, *inputs.shape[1:]), labels.new_zeros(1)
    micro_batches = list(zip(inputs.split(most), labels.split(most), strict=True))
    for position, (micro_inputs, micro_labels) in enumerate(micro_batches, 1):
        learner.module.train()  # each time: some of timm's networks keep state of the last forward until then
        with learner.unsent() if position < len(micro_batches) else contextlib.nullcontext():
            with recipe.precision(inputs.device):
                logits = learner.module(micro_inputs)
            micro_loss = recipe.loss(logits.float(), micro_labels)
            share = 0.0 if is_idle else len(micro_labels) / size
            (micro_loss * (share * learner.processes)).backward()  # so the mean over processes is their sum
        loss = loss + micro_loss.detach().to(wide) * share
    return loss
