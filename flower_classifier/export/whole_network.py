"""A checkpoint as one network, from the pixels of photos to all that answers are made by: what is exported."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.frozen import fold_batch_norms


class WholeNetwork(nn.Module):
    """Takes uint8 pixels (B, S, S, 3) to logits (B, C), features (B, D) and, where they are known, distances (B,).

    All in float32, on the CPU. With --mirror it makes the mirror images itself, so an answer is one forward.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        classifier = checkpoint.classifier
        self.mirror = classifier.config.mirror
        self.normalisation = Normalisation(classifier)
        self.backbone = in_plain_layers(classifier)
        self.head = classifier.head
        memory = checkpoint.memory if checkpoint.tells_strangers else None
        self.distance = None if memory is None else Distance(Clusters(memory))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take pixels to logits, features and perhaps distances."""
        images = self.normalisation(pixels)  # (B, 3, S, S)
        features = self.backbone(images)
        logits = self.head(features)
        if self.mirror:
            mirrored = self.backbone(images.flip(-1))
            features, logits = (features + mirrored) / 2, (logits + self.head(mirrored)) / 2
        return (logits, features) if self.distance is None else (logits, features, self.distance(features))


class Normalisation(nn.Module):
    """Takes uint8 pixels (B, S, S, 3) to float32 images (B, 3, S, S), normalised as the backbone was trained.

    A module, so that its buffers get names with a dot. As buffers of the whole network they would be called like
    operations: onnxscript 0.5 would name a buffer and a pooling layer `mean`, and onnxruntime refuses such a file.
    """

    mean: torch.Tensor  # (3, 1, 1), as is the deviation
    std: torch.Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.register_buffer("mean", classifier.mean)
        self.register_buffer("std", classifier.std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take pixels to images."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


class Distance(nn.Module):
    """How far features (B, D) are from the classes, (B,): Clusters.distances, in float32.

    Those of float64 were at most 1e-4 away, with validation photos typically 0.3 apart (102 flowers, two backbones).
    """

    origin: torch.Tensor  # (D,)
    axes: torch.Tensor  # (D, K)
    centre: torch.Tensor  # (K,)
    to_class: torch.Tensor  # (K, K)
    to_all: torch.Tensor  # (K, K)
    means: torch.Tensor  # (C, K)

    def __init__(self, clusters: Clusters) -> None:
        super().__init__()
        memory = clusters.memory
        numbers = {
            "origin": memory.centre,
            "axes": memory.own_axes,
            "centre": clusters.centre,
            "to_class": clusters.to_class,
            "to_all": clusters.to_all,
            "means": clusters.means,
        }
        for name, tensor in numbers.items():
            self.register_buffer(name, tensor.float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Take features to distances."""
        points = (F.normalize(features, dim=1) - self.origin) @ self.axes  # (B, K)
        to_classes = ((points @ self.to_class)[:, None] - self.means).square().sum(dim=2)  # (B, C)
        to_all = ((points - self.centre) @ self.to_all).square().sum(dim=1)
        return to_classes.amin(dim=1) - to_all


def in_plain_layers(classifier: Classifier) -> nn.Module:
    """Return the backbone in torch's own layers, with batch norms folded: smaller, faster to load, as good in int8."""
    source = source_of(classifier.config.arch)
    return fold_batch_norms(source.in_plain_layers(classifier.backbone, classifier.preprocessing.crop_size))
