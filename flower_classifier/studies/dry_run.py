"""What train.py would have before it and how long it would take: `--summary`, which trains and writes nothing.

Every photo is opened as training would open it. The expected time is measured, not looked up: a few photos go through
the backbone, a few batches through the learner, and what they took is scaled to the whole run.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from flower_classifier.base.console import bars_are_shown, note, progress
from flower_classifier.base.errors import InputError
from flower_classifier.base.text import counted, printable
from flower_classifier.features.batches import EVALUATION_BATCH, Batch, batches, read_augmented, to_learner
from flower_classifier.features.extraction import extract, ordered_parallel_map, shared_cores
from flower_classifier.features.inputs import LISTED_BAD, Inputs, check_photos_left, eval_inputs
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import MICRO_BATCH
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.images import ImageError, load_image, upright_size
from flower_classifier.photos.splits import Splits
from flower_classifier.training.head_search import TEMPERATURES, Trial, grid, grouped, shares
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import FineTuning, Recipe
from flower_classifier.training.state import TrainState

Size = tuple[int, int]  # width, height in pixels


def survey(
    splits: Splits,
    state: TrainState,
    frozen: FrozenBackbone,
    skip_bad: bool,
    bad_limit: float,
    cached: bool,
    fixed: Mapping[str, object] | None = None,
    second: FineTuning | None = None,
) -> None:
    """Print what was found, what would be trained and how long it would take about.

    `skip_bad`: training would go on without bad photos, up to the share `bad_limit` of a split. `cached`: it would keep
    features on disk. `fixed`: the options that a search for the others would leave, if there would be one. `second`:
    the recipe of a second stage, if there would be one. Raises InputError, after everything has been printed, for
    photos with which training would not begin.
    """
    classifier, recipe, category_names = state.classifier, state.recipe, state.finished.category_names
    names = [printable(category_names.get(name, name)) for name in splits.classes]
    found = [split for split in (splits.train, splits.valid, splits.test) if split]
    parts = [Inputs(frozen, found[0], recipe.seed, schedule=recipe.schedule, bad_limit=bad_limit)]
    parts += [eval_inputs(frozen, split, bad_limit=bad_limit) for split in found[1:]]
    numbers = ", ".join(f"{len(part.split):,} {part.split.spoken}" for part in parts)
    print(f"{counted(len(splits.classes), 'class', 'classes')}: {numbers} photos")
    show("smallest class", class_sizes([names[label] for label in splits.train.labels]))
    show("photo sizes", size_range(open_all(parts)))
    errors = [error for part in parts for error in part.errors]
    show("bad files", bad_files(errors, skip_bad))
    show("backbone", backbone_of(classifier, str(state.training["weights"])))
    show("head", head_of(classifier))
    show("on", machine(frozen))
    if all(part.used for part in parts):
        show("expected", expected(parts, classifier, recipe, cached))
    if all(part.used for part in parts) and fixed is not None:
        show("search", expected_of_search(parts, classifier, recipe, fixed))
    if all(part.used for part in parts) and second:
        show("fine-tuning", expected_of_second(parts, classifier, recipe, second))
    if errors and not skip_bad:
        advice = "repair or remove them, or leave them out (option skip_bad)"
        raise InputError(f"{counted(len(errors), 'photo')} cannot be used; {advice}")
    for part in parts:
        part.check_limit()
    check_photos_left(splits.classes, *parts)


def show(what: str, text: str) -> None:
    """Print a fact behind its name; names of files and classes in it cannot steer the terminal."""
    lines = [printable(line) for line in text.split("\n")]
    print(f"{what:16}" + f"\n{'':16}".join(lines), flush=True)


# -------------------------------------------------------------------------------------------------------- the photos


def class_sizes(names: Iterable[str]) -> str:
    """Say which class has fewest and which has most photos, given the class of each photo."""
    by_name = Counter(names)
    least, most = (
        (counted(number, "photo"), [name for name in by_name if by_name[name] == number])
        for number in (min(by_name.values()), max(by_name.values()))
    )
    if least == most:
        return f"{least[0]}, as all have"
    smallest, largest = (
        f"{photos} ({named[0]}{f' and {len(named) - 1:,} more' * (len(named) > 1)})" for photos, named in (least, most)
    )
    return f"{smallest}, largest {largest}"


def open_all(parts: Sequence[Inputs]) -> list[Size]:
    """Open every photo on every core; put what cannot be opened into each part's `bad`, return the others' sizes."""
    number = sum(len(part.split) for part in parts)
    if not bars_are_shown():
        note(f"opening {counted(number, 'photo')}")
    work = [
        (part.split.root / photo, part.frozen.preprocessing.enough_pixels)
        for part in parts
        for photo in part.split.photos
    ]
    places = [(part, index) for part in parts for index in range(len(part.split))]
    sizes = []
    with progress(number, "opening photos", "photo") as bar:
        # As for a CPU also where there is a GPU, since no photo is sent there
        for (part, index), found in zip(
            places, ordered_parallel_map(try_photo, work, torch.device("cpu")), strict=True
        ):
            if isinstance(found, ImageError):
                part.bad[index] = found
            else:
                sizes.append(found)
            bar.update()
    return sizes


def try_photo(path: Path, shorter_side: int) -> Size | ImageError:
    """Open a photo as training would; return its size, or what is wrong with it."""
    try:
        load_image(path, shorter_side)
        return upright_size(path)
    except ImageError as error:
        return error.bare()


def size_range(sizes: Sequence[Size]) -> str:
    """Say how small and how large photos are, by their area."""
    if not sizes:
        return "unknown: none can be opened"
    by_area = sorted(sizes, key=lambda size: (math.prod(size), size))
    told = by_area[0], by_area[(len(sizes) - 1) // 2], by_area[-1]
    low, middle, high = (f"{width:,} x {height:,}" for width, height in told)
    return f"{low} pixels, all of them" if low == high else f"{low} to {high} pixels, median {middle}"


def bad_files(errors: Sequence[ImageError], skipped: bool) -> str:
    """Name the first few photos that cannot be opened, each with its reason, and count the rest."""
    if not errors:
        return "none"
    heading = f"{len(errors):,} cannot be opened" + (", and will be left out (option skip_bad):" if skipped else ":")
    rest = [f"and {len(errors) - LISTED_BAD:,} more"] if len(errors) > LISTED_BAD else []
    return "\n".join([heading, *(str(error).removeprefix("cannot open ") for error in errors[:LISTED_BAD]), *rest])


# --------------------------------------------------------------------------------------------------------- the model


def parameters_of(module: nn.Module) -> str:
    """Count a module's parameters."""
    return counted(sum(parameter.numel() for parameter in module.parameters()), "parameter")


