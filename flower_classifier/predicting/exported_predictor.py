"""An exported folder, ready to be asked what is in photos: by onnxruntime, without torch.

predictor = ExportedPredictor(Path("rose_app"))
predictor("rose.jpg")[0]          {"class": "74", "name": "rose", "probability": 0.96}

classifier.json holds all that the answers need beside the network itself. It may be untrusted. docs/export.md lists its
keys. The page reads the same file. The names of model.onnx's inputs and outputs are here; network.js knows the same.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from flower_classifier.base.console import Bar
from flower_classifier.base.files import sha256_of
from flower_classifier.base.messages import NEEDED_BY_EXPORTED, InputError, check_installed, reason_of
from flower_classifier.base.signals import done_aside
from flower_classifier.config.allowed import (
    DEFAULT_RATE,
    MODEL_FILE,
    MOST_SCORED,
    SPEC_FILE,
    StrangerMeasure,
    check_calibration,
)
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.photos.category_names import load_category_names
from flower_classifier.photos.images import ImageError, PhotoSource
from flower_classifier.photos.sources import Photo, settled
from flower_classifier.photos.views import Preprocessing, open_views
from flower_classifier.predicting.base_predictor import Answer, BasePredictor

if TYPE_CHECKING:
    import onnxruntime

FORMAT_VERSION = 3  # of classifier.json; 1 says nothing of how strangers are measured, 2 says by_probability
EXPORT_AGAIN = "export the checkpoint again"
BATCH = 8  # photos that the network takes at a time
ONLY_ERRORS, ONLY_FATAL = 3, 4  # of onnxruntime's levels of messages
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"  # onnxruntime's Privacy.md; it is read once, when it is imported
importing = threading.Lock()  # held while that variable is another than the program's

# Inputs and outputs of model.onnx
PIXELS = "pixels"  # uint8 (B, S, S, 3): height, width, red-green-blue
LOGITS = "logits"  # float32 (B, C)
FEATURES = "features"  # float32 (B, D), what the head sees
DISTANCE = "distance"  # float32 (B,), from the training photos (strangers.py)

AXES = {LOGITS: 2, FEATURES: 2, DISTANCE: 1}


def outputs_of(tells_strangers: bool) -> tuple[str, ...]:
    """Return the outputs' names, in the order of the file; the distance is there where strangers can be told."""
    return (LOGITS, FEATURES, DISTANCE) if tells_strangers else (LOGITS, FEATURES)


