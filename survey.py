"""What train.py would have before it and how long it would take: `--summary`, which trains and writes nothing.

Every photo is opened as training would open it. The expected time is measured, not looked up: a few photos go through
the backbone, a few batches through the head, and what they took is scaled to the whole run.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from data_utils import Splits
from devices import MICRO_BATCH
from errors import InputError
from evaluation import Evaluation, evaluate
from extraction import extract, in_order, shared_cores
from features import EVALUATION_BATCH, FEW_BAD, VIEWS_A_DECODE, Batch, Inputs, check_photos_left, epoch_batches
from images import ImageError, load_image, upright_size
from messages import note, progress
from model_utils import Classifier
from run_state import TrainState
from train_config import TrainConfig
from words import counted, printable

BUDGET = 1.0  # seconds that a measurement takes: on a machine that does other work too, less would be chance
ROUNDS = 2  # micro-batches a worker in a measurement
STEPS = 2  # of the optimizer, over and over

Size = tuple[int, int]  # width, height in pixels
Learn = Callable[[nn.Module, Iterable[Batch], torch.optim.Optimizer, nn.Module], float]  # train_one_epoch, in train.py


def survey(config: TrainConfig, splits: Splits, state: TrainState, device: torch.device, learn: Learn) -> None:
    """Print what was found, what would be trained and how long it would take about.

    Raises InputError, when all has been said, for photos without which training would not begin. `state` serves for
    measuring, and is of no use afterwards.
    """
    classifier, names = state.checkpoint.classifier, state.checkpoint.names
    found = [split for split in (splits.train, splits.valid, splits.test) if split]
    parts = [Inputs(classifier, split, config.seed, device) for split in found]
    numbers = ", ".join(f"{len(part.split):,} {part.split.name}" for part in parts)
    print(f"{counted(len(splits.classes), 'class', 'classes')}: {numbers} photos")
    show("smallest class", class_sizes([names[label] for label in splits.train.labels]))
    show("photo sizes", size_range(open_all(parts)))
    errors = [part.bad[index] for part in parts for index in sorted(part.bad)]
    show("bad files", bad_files(errors, config.skip_bad))
    show("backbone", backbone_of(classifier, state.checkpoint.training["weights"]))
    show("head", head_of(classifier))
    show("on", machine(classifier, device))
    if all(part.used for part in parts):
        show("expected", expected(config, parts, state, learn))
    if errors and not config.skip_bad:
        advice = "repair or remove them, or add --skip_bad"
        raise InputError(f"{counted(len(errors), 'photo')} cannot be used; {advice}")
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
    if not sys.stderr.isatty():  # where no bar will say it
        note(f"opening {counted(number, 'photo')}")
    work = [
        (part.split.root / photo, part.classifier.preprocessing.enough_pixels)
        for part in parts
        for photo in part.split.photos
    ]
    places = [(part, index) for part in parts for index in range(len(part.split))]
    sizes = []
    with progress(number, "opening photos", "photo") as bar:
        # As for a CPU also where there is a GPU, since no photo is sent there
        for (part, index), found in zip(places, in_order(try_photo, work, torch.device("cpu")), strict=True):
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
        return ImageError(str(error))  # without the traceback, which would hold the picture


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
    heading = f"{len(errors):,} cannot be opened" + (", to be left out (--skip_bad):" if skipped else ":")
    rest = [f"and {len(errors) - FEW_BAD:,} more"] if len(errors) > FEW_BAD else []
    return "\n".join([heading, *(str(error).removeprefix("cannot open ") for error in errors[:FEW_BAD]), *rest])


# --------------------------------------------------------------------------------------------------------- the model


def parameters_of(module: nn.Module) -> str:
    """Count a module's parameters."""
    return counted(sum(parameter.numel() for parameter in module.parameters()), "parameter")


def backbone_of(classifier: Classifier, weights: str) -> str:
    """Say what the backbone is, and what comes out of it."""
    config, side = classifier.config, classifier.preprocessing.crop_size
    origin = "random weights" if weights == "none" else weights
    learns = "frozen" if config.frozen else "trained"
    features = f"{counted(classifier.feature_width, 'feature')} of {side} x {side} pixels"
    return f"{config.arch} with {origin}: {parameters_of(classifier.backbone)}, {learns}; {features}"


def head_of(classifier: Classifier) -> str:
    """Say how wide the head's layers are."""
    widths = [classifier.feature_width, *classifier.config.hidden_units, classifier.config.num_classes]
    return f"{' -> '.join(f'{width:,}' for width in widths)}: {parameters_of(classifier.head)}"


def machine(classifier: Classifier, device: torch.device) -> str:
    """Say what the run would be computed on, and how precisely the backbone is."""
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    return f"{device.type}, {unit}, {'bfloat16' if classifier.bfloat16 else 'float32'}"


# ---------------------------------------------------------------------------------------------------------- the time


