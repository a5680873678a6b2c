"""What may be wrong with a folder of photos: `--doctor`, which looks at all of them and trains nothing that is kept.

    examined, findings = examine(parts, classes, names, crop_size)          the worst first

Twins, wrong labels and outliers are found by the features that training would use, the rest by the pixels. Each kind of
finding is in `findings.py`; what they are worth is in docs/doctor.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flower_classifier.base.console import progress
from flower_classifier.base.text import reason_of
from flower_classifier.doctor.findings import Finding, ranked
from flower_classifier.doctor.second_opinion import Opinion, memory_of_all, second_opinion
from flower_classifier.doctor.twins import THUMBNAIL, Look, Twins, find_twins, groups_of, look_at
from flower_classifier.features.extraction import ordered_parallel_map
from flower_classifier.features.inputs import Inputs
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.splits import PhotoRef

LEAST_TIMES = 10  # that another class must be likelier than a photo's own
FEWEST_OF_A_CLASS = 3  # training photos from which on a class can be told by the others
FAR_OUT = 3.0  # widths of the middle half of the photos that a photo lies beyond it: Tukey 1977
# Least width of that half, in the values' own units: photos that are nearly alike all differ by chance
LEAST_OF_DISTANCES, LEAST_OF_SHARPNESS = 1.0, 1.0
DARK, FLAT = 0.2, 0.2  # brightness and contrast below which a photo shows little
ENLARGED = 2.0  # times that a photo would have to be
NARROW = 3.0  # longer side, in its shorter sides: the network sees a square of the middle
SMALL_CLASS = 10  # training photos below which a class is hard to learn
CONFUSED = 0.2  # share of two classes' photos


@dataclass(frozen=True)
class Examined:
    """All photos that could be opened when their features were computed, and what was found out about them."""

    places: Sequence[PhotoRef]  # (N,)
    looks: Sequence[Look | ImageError]  # (N,)
    opinion: Opinion
    twins: Sequence[Twins]  # by indices of the photos
    classes: Sequence[str]  # (C,): folders
    names: Sequence[str]  # (C,): what people call them
    crop_size: int  # pixels a side that the network sees

    def finding(self, index: int, kind: str, score: float, suggestion: str, twin: int | None = None) -> Finding:
        """Return a finding about a photo, perhaps with its twin."""
        place, other = self.places[index], "" if twin is None else self.places[twin].photo
        other_class = "" if twin is None else self.classes[self.places[twin].label]
        return Finding(place.photo, kind, score, suggestion, other, self.classes[place.label], other_class)


def examine(
    parts: Sequence[Inputs], classes: Sequence[str], names: Sequence[str], crop_size: int
) -> tuple[Examined, list[Finding]]:
    """Examine the photos of train, valid and (perhaps) test, whose features are ready; return what was found, too."""
    places = [PhotoRef(part.split, index) for part in parts for index in part.used]
    looks = look_at_all(places)
    memory = memory_of_all(parts)
    blank = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    thumbnails = [blank if isinstance(look, ImageError) else look.thumbnail for look in looks]
    twins = find_twins(places, memory.own_rows, thumbnails)
    opinion = second_opinion(parts, len(classes), memory, groups_of(twins))
    examined = Examined(places, looks, opinion, twins, classes, names, crop_size)
    findings = [unreadable(PhotoRef(part.split, index), error) for part in parts for index, error in part.bad.items()]
    looked = zip(places, looks, strict=True)
    findings += [unreadable(place, look) for place, look in looked if isinstance(look, ImageError)]
    for find in (about_twins, about_labels, about_outliers, about_pixels, about_classes):
        findings += find(examined)
    return examined, ranked(findings)


def unreadable(place: PhotoRef, error: ImageError) -> Finding:
    """Return the finding about a photo that cannot be opened."""
    return Finding(place.photo, "unreadable", 1, str(error).removeprefix(f"cannot open {place.path}: "))


def look_at_all(places: Sequence[PhotoRef]) -> list[Look | ImageError]:
    """Look at photos on every core."""
    looks = []
    with progress(len(places), "looking at photos", "photo") as bar:
        for look in ordered_parallel_map(try_to_look, ((place,) for place in places), torch.device("cpu")):
            looks.append(look)
            bar.update()
    return looks


def try_to_look(place: PhotoRef) -> Look | ImageError:
    """Look at a photo, or return what is wrong with it, by now."""
    try:
        return look_at(place.path)
    except ImageError as error:
        return error.bare()
    except OSError as error:  # it has gone between two looks at it
        return ImageError(f"cannot open {place.path}: {reason_of(error)}")


def about_twins(examined: Examined) -> Iterator[Finding]:
    """Yield findings about all but one of the photos that are one, each beside the one that had better stay.

    Of a training photo and one that judges it is the latter, else the one that looks most like its class.
    """
    opinion, order = examined.opinion, {"train": 0, "valid": 1, "test": 2}
    sureness = opinion.logits.log_softmax(dim=1).gather(1, opinion.labels[:, None])[:, 0].tolist()
    likeness = {frozenset((twins.one, twins.other)): twins.likeness for twins in examined.twins}
    for group in groups_of(examined.twins):
        *others, stays = sorted(group, key=lambda index: (order[examined.places[index].split.name], sureness[index]))
        kept = examined.places[stays]
        for index in others:
            place = examined.places[index]
            score = max(value for pair, value in likeness.items() if index in pair)
            if place.split is not kept.split:
                yield examined.finding(index, "leak", score, f"keep the {kept.split.spoken} photo alone", stays)
            if place.label != kept.label:
                advice = f"{examined.names[place.label]} or {examined.names[kept.label]}?"
                yield examined.finding(index, "two_labels", score, advice, stays)
            elif place.split is kept.split:
                yield examined.finding(index, "same_photo", score, "keep one of the two", stays)


@dataclass(frozen=True)
class Leaked:
    """What it does to the accuracy on a split that some of its photos are training photos too."""

    split: str  # spoken
    photos: int  # that are
    accuracy: float  # of a linear head, on all photos of the split, 0 to 1
    without: float  # on the others

    def __str__(self) -> str:
        spoken = f"{self.photos:,} {self.split} photos are among the training photos"
        return f"{spoken}; accuracy of a linear head {self.accuracy:.1%} with them, {self.without:.1%} without"


def leaks(examined: Examined) -> Iterator[Leaked]:
    """Yield what twins among the training photos do to each split that is judged."""
    is_training, learned = examined.opinion.is_training.tolist(), set()
    for twins in examined.twins:
        for index, twin in ((twins.one, twins.other), (twins.other, twins.one)):
            if is_training[twin] and not is_training[index]:
                learned.add(index)
    for name in dict.fromkeys(place.split.spoken for place in examined.places):
        inside = [index for index, place in enumerate(examined.places) if place.split.spoken == name]
        own = [index for index in inside if index not in learned]
        if len(own) < len(inside) and own:
            yield Leaked(name, len(inside) - len(own), accuracy_on(examined, inside), accuracy_on(examined, own))


def accuracy_on(examined: Examined, indices: Sequence[int]) -> float:
    """Return the share of some photos whose likeliest class is their own."""
    right = examined.opinion.as_trained == examined.opinion.labels
    return right[list(indices)].double().mean().item()


def about_labels(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each photo that looks much more like another class."""
    rivals, powers = examined.opinion.rivals
    for index in ((powers >= math.log10(LEAST_TIMES)) & has_enough_training_photos(examined)).nonzero()[:, 0].tolist():
        other, place = int(rivals[index]), examined.places[index]
        advice, folder = f"looks like {examined.names[other]}", examined.classes[other]
        own = examined.classes[place.label]
        yield Finding(place.photo, "label", powers[index].item(), advice, f"{folder}/", own, folder)


