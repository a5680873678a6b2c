"""The exercise's verbs for models: build, train, evaluate, save, load, predict, and look at each of them.

    model = build_model("squeezenet1_1", data, hidden_units=512)
    train_model(model, data, epochs=5)
    print(evaluate_model(model, data))
    save_checkpoint(model, "my_checkpoint.pth")
    model = load_checkpoint("my_checkpoint.pth")
    probabilities, classes = predict("flowers/test/74/image_01191.jpg", model, topk=5)

`data` is what load_data of data_utils.py returns. train.py does the same and more: it resumes, it can go on without
bad photos, and it leaves a report. For the same settings both make the same checkpoint. What draws returns a Pillow
image, which a notebook shows by itself.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from PIL import Image

from data_utils import Data
from flower_classifier.base.console import speaking
from flower_classifier.base.messages import InputError, RunError, counted, first_few, note, printable
from flower_classifier.config.allowed import CHECKPOINT_ENDINGS, DEFAULT_TOP_K
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.grey_range import find_grey_range
from flower_classifier.features.inputs import Inputs, Timings, UnusablePhotosError, eval_inputs, prepare_inputs
from flower_classifier.judging.calibration import cross_validated
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.verdict import share_text
from flower_classifier.networks.checkpoint import VALIDATION_PHOTOS, Checkpoint, Row
from flower_classifier.networks.classifier import Classifier, new_classifier, warn_of_random
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.safe_files import Plain
from flower_classifier.photos.copies import content_digests
from flower_classifier.photos.images import PhotoSource, load_image
from flower_classifier.photos.mending import counting_damaged
from flower_classifier.photos.views import Preprocessing
from flower_classifier.predicting.evaluate_folder import judged
from flower_classifier.predicting.predictor import Predictor
from flower_classifier.report.evaluation_report import EvaluationReport
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.run_messages import RECORDED, epoch_line
from flower_classifier.training.state import TrainState, learned, load_learned
from flower_classifier.training.steps import (
    choose_layers,
    choose_shrinkage,
    keep_feature_bank,
    whiten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF_A_LEVEL = 0.01  # how far float32 takes one of 256 levels away from a whole number, at most
PHOTO_SIDE = 1024  # pixels of a photo's shorter side that the picture of a prediction can show


@dataclass(repr=False)
class Model:
    """A classifier on its device, and what its checkpoint says beside its tensors. Training changes it in place."""

    classifier: Classifier
    frozen: FrozenBackbone  # the part that does not learn, on the device where the whole classifier runs
    trained: Checkpoint  # as it was built or loaded, or after its last training; without its tensors

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of a photo: `process_image(photo, model.preprocessing)`."""
        return self.classifier.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """The class folders, in the order of the logits."""
        return self.trained.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The position in the logits of each class folder."""
        return {name: i for i, name in enumerate(self.classes)}

    @property
    def category_names(self) -> dict[str, str]:
        """What people call the classes, by class folder."""
        return self.trained.category_names

    @category_names.setter
    def category_names(self, names: dict[str, str]) -> None:
        self.take(replace(self.trained, category_names=names))

    @property
    def training(self) -> Plain:
        """How it was trained: weights, epochs, learning_rate, …"""
        return self.trained.training

    @property
    def history(self) -> list[Row]:
        """One row per epoch of the last training."""
        return self.trained.history

    @property
    def checkpoint(self) -> Checkpoint:
        """The model as it goes into a file. The tensors are the model's own, not copies."""
        return replace(self.trained, tensors=dict(self.classifier.state_dict()))

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The predictor of the model as it is now."""
        return Predictor(self.checkpoint, self.frozen.device)

    def take(self, trained: Checkpoint) -> None:
        """Take over what training has produced. The classifier must hold the same tensors already."""
        self.trained = replace(trained, tensors={})
        self.__dict__.pop("predictor", None)  # it knows the old temperature

    def __repr__(self) -> str:
        config = self.classifier.config
        numbers = sum(parameter.numel() for parameter in self.classifier.learner.parameters())
        template = "its head of {:,} parameters learns" if self.classifier.starts_frozen else "{:,} parameters"
        trained = f"trained for {counted(len(self.history), 'epoch')}" if self.history else "not trained yet"
        classes = counted(len(self.classes), "class", "classes")
        return f"{config.arch} on {self.frozen.device} for {classes}: {template.format(numbers)}; {trained}"


@dataclass(frozen=True, repr=False)
class Results(EvaluationReport):
    """How good a model is on photos whose classes are known. Printed, it is what train.py says of it."""

    @property
    def accuracy(self) -> float:
        """Share of the photos that are named correctly, 0 to 1."""
        return self.evaluation.accuracy

    def __repr__(self) -> str:
        return self.evaluation.result_lines(self.split, self.names)


def build_model(
    arch: str,
    data: Data,
    hidden_units: int | Sequence[int] | None = None,
    dropout: float = TrainConfig.dropout,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = TrainConfig.seed,
    gpu: bool = False,
    mirror: bool = TrainConfig.mirror,
    layers: str | None = TrainConfig.layers,
    fit: str = TrainConfig.fit,
) -> Model:
    """Put a new head, with one output per class of the data, on a pretrained network.

    `arch`: any classification model of torchvision or timm, or the small "cnn", which learns from scratch.
    `hidden_units`: the width of the head's hidden layer, or several widths, or 0 for none; without it what suits the
    architecture. `weights`: the library's name of them, a file, or "none" for random ones; without it the best.
    `image_size` (pixels) is for cnn and timm's models. `mirror`: answers are means over a photo and its mirror image.
    `layers`: what the head sees of a pretrained network, "several" layers, the "last" one, or that "flat"; without it
    several, but for very few photos. `fit`: how a photo becomes a square, "crop", "pad" or "squash".
    The arguments are the options of train.py. Raises InputError for a value that does not fit, RunError where the
    weights cannot be downloaded.
    """
    units = widths(hidden_units)
    root = data.splits.train.root
    TrainConfig(
        root, arch=arch, hidden_units=units, dropout=dropout, image_size=image_size, seed=seed, layers=layers, fit=fit
    )  # checks them
    with speaking():
        device = choose_device(gpu)
        with own_randomness(device):
            seen = layers or choose_layers(data)
            settings = (units, dropout, image_size, seed, mirror, seen, fit)
            classifier, used_weights = new_classifier(arch, len(data.classes), weights, *settings)
            warn_of_random(classifier.config.arch, used_weights)
        grey_range = find_grey_range(data.splits.train)
        classifier.preprocessing = replace(classifier.preprocessing, grey_range=grey_range)
        training = {"weights": used_weights.name, **({"licence": used_weights.licence} if used_weights.licence else {})}
        trained = Checkpoint(
            model=classifier.config,
            preprocessing=classifier.preprocessing,
            classes=data.classes,
            tensors={},
            category_names=data.category_names,
            training=training,
        )
        return Model(classifier, FrozenBackbone(classifier, device), trained)


def train_model(
    model: Model,
    data: Data,
    epochs: int = TrainConfig.epochs,
    learning_rate: float = TrainConfig.learning_rate,
    batch_size: int = TrainConfig.batch_size,
    views: int = TrainConfig.views,
    seed: int = TrainConfig.seed,
    weight_decay: float = TrainConfig.weight_decay,
    label_smoothing: float = TrainConfig.label_smoothing,
    class_weights: str = TrainConfig.class_weights,
    patience: int = TrainConfig.patience,
    shrinkage: float | None = TrainConfig.shrinkage,
    no_roots: bool = TrainConfig.no_roots,
    no_whitening: bool = TrainConfig.no_whitening,
    augment: str = TrainConfig.augment,
) -> None:
    """Train a model on the training photos, printing a line per epoch; it then is as it was after its best epoch.

    The best epoch is the last one whose loss on the validation photos is not clearly higher than the lowest; they also
    choose the temperature that makes the probabilities believable. The arguments are the options of train.py, which
    also fine-tunes the network. If it is interrupted, the model holds the best of the finished epochs. A second
    training goes on from what the first has reached, with a new optimizer.

    Raises UnusablePhotosError for photos that cannot be opened, InputError for a value that does not fit, RunError for
    a loss that is not finite.
    """
    config = TrainConfig(  # which checks the options
        data.splits.train.root,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        views=views,
        seed=seed,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        patience=patience,
        shrinkage=shrinkage,
        no_whitening=no_whitening,
        augment=augment,
    )
    check_classes(model, data)
    recipe = Recipe.of(config).for_photos(data.splits.train.labels, len(data.classes), class_weights)
    settings = {name: getattr(config, name) for name in ("seed", *RECORDED)}
    training = {**model.training, **settings, "precision": model.frozen.precision_name, "skipped": []}
    training["shrinkage"] = choose_shrinkage(model.classifier, data, shrinkage, no_whitening)
    if not model.history:  # else the head has learned from the features that it looks at
        square_roots = bool(training["shrinkage"]) and not no_roots
        model.classifier.look_at(model.classifier.config.layers, square_roots)
    for name in ("results", "fine_tuned_after"):  # of an earlier training
        training.pop(name, None)
    with speaking(), own_randomness(model.frozen.device):
        inputs = prepare_inputs(model.frozen, data.splits, recipe.augmentation, open_cache(), recipe.schedule)
        refuse_bad(*inputs)
        training[VALIDATION_PHOTOS] = "".join(content_digests(inputs.valid.paths))
        state = TrainState(model.classifier, recipe, model.classes, model.category_names, training)
        before = learned(state.learner)
        seen = whiten(state, inputs, training["shrinkage"])

        def say(row: Row, _: Timings) -> None:
            print(epoch_line(row, epochs, len(seen.valid.used)), flush=True)

        if model.history:
            load_learned(state.learner, state.unfolded(before))
        try:
            fit(state, seen.train, seen.valid, say)
        finally:
            if state.epoch:
                state.load_best()
                model.take(state.best_checkpoint())
            else:
                load_learned(state.learner, before)
        assert state.best.valid is not None  # this process has trained the best epoch
        keep_feature_bank(state, inputs, state.best.valid)
        model.take(state.best_checkpoint())
    best = state.best.row
    accuracy = share_text(best["valid_accuracy"], len(inputs.valid.used))
    print(f"best epoch {best['epoch']}   validation accuracy {accuracy}")


def evaluate_model(model: Model, data: Data) -> Results:
    """Evaluate a model on the test photos, which training never saw, or without any on the validation photos.

    `print(evaluate_model(model, data))` shows what train.py shows at its end. Raises UnusablePhotosError for photos
    that cannot be opened, InputError for a model whose weights are broken.
    """
    check_classes(model, data)
    with speaking():
        inputs = eval_inputs(model.frozen, data.judged, open_cache())
        with counting_damaged():
            inputs.prepare()
        refuse_bad(inputs)
        answers = judged(model.classifier.learner, model.trained, inputs)
        they_chose_it = data.splits.test is None
        judge = cross_validated if they_chose_it else Evaluation.at
        evaluation = judge(answers, model.trained.trust.temperature)
        photos, grey_range = inputs.paths, model.preprocessing.grey_range
        return Results(inputs.split.name, evaluation, photos, model.classes, model.trained.names, grey_range=grey_range)


def save_checkpoint(model: Model, path: str | Path) -> None:
    """Write a model into one file, for load_checkpoint and predict.py; missing folders are made.

    The file is written whole or not at all. Raises RunError where that fails; an older file is then untouched.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    model.checkpoint.save(path)


