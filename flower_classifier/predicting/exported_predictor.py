"""An exported folder, ready to be asked what is in photos: by onnxruntime, without torch.

predictor = ExportedPredictor(load_exported(Path("rose_app")))
predictor("rose.jpg")[0]          {"class": "74", "name": "rose", "probability": 0.96}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flower_classifier.base.console import Bar
from flower_classifier.base.errors import NEEDED_BY_EXPORTED, InputError, check_installed
from flower_classifier.base.files import sha256_of
from flower_classifier.base.text import reason_of
from flower_classifier.config.allowed import MODEL_FILE, SPEC_FILE
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.photos.images import ImageError, PhotoSource
from flower_classifier.photos.views import open_views
from flower_classifier.predicting.base_predictor import BasePredictor, settled
from flower_classifier.predicting.export_spec import (
    DISTANCE,
    EXPORT_AGAIN,
    FEATURES,
    LOGITS,
    PIXELS,
    ExportSpec,
    outputs_of,
    read_spec,
)
from flower_classifier.predicting.prediction import Answer

if TYPE_CHECKING:
    import onnxruntime

BATCH = 8  # photos that the network takes at a time
ONLY_ERRORS = 3  # of onnxruntime's levels of messages


@dataclass(frozen=True)
class Exported:
    """What an exported folder holds, checked."""

    spec: ExportSpec
    session: onnxruntime.InferenceSession


def load_exported(folder: Path) -> Exported:
    """Read an exported folder. Raises InputError for a damaged or incomplete one, RunError without onnxruntime."""
    spec = read_spec(folder)
    path = folder / MODEL_FILE
    try:
        model = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {EXPORT_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if sha256_of(model) != spec.model_sha256:
        raise InputError(f"{path} is damaged, or not the one that {SPEC_FILE} beside it belongs to: {EXPORT_AGAIN}")
    session = session_of(model, path)
    check_fits(session, spec, path)
    return Exported(spec, session)


def session_of(model: bytes, path: Path | str) -> onnxruntime.InferenceSession:
    """Return a session that runs a network. Raises InputError, naming `path`, for one that onnxruntime cannot run."""
    check_installed(NEEDED_BY_EXPORTED)
    import onnxruntime  # here, as it is optional

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_ERRORS
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own kinds
        advice = f"update onnxruntime, or {EXPORT_AGAIN}"
        raise InputError(f"onnxruntime cannot run {path} ({reason_of(error)}): {advice}") from None


def check_fits(session: onnxruntime.InferenceSession, spec: ExportSpec, path: Path) -> None:
    """Raise InputError where a network's inputs or outputs are not those that the spec tells of."""
    shapes = {output.name: output.shape for output in session.get_outputs()}
    side, expected = spec.preprocessing.crop_size, outputs_of(spec.tells_strangers)
    inputs = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in session.get_inputs()]
    takes_pixels = inputs == [(PIXELS, "tensor(uint8)", [side, side, 3])]
    gives_numbers = all(output.type == "tensor(float)" for output in session.get_outputs())
    gives_all = set(expected) <= set(shapes) and shapes[LOGITS][1:] == [len(spec.classes)]
    if not (takes_pixels and gives_numbers and gives_all):
        raise InputError(f"{path} is not a network for the {len(spec.classes)} classes in {SPEC_FILE}: {EXPORT_AGAIN}")


class ExportedPredictor(BasePredictor):
    """An exported classifier, and the names of its classes."""

    def __init__(self, exported: Exported, category_names: Mapping[str, str] | None = None) -> None:
        self.spec, self.session = exported.spec, exported.session
        named = replace(self.spec, category_names=dict(category_names)) if category_names else self.spec
        self.classes, self.names = self.spec.classes, named.names
        self.temperature, self.set_scores = self.spec.temperature, self.spec.set_scores
        scores = self.spec.stranger_scores
        self.stranger_test = None if scores is None else StrangerTest(scores)

    def answers(
        self, photos: Sequence[PhotoSource], bar: Bar | None = None, altogether: int = 0
    ) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos.

        While the network computes one batch, the photos of the next are opened.
        """
        starts = range(0, len(photos), BATCH)
        if not starts:
            return
        with ThreadPoolExecutor(min(os.cpu_count() or 1, BATCH, len(photos))) as pool:

            def begin(start: int) -> list[Future[np.ndarray]]:
                batch = [settled(photo) for photo in photos[start : start + BATCH]]
                return [pool.submit(self.view_of, photo) for photo in batch]

            opening = begin(0)
            for start in starts:
                opened, opening = opening, begin(start + BATCH)
                outcomes = [outcome_of(future) for future in opened]
                for answer in self.answered(photos[start : start + BATCH], outcomes):
                    yield answer
                    if bar is not None:
                        bar.update()

    def view_of(self, photo: PhotoSource) -> np.ndarray:
        """Return the plain view of a photo, uint8 (S, S, 3); the network makes the mirror image itself."""
        return open_views(photo, self.spec.preprocessing)[0]

    def answered(
        self, photos: Sequence[PhotoSource], outcomes: Sequence[np.ndarray | ImageError]
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
        """Return the network's outputs, by their names, for views (B, S, S, 3)."""
        names = outputs_of(self.spec.tells_strangers)
        try:
            outputs = dict(zip(names, self.session.run(list(names), {PIXELS: pixels}), strict=True))
        except Exception as error:  # of onnxruntime's own kinds
            raise InputError(f"onnxruntime cannot run the network ({reason_of(error)}): {EXPORT_AGAIN}") from None
        if not all(len(values) == len(pixels) and np.isfinite(values).all() for values in outputs.values()):
            raise InputError(f"the network answers with nan or infinity, or too few answers: {EXPORT_AGAIN}")
        return outputs


def outcome_of(future: Future[np.ndarray]) -> np.ndarray | ImageError:
    """Return a view, or what is wrong with the photo."""
    try:
        return future.result()
    except ImageError as error:
        return error.bare()
