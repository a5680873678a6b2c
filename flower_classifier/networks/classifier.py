"""The model: a backbone and a head. Pixels of photos in, one logit per class out.

A new one has an untrained head on a pretrained backbone. Running a backbone shows how deep each of its layers lies, so
no list of architectures is needed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.base.messages import InputError, note, warn
from flower_classifier.config.allowed import DROPOUT, LAYER_WIDTH, LAYERS, MOST_LAYERS
from flower_classifier.networks.backbones import load_backbone, resolve_arch, source_of
from flower_classifier.networks.devices import seed_torch
from flower_classifier.networks.layers import MAP, MOST_FEATURES, MOST_MEANS, Layer
from flower_classifier.networks.safe_files import Plain
from flower_classifier.networks.source import Backbone, Weights, black_picture

LEAST_UNDER_ROOT = 1e-2  # what is added before square roots are taken: else their slope at 0 would be infinite
FORMAT_OF_LAST_LAYERS = 5  # of checkpoint.pth, in which heads saw a backbone's own output alone
LEARNS = ("head", "last", "all")  # which layers have learned: those of the head, the backbone's last ones too, all


@dataclass(frozen=True)
class ModelConfig:
    """What, beside the preprocessing and the tensors, a model is made of."""

    arch: str
    hidden_units: tuple[int, ...]  # widths of the head's hidden layers; none: a linear head
    dropout: float
    num_classes: int
    learns: str  # one of LEARNS
    mirror: bool = False  # whether an answer is the mean of those to a photo and to its mirror image
    layers: str = "last"  # one of LAYERS: whose features the head sees
    means: tuple[Layer, ...] = ()  # layers whose means the backbone gives behind its own output
    is_nonnegative: bool = False  # whether that output is never below zero
    square_roots: bool = False  # whether the head sees the square roots of what is never below zero

    @property
    def seen_means(self) -> tuple[Layer, ...]:
        """The layers whose means the head sees."""
        return self.means if self.layers == "several" else ()

    @property
    def answer_views(self) -> tuple[int, ...]:
        """The views of a photo: an answer is the mean of their logits."""
        return (0, 1) if self.mirror else (0,)

    def build_head(self, width: int, seed: int | None = None) -> nn.Sequential:
        """Build Linear, ReLU and dropout for every hidden layer, and a Linear to one logit per class.

        (B, width) -> (B, classes); what is random is drawn from the seed, without one from torch's generator as it is.
        Dropout stands behind hidden layers alone: a linear head has none.
        """
        if seed is not None:
            seed_torch(seed, "head")
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([width, *self.hidden_units]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(([width, *self.hidden_units])[-1], self.num_classes))

    @classmethod
    def from_plain(cls, contents: Plain) -> ModelConfig:
        """Return what the model of a checkpoint's file is made of. Raises ValueError for what no model has."""
        arch, hidden_units = contents["arch"], tuple(contents["hidden_units"])
        if len(hidden_units) > MOST_LAYERS:
            raise ValueError(f"{len(hidden_units)} hidden layers")
        if not all(type(width) is int and LAYER_WIDTH.allow(width) for width in hidden_units):
            raise ValueError("hidden layers of impossible widths")
        learns, mirror = contents["learns"], contents["mirror"]
        if contents.get("format_version") == FORMAT_OF_LAST_LAYERS:
            layers = "flat" if source_of(arch).has_flat(arch) else "last"
            contents = {**contents, "layers": layers, "means": [], "is_nonnegative": False, "square_roots": False}
        layers, means = contents["layers"], tuple(Layer.from_plain(layer) for layer in contents["means"])
        if len(means) > MOST_MEANS or len({layer.module for layer in means}) < len(means):
            raise ValueError("means of too many layers")
        if not DROPOUT.allow(contents["dropout"]):
            raise ValueError(f"a dropout of {contents['dropout']}")
        is_nonnegative, square_roots = contents["is_nonnegative"], contents["square_roots"]
        if not all(type(flag) is bool for flag in (mirror, is_nonnegative, square_roots)):
            raise ValueError("mirror, is_nonnegative or square_roots is no bool")
        if learns not in LEARNS or layers not in LAYERS:
            raise ValueError(f"learns is {learns!r}, layers is {layers!r}")
        classes = len(contents["class_to_idx"])
        return cls(
            arch,
            hidden_units,
            contents["dropout"],
            classes,
            learns,
            mirror,
            layers,
            means,
            is_nonnegative,
            square_roots,
        )


