"""What train.py would do and how long it would take: `--summary`, which trains and writes nothing.

Every photo is opened as training would open it. The expected time is measured, not looked up: a few photos go through
the backbone, a few batches through the learner, and their time is scaled to the whole run.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from flower_classifier.base.console import bars_are_shown, progress
from flower_classifier.base.messages import InputError, counted, note, photos_of, printable
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.batches import EVALUATION_BATCH, Batch, batches, read_augmented, to_learner
from flower_classifier.features.extraction import extract, ordered_parallel_map, shared_cores
from flower_classifier.features.inputs import LISTED_BAD, Inputs, check_photos_left, eval_inputs
from flower_classifier.features.seen_before import warn_of_seen
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import MICRO_BATCH
from flower_classifier.photos.images import ImageError, load_image, upright_size
from flower_classifier.photos.mending import counting_damaged
from flower_classifier.photos.splits import Data
from flower_classifier.training.ddp import Alone
from flower_classifier.training.head_search import Trial, grid, grouped, shares
from flower_classifier.training.heads import TEMPERATURES, HeadSettings
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import FineTuning, Recipe, second_recipe
from flower_classifier.training.run_messages import note_faster, warn_of_unequal
from flower_classifier.training.state import TrainState
from flower_classifier.training.steps import Built, choose_shrinkage, fixed_by, prepare, start_state
from flower_classifier.training.view_checks import warn_of_wide

Size = tuple[int, int]  # width, height in pixels


def dry_run(config: TrainConfig) -> None:
    """Print what the data folder holds, what would be trained and roughly how long it would take.

    Raises InputError, after everything has been printed, where bad photos would keep training from starting, and
    NoWeightsError where weights that cannot be fetched would.
    """
    data, built = prepare(config)
    state = start_state(config, data, built)
    recipe, bad_limit = state.recipe, config.bad_limit
    first, *held_out = data.splits.parts
    inputs = [Inputs(built.frozen, first, recipe.augmentation, schedule=recipe.schedule, bad_limit=bad_limit)]
    inputs += [eval_inputs(built.frozen, split, bad_limit=bad_limit) for split in held_out]
    warn_of_wide(config, first)
    errors = show_photos(data, inputs, config.skip_bad)
    warn_of_seen(data.splits)
    show_model(built)
    if all(split.used for split in inputs):
        are_whitened = choose_shrinkage(built.classifier, data, config.shrinkage, config.no_whitening) > 0
        show_times(config, inputs, built.classifier, recipe, are_whitened)
    warn_of_unequal(config, data)
    note_faster(config, built.frozen.device)
    if errors and not config.skip_bad:
        advice = "repair or remove them, or leave them out (option skip_bad)"
        raise InputError(f"{counted(len(errors), 'photo')} cannot be used; {advice}")
    for split in inputs:
        split.check_limit()
    check_photos_left(data.classes, *inputs)
    if built.missing:
        raise built.missing


def show(name: str, text: str) -> None:
    """Print a fact after its name; control characters in names of files and classes are escaped."""
    lines = [printable(line) for line in text.split("\n")]
    print(f"{name:16}" + f"\n{'':16}".join(lines), flush=True)


# -------------------------------------------------------------------------------------------------------- the photos


def show_photos(data: Data, splits: Sequence[Inputs], skip_bad: bool) -> list[ImageError]:
    """Print how many photos there are and of which sizes; open them all, and return the errors of those that fail."""
    *first, last = data.splits.parts
    photos = [*(f"{len(split):,} {split.spoken}" for split in first), photos_of(last.name, len(last))]
    print(f"{counted(len(data.classes), 'class', 'classes')}: {', '.join(photos)}")
    names = [printable(name) for name in data.names]
    show("smallest class", class_sizes([names[label] for label in data.splits.train.labels]))
    by_area = sorted(open_all(splits), key=lambda size: (math.prod(size), size))
    if by_area:
        quantiles = by_area[0], by_area[(len(by_area) - 1) // 2], by_area[-1]
        low, middle, high = (f"{width:,} x {height:,}" for width, height in quantiles)
        show("photo sizes", f"{low} pixels, all of them" if low == high else f"{low} to {high} pixels, median {middle}")
    else:
        show("photo sizes", "unknown: none can be opened")
    errors = [error for inputs in splits for error in inputs.errors]
    if errors:
        skipped = ", and will be left out (option skip_bad)" if skip_bad else ""
        lines = [f"{len(errors):,} cannot be opened{skipped}:"]
        lines += [str(error).removeprefix("cannot open ") for error in errors[:LISTED_BAD]]
        lines += [f"and {len(errors) - LISTED_BAD:,} more"] if len(errors) > LISTED_BAD else []
        show("bad files", "\n".join(lines))
    else:
        show("bad files", "none")
    return errors


def class_sizes(names: Iterable[str]) -> str:
    """Name the classes with the fewest and with the most photos, given the class name of each photo."""
    by_name = Counter(names)
    least, most = (
        (counted(size, "photo"), [name for name in by_name if by_name[name] == size])
        for size in (min(by_name.values()), max(by_name.values()))
    )
    if least == most:
        return f"{least[0]}, as all have"
    smallest, largest = (
        f"{photos} ({named[0]}{f' and {len(named) - 1:,} more' * (len(named) > 1)})" for photos, named in (least, most)
    )
    return f"{smallest}, largest {largest}"


def open_all(splits: Sequence[Inputs]) -> list[Size]:
    """Open all photos on every core; return their sizes, and put errors into `bad` of the photo's inputs."""
    total = sum(len(inputs.split) for inputs in splits)
    if not bars_are_shown():
        note(f"opening {counted(total, 'photo')}")
    origins = [(inputs, index) for inputs in splits for index in range(len(inputs.split))]
    work = [(inputs.split.path(index), inputs.frozen.preprocessing.enough_pixels) for inputs, index in origins]
    sizes = []
    with counting_damaged(), progress(total, "opening photos", "photo") as bar:
        # As for a CPU also where there is a GPU, since no photo is sent there
        for (inputs, index), outcome in zip(
            origins, ordered_parallel_map(try_photo, work, torch.device("cpu")), strict=True
        ):
            if isinstance(outcome, ImageError):
                inputs.bad[index] = outcome
            else:
                sizes.append(outcome)
            bar.update()
    return sizes