def load_checkpoint(path: str | Path, gpu: bool = False) -> Model:
    """Read a model that save_checkpoint or train.py wrote. It runs no code that the file may hold.

    Raises InputError for a file that is no such checkpoint.
    """
    with speaking():
        saved = Checkpoint.load(Path(path))
        frozen = FrozenBackbone(saved.classifier, choose_device(gpu))
    return Model(saved.classifier, frozen, replace(saved, tensors={}))


Photo = str | Path | Image.Image | np.ndarray | torch.Tensor  # a file, a picture, or what process_image returns of one


def predict(
    image: Photo, model: Model | str | Path, topk: int = DEFAULT_TOP_K, **others: object
) -> tuple[list[float], list[str]]:
    """Return the probabilities, 0 to 1, and the classes that are likeliest for a photo, likeliest first.

    The photo may be what `process_image(photo, model.preprocessing)` returned of it, (3, S, S), and the model a path of
    its checkpoint, which is then loaded. A class is the name of its folder; `model.category_names` says what people
    call it. Raises ImageError for a photo that cannot be opened, InputError for arguments that make no sense.
    """
    if others:
        raise InputError(f"predict has no argument {first_few(list(others))}: predict(photo, model, topk=5)")
    paths = [Path(path) for path in (image, model) if isinstance(path, str | Path)]
    swapped = len(paths) == 2 and paths[0].suffix in CHECKPOINT_ENDINGS and paths[1].suffix not in CHECKPOINT_ENDINGS
    if swapped or isinstance(image, Model):
        raise InputError("the photo comes before the model: predict(photo, model, topk=5)")
    if topk < 1:
        raise InputError(f"must be at least 1, not {topk}", "topk")
    model = model if isinstance(model, Model) else load_checkpoint(model)
    predictor, photo = asked_of(image, model)
    answers = predictor(photo, topk)
    return [answer["probability"] for answer in answers], [answer["class"] for answer in answers]


