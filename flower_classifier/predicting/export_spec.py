"""classifier.json: all that an exported folder needs for its answers, beside the network itself.

The file may be untrusted. docs/export.md lists its keys. The page reads the same file. The names of model.onnx's inputs
and outputs are here; network.js knows the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flower_classifier.base.errors import InputError
from flower_classifier.base.text import reason_of
from flower_classifier.config.allowed import DEFAULT_RATE, MODEL_FILE, MOST_SCORED, SPEC_FILE, TEMPERATURE
from flower_classifier.photos.views import Preprocessing

FORMAT_VERSION = 1
EXPORT_AGAIN = "export the checkpoint again"


@dataclass(frozen=True)
class ExportSpec:
    """What model.onnx takes and tells apart, and what its outputs are worth."""

    model_sha256: str  # of model.onnx, in hexadecimal
    classes: tuple[str, ...]  # class folders, in the order of the logits
    preprocessing: Preprocessing
    category_names: dict[str, str] = field(default_factory=dict)  # class folder -> what people call it
    temperature: float = 1.0  # logits are divided by it before the softmax
    set_scores: list[float] = field(default_factory=list)  # validation scores for prediction sets, lowest first
    stranger_scores: list[list[float]] | None = None  # (N, 2), validation scores for out-of-distribution detection
    # What the network says of a picture of stripes, and how far off a browser may be (onnx_model.pattern_of). One whose
    # graphics processor says something else runs the network in another way
    pattern: dict[str, object] = field(default_factory=dict)
    # What it was made of and with: arch, weights, licence, dtype, opset, versions; nothing is computed by it
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def tells_strangers(self) -> bool:
        """Whether it has the scores that tell strangers from photos of the classes."""
        return self.stranger_scores is not None

    @property
    def names(self) -> list[str]:
        """What people call the classes, in the order of the logits."""
        return [self.category_names.get(name, name) for name in self.classes]

    def to_plain(self) -> dict[str, object]:
        """Return what the file holds."""
        plain = {
            "format_version": FORMAT_VERSION,
            "model": {"file": MODEL_FILE, "sha256": self.model_sha256},
            "classes": list(self.classes),
            "category_names": self.category_names,
            "preprocessing": self.preprocessing.to_plain(),
            "temperature": self.temperature,
            "set_scores": self.set_scores,
            "stranger_scores": self.stranger_scores,
            "stranger_rate": DEFAULT_RATE,  # of the page; predict.py is asked for its own
            "pattern": self.pattern,
            "provenance": self.provenance,
        }
        return {**plain, "digest": digest_of(plain)}

    @classmethod
    def from_plain(cls, contents: Mapping[str, Any]) -> ExportSpec:  # Any: a file may hold anything
        """Make a spec of what a file holds. Raises ValueError, KeyError or TypeError for what makes no sense."""
        spec = cls(
            model_sha256=contents["model"]["sha256"],
            classes=tuple(contents["classes"]),
            preprocessing=Preprocessing.from_plain(contents["preprocessing"]),
            category_names=contents["category_names"],
            temperature=contents["temperature"],
            set_scores=contents["set_scores"],
            stranger_scores=contents["stranger_scores"],
            pattern=contents["pattern"],
            provenance=contents["provenance"],
        )
        spec.check()
        return spec

    def check(self) -> None:
        """Raise ValueError or TypeError where it makes no sense."""
        names = (*self.classes, *self.category_names, *self.category_names.values(), self.model_sha256)
        if not all(isinstance(name, str) for name in names) or not isinstance(self.provenance, dict):
            raise ValueError("names that are no text")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("too few classes, or one twice")
        if not isinstance(self.temperature, float) or not TEMPERATURE.allow(self.temperature):
            raise ValueError(f"a temperature of {self.temperature}")
        if not all(isinstance(score, float) and 0 <= score <= 1 for score in self.set_scores):
            raise ValueError("scores for sets that are no probabilities")
        if self.set_scores != sorted(self.set_scores):
            raise ValueError("scores for sets that are not in order")
        if self.stranger_scores is not None:
            if not 0 < len(self.stranger_scores) <= MOST_SCORED:
                raise ValueError("scores for strangers of too few photos, or of too many")
            if not all(len(pair) == 2 and all(map(math.isfinite, pair)) for pair in self.stranger_scores):
                raise ValueError("scores for strangers that are no pairs of numbers")


def digest_of(plain: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a spec holds, written without spaces and with its keys in order."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def spec_text(spec: ExportSpec) -> bytes:
    """Return the file's contents."""
    return (json.dumps(spec.to_plain(), indent=1) + "\n").encode()


def read_spec(folder: Path) -> ExportSpec:
    """Read an exported folder's classifier.json. Raises InputError where it is missing or damaged."""
    path = folder / SPEC_FILE
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        version = contents["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(f"{path} has format {version}, this program reads up to {FORMAT_VERSION}: update it")
        if contents.pop("digest") != digest_of(contents):
            raise ValueError("its digest does not fit")
        return ExportSpec.from_plain(contents)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {EXPORT_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is damaged, or was changed ({reason_of(error)}): {EXPORT_AGAIN}") from None


# ------------------------------------------------------------------------------------- inputs and outputs of model.onnx


PIXELS = "pixels"  # uint8 (B, S, S, 3): height, width, red-green-blue
LOGITS = "logits"  # float32 (B, C)
FEATURES = "features"  # float32 (B, D), what the head sees
DISTANCE = "distance"  # float32 (B,), from the training photos (strangers.py)


def outputs_of(tells_strangers: bool) -> tuple[str, ...]:
    """Return the outputs' names, in the order of the file; the distance is there where strangers can be told."""
    return (LOGITS, FEATURES, DISTANCE) if tells_strangers else (LOGITS, FEATURES)