def expected(config: TrainConfig, parts: Sequence[Inputs], state: TrainState, learn: Learn) -> str:
    """Say how long the run would take, and with what."""
    train, *held_out = parts
    views, others = min(config.views, config.epochs), sum(len(part.used) for part in held_out)
    if not sys.stderr.isatty():
        note("measuring how fast that goes")
    reading = reading_seconds(train, views, others)
    learning = config.epochs * epoch_seconds(config, state, train, len(held_out[0].used), learn)
    what = "the head" if train.classifier.config.frozen else "training"
    passes = f"{counted(views, 'pass', 'passes')} over {len(train.used):,} photos and 1 over {others:,}"
    cache = "" if config.no_cache else "less what the cache holds; "
    return (
        f"about {duration(reading + learning)} for {counted(config.epochs, 'epoch')}: "
        f"{duration(reading)} for {passes}, {duration(learning)} for {what}\n"
        f"({cache}loading and the report not counted)"
    )


def reading_seconds(train: Inputs, views: int, others: int) -> float:
    """Reckon the seconds for `views` views of each training photo and one of `others`, from a sample of them."""
    sample = choose_sample(train)
    single = seconds_a_photo(train, (0,), sample, BUDGET)
    pairs, left_over = divmod(views, VIEWS_A_DECODE)
    last_pair = range(VIEWS_A_DECODE * (pairs - 1), VIEWS_A_DECODE * pairs)  # random crops, if there are any
    pair = seconds_a_photo(train, last_pair, sample, BUDGET) if pairs else 0.0
    return (pairs * pair + left_over * single) * len(train.used) + single * others


def choose_sample(train: Inputs) -> list[list[int]]:
    """Choose micro-batches of photos, a few for each worker; few and small ones where the network is slow.

    Afterwards everything that is slow only the first time has been done.
    """
    used, device = train.used, train.device
    with shared_cores(device) as workers:
        pass
    alone = [seconds_a_photo(train, (0,), [used[:1]]) for _ in range(2)][-1]  # the first warms up
    affordable = max(workers, int(BUDGET * workers / alone))
    number = min(len(used), ROUNDS * workers * MICRO_BATCH[device.type], affordable)
    size = min(MICRO_BATCH[device.type], -(-number // workers))
    chosen = [used[place * len(used) // number] for place in range(number)]  # from all classes
    sample = [chosen[start : start + size] for start in range(0, number, size)]
    seconds_a_photo(train, (0,), sample[:workers])
    return sample


def seconds_a_photo(train: Inputs, views: Sequence[int], sample: Sequence[Sequence[int]], long: float = 0.0) -> float:
    """Measure how long these views of the photos of some micro-batches take, from their files to their features."""
    number = sum(map(len, sample))
    work = [(indices, views) for indices in sample]
    with progress(None, "measuring", "photo") as bar:
        took = seconds(lambda: list(extract(train.classifier, train.open_views, work, train.device, bar)), long)
    return took / number


def epoch_seconds(config: TrainConfig, state: TrainState, train: Inputs, validated: int, learn: Learn) -> float:
    """Reckon the seconds of an epoch, and of judging and keeping its result, from steps on random inputs."""
    classifier, device, batch_size = train.classifier, train.device, min(config.batch_size, len(train.used))
    rows, labels = random_inputs(classifier, min(STEPS * batch_size, len(train.used)))
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0  # costs the same, and the loss stays finite whatever was asked for

    def learn_from(number: int) -> None:
        batches = epoch_batches(rows, labels[:number], batch_size, device, order_seed=0)
        learn(state.trainee, batches, state.optimizer, state.average)

    learn_from(batch_size)  # warms up
    learning = seconds(lambda: learn_from(len(labels)), BUDGET) / len(labels)

    def judge() -> Evaluation:
        return evaluate(state.average.module, epoch_batches(rows, labels, EVALUATION_BATCH, device))

    evaluation = judge()  # warms up
    judging = seconds(judge, BUDGET / 2) / len(labels)
    keeping = seconds(lambda: state.record(0.0, evaluation), BUDGET / 2)
    return learning * len(train.used) + judging * validated + keeping


def random_inputs(classifier: Classifier, number: int) -> Batch:
    """Draw what the trainee could get of so many photos: rows (N, ...) and labels (N,)."""
    shape, labels = (number, *classifier.trainee_input_shape), torch.randint(classifier.config.num_classes, (number,))
    if classifier.config.frozen:
        return torch.rand(shape), labels  # small ones: with saturated outputs the gradients would be slow denormals
    return torch.randint(256, shape, dtype=torch.uint8), labels


def seconds(work: Callable[[], object], long: float = 0.0) -> float:
    """Measure how many seconds some work takes: the mean, where it can be done several times in `long` seconds."""
    started, times = time.perf_counter(), 0
    while not times or time.perf_counter() - started < long:
        work()
        times += 1
    return (time.perf_counter() - started) / times


def duration(length: float) -> str:
    """Write a number of seconds with two digits, in the unit that suits it."""
    for unit, size, limit in (("s", 1, 100), ("minutes", 60, 100), ("hours", 3600, math.inf)):
        rounded = float(f"{max(length, 0.01) / size:.2g}")
        if rounded < limit:
            return f"{rounded:,.12g} {unit}"
    raise ValueError(length)
