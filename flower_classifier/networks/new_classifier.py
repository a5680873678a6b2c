"""A new classifier: a pretrained backbone with a head that has learned nothing yet."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from flower_classifier.base.messages import note, warn
from flower_classifier.networks.backbones import backbone_with_weights, resolve_arch, source_of
from flower_classifier.networks.classifier import Classifier, ModelConfig, build_head
from flower_classifier.networks.devices import seed_torch
from flower_classifier.networks.source import Weights

FREE_LICENCES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "mit")


def new_classifier(
    arch: str,
    num_classes: int,
    weights: str | None = None,
    hidden_units: tuple[int, ...] | None = None,
    dropout: float = 0.2,
    image_size: int | None = None,
    seed: int = 0,
    mirror: bool = False,
) -> tuple[Classifier, Weights]:
    """Put a new head on the backbone of this name; return the classifier and what its backbone's weights are.

    `weights`: None for the best, a name, a file, or "none". `hidden_units`: None for what the architecture's source
    suggests. `image_size` (pixels) is for cnn and timm's models. `mirror`: answers are means over a photo and its
    mirror image. What is random is drawn from the seed. Raises InputError for a name that does not exist or does not
    fit, RunError where a download fails.
    """
    arch = resolve_arch(arch)
    source = source_of(arch)
    seed_torch(seed, "backbone")  # what random weights are drawn from
    backbone, chosen = backbone_with_weights(arch, weights, image_size)
    units = source.hidden_units if hidden_units is None else hidden_units
    if chosen.licence and chosen.licence.lower() not in FREE_LICENCES:
        note(f"the weights' licence is {chosen.licence}, which may not allow every use")
    if source.pretrained and chosen.name == "none":
        warn(f"random weights: the features of a random, frozen {arch} are useful only for trying things out")
    config = ModelConfig(arch, units, dropout, num_classes, "head" if source.pretrained else "all", mirror)
    return Classifier(config, backbone, new_head(config, backbone.width, seed)), chosen


def new_head(config: ModelConfig, width: int, seed: int) -> nn.Sequential:
    """Build the head of a model on features (B, width), drawn from the seed."""
    seed_torch(seed, "head")
    return build_head(config, width)


def renew_head(classifier: Classifier, hidden_units: tuple[int, ...], dropout: float, seed: int) -> None:
    """Give a classifier another head, which has learned nothing yet: the one that a new classifier would have."""
    classifier.config = replace(classifier.config, hidden_units=hidden_units, dropout=dropout)
    head = new_head(classifier.config, classifier.feature_width, seed)
    classifier.head = head.to(next(classifier.parameters()).device).eval()