ROUNDING = 0.01  # of normalised values and of pixels: float32 and bfloat16 differ by that


class Classifier(nn.Module):
    """A backbone and a head; normalisation of uint8 pixels is part of the forward: no caller can forget it."""

    mean: torch.Tensor  # (3, 1, 1), of pixel values from 0 to 255
    std: torch.Tensor

    def __init__(self, config: ModelConfig, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.preprocessing = backbone.preprocessing
        self.output_width = backbone.width  # of the backbone's output, without the means
        self.backbone = backbone.module
        self.head = head
        for name, numbers in (("mean", self.preprocessing.mean), ("std", self.preprocessing.std)):
            levels = 255 * torch.tensor(numbers, device="cpu").view(3, 1, 1)
            self.register_buffer(name, levels, persistent=False)  # the preprocessing is what is saved
        if self.starts_frozen:
            self.backbone.requires_grad_(False)
        self.eval()

    @property
    def feature_width(self) -> int:
        """How many numbers the head sees of a photo."""
        return self.output_width + sum(layer.width for layer in self.config.seen_means)

    @property
    def can_be_whitened(self) -> bool:
        """Whether a head may learn from whitened features: a backbone gives them, and they are not too many."""
        return self.starts_frozen and self.feature_width <= MOST_FEATURES

    @property
    def starts_frozen(self) -> bool:
        """Whether the head learns alone at first: there are pretrained weights for such a backbone."""
        return source_of(self.config.arch).pretrained

    @property
    def learner(self) -> nn.Module:
        """The part that the optimizer steps: the head on a frozen backbone, else the whole."""
        return self if any(parameter.requires_grad for parameter in self.backbone.parameters()) else self.head

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a pretrained backbone stays in eval mode: the statistics of its norms do not move.

        Those of a few photos at a time would be worse than the ones that come with the weights.
        """
        super().train(mode)
        if self.starts_frozen:
            self.backbone.eval()
        return self

    def unfreeze(self, parameters: Collection[str], learns: str) -> None:
        """Let some of the backbone's parameters (by their names in it) learn with the head, and record what does."""
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in parameters)
        self.config = replace(self.config, learns=learns)

    def renew_head(self, hidden_units: tuple[int, ...], dropout: float, seed: int) -> None:
        """Take another, untrained head: the one that a new classifier would have."""
        self.config = replace(self.config, hidden_units=hidden_units, dropout=dropout)
        head = self.config.build_head(self.feature_width, seed)
        self.head = head.to(next(self.parameters()).device).eval()

    def look_at(self, layers: str, square_roots: bool) -> None:
        """Let the head see the features of these layers, one of LAYERS but "flat"; it must then be renewed.

        `square_roots`: the square roots of what is never below zero.
        """
        self.config = replace(self.config, layers=layers, square_roots=square_roots)

    def state_with(self, learned: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the whole state dict with another state of the learner in it."""
        prefix = "" if self.learner is self else "head."
        return {**self.state_dict(), **{prefix + name: tensor for name, tensor in learned.items()}}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take pixels (B, 3, S, S) to logits (B, classes): uint8, or floats that are normalised already.

        Raises InputError for floats that no normalised photo has.
        """
        return self.head(self.features(pixels))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take pixels (B, 3, S, S), as `forward` does, to features (B, D)."""
        if pixels.is_floating_point():
            check_normalised(pixels, self.mean, self.std)
            return self.features_of(self.backbone(pixels))
        return self.features_of(self.backbone(normalise(pixels, self.mean, self.std)))

    def features_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Take what the backbone gives, (B, ...), to what of it the head sees, (B, D)."""
        features = rows[:, : self.feature_width]
        if not self.config.square_roots:
            return features
        widths = [self.output_width, *(layer.width for layer in self.config.seen_means)]
        are_nonnegative = [self.config.is_nonnegative, *(layer.is_nonnegative for layer in self.config.seen_means)]
        pieces = zip(features.float().split(widths, dim=1), are_nonnegative, strict=True)
        return torch.cat(
            [(piece.relu() + LEAST_UNDER_ROOT).sqrt() if is_nonnegative else piece for piece, is_nonnegative in pieces],
            dim=1,
        )


def normalise(
    pixels: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Take uint8 pixels (B, 3, S, S) to what the backbone was trained on: (pixels - mean) / std, a Classifier's."""
    values = pixels.to(torch.float32, memory_format=memory_format, copy=True)
    return values.sub_(mean).div_(std)  # in place: a pass over the values costs what a layer costs


def check_normalised(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Raise InputError for floats (B, 3, S, S) that are no normalised photo.

    They lie below what black becomes, or above what white does; or are pixels / 255, as of torchvision's ToTensor.
    """
    black, white = -mean / std, (255 - mean) / std
    if not ((values >= black - ROUNDING) & (values <= white + ROUNDING)).all():
        least, most = values.min(), values.max()
        raise InputError(
            f"floats from {least:.3g} to {most:.3g} are no normalised photo: give what process_image(photo, "
            "model.preprocessing) returns, or the pixels themselves as uint8"
        )
    if 0 <= values.min() < values.max() <= 1 and are_levels(255 * values) and not are_levels(values * std + mean):
        raise InputError(
            "floats from 0 to 1 are not normalised: give what process_image(photo, model.preprocessing) returns, or "
            "the pixels themselves as uint8"
        )


def are_levels(values: torch.Tensor) -> bool:
    """Say whether values are whole, as pixels are, but for rounding."""
    return bool(((values - values.round()).abs() < ROUNDING).all())


# ----------------------------------------------------------------------------------------------------- a new classifier


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
    layers: str | None = None,
    fit: str = "crop",
) -> tuple[Classifier, Weights]:
    """Put a new head on the backbone of this name; return the classifier and what its backbone's weights are.

    `weights`: None for the best, a name, a file, or "none". `hidden_units`: None for what the architecture's source
    suggests. `image_size` (pixels) is for cnn and timm's models. `mirror`: answers are means over a photo and its
    mirror image. `layers`: one of LAYERS, for a pretrained backbone; None: several, but of transformers, for which
    that was never measured, the last. `fit`: one of FITS, how a photo becomes a square. What is random is drawn from
    the seed. Raises InputError for a name that does not exist or does not fit, NoWeightsError where a download fails.
    """
    arch = resolve_arch(arch)
    source = source_of(arch)
    seed_torch(seed, "backbone")  # what random weights are drawn from
    backbone, resolved = load_backbone(arch, weights, image_size, layers == "flat", fit)
    units = source.hidden_units if hidden_units is None else hidden_units
    if resolved.licence and resolved.licence.lower() not in FREE_LICENCES:
        note(f"the weights' licence is {resolved.licence}, which may not allow every use")
    are_maps = all(layer.form == MAP for layer in backbone.layers)
    learns, seen = ("head", layers or ("several" if are_maps else "last")) if source.pretrained else ("all", "last")
    model = (arch, units, dropout, num_classes, learns, mirror, seen, backbone.layers, backbone.is_nonnegative)
    config = ModelConfig(*model)
    classifier = Classifier(config, backbone, nn.Identity())
    classifier.head = config.build_head(classifier.feature_width, seed).eval()
    return classifier, resolved


def warn_of_random(arch: str, weights: Weights) -> None:
    """Warn of random weights in a network that is not to learn."""
    if weights.name == "none" and source_of(arch).pretrained:
        warn(f"random weights: the features of a random, frozen {arch} are useful only for trying things out")


# -------------------------------------------------------------------------------------------------- the depth of layers


@torch.no_grad()
def parameter_depths(backbone: nn.Module, side: int) -> dict[str, float]:
    """Return the depth of each parameter by name: 0 for those of the layer that runs first, 1 for those that run last.

    `side`: of the pictures it takes, in pixels. The parameters of a module that is not called itself (those of
    attention, which torch computes in one function) lie as deep as the module that holds it.
    """
    order: dict[str, int] = {}  # modules with parameters, by name, in the order of first calls

    def note_call(name: str) -> None:
        order.setdefault(name, len(order))

    with contextlib.ExitStack() as hooks:
        for name, module in backbone.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: note_call(name)))
        backbone(black_picture(backbone, side))
    last = len(order) - 1
    depths = {}
    for name, _ in backbone.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in order:
            owner = owner.rpartition(".")[0]
        depths[name] = order.get(owner, 0) / last if last else 1.0  # a class token, the backbone's own, comes first
    return depths
