"""The frozen part of a classifier, prepared for fast inference.

    frozen = FrozenBackbone(classifier, device)
    rows = frozen(pixels)                      what is computed once per photo, and kept
    logits = classifier.learner(rows)          what is trained on it, epoch after epoch

The frozen part of a network that learns as a whole is nothing: its rows are the pixels.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn

from flower_classifier.base.messages import is_out_of_memory
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.classifier import Classifier, normalise
from flower_classifier.networks.devices import (
    MICRO_BATCH,
    device_name,
    halve,
    has_bfloat16,
    precision_of,
    survive_forks,
)
from flower_classifier.networks.source import black_picture
from flower_classifier.photos.views import Preprocessing

# Version of the features that this code computes. Raise it when they change: features that are kept on disk under an
# earlier one are then computed again.
VERSION = 1


@dataclass(frozen=True)
class RowForm:
    """What a photo becomes on its way to the learner: one tensor of this shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class FrozenBackbone:
    """A classifier's frozen backbone: norms folded, in the memory format and precision that suit the device.

    The classifier moves to the device. A network that learns from scratch has no such part: pixels pass as they are.
    """

    def __init__(self, classifier: Classifier, device: torch.device) -> None:
        survive_forks()
        self.classifier, self.config, self.device = classifier.to(device), classifier.config, device
        self.mean, self.std = classifier.mean, classifier.std
        self.memory_format, self.precision = torch.contiguous_format, torch.float32
        self.most = MICRO_BATCH[device.type]  # photos that a forward takes; fewer where a GPU has no room for them
        self.original: nn.Module | None = None  # whose weights it has
        self.network: nn.Module | None = None  # what runs
        fastest = precision_of(device)  # raises where FLOWERS_PRECISION is wrong, whatever the network
        if classifier.starts_frozen:
            self.precision = fastest
            self.place_backbone(classifier.backbone)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of a photo."""
        return self.classifier.preprocessing

    def place_backbone(self, backbone: nn.Module) -> None:
        """Choose the form in which a backbone runs.

        On a CPU channels_last is several times faster, and CUDA prefers it; on MPS it has had wrong results.
        """
        if self.device.type != "mps":
            self.memory_format = torch.channels_last
        self.original = backbone.to(memory_format=self.memory_format)
        network = source_of(self.config.arch).folded(self.original, self.preprocessing.crop_size)
        network = network.to(memory_format=self.memory_format)
        if self.precision == torch.bfloat16:
            # Autocast converts weights to the same numbers, but again for each micro-batch: a core of an EPYC takes
            # 29 ms for resnet50's and 3 ms for tf_efficientnet_lite0's. Subclasses of these layers stay as they are:
            # they may change their weights before they use them.
            network = copy.deepcopy(network)
            for layer in network.modules():
                if type(layer) in (nn.Conv2d, nn.Linear):
                    layer.to(torch.bfloat16)
        self.network = network

    @property
    def precision_name(self) -> str:
        """What files call the precision: float32, bfloat16 or float16."""
        return str(self.precision).removeprefix("torch.")

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to rows (B, *shape): features, or the pixels where everything learns.

        Features come in the type that the network ends in. Where that is bfloat16, float32 would hold the same numbers.
        """
        if self.network is None:
            return pixels
        values = normalise(pixels, self.mean, self.std, self.memory_format)
        if self.precision == torch.float16:
            with torch.autocast(self.device.type, dtype=torch.float16):
                rows = self.network(values).float()
            return rows if rows.isfinite().all() else self.network(values)  # it overflows above 65,504
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return self.network(values)

    def in_chunks(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take pixels on the device to rows, as many at a time as a GPU has room for."""
        while True:
            try:
                chunks = [self(chunk) for chunk in pixels.split(self.most)]
                return chunks[0] if len(chunks) == 1 else torch.cat(chunks)
            except Exception as error:
                if self.device.type == "cpu" or not is_out_of_memory(error) or self.most == 1:
                    raise
            self.most = halve(self.most, len(pixels), self.device, "for")

    @functools.cached_property
    def rows(self) -> RowForm:
        """Shape and type of a photo's row, found out with one black photo."""
        with torch.inference_mode():
            row = self(black_picture(self.classifier, self.preprocessing.crop_size, torch.uint8))
        return RowForm(tuple(row.shape[1:]), row.dtype)

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the frozen backbone's names and numbers, or "" where there is none."""
        if self.original is None:
            return ""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in self.original.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def about(self, threads: int) -> dict[str, object]:
        """Return, in plain types, all that its numbers depend on beside the pixels; `threads` work on an operation."""
        if self.network is None:
            return {}
        return {
            "arch": self.config.arch,
            "backbone": self.digest,
            "width": self.classifier.output_width,  # vgg's flat features are more
            "means": [layer.to_plain() for layer in self.config.means],
            "version": VERSION,
            **self.way(threads),
        }

    def way(self, threads: int) -> dict[str, object]:
        """Return the part of `about` that describes the machine: where and how it computes."""
        is_bfloat16 = self.precision == torch.bfloat16
        return {
            "libraries": versions_of(torch, *source_of(self.config.arch).libraries),
            "device": device_name(self.device),
            "bfloat16": is_bfloat16,
            "micro-batch": MICRO_BATCH[self.device.type],
            **({"threads": threads} if self.device.type == "cpu" else {}),
            **({"float16": True} if self.precision == torch.float16 else {}),
            **({"emulated": True} if is_bfloat16 and not has_bfloat16(self.device) else {}),
        }


def versions_of(*libraries: ModuleType) -> dict[str, str]:
    """Return the versions of libraries, by their names."""
    return {library.__name__: str(library.__version__) for library in libraries}
