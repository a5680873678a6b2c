"""Whether the views of a run mislead: mirror images that look like another class, photos whose ends are cut off.

Mirror images do so with arrows and letters. Each photo is given the class whose mean is nearest, in the features that
the head learns from: linear discriminant analysis, where these are whitened. Of a class of flowers or hand signs, at
most 3 in 10 mirror images go to the same other class; of arrows that point left or right, 6 to 10 in 10
(docs/measurements.md).
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch.nn import functional as F

from flower_classifier.base.messages import counted, first_few, printable, warn
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.inputs import AllInputs, Inputs
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import loss_gap
from flower_classifier.networks.feature_bank import balanced_sample
from flower_classifier.photos.images import upright_size
from flower_classifier.photos.splits import Split
from flower_classifier.training.feature_search import FeatureKind, judge
from flower_classifier.training.state import TrainState

MOST_PHOTOS = 2_000  # whose mirror images are looked at
LEAST_SHARE = 0.5  # of a class's mirror images: so many must go to one other class
CLEARLY = 3  # standard errors by which more mirror images than plain photos must go there
MOST_SIZES = 200  # photos whose sizes are looked at: a few milliseconds
WIDE = 2  # times as long as short: more than half of such a photo is cut off
WIDE_SHARE = 0.05  # of the photos, from which they are warned of


def mirror_swaps(train: Inputs) -> dict[int, int]:
    """Return the classes whose mirror images mostly look like one other class, each with that class; often none.

    `train`: the training photos, of which view 1 is the mirror image of view 0.
    """
    sample = torch.tensor(balanced_sample(train.labels.tolist(), MOST_PHOTOS))
    present, classes = train.labels[sample].unique(return_inverse=True)
    plain, mirrored = (train.rows(view)[sample].float() for view in (0, 1))  # (N, D)
    if train.whitening is None:
        centre = plain.mean(dim=0)
        plain, mirrored = (F.normalize(rows - centre) for rows in (plain, mirrored))
    sizes = torch.bincount(classes)
    sums = torch.zeros(len(present), plain.shape[1]).index_add_(0, classes, plain)  # (C, D)
    means, others = sums / sizes[:, None], sums[classes] - plain
    others /= (sizes[classes] - 1).clamp(min=1)[:, None]  # (N, D): of each class without the photo itself

    def nearest(rows: torch.Tensor) -> torch.Tensor:
        """Return how many photos of each class go to which, (C, C)."""
        logits = rows @ means.T - means.square().sum(dim=1) / 2  # (N, C)
        logits[torch.arange(len(rows)), classes] = (rows * others).sum(dim=1) - others.square().sum(dim=1) / 2
        counts = torch.zeros(len(present), len(present))
        return counts.index_put_((classes, logits.argmax(dim=1)), torch.ones(len(rows)), accumulate=True)

    of_mirrored, of_plain = nearest(mirrored).fill_diagonal_(0), nearest(plain)
    taken, rivals = of_mirrored.max(dim=1)  # (C,) each
    before = of_plain.gather(1, rivals[:, None])[:, 0]
    swapped = (taken >= LEAST_SHARE * sizes) & (taken > before)
    more, total = (taken - before)[swapped].sum().item(), (taken + before)[swapped].sum().item()
    if more <= CLEARLY * math.sqrt(total):
        return {}
    return {int(present[index]): int(present[rivals[index]]) for index in swapped.nonzero()[:, 0].tolist()}


def looks_mirrored(config: TrainConfig, state: TrainState, train: Inputs) -> dict[int, int]:
    """Return the classes whose mirror images look like another one, where a head would learn from mirror images.

    Not where a person has chosen the kind of augmentation.
    """
    learns_from_them = state.recipe.augment == "mirror" and state.recipe.schedule.used > 1
    if not learns_from_them or config.is_given("augment") or not state.classifier.starts_frozen:
        return {}
    return mirror_swaps(train)


def mirrors_mislead(config: TrainConfig, state: TrainState, seen: AllInputs) -> bool:
    """Say whether mirror images look like another class, and validation photos are told apart worse by them."""
    if config.mirror or not looks_mirrored(config, state, seen.train):  # answers that are asked to go by them do
        return False
    plain, both = (judge(FeatureKind(), seen.train, seen.valid, views).losses for views in ((0,), (0, 1)))
    weights = balancing_weights(seen.valid.labels) if state.recipe.judged_by_class else None
    difference, standard_error = loss_gap(both, plain, weights)
    return difference > standard_error


def warn_of_mirrors(config: TrainConfig, state: TrainState, seen: AllInputs) -> None:
    """Warn where the mirror images that the head learns from look like another class."""
    if swaps := looks_mirrored(config, state, seen.train):
        category_names = state.finished.category_names
        names = [category_names.get(name, name) for name in state.classes]
        pairs = first_few([printable(f"{names[label]} like {names[other]}") for label, other in swaps.items()])
        advice = "--augment crops, without --mirror," if config.mirror else "--augment crops"
        warn(
            f"the mirror images of {counted(len(swaps), 'class', 'classes')} look like another class ({pairs}), and "
            f"training shows them: {advice} leaves mirror images out"
        )


def warn_of_wide(config: TrainConfig, train: Split) -> None:
    """Warn where many training photos are so wide or tall that a crop of the middle shows less than half of them.

    Not where a person has chosen how photos become squares. A photo that cannot be opened is reported later.
    """
    if config.is_given("fit"):
        return
    looked_at = wide = 0
    for index in range(0, len(train), -(-len(train) // MOST_SIZES)):
        with contextlib.suppress(Exception):  # decoders raise nearly anything on damaged files
            shorter, longer = sorted(upright_size(train.path(index)))
            looked_at, wide = looked_at + 1, wide + (longer > WIDE * shorter)
    if wide > WIDE_SHARE * looked_at:
        sample = "" if looked_at == len(train) else f" ({looked_at:,} of {len(train):,} were looked at)"
        warn(
            f"of {counted(wide, 'training photo')}{sample}, more than twice as long as short, only the middle is seen: "
            "--fit pad or --fit squash shows all of a photo"
        )