def backbone_of(classifier: Classifier, weights: str) -> str:
    """Say what the backbone is, and what comes out of it."""
    config, side = classifier.config, classifier.preprocessing.crop_size
    origin = "random weights" if weights == "none" else weights
    learns = "frozen" if config.learns == "head" else "trained"
    features = f"{counted(classifier.feature_width, 'feature')} of {side} x {side} pixels"
    return f"{config.arch} with {origin}: {parameters_of(classifier.backbone)}, {learns}; {features}"


def head_of(classifier: Classifier) -> str:
    """Say how wide the head's layers are."""
    widths = [classifier.feature_width, *classifier.config.hidden_units, classifier.config.num_classes]
    return f"{' -> '.join(f'{width:,}' for width in widths)}: {parameters_of(classifier.head)}"


def machine(frozen: FrozenBackbone) -> str:
    """Say what the run would be computed on, and how precisely the backbone is."""
    device = frozen.device
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    numbers = str(frozen.precision).removeprefix("torch.")
    return f"{device.type}, {unit}, {numbers}"


def expected(parts: Sequence[Inputs], classifier: Classifier, recipe: Recipe, cached: bool) -> str:
    """Say how long the run would take, and with what."""
    train, *held_out = parts
    passes, others = train.schedule.used, sum(len(part.used) for part in held_out)
    answering = len(classifier.config.answer_views)
    if not bars_are_shown():
        note("measuring how fast that goes")
    reading = reading_seconds(train, answering * others)
    learning = recipe.epochs * epoch_seconds(train, classifier, recipe, answering * len(held_out[0].used))
    what = "the head" if classifier.config.learns == "head" else "training"
    passed = f"{counted(passes, 'pass', 'passes')} over {len(train.used):,} photos and {answering} over {others:,}"
    cache = "less what the cache holds; " if cached else ""
    return (
        f"about {duration(reading + learning)} for {counted(recipe.epochs, 'epoch')}: "
        f"{duration(reading)} for {passed}, {duration(learning)} for {what}\n"
        f"({cache}loading and the report not counted)"
    )


def expected_of_search(
    parts: Sequence[Inputs], classifier: Classifier, recipe: Recipe, fixed: Mapping[str, object]
) -> str:
    """Say how long a search for the head's settings would take, and among how many."""
    judged = len(classifier.config.answer_views) * len(parts[1].used)
    seconds = search_seconds(parts[0], classifier, recipe, fixed, judged)
    return f"about {duration(seconds)} for {counted(len(grid(recipe, fixed)), 'head')}, before that"


def expected_of_second(parts: Sequence[Inputs], classifier: Classifier, first: Recipe, recipe: FineTuning) -> str:
    """Say how long a second stage would take, and what would learn in it."""
    number = recipe.epochs - recipe.began
    judged = len(classifier.config.answer_views) * len(parts[1].used)
    seconds = number * fine_tuning_seconds(parts[0], classifier, first, recipe, judged)
    learning = counted(sum(classifier.backbone.get_parameter(name).numel() for name in recipe.depths), "parameter")
    return f"about {duration(seconds)} for {counted(number, 'epoch')}, after that: {learning} of the backbone learn"


def duration(length: float) -> str:
    """Write a number of seconds with two digits, in the unit that suits it."""
    for unit, size, limit in (("s", 1, 100), ("minutes", 60, 100), ("hours", 3600, math.inf)):
        rounded = float(f"{max(length, 0.01) / size:.2g}")
        if rounded < limit:
            return f"{rounded:,.12g} {unit}"
    raise ValueError(length)


# ------------------------------------------------------------------------------------------------------------- the time


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
    device, tried = train.frozen.device, [Trial(settings) for settings in grid(recipe, fixed)]
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