def try_photo(path: Path, shorter_side: int) -> Size | ImageError:
    """Open a photo as training would; return its size, or what is wrong with it."""
    try:
        load_image(path, shorter_side)
        return upright_size(path)
    except ImageError as error:
        return error.bare()


# --------------------------------------------------------------------------------------------------------- the model


def parameters_of(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Count the numbers in some parameters."""
    return counted(sum(parameter.numel() for parameter in parameters), "parameter")


def show_model(built: Built) -> None:
    """Print what the backbone is and gives, how wide the head's layers are, and what the run computes on."""
    classifier, device = built.classifier, built.frozen.device
    config, side = classifier.config, classifier.preprocessing.crop_size
    origin = "random weights" if built.weights.name == "none" else built.weights.name
    if built.missing:
        origin = "weights that are not here"
    size = parameters_of(classifier.backbone.parameters())
    learns = "frozen" if config.learns == "head" else "trained"
    features = f"{counted(classifier.feature_width, 'feature')} of {side} x {side} pixels"
    show("backbone", f"{config.arch} with {origin}: {size}, {learns}; {features}")
    widths = " -> ".join(f"{width:,}" for width in (classifier.feature_width, *config.hidden_units, config.num_classes))
    show("head", f"{widths}: {parameters_of(classifier.head.parameters())}")
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    show("on", f"{device.type}, {unit}, {built.frozen.precision_name}")


def show_times(
    config: TrainConfig, splits: Sequence[Inputs], classifier: Classifier, recipe: Recipe, are_whitened: bool
) -> None:
    """Print how long the run would take, and for which work; also a search before it, and fine-tuning after it."""
    train, *held_out = splits
    passes, held_out_count = train.schedule.used, sum(len(inputs.used) for inputs in held_out)
    answering = len(classifier.config.answer_views)
    judged = answering * len(held_out[0].used)
    if not bars_are_shown():
        note("measuring how fast that goes")
    reading = reading_seconds(train, answering * held_out_count)
    learning = recipe.epochs * epoch_seconds(train, classifier, recipe, judged)
    stage = "the head" if classifier.config.learns == "head" else "training"
    passed = (
        f"{counted(passes, 'pass', 'passes')} over {len(train.used):,} photos and {answering} over {held_out_count:,}"
    )
    cache = "" if config.no_cache else "less what the cache holds; "
    show(
        "expected",
        f"about {duration(reading + learning)} for {counted(recipe.epochs, 'epoch')}: "
        f"{duration(reading)} for {passed}, {duration(learning)} for {stage}\n"
        f"({cache}loading and the report not counted)",
    )
    if config.tune:
        heads = grid(recipe, fixed_by(config), are_whitened)
        searching = search_seconds(train, classifier, heads, judged)
        show("search", f"about {duration(searching)} for {counted(len(heads), 'head')}, before that")
    if config.fine_tune:
        second = second_recipe(config, recipe, classifier, config.epochs)
        epochs = second.epochs - second.began
        tuning = duration(epochs * fine_tuning_seconds(train, classifier, recipe, second, judged))
        size = parameters_of(classifier.backbone.get_parameter(name) for name in second.depths)
        show("fine-tuning", f"about {tuning} for {counted(epochs, 'epoch')}, after that: {size} of the backbone learn")


def duration(length: float) -> str:
    """Write a number of seconds with two digits, in the unit that suits it."""
    for unit, size, limit in (("s", 1, 100), ("minutes", 60, 100), ("hours", 3600, math.inf)):
        rounded = float(f"{max(length, 0.01) / size:.2g}")
        if rounded < limit:
            return f"{rounded:,.12g} {unit}"
    raise ValueError(length)


# ------------------------------------------------------------------------------------------------------------- the time


BUDGET = 1.0  # seconds per measurement: shorter ones vary too much on a machine that does other work too
ROUNDS = 2  # micro-batches per worker in a measurement
STEPS = 2  # of the optimizer, repeated


def reading_seconds(train: Inputs, held_out: int) -> float:
    """Estimate from a sample the seconds for the scheduled views of train and one view of each `held_out` photo."""
    sample = choose_sample(train)
    single = seconds_per_photo(train, (0,), sample, BUDGET)
    passes = train.schedule.passes
    pairs = [views for views in passes if len(views) > 1]
    pair = seconds_per_photo(train, pairs[-1], sample, BUDGET) if pairs else 0.0  # random crops, if there are any
    return (len(pairs) * pair + (len(passes) - len(pairs)) * single) * len(train.used) + single * held_out


def choose_sample(train: Inputs) -> list[list[int]]:
    """Choose micro-batches of photos: a few for each worker, fewer and smaller ones where the network is slow.

    This also warms up everything that is slow only the first time.
    """
    used, device = train.used, train.frozen.device
    with shared_cores(device) as workers:
        pass
    alone = [seconds_per_photo(train, (0,), [used[:1]]) for _ in range(2)][-1]  # the first warms up
    affordable = max(workers, int(BUDGET * workers / alone))
    count = min(len(used), ROUNDS * workers * MICRO_BATCH[device.type], affordable)
    size = min(MICRO_BATCH[device.type], -(-count // workers))
    indices = [used[position * len(used) // count] for position in range(count)]  # from all classes
    sample = [indices[start : start + size] for start in range(0, count, size)]
    seconds_per_photo(train, (0,), sample[:workers])
    return sample


def seconds_per_photo(train: Inputs, views: Sequence[int], sample: Sequence[Sequence[int]], long: float = 0.0) -> float:
    """Measure the seconds per photo for these views, from files to features. `sample`: micro-batches of indices."""
    count = sum(map(len, sample))
    work = [(indices, views) for indices in sample]
    with progress(None, "measuring", "photo") as bar:
        took = seconds(lambda: list(extract(train.frozen, train.open_photo, work, bar)), long)
    return took / count


def epoch_seconds(train: Inputs, classifier: Classifier, recipe: Recipe, validated: int) -> float:
    """Estimate the seconds of an epoch, its validation and its record, from steps on random inputs.

    The learning rate is 0: the steps cost the same, change nothing, and the loss stays finite.
    """
    device, batch_size = train.frozen.device, min(recipe.batch_size, len(train.used))
    state = TrainState(classifier, replace(recipe, learning_rate=0.0))
    rows, labels = random_inputs(train, classifier, min(STEPS * batch_size, len(train.used)))

    def learn_from(count: int) -> None:
        shuffled = batches(rows, labels[:count], batch_size, device, order_seed=0)
        train_one_epoch(Alone(state.learner), shuffled, state.optimizer, state.average, state.recipe)

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
    """Estimate the seconds of a fine-tuning epoch and its validation, from a few photos.

    The steps change nothing, as in `epoch_seconds`.
    """
    state, sample = TrainState(classifier, first), choose_sample(train)
    state.unfreeze(replace(recipe, learning_rate=0.0))
    indices = [index for micro_batch in sample for index in micro_batch]
    epoch = recipe.began + 1
    reading = seconds(lambda: read_augmented(train, indices, epoch), BUDGET) / len(indices)
    pixels = read_augmented(train, indices, epoch).to(train.frozen.device)
    labels = torch.randint(classifier.config.num_classes, (len(indices),), device=train.frozen.device)

    def learn() -> None:
        shuffled = zip(pixels.split(recipe.batch_size), labels.split(recipe.batch_size), strict=True)
        train_one_epoch(
            Alone(state.learner), shuffled, state.optimizer, state.average, state.recipe, epoch, len(indices)
        )

    learn()  # warms up
    learning = seconds(learn, BUDGET) / len(indices)
    judging = seconds_per_photo(train, (0,), sample, BUDGET)
    return (reading + learning) * len(train.used) + judging * validated


def search_seconds(train: Inputs, classifier: Classifier, heads: Sequence[HeadSettings], validated: int) -> float:
    """Estimate the seconds of a search among heads, from a step of each stack of heads on random inputs."""
    recipe = heads[0].recipe
    rows, labels = random_inputs(train, classifier, min(recipe.batch_size, len(train.used)))
    device, tried = train.frozen.device, [Trial(settings) for settings in heads]
    inputs, labels = to_learner(rows, device), labels.to(device)
    epoch = 0.0
    for members in shares(tried, classifier):
        for _, stack in grouped(members, classifier, device):
            stack.step(inputs, labels)  # warms up
            step = seconds(partial(stack.step, inputs, labels), BUDGET / 4)
            judging = seconds(partial(stack.losses_and_hits, [inputs], labels, TEMPERATURES))
            epoch += step * math.ceil(len(train.used) / len(labels)) + judging * validated / len(labels)
    return recipe.epochs * epoch


def random_inputs(train: Inputs, classifier: Classifier, count: int) -> Batch:
    """Draw random inputs of the learner for `count` photos: rows (N, ...) and labels (N,)."""
    form, labels = train.frozen.rows, torch.randint(classifier.config.num_classes, (count,))
    if form.dtype.is_floating_point:  # small ones: with saturated outputs the gradients would be slow denormals
        return torch.rand(count, classifier.feature_width), labels
    return torch.randint(256, (count, *form.shape), dtype=form.dtype), labels


def seconds(work: Callable[[], object], long: float = 0.0) -> float:
    """Measure how many seconds `work` takes: the mean of as many runs as begin within `long` seconds, at least one."""
    started, times = time.perf_counter(), 0
    while not times or time.perf_counter() - started < long:
        work()
        times += 1
    return (time.perf_counter() - started) / times
