"""How long reading photos and training on them would take: measured on a few, reckoned for all.

A few photos go through the frozen part, a few batches through the learner, and what they took is scaled up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from flower_classifier.base.messages import progress
from flower_classifier.features.batches import EVALUATION_BATCH, Batch, batches, to_learner
from flower_classifier.features.extraction import extract, shared_cores
from flower_classifier.features.fresh_photos import read_augmented
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import MICRO_BATCH
from flower_classifier.studies.tuning import TEMPERATURES, Tried, grid, grouped, shares
from flower_classifier.training.fine_tuning import FineTuning
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

BUDGET = 1.0  # seconds that a measurement takes: on a machine that does other work too, less would be chance
ROUNDS = 2  # micro-batches per worker in a measurement
STEPS = 2  # of the optimizer, over and over


def reading_seconds(train: Inputs, others: int) -> float:
    """Reckon the seconds for the scheduled views of each training photo and one of `others`, from a sample of them."""
    sample = choose_sample(train)
    single = seconds_per_photo(train, (0,), sample, BUDGET)
    passes = train.schedule.passes
    pairs = [views for views in passes if len(views) > 1]
    pair = seconds_per_photo(train, pairs[-1], sample, BUDGET) if pairs else 0.0  # random crops, if there are any
    return (len(pairs) * pair + (len(passes) - len(pairs)) * single) * len(train.used) + single * others


def choose_sample(train: Inputs) -> list[list[int]]:
    """Choose micro-batches of photos, a few for each worker; few and small ones where the network is slow.

    Afterwards everything that is slow only the first time has been done.
    """
    used, device = train.used, train.frozen.device
    with shared_cores(device) as workers:
        pass
    alone = [seconds_per_photo(train, (0,), [used[:1]]) for _ in range(2)][-1]  # the first warms up
    affordable = max(workers, int(BUDGET * workers / alone))
    number = min(len(used), ROUNDS * workers * MICRO_BATCH[device.type], affordable)
    size = min(MICRO_BATCH[device.type], -(-number // workers))
    chosen = [used[place * len(used) // number] for place in range(number)]  # from all classes
    sample = [chosen[start : start + size] for start in range(0, number, size)]
    seconds_per_photo(train, (0,), sample[:workers])
    return sample


def seconds_per_photo(train: Inputs, views: Sequence[int], sample: Sequence[Sequence[int]], long: float = 0.0) -> float:
    """Measure how long these views of the photos of some micro-batches take, from their files to their features."""
    number = sum(map(len, sample))
    work = [(indices, views) for indices in sample]
    with progress(None, "measuring", "photo") as bar:
        took = seconds(lambda: list(extract(train.frozen, train.open_photo, work, bar)), long)
    return took / number


def epoch_seconds(train: Inputs, classifier: Classifier, recipe: Recipe, validated: int) -> float:
    """Reckon the seconds of an epoch, and of judging and keeping its result, from steps on random inputs.

    The steps are so small that they change nothing: they cost the same, and the loss stays finite.
    """
    device, batch_size = train.frozen.device, min(recipe.batch_size, len(train.used))
    state = TrainState(classifier, replace(recipe, learning_rate=0.0))
    rows, labels = random_inputs(train, classifier, min(STEPS * batch_size, len(train.used)))

    def learn_from(number: int) -> None:
        shuffled = batches(rows, labels[:number], batch_size, device, order_seed=0)
        train_one_epoch(state.learner, shuffled, state.optimizer, state.average, state.recipe)

    learn_from(batch_size)  # warms up
    learning = seconds(lambda: learn_from(len(labels)), BUDGET) / len(labels)

    def judge() -> Evaluation:
        return evaluate(state.average.module, batches(rows, labels, EVALUATION_BATCH, device))

    evaluation = judge()  # warms up
    judging = seconds(judge, BUDGET / 2) / len(labels)
    keeping = seconds(lambda: state.record(0.0, evaluation), BUDGET / 2)
    return learning * len(train.used) + judging * validated + keeping


def fine_tuning_seconds(
    train: Inputs, classifier: Classifier, first: Recipe, recipe: FineTuning, validated: int
) -> float:
    """Reckon the seconds of an epoch in which the network learns, and of judging it, from a few photos.

    The steps change nothing, as in `epoch_seconds`.
    """
    state, sample = TrainState(classifier, first), choose_sample(train)
    state.unfreeze(replace(recipe, learning_rate=0.0))
    indices = [index for micro_batch in sample for index in micro_batch]
    epoch = recipe.began + 1
    reading = seconds(lambda: read_augmented(train, indices, recipe.seed, epoch), BUDGET) / len(indices)
    pixels = read_augmented(train, indices, recipe.seed, epoch).to(train.frozen.device)
    labels = torch.randint(classifier.config.num_classes, (len(indices),), device=train.frozen.device)

    def learn() -> None:
        shuffled = zip(pixels.split(recipe.batch_size), labels.split(recipe.batch_size), strict=True)
        train_one_epoch(state.learner, shuffled, state.optimizer, state.average, state.recipe, epoch, len(indices))

    learn()  # warms up
    learning = seconds(learn, BUDGET) / len(indices)
    judging = seconds_per_photo(train, (0,), sample, BUDGET)
    return (reading + learning) * len(train.used) + judging * validated


def search_seconds(
    train: Inputs, classifier: Classifier, recipe: Recipe, fixed: Mapping[str, object], validated: int
) -> float:
    """Reckon the seconds of a search among heads, from a step of each stack of them on random inputs."""
    rows, labels = random_inputs(train, classifier, min(recipe.batch_size, len(train.used)))
    device, tried = train.frozen.device, [Tried(settings) for settings in grid(recipe, fixed)]
    inputs, labels = to_learner(rows, device), labels.to(device)
    epoch = 0.0
    for members in shares(tried, classifier):
        for _, stack in grouped(members, classifier, device):
            stack.step(inputs, labels)  # warms up
            step = seconds(partial(stack.step, inputs, labels), BUDGET / 4)
            judging = seconds(partial(stack.losses_and_hits, [inputs], labels, TEMPERATURES))
            epoch += step * math.ceil(len(train.used) / len(labels)) + judging * validated / len(labels)
    return recipe.epochs * epoch


def random_inputs(train: Inputs, classifier: Classifier, number: int) -> Batch:
    """Draw what the learner could get of so many photos: rows (N, ...) and labels (N,)."""
    form, labels = train.frozen.rows, torch.randint(classifier.config.num_classes, (number,))
    if form.dtype.is_floating_point:  # small ones: with saturated outputs the gradients would be slow denormals
        return torch.rand(number, *form.shape).to(form.dtype), labels
    return torch.randint(256, (number, *form.shape), dtype=form.dtype), labels


def seconds(work: Callable[[], object], long: float = 0.0) -> float:
    """Measure how many seconds some work takes: the mean, where it can be done several times in `long` seconds."""
    started, times = time.perf_counter(), 0
    while not times or time.perf_counter() - started < long:
        work()
        times += 1
    return (time.perf_counter() - started) / times
