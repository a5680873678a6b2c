"""What may be wrong with a folder of photos: `--doctor` examines every photo and saves no model.

    examined, findings = examine(splits, classes, names)          the worst first

Twins, wrong labels and outliers are found by the features that training would use, the rest by the pixels.
`findings.py` lists the kinds of findings; docs/doctor.md says how reliable they are.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from flower_classifier.base.console import progress
from flower_classifier.base.files import check_writable
from flower_classifier.base.messages import InputError, counted, note, photos_of, reason_of
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.doctor.findings import KINDS, TABLE, Finding, summary_of, write_findings
from flower_classifier.doctor.image_stats import ImageStats
from flower_classifier.doctor.second_opinion import SCHEDULE, Opinion, memory_of_all, second_opinion
from flower_classifier.doctor.twins import find_twins
from flower_classifier.features.extraction import ordered_parallel_map
from flower_classifier.features.inputs import Inputs, check_photos_left, prepare_inputs
from flower_classifier.features.seen_before import warn_of_seen
from flower_classifier.photos.copies import linked
from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.near_copies import THUMBNAIL
from flower_classifier.photos.splits import PhotoRef
from flower_classifier.photos.views import Augmentation, Preprocessing
from flower_classifier.training.steps import open_cache, prepare

LEAST_TIMES = 10  # how many times likelier than a photo's own class another one must be
FEWEST_OF_A_CLASS = 3  # training photos that a class needs, so that each can be judged by the others
FAR_OUT = 3.0  # how far beyond the middle half of the values an outlier lies, in widths of that half: Tukey 1977
# Least width of that half, in the values' own units: photos that are nearly alike differ by chance alone
LEAST_OF_DISTANCES, LEAST_OF_SHARPNESS = 1.0, 1.0
DARK, FLAT = 0.2, 0.2  # below this brightness or contrast a photo shows little
ENLARGED = 2.0  # a photo that must be enlarged more than this is tiny
NARROW = 3.0  # longer side divided by the shorter one: the network sees a square from the middle
SMALL_CLASS = 10  # with fewer training photos a class is hard to learn
CONFUSED = 0.2  # share of two classes' photos that are taken for the other class


@dataclass(frozen=True)
class Examined:
    """All photos that could be opened when their features were computed, and what was measured on them."""

    refs: Sequence[PhotoRef]  # (N,)
    measured: Sequence[ImageStats | ImageError]  # (N,)
    opinion: Opinion
    twins: Mapping[tuple[int, int], float]  # the indices of two photos that are one, and how alike they are
    classes: Sequence[str]  # (C,): folders
    names: Sequence[str]  # (C,): what people call them
    preprocessing: Preprocessing  # what the network sees of a photo

    def finding(self, index: int, kind: str, score: float, suggestion: str, twin: int | None = None) -> Finding:
        """Return a finding about a photo, perhaps with its twin."""
        ref, twin_photo = self.refs[index], "" if twin is None else self.refs[twin].photo
        other_class = "" if twin is None else self.classes[self.refs[twin].label]
        label_folder, split = self.classes[ref.label], ref.split.name
        return Finding(ref.photo, kind, score, suggestion, twin_photo, label_folder, other_class, split)

    @property
    def class_sizes(self) -> torch.Tensor:
        """How many training photos each class has, (C,)."""
        return torch.bincount(self.opinion.labels[self.opinion.is_training], minlength=len(self.classes))

    @property
    def doubted_training_photos(self) -> torch.Tensor:
        """How many training photos of each class look much more like another class, (C,)."""
        is_doubted = self.opinion.is_training & (self.opinion.rivals[1] >= math.log10(LEAST_TIMES))
        return torch.bincount(self.opinion.labels[is_doubted], minlength=len(self.classes))

    def about_twins(self) -> Iterator[Finding]:
        """For each group of duplicates, report every photo but the one to keep, beside that one.

        A test photo is kept rather than a validation photo, and that rather than a training photo; within a split, the
        one that looks most like its class.
        """
        opinion, order = self.opinion, {"train": 0, "valid": 1, "test": 2}
        sureness = opinion.logits.log_softmax(dim=1).gather(1, opinion.labels[:, None])[:, 0].tolist()
        for group in linked(self.twins):
            *duplicates, best = sorted(group, key=lambda index: (order[self.refs[index].split.name], sureness[index]))
            best_ref = self.refs[best]
            for index in duplicates:
                ref = self.refs[index]
                score = max(value for pair, value in self.twins.items() if index in pair)
                if ref.split is not best_ref.split:
                    yield self.finding(index, "leak", score, f"keep the {best_ref.split.spoken} photo alone", best)
                if ref.label != best_ref.label:
                    advice = f"{self.names[ref.label]} or {self.names[best_ref.label]}?"
                    yield self.finding(index, "two_labels", score, advice, best)
                elif ref.split is best_ref.split:
                    yield self.finding(index, "same_photo", score, "keep one of the two", best)

    def leaks(self) -> Iterator[str]:
        """Say, for each split with twins among the training photos, what they do to its accuracy."""
        is_training, learned = self.opinion.is_training.tolist(), set()
        right = (self.opinion.as_trained == self.opinion.labels).double()
        for pair in self.twins:
            for index, twin in (pair, pair[::-1]):
                if is_training[twin] and not is_training[index]:
                    learned.add(index)
        for name in dict.fromkeys(ref.split.spoken for ref in self.refs):
            in_split = [index for index, ref in enumerate(self.refs) if ref.split.spoken == name]
            unleaked = [index for index in in_split if index not in learned]
            if len(unleaked) < len(in_split) and unleaked:
                accuracy, without = right[in_split].mean().item(), right[unleaked].mean().item()
                leaked = len(in_split) - len(unleaked)
                verb = "is" if leaked == 1 else "are"
                spoken = f"{counted(leaked, f'{name} photo')} {verb} among the training photos"
                yield f"{spoken}; accuracy of a linear head {accuracy:.1%} with them, {without:.1%} without"

    def about_labels(self) -> Iterator[Finding]:
        """Yield a finding for each photo that looks much more like another class, and for each far from every class.

        Only of classes with enough training photos to judge a photo by. Of a small class most photos are not called
        wrong: the heads have not learned it, which `about_classes` reports.
        """
        opinion, (rivals, powers) = self.opinion, self.opinion.rivals
        sizes, doubted = self.class_sizes, self.doubted_training_photos
        is_unlearned = (sizes < SMALL_CLASS) & (2 * doubted > sizes)  # bool (C,)
        is_judged = (sizes >= FEWEST_OF_A_CLASS)[opinion.labels]  # bool (N,)
        is_doubted = is_judged & ~is_unlearned[opinion.labels] & (powers >= math.log10(LEAST_TIMES))
        for index in is_doubted.nonzero()[:, 0].tolist():
            rival, ref = int(rivals[index]), self.refs[index]
            advice, rival_folder = f"looks like {self.names[rival]}", self.classes[rival]
            label_folder, power, split = self.classes[ref.label], powers[index].item(), ref.split.name
            similar = f"{rival_folder}/"
            yield Finding(ref.photo, "label", power, advice, similar, label_folder, rival_folder, split)
        judged = is_judged.nonzero()[:, 0].tolist()
        for row, score in beyond(opinion.distances.numpy()[judged], LEAST_OF_DISTANCES):
            yield self.finding(judged[row], "outlier", score, "is it one of the classes at all?")

    def about_pixels(self) -> Iterator[Finding]:
        """Yield findings about photos that show little, by their pixels."""
        opened = [(index, stats) for index, stats in enumerate(self.measured) if not isinstance(stats, ImageError)]
        for row, score in beyond(-np.array([stats.sharpness for _, stats in opened]), LEAST_OF_SHARPNESS):
            yield self.finding(opened[row][0], "blurry", score, "is it sharp enough to tell?")
        for index, stats in opened:
            shorter, longer = sorted(stats.size)
            if stats.brightness < DARK:
                yield self.finding(index, "dark", 1 - stats.brightness, "is it bright enough to tell?")
            elif stats.contrast < FLAT:  # as a dark photo always has, which is reported once
                yield self.finding(index, "washed_out", 1 - stats.contrast, "does it show anything?")
            side = self.preprocessing.crop_size
            if shorter * ENLARGED < side:
                advice = f"{stats.size[0]} x {stats.size[1]} pixels; seen at {side}"
                yield self.finding(index, "tiny", side / shorter, advice)
            if longer > NARROW * shorter and self.preprocessing.fit == "crop":
                yield self.finding(index, "narrow", longer / shorter, "cut it to what it shows")

    def about_classes(self) -> Iterator[Finding]:
        """Yield findings about classes with few photos, and about pairs that look alike."""
        opinion, classes = self.opinion, self.classes
        labels, sizes = opinion.labels[opinion.is_training], self.class_sizes.tolist()
        for name, size, doubted in zip(classes, sizes, self.doubted_training_photos.tolist(), strict=True):
            if size < SMALL_CLASS:
                advice = photos_of("train", size)
                if size >= FEWEST_OF_A_CLASS and 2 * doubted > size:
                    advice += f", {doubted} of them taken for other classes: too few to learn from"
                yield Finding(f"{name}/", "small_class", SMALL_CLASS - size, advice, class_name=name)
        pairs = zip(labels.tolist(), opinion.predicted[opinion.is_training].tolist(), strict=True)
        confused = Counter(tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1])
        for (first, second), times in confused.items():
            if (share := times / (sizes[first] + sizes[second])) >= CONFUSED:
                advice = f"{self.names[first]} and {self.names[second]}: are they one class?"
                folder, similar_folder = classes[first], classes[second]
                yield Finding(
                    f"{folder}/", "alike_classes", share, advice, f"{similar_folder}/", folder, similar_folder
                )


def run_doctor(config: TrainConfig) -> None:
    """Print what may be wrong with the photos; leave a table and sheets of it in --save_dir."""
    data, built = prepare(config)
    folder = config.checkpoint_path.parent / "doctor"
    if config.without and config.without.absolute() == (folder / TABLE).absolute():
        raise InputError(f"would move {config.without}, which --without reads: give another --save_dir", "doctor")
    check_writable(folder, "save_dir")
    augmentation = Augmentation(config.augment, config.seed)
    schedule = replace(SCHEDULE, views=1) if config.augment == "none" else SCHEDULE
    inputs = prepare_inputs(built.frozen, data.splits, augmentation, open_cache(config), schedule)
    check_photos_left(data.classes, *inputs)
    warn_of_seen(data.splits, inputs)
    examined, findings = examine(inputs.splits, data.classes, data.names)
    photos = sum(map(len, data.splits.parts))
    print(summary_of(findings, photos, len(data.classes), list(examined.leaks())), flush=True)
    write_findings(folder, data.splits, findings, data.category_names, built.frozen.preprocessing)
    note(f"all of it, and sheets of the photos: {folder}")


def examine(splits: Sequence[Inputs], classes: Sequence[str], names: Sequence[str]) -> tuple[Examined, list[Finding]]:
    """Examine the photos of train, valid and (perhaps) test; return all measurements and the findings.

    Findings are sorted by kind, and within a kind by score, the highest first. `splits`: one per split, with their
    features computed.
    """
    refs = [PhotoRef(inputs.split, index) for inputs in splits for index in inputs.used]
    preprocessing, measured = splits[0].frozen.preprocessing, list[ImageStats | ImageError]()
    with progress(len(refs), "looking at photos", "photo") as bar:
        work = ((ref, preprocessing.grey_range) for ref in refs)
        for outcome in ordered_parallel_map(try_to_measure, work, torch.device("cpu")):
            measured.append(outcome)
            bar.update()
    memory = memory_of_all(splits)
    blank = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    thumbnails = [blank if isinstance(stats, ImageError) else stats.thumbnail for stats in measured]
    twins = find_twins(refs, memory.own_rows, thumbnails)
    opinion = second_opinion(splits, len(classes), memory, linked(twins))
    examined = Examined(refs, measured, opinion, twins, classes, names, preprocessing)
    errors = [(PhotoRef(inputs.split, index), error) for inputs in splits for index, error in inputs.bad.items()]
    errors += [(ref, stats) for ref, stats in zip(refs, measured, strict=True) if isinstance(stats, ImageError)]
    findings = [
        Finding(ref.photo, "unreadable", 1, str(error).removeprefix(f"cannot open {ref.path}: "), split=ref.split.name)
        for ref, error in errors
    ]
    for find in (examined.about_twins, examined.about_labels, examined.about_pixels, examined.about_classes):
        findings += find()
    order = {kind.name: rank for rank, kind in enumerate(KINDS)}
    return examined, sorted(findings, key=lambda finding: (order[finding.kind], -finding.score, finding.path))


def try_to_measure(ref: PhotoRef, grey_range: GreyRange | None) -> ImageStats | ImageError:
    """Measure a photo's pixels; return the error where it can no longer be opened."""
    try:
        return ImageStats.of(ref.path, grey_range)
    except ImageError as error:
        return error.bare()
    except OSError as error:  # the file vanished between two reads
        return ImageError(f"cannot open {ref.path}: {reason_of(error)}")


def beyond(values: np.ndarray, least_width: float) -> Iterator[tuple[int, float]]:
    """Yield the index of each value (N,) more than FAR_OUT widths above the middle half, and by how many widths."""
    if not len(values):
        return
    low, high = np.percentile(values, (25, 75))
    widths = (values - high) / max(high - low, least_width)
    for index in np.nonzero(widths > FAR_OUT)[0]:
        yield int(index), float(widths[index])
