"""What may be wrong with a folder of photos: `--doctor`, which looks at all of them and trains nothing that is kept.

    examined, findings = examine(parts, classes, names, crop_size)          the worst first

Twins, wrong labels and outliers are found by the features that training would use, the rest by the pixels. Each kind of
finding is in `photos/findings.py`; what they are worth is in docs/doctor.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flower_classifier.base.messages import progress
from flower_classifier.features.extraction import in_order
from flower_classifier.features.inputs import Inputs
from flower_classifier.photos.copies import Place
from flower_classifier.photos.findings import Finding, ranked
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.looks import THUMBNAIL, Look, look_at
from flower_classifier.studies.second_opinion import Opinion, second_opinion
from flower_classifier.studies.twins import Twins, find_twins

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

    places: Sequence[Place]  # (N,)
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
    places = [Place(part.split, index) for part in parts for index in part.used]
    looks = look_at_all(places)
    opinion = second_opinion(parts, len(classes))
    blank = np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    thumbnails = [blank if isinstance(look, ImageError) else look.thumbnail for look in looks]
    twins = find_twins(places, opinion.points, thumbnails)
    examined = Examined(places, looks, opinion, twins, classes, names, crop_size)
    findings = [unreadable(Place(part.split, index), error) for part in parts for index, error in part.bad.items()]
    findings += [unreadable(*pair) for pair in zip(places, looks, strict=True) if isinstance(pair[1], ImageError)]
    for find in (about_twins, about_labels, about_outliers, about_pixels, about_classes):
        findings += find(examined)
    return examined, ranked(findings)


def unreadable(place: Place, error: ImageError) -> Finding:
    """Return the finding about a photo that cannot be opened."""
    return Finding(place.photo, "unreadable", 1, str(error).removeprefix(f"cannot open {place.path}: "))


def look_at_all(places: Sequence[Place]) -> list[Look | ImageError]:
    """Look at photos on every core."""
    looks = []
    with progress(len(places), "looking at photos", "photo") as bar:
        for look in in_order(try_to_look, ((place,) for place in places), torch.device("cpu")):
            looks.append(look)
            bar.update()
    return looks


def try_to_look(place: Place) -> Look | ImageError:
    """Look at a photo, or return what is wrong with it, by now."""
    try:
        return look_at(place.path)
    except ImageError as error:
        return error.bare()


def about_twins(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each pair: about the photo that had better go.

    Of a training photo and one that judges it is the former, of two labels the one that looks less like its class.
    """
    opinion, order = examined.opinion, {"train": 0, "valid": 1, "test": 2}
    sureness = opinion.logits.gather(1, opinion.labels[:, None])[:, 0]
    for twins in examined.twins:
        pair = sorted((twins.one, twins.other), key=lambda index: order[examined.places[index].split.name])
        one, other = (examined.places[index] for index in pair)
        if one.split is not other.split:
            advice = f"keep the {other.split.spoken} photo alone"
            yield examined.finding(pair[0], "leak", twins.likeness, advice, pair[1])
        if one.label != other.label:
            worse, better = sorted(pair, key=lambda index: sureness[index].item())
            advice = f"one label is wrong, rather {examined.names[examined.places[worse].label]}"
            yield examined.finding(worse, "two_labels", twins.likeness, advice, better)
        elif one.split is other.split:
            yield examined.finding(pair[1], "same_photo", twins.likeness, "keep one of the two", pair[0])


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
    right = examined.opinion.predicted == examined.opinion.labels
    return right[list(indices)].double().mean().item()


def about_labels(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each photo that looks much more like another class."""
    sizes = torch.bincount(examined.opinion.labels[examined.opinion.is_training], minlength=len(examined.classes))
    rivals, powers = examined.opinion.rivals
    known = sizes[examined.opinion.labels] >= FEWEST_OF_A_CLASS
    for index in ((powers >= math.log10(LEAST_TIMES)) & known).nonzero()[:, 0].tolist():
        other, place = int(rivals[index]), examined.places[index]
        advice, folder = f"looks like {examined.names[other]}", examined.classes[other]
        own = examined.classes[place.label]
        yield Finding(place.photo, "label", powers[index].item(), advice, f"{folder}/", own, folder)


def about_outliers(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each photo that is far from every class."""
    for index, score in beyond(examined.opinion.distances.numpy(), LEAST_OF_DISTANCES):
        yield examined.finding(index, "outlier", score, "is it one of the classes at all?")


def beyond(values: np.ndarray, least_width: float) -> Iterator[tuple[int, float]]:
    """Yield the indices of values (N,) that lie FAR_OUT above the middle half, and how many widths of it."""
    low, high = np.percentile(values, (25, 75))
    widths = (values - high) / max(high - low, least_width)
    for index in np.nonzero(widths > FAR_OUT)[0]:
        yield int(index), float(widths[index])


def about_pixels(examined: Examined) -> Iterator[Finding]:
    """Yield findings about photos that show little, by their pixels."""
    seen = [(index, look) for index, look in enumerate(examined.looks) if not isinstance(look, ImageError)]
    if not seen:
        return
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