def asked_of(image: Photo, model: Model) -> tuple[Predictor, PhotoSource]:
    """Return who answers, and what is asked: of what process_image returned, the pixels that it was made of.

    Raises InputError for floats that are not what it returns for this model.
    """
    values = image.numpy(force=True) if isinstance(image, torch.Tensor) else image
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return model.predictor, values
    expected, side = model.preprocessing, model.preprocessing.crop_size
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    advice = "give the photo itself, or process_image(photo, model.preprocessing)"
    if values.shape != (3, side, side):
        raise InputError(f"the model takes (3, {side}, {side}), and not {values.shape}: {advice}")
    mean, std = (np.array(numbers) for numbers in (expected.mean, expected.std))
    levels = 255 * (values.transpose(1, 2, 0) * std + mean)  # (S, S, 3), whole numbers but for rounding
    pixels = np.rint(levels)
    if not (np.abs(levels - pixels) < OF_A_LEVEL).all() or pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"these numbers are no photo that was processed for this model: {advice}")
    predictor = copy.copy(model.predictor)
    predictor.preprocessing = replace(expected, resize_size=side, fit="squash")  # which leaves the pixels as they are
    return predictor, pixels.astype(np.uint8)


@overload
def show_prediction(
    image: str | Path | Image.Image,
    model: Model,
    topk: int = DEFAULT_TOP_K,
    heatmap: bool = False,
    *,
    ax: None = None,
) -> Image.Image: ...