def has_enough_training_photos(examined: Examined) -> torch.Tensor:
    """Say of which photos the class has enough training photos to be told by the others, bool (N,)."""
    labels = examined.opinion.labels
    sizes = torch.bincount(labels[examined.opinion.is_training], minlength=len(examined.classes))
    return sizes[labels] >= FEWEST_OF_A_CLASS


def about_outliers(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each photo that is far from every class."""
    told = has_enough_training_photos(examined).nonzero()[:, 0].tolist()
    distances = examined.opinion.distances.numpy()[told]
    for row, score in beyond(distances, LEAST_OF_DISTANCES):
        index = told[row]
        yield examined.finding(index, "outlier", score, "is it one of the classes at all?")


def beyond(values: np.ndarray, least_width: float) -> Iterator[tuple[int, float]]:
    """Yield the indices of values (N,) that lie FAR_OUT above the middle half, and how many widths of it."""
    if not len(values):
        return
    low, high = np.percentile(values, (25, 75))
    widths = (values - high) / max(high - low, least_width)
    for index in np.nonzero(widths > FAR_OUT)[0]:
        yield int(index), float(widths[index])


def about_pixels(examined: Examined) -> Iterator[Finding]:
    """Yield findings about photos that show little, by their pixels."""
    seen = [(index, look) for index, look in enumerate(examined.looks) if not isinstance(look, ImageError)]
    for row, score in beyond(-np.array([look.sharpness for _, look in seen]), LEAST_OF_SHARPNESS):
        yield examined.finding(seen[row][0], "blurry", score, "is it sharp enough to tell?")
    for index, look in seen:
        shorter, longer = sorted(look.size)
        if look.brightness < DARK:
            yield examined.finding(index, "dark", 1 - look.brightness, "is it bright enough to tell?")
        elif look.contrast < FLAT:  # which a dark one always is
            yield examined.finding(index, "washed_out", 1 - look.contrast, "does it show anything?")
        if shorter * ENLARGED < examined.crop_size:
            advice = f"{look.size[0]} x {look.size[1]} pixels; the network sees {examined.crop_size}"
            yield examined.finding(index, "tiny", examined.crop_size / shorter, advice)
        if longer > NARROW * shorter:
            yield examined.finding(index, "narrow", longer / shorter, "cut it to what it shows")


def about_classes(examined: Examined) -> Iterator[Finding]:
    """Yield findings about classes with few photos, and about pairs that look alike."""
    opinion, classes = examined.opinion, examined.classes
    labels = opinion.labels[opinion.is_training]
    sizes = torch.bincount(labels, minlength=len(classes)).tolist()
    for name, size in zip(classes, sizes, strict=True):
        if size < SMALL_CLASS:
            yield Finding(f"{name}/", "small_class", SMALL_CLASS - size, f"{size} training photos", class_name=name)
    pairs = zip(labels.tolist(), opinion.predicted[opinion.is_training].tolist(), strict=True)
    confused = Counter(tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1])
    for (one, other), times in confused.items():
        if (share := times / (sizes[one] + sizes[other])) >= CONFUSED:
            advice = f"{examined.names[one]} and {examined.names[other]}: are they one class?"
            own, like = classes[one], classes[other]
            yield Finding(f"{own}/", "alike_classes", share, advice, f"{like}/", own, like)