@dataclass(frozen=True)
class ExportSpec:
    """What model.onnx takes and tells apart, and what its outputs are worth."""

    model_sha256: str  # of model.onnx, in hexadecimal
    classes: tuple[str, ...]  # class folders, in the order of the logits
    preprocessing: Preprocessing
    category_names: dict[str, str] = field(default_factory=dict)  # class folder -> what people call it
    temperature: float = 1.0  # logits are divided by it before the softmax
    set_scores: list[float] = field(default_factory=list)  # validation scores for prediction sets, lowest first
    stranger_scores: list[list[float]] | None = None  # (N, 2), validation scores by which strangers are told
    stranger_measure: StrangerMeasure = field(default_factory=StrangerMeasure)
    # What the network says of a picture of stripes, and how far off a browser may be (onnx_model.pattern_of). One whose
    # graphics processor says something else runs the network in another way
    pattern: dict[str, object] = field(default_factory=dict)
    # What it was made of and with: arch, weights, licence, dtype, opset, versions; nothing is computed by it
    provenance: dict[str, object] = field(default_factory=dict)

    @property
    def tells_strangers(self) -> bool:
        """Whether it has the scores that tell strangers from photos of the classes."""
        return self.stranger_scores is not None

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
            "stranger_measure": asdict(self.stranger_measure),
            "stranger_rate": DEFAULT_RATE,  # of the page; predict.py is asked for its own
            "pattern": self.pattern,
            "provenance": self.provenance,
        }
        return {**plain, "digest": digest_of(plain)}

    def to_text(self) -> bytes:
        """Return the file's contents."""
        return (json.dumps(self.to_plain(), indent=1) + "\n").encode()

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
            stranger_measure=StrangerMeasure.from_plain(contents.get("stranger_measure", {})),
            pattern=contents["pattern"],
            provenance=contents["provenance"],
        )
        spec.check()
        return spec

    @classmethod
    def read(cls, folder: Path) -> ExportSpec:
        """Read an exported folder's classifier.json. Raises InputError where it is missing or damaged."""
        path = folder / SPEC_FILE
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
            version = contents["format_version"]
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise InputError(f"{path} has format {version}, this program reads up to {FORMAT_VERSION}: update it")
            if contents.pop("digest") != digest_of(contents):
                raise ValueError("its digest does not fit")
            return cls.from_plain(contents)
        except FileNotFoundError:
            raise InputError(f"{path} is missing: {EXPORT_AGAIN}") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path} is damaged, or was changed ({reason_of(error)}): {EXPORT_AGAIN}") from None

    def check(self) -> None:
        """Raise ValueError or TypeError where it makes no sense."""
        names = (*self.classes, *self.category_names, *self.category_names.values(), self.model_sha256)
        if not all(isinstance(name, str) for name in names) or not isinstance(self.provenance, dict):
            raise ValueError("names that are no text")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("too few classes, or one twice")
        check_calibration(self.temperature, self.set_scores)
        if self.stranger_scores is not None:
            if not 0 < len(self.stranger_scores) <= MOST_SCORED:
                raise ValueError("scores for strangers of too few photos, or of too many")
            if not all(len(pair) == 2 and all(map(math.isfinite, pair)) for pair in self.stranger_scores):
                raise ValueError("scores for strangers that are no pairs of numbers")

    def check_fits(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        """Raise InputError where a network's inputs or outputs are not those that the spec tells of."""
        shapes = {output.name: output.shape for output in session.get_outputs()}
        side, expected = self.preprocessing.crop_size, outputs_of(self.tells_strangers)
        inputs = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in session.get_inputs()]
        takes_pixels = inputs == [(PIXELS, "tensor(uint8)", [side, side, 3])]
        gives_numbers = all(output.type == "tensor(float)" for output in session.get_outputs())
        gives_all = set(expected) <= set(shapes) and shapes[LOGITS][1:] == [len(self.classes)]
        if not (takes_pixels and gives_numbers and gives_all):
            message = f"{path} is not a network for the {len(self.classes)} classes in {SPEC_FILE}: {EXPORT_AGAIN}"
            raise InputError(message)