@overload
def show_prediction(
    image: str | Path | Image.Image, model: Model, topk: int = DEFAULT_TOP_K, heatmap: bool = False, *, ax: Axes
) -> Axes: ...


def show_prediction(
    image: str | Path | Image.Image,
    model: Model,
    topk: int = DEFAULT_TOP_K,
    heatmap: bool = False,
    *,
    ax: Axes | None = None,
) -> Image.Image | Axes:
    """Return a picture of a photo beside bars for its likeliest classes; with `ax` show it in these axes, a figure's.

    With `heatmap`, regions that speak for the likeliest class are bright. Raises ImageError for a photo that cannot be
    opened.
    """
    from flower_classifier.report.pictures import draw_prediction, image_of

    probabilities, classes = predict(image, model, topk)
    photo = load_image(image, PHOTO_SIDE, model.preprocessing.grey_range)
    title = Path(image).name if isinstance(image, str | Path) else ""
    names = [printable(model.category_names.get(name, name)) for name in classes]
    bars = list(zip(names, probabilities, strict=True))
    with speaking():
        heat = model.predictor.heatmap(image, classes[0], photo.size) if heatmap else None
        if heatmap and not heat:
            note(f"{model.classifier.config.arch} has no last feature map, so there is no heat map to draw")
        picture = image_of(draw_prediction(photo, printable(title), bars, heat))
    if ax is None:
        return picture
    ax.imshow(picture)
    ax.set_axis_off()
    return ax


def show_training(model: Model) -> Image.Image:
    """Return a picture of a model's losses and its accuracy by epoch. Raises InputError if it is not trained."""
    from flower_classifier.report.charts import draw_curves
    from flower_classifier.report.pictures import image_of

    if not model.history:
        raise InputError("the model is not trained yet, so there are no curves to show")
    began, validated = model.training.get("fine_tuned_after"), len(model.trained.validation_digests or ())
    return image_of(draw_curves(model.history, model.training["epoch"], began, validated or None))


def show_confusion(results: Results) -> Image.Image:
    """Return a picture of which classes were taken for which."""
    from flower_classifier.report.confusion_matrix import draw_confusion
    from flower_classifier.report.pictures import image_of

    return image_of(draw_confusion(results.evaluation, [printable(name) for name in results.names], results.judged))


def show_reliability(results: Results) -> Image.Image:
    """Return a picture of how often the model is right, by how probable it finds its answer."""
    from flower_classifier.report.charts import draw_reliability
    from flower_classifier.report.pictures import image_of

    return image_of(draw_reliability(results.evaluation, results.judged))


def show_mistakes(results: Results) -> Image.Image | None:
    """Return a picture of the wrong answers with the highest probabilities, or None where there are none."""
    from flower_classifier.report.pictures import image_of

    figure = results.draw_most_confident()
    return image_of(figure) if figure else None


# ---------------------------------------------------------------------------------------------- what the verbs share


def check_classes(model: Model, data: Data) -> None:
    """Raise InputError unless the data has the model's classes in the same order."""
    if model.classes != data.classes:
        ours, theirs = (counted(len(names), "class", "classes") for names in (model.classes, data.classes))
        raise InputError(f"the model was built for other classes ({ours}) than the data has ({theirs}): build another")


def widths(hidden_units: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the widths of the hidden layers: () for 0; None stays None, for the architecture's default."""
    if hidden_units is None:
        return None
    given = (hidden_units,) if isinstance(hidden_units, int) else tuple(hidden_units)
    return () if given == (0,) else given


def open_cache() -> FeatureCache | None:
    """Return the feature cache that train.py uses too."""
    return FeatureCache.opened(TrainConfig.cache_dir, limit=TrainConfig.cache_limit * 1e9)


def refuse_bad(*splits: Inputs | None) -> None:
    """Raise UnusablePhotosError where there are photos that cannot be opened."""
    if errors := [error for inputs in splits if inputs for error in inputs.errors]:
        raise UnusablePhotosError(errors)


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's generators afterwards as they were: the student's own random numbers are not ours to change."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        yield