def digest_of(plain: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a spec holds, written without spaces and with its keys in order."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def import_onnxruntime(name: str = "onnxruntime") -> ModuleType:
    """Import onnxruntime, or a module of it, so that it reports nothing to its maker. Raises ImportError without it.

    From 1.32 on it sends events to Microsoft, and keeps an identifier of the device in the user's cache, unless the
    variable is set when it is imported. Its own `disable_telemetry_events` comes too late. Afterwards the variable is
    what it was: the environment belongs to the program that uses this package.
    """
    with importing:
        if "onnxruntime" in sys.modules:  # which may be the program's own doing, in its own way
            return importlib.import_module(name)
        before = os.environ.get(NO_TELEMETRY)
        os.environ[NO_TELEMETRY] = "1"
        try:
            return importlib.import_module(name)
        finally:
            if before is None:
                del os.environ[NO_TELEMETRY]
            else:
                os.environ[NO_TELEMETRY] = before


def session_of(model: bytes, path: Path | str) -> onnxruntime.InferenceSession:
    """Return a session that runs a network. Raises InputError, naming `path`, for one that onnxruntime cannot run."""
    check_installed(NEEDED_BY_EXPORTED)
    library = import_onnxruntime()  # here, as it is optional
    options = library.SessionOptions()
    options.log_severity_level = ONLY_ERRORS

    def start() -> onnxruntime.InferenceSession:
        try:
            return library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime's own kinds
            advice = f"update onnxruntime, or {EXPORT_AGAIN}"
            raise InputError(f"onnxruntime cannot run {path} ({reason_of(error)}): {advice}") from None

    return done_aside(start)


class ExportedPredictor(BasePredictor):
    """An exported folder's classifier, and the names of its classes, by a file of names that people use now.

    Raises InputError for a damaged or incomplete folder, RunError without onnxruntime.
    """

    def __init__(self, folder: Path, category_names: Path | None = None) -> None:
        self.spec = ExportSpec.read(folder)
        self.path = (folder / MODEL_FILE).absolute()  # a program may change its folder
        self.begin(self.model_bytes())
        self.classes, self.preprocessing = self.spec.classes, self.spec.preprocessing
        named = load_category_names(category_names, self.classes, self.spec.category_names)
        self.names = [named.get(name, name) for name in self.classes]
        self.temperature, self.set_scores = self.spec.temperature, self.spec.set_scores
        scores, measure = self.spec.stranger_scores, self.spec.stranger_measure
        self.stranger_test = None if scores is None else StrangerTest(scores, measure)

    def model_bytes(self) -> bytes:
        """Return the network's file. Raises InputError for another one than was exported."""
        try:
            model = self.path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{self.path} is missing: {EXPORT_AGAIN}") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if sha256_of(model) != self.spec.model_sha256:
            wrong = f"is damaged, or not the one that {SPEC_FILE} beside it belongs to"
            raise InputError(f"{self.path} {wrong}: {EXPORT_AGAIN}")
        return model

    def begin(self, model: bytes) -> None:
        """Start the network in this process."""
        self.session = session_of(model, self.path)
        self.spec.check_fits(self.session, self.path)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process, here or on another machine, makes the same of: the network's file, not its run.

        Raises InputError where the file is not there any more.
        """
        state = {name: value for name, value in vars(self).items() if name != "session"}
        return {**state, "model": self.model_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:  # Any: each of its own type
        """Take over what was pickled, and start the network."""
        model = state.pop("model")
        vars(self).update(state)
        self.begin(model)

    def answers(
        self, photos: Sequence[Photo], bar: Bar | None = None, altogether: int = 0
    ) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos.

        While the network computes one batch, the photos of the next are opened.
        """
        starts = range(0, len(photos), BATCH)
        if not starts:
            return
        with ThreadPoolExecutor(min(os.cpu_count() or 1, BATCH, len(photos))) as pool:

            def begin_opening(start: int) -> list[Future[np.ndarray | ImageError]]:
                batch = [settled(photo) for photo in photos[start : start + BATCH]]
                return [pool.submit(self.view_of, photo) for photo in batch]

            opening = begin_opening(0)
            for start in starts:
                opened, opening = opening, begin_opening(start + BATCH)
                outcomes = [future.result() for future in opened]
                for answer in self.answered(photos[start : start + BATCH], outcomes):
                    yield answer
                    if bar is not None:
                        bar.update()

    def view_of(self, photo: PhotoSource | ImageError) -> np.ndarray | ImageError:
        """Return the plain view of a photo, uint8 (S, S, 3), or what is wrong with it.

        The network makes the mirror image itself.
        """
        if isinstance(photo, ImageError):
            return photo
        try:
            return open_views(photo, self.preprocessing)[0]
        except ImageError as error:
            return error.bare()

    def answered(
        self, photos: Sequence[Photo], outcomes: Sequence[np.ndarray | ImageError]
    ) -> Iterator[Answer | ImageError]:
        """Yield the answers to a few photos; `outcomes` are their views or errors."""
        views = [view for view in outcomes if not isinstance(view, ImageError)]
        outputs = self.run(np.stack(views)) if views else {}
        row = 0
        for photo, outcome in zip(photos, outcomes, strict=True):
            if isinstance(outcome, ImageError):
                yield outcome
                continue
            distance = float(outputs[DISTANCE][row]) if DISTANCE in outputs else None
            yield Answer(photo, features=outputs[FEATURES][row], logits=outputs[LOGITS][row], distance=distance)
            row += 1

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the network's outputs, by their names, for views (B, S, S, 3). A file may hold one that never ends."""
        names = outputs_of(self.spec.tells_strangers)
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = ONLY_FATAL  # errors are raised, and a run that is ended is none

        def compute() -> list[np.ndarray]:
            try:
                return self.session.run(list(names), {PIXELS: pixels}, options)
            except Exception as error:  # of onnxruntime's own kinds
                raise InputError(f"onnxruntime cannot run the network ({reason_of(error)}): {EXPORT_AGAIN}") from None

        values = done_aside(compute, abandon=lambda: setattr(options, "terminate", True))
        outputs = dict(zip(names, values, strict=True))
        if any(outputs[name].ndim != axes for name, axes in AXES.items() if name in outputs):
            raise InputError(f"the network's outputs have other shapes than {SPEC_FILE} tells of: {EXPORT_AGAIN}")
        if not all(len(values) == len(pixels) and np.isfinite(values).all() for values in outputs.values()):
            raise InputError(f"the network answers with nan or infinity, or too few answers: {EXPORT_AGAIN}")
        return outputs
