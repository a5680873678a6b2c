"""The steps of a run, in order: prepare, start or go on, read the photos, tune, train, fine-tune, judge, remember.

train.py calls them one after the other.
"""

import contextlib
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path

from flower_classifier.base.messages import InputError, counted, note, warn
from flower_classifier.base.signals import signals_held
from flower_classifier.config.allowed import DEFAULT_SHRINKAGE, StrangerMeasure
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.grey_range import find_grey_range
from flower_classifier.features.inputs import (
    AllInputs,
    Timings,
    UnusablePhotosError,
    check_photos_left,
    prepare_inputs,
)
from flower_classifier.features.seen_before import warn_of_seen
from flower_classifier.judging.calibration import cross_validated
from flower_classifier.judging.evaluation import Evaluation, evaluate_on, feature_reader
from flower_classifier.judging.strangers import stranger_scores
from flower_classifier.networks.backbones import resolve_arch, source_of
from flower_classifier.networks.checkpoint import Row
from flower_classifier.networks.classifier import Classifier, new_classifier, warn_of_random
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.feature_bank import balanced_sample, capacity, remember
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.source import NoWeightsError, Weights
from flower_classifier.networks.whitening import enough_to_whiten
from flower_classifier.photos.category_names import load_category_names
from flower_classifier.photos.download import download
from flower_classifier.photos.left_out import leave_out
from flower_classifier.photos.splits import Data, load_splits
from flower_classifier.report.run_log import RunLog
from flower_classifier.training.feature_search import FeatureKind, choose_features
from flower_classifier.training.head_search import OPTIONS, search
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe, second_recipe
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.run_messages import RECORDED, epoch_line, report_resumed
from flower_classifier.training.saved_state import Finished, Identity
from flower_classifier.training.state import TrainState, load_learned
from flower_classifier.training.view_checks import mirrors_mislead

# Options that may not change any more once the network is fine-tuned: the head has learned with them
SETTLED = ("epochs", "learning_rate", "views")
FLOWER_NAMES = Path(__file__).parents[2] / "cat_to_name.json"  # in a clone


@dataclass(frozen=True)
class Built:
    """A new classifier on its device, with the frozen form of its backbone, and what the backbone's weights are."""

    frozen: FrozenBackbone
    weights: Weights
    missing: NoWeightsError | None = None  # why a summary has random weights in place of those that are asked for

    @property
    def classifier(self) -> Classifier:
        """The classifier, of which the backbone is frozen."""
        return self.frozen.classifier


# ----------------------------------------------------------------------------------------------- before the first epoch


def prepare(config: TrainConfig, saved: Finished | None = None) -> tuple[Data, Built]:
    """Return the photos, and a new classifier for their classes.

    `saved`: what an earlier run has, to be resumed: it sees photos as that did. Raises InputError for options at odds,
    NoWeightsError where the weights cannot be fetched; a summary goes on with random ones, which take as long.
    """
    arch, device = resolve_arch(config.arch), choose_device(config.gpu)
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("needs tensorboard, which is not installed: pip install tensorboard", "tensorboard")
    data = find_data(config)
    for option in ("tune", "fine_tune", "doctor"):
        if getattr(config, option) and not source_of(arch).pretrained:
            raise InputError(f"is for pretrained networks; all layers of {arch} learn from the start", option)
    if config.layers and not source_of(arch).pretrained:
        raise InputError(f"is for pretrained networks; {arch} has its own", "layers")
    layers = config.layers or choose_layers(data)
    model = (config.hidden_units, config.dropout, config.image_size, config.seed, config.mirror, layers, config.fit)
    missing = None
    try:
        classifier, weights = new_classifier(arch, len(data.classes), config.weights, *model)
        warn_of_random(arch, weights)
    except NoWeightsError as error:
        if not config.summary:
            raise
        missing = error
        classifier, weights = new_classifier(arch, len(data.classes), "none", *model)
    if choose_shrinkage(classifier, data, config.shrinkage, config.no_whitening):
        classifier.look_at(classifier.config.layers, square_roots=not config.no_roots)
    earlier = saved.identity if saved else None
    grey_range = earlier.grey_range if earlier else find_grey_range(data.splits.train)
    classifier.preprocessing = replace(classifier.preprocessing, grey_range=grey_range)
    return data, Built(FrozenBackbone(classifier, device), weights, missing)


def find_data(config: TrainConfig) -> Data:
    """Return the photos of the run by split, and what people call their classes; with --download, fetch them first."""
    if config.download:
        download(config.data_dir)
    elif not config.data_dir.exists():
        advice = "give the folder that holds train/ and valid/, or one folder per class"
        raise InputError(f"{config.data_dir} does not exist; {advice}, or let --download fetch photos of 102 species")
    cache = None if config.summary else open_cache(config, quiet=True)  # a summary writes nothing
    cache_dir = cache.folder if cache else None
    labels, groups = config.label_source, config.groups
    splits = load_splits(
        config.data_dir,
        config.valid_split,
        config.seed,
        labels,
        groups,
        cache_dir,
        config.test_split,
        warns_of_copies=not config.without,
    )
    if config.without:
        splits = leave_out(splits, config.without)
        splits.warn_of_copies()  # of those that are left
    if config.category_names is None and not config.resume:  # a resumed run has its names
        with contextlib.suppress(OSError, ValueError):  # it is only a hint
            if set(splits.classes) <= json.loads(FLOWER_NAMES.read_text(encoding="utf-8")).keys():
                option = f"--category_names {FLOWER_NAMES.name}"
                note(f"classes are numbers; if of the 102 flowers, {option} gives their names")
    return Data(splits, load_category_names(config.category_names, splits.classes))


def choose_layers(data: Data) -> str | None:
    """Return the layers whose features a head sees, where none are asked for; None: what suits the network."""
    return None if enough_to_whiten(len(data.splits.train), len(data.classes)) else "last"


def choose_shrinkage(classifier: Classifier, data: Data, given: float | None, no_whitening: bool) -> float:
    """Return the shrinkage with which features are whitened; 0 where they are not.

    Raises InputError where one is given and they cannot be.
    """
    if given and not classifier.can_be_whitened:
        raise InputError(
            "is for a pretrained network, and not for flat features: they are too many to whiten", "shrinkage"
        )
    if no_whitening or not classifier.can_be_whitened:
        return 0.0
    return given or (DEFAULT_SHRINKAGE if enough_to_whiten(len(data.splits.train), len(data.classes)) else 0.0)


def start_state(config: TrainConfig, data: Data, built: Built) -> TrainState:
    """Return the state before the first epoch."""
    classifier, splits = built.classifier, data.splits
    recipe = Recipe.of(config)
    identity = Identity(
        arch=classifier.config.arch,
        learns=classifier.config.learns,
        weights=built.weights.name,
        hidden_units=list(classifier.config.hidden_units),
        dropout=classifier.config.dropout,
        image_size=classifier.preprocessing.crop_size,
        seed=config.seed,
        backbone=built.frozen.digest,
        classes=list(data.classes),
        train=splits.train.fingerprint(),
        valid=splits.valid.fingerprint(),
        contents=splits.train.contents() | splits.valid.contents(),
        mirror=config.mirror,
        fit=config.fit,
        layers=classifier.config.layers,
        square_roots=classifier.config.square_roots,
        whitening=choose_shrinkage(classifier, data, config.shrinkage, config.no_whitening),
        grey_range=classifier.preprocessing.grey_range,
    )
    training = {"weights": built.weights.name, "seed": config.seed, "precision": built.frozen.precision_name}
    training |= {key: getattr(config, key) for key in RECORDED}
    training["shrinkage"] = identity.whitening
    if built.weights.licence:
        training["licence"] = built.weights.licence
    return TrainState(classifier, recipe, data.classes, data.category_names, training, identity, config.kept)


def go_on(config: TrainConfig, run_folder: RunFolder, state: TrainState, saved: Finished) -> None:
    """Go on from what an earlier run has saved. Raises InputError if that is not possible."""
    second = None
    if saved.began is not None:
        settled = {**{name: saved.settings[name] for name in SETTLED}, "unfreeze": saved.unfreeze}
        for name, before in settled.items():
            now = getattr(config, name)
            if name == "views" and config.augment == "none":
                continue  # it says how fresh photos differ, too; views were those of the head
            if config.is_given(name) and now != before:
                change = f"was {before}, now {now}, but the network is being fine-tuned already"
                raise InputError(f"{change}: put that back, or start a new run", name)
        same = replace(config, unfreeze=saved.unfreeze)
        second = second_recipe(same, state.recipe, state.classifier, saved.began)
    if config.tune:
        note("--tune searches in a new run, without --resume: this one has its head already, and keeps it")
    run_folder.go_on(state, saved, second)
    report_resumed(config, state, saved)
    if config.no_memory:
        state.keep_feature_bank(None)


def read_photos(config: TrainConfig, run_folder: RunFolder, data: Data, built: Built, state: TrainState) -> AllInputs:
    """Run the frozen backbone over what the first epoch needs; return the inputs of all splits.

    Further views wait for the epochs that use them. Photos that cannot be opened are listed in a file of the run.
    Raises UnusablePhotosError for them without --skip_bad, InputError where a split or a class has no photo left.
    """
    bad_limit = config.bad_limit if config.skip_bad else 1.0  # else all that are bad are listed
    recipe = state.recipe
    inputs = prepare_inputs(
        built.frozen, data.splits, recipe.augmentation, open_cache(config), recipe.schedule, bad_limit
    )
    errors = [error for split in inputs.splits for error in split.errors]
    run_folder.list_bad([str(error) for error in errors])
    listed = f"listed in {run_folder.bad_path}"
    if errors and not config.skip_bad:
        raise UnusablePhotosError(errors, f"repair or remove them, or add --skip_bad (all are {listed})")
    if errors:
        warn(f"going on without {counted(len(errors), 'photo')} that cannot be opened, {listed}")
    check_photos_left(data.classes, *inputs)
    warn_of_seen(data.splits, inputs)
    weigh_classes(config, state, inputs)
    return inputs


def open_cache(config: TrainConfig, quiet: bool = False) -> FeatureCache | None:
    """Return the cache that the features go into and come from; unless `quiet`, say why there is none."""
    return None if config.no_cache else FeatureCache.opened(config.cache_dir, config.cache_limit * 1e9, quiet)


def weigh_classes(config: TrainConfig, state: TrainState, inputs: AllInputs) -> None:
    """Let classes count the same by the photos that can be opened: in learning if asked for, in choosing if unequal."""
    state.recipe = state.recipe.for_photos(inputs.train.labels.tolist(), len(state.classes), config.class_weights)


def tune(
    config: TrainConfig, data: Data, built: Built, inputs: AllInputs, state: TrainState
) -> tuple[TrainConfig, TrainState, AllInputs]:
    """Search for the head's settings; return the options with these, and the state of a new head.

    The state keeps all that was tried. Options that were given stay as they are. The inputs have other views where
    mirror images would mislead the head.
    """
    classifier, shrinkage = state.classifier, state.identity.whitening
    if shrinkage:
        fixed = {name: getattr(config, name) for name in FeatureKind._fields if config.is_given(name)}
        choice = choose_features(inputs.train, inputs.valid, classifier, state.recipe.judged_by_class, **fixed)
        note(str(choice))
        config, shrinkage = replace(config, **choice.chosen.kind._asdict()), choice.chosen.kind.shrinkage
    seen = whiten(state, inputs, shrinkage)
    if mirrors_mislead(config, state, seen):
        note("validation photos are told apart better without mirror images: --augment crops is chosen")
        config = replace(config, augment="crops")
        state.recipe = replace(state.recipe, augment="crops")
        inputs = inputs._replace(train=inputs.train.augmented_by(state.recipe.augmentation))
        seen = whiten(state, inputs, shrinkage)
    outcome = search(seen.train, seen.valid, classifier, state.recipe, fixed_by(config))
    note(outcome.choice_text)
    settings = outcome.chosen.settings
    classifier.renew_head(settings.hidden_units, settings.dropout, config.seed)
    tuned = replace(config, **outcome.chosen.options)
    state = start_state(tuned, data, built)
    weigh_classes(tuned, state, inputs)
    state.finished = replace(state.finished, tuning=list(outcome.table()))
    return tuned, state, inputs


def fixed_by(config: TrainConfig) -> dict[str, object]:
    """Return the options of the head that were given, which a search leaves as they are."""
    return {name: getattr(config, name) for name in OPTIONS if config.is_given(name)}


# ----------------------------------------------------------------------------------------------------------- the epochs


def whiten(state: TrainState, inputs: AllInputs, shrinkage: float) -> AllInputs:
    """Return the inputs as the head learns from them: their features whitened by the training photos' plain view.

    Not where `shrinkage` is 0, or the network is being fine-tuned.
    """
    if not shrinkage or state.is_fine_tuning:
        return inputs
    state.whitening = inputs.train.find_whitening(shrinkage)
    return inputs.whitened_by(state.whitening)


def train_epochs(state: TrainState, inputs: AllInputs, run_folder: RunFolder, log: RunLog) -> None:
    """Train all epochs of a stage; print and log each, and save now and then."""
    photos = len(inputs.valid.used)

    def on_epoch(row: Row, seconds: Timings) -> None:
        print(epoch_line(row, state.recipe.epochs, photos), flush=True)
        log.add(row, seconds)
        run_folder.save_if_due(state)

    fit(state, inputs.train, inputs.valid, on_epoch)
    if state.has_stalled:
        lowest = state.finished.lowest
        epoch, patience = lowest.epoch if lowest else 0, state.recipe.patience
        note(f"the validation loss was lowest in epoch {epoch}: --patience {patience} ends it here")


def begin_fine_tuning(config: TrainConfig, run_folder: RunFolder, state: TrainState, inputs: AllInputs) -> None:
    """Save what the head has reached, with the options of this process, and let the network learn from there."""
    run_folder.save(state, anyway=True)
    recipe = second_recipe(config, state.recipe, state.classifier, state.epoch)
    if state.whitening:  # from here on the best epoch's head answers for features as they are
        state.load_best()
        state.keep_answers(evaluate_on(state.learner, inputs.valid))
    with signals_held():
        state.begin_fine_tuning(recipe)
    number = sum(parameter.numel() for parameter in state.learner.parameters() if parameter.requires_grad)
    what = "all layers" if recipe.unfreeze == "all" else "the last third of the layers"
    epochs = counted(config.fine_tune, "epoch")
    note(f"fine-tuning {what} of {state.identity.arch} and its head for {epochs}: {number:,} parameters")


# ------------------------------------------------------------------------------------------------- after the last epoch


def judge_best(state: TrainState, inputs: AllInputs) -> dict[str, Evaluation]:
    """Load the best epoch, and find out what it is worth; return its answers by split: valid, and test if there is any.

    The validation photos chose the temperature, so they judge it by cross-validation. They are judged as in the epoch
    itself, so that a run that is stopped before this keeps the same temperature, to the last digit.
    """
    load_learned(state.learner, state.best.learned)
    on_valid = evaluate_on(state.learner, inputs.valid.whitened_by(state.whitening))
    state.load_best()
    state.keep_answers(on_valid)
    judged = replace(on_valid, chose_epoch=len(on_valid))
    evaluations = {"valid": cross_validated(judged, state.best.trust.temperature)}
    if inputs.test:
        evaluations["test"] = evaluate_on(state.learner, inputs.test).at(state.best.trust.temperature)
    state.keep_results({split: evaluation.results for split, evaluation in evaluations.items()})
    return evaluations


def keep_feature_bank(state: TrainState, inputs: AllInputs, on_valid: Evaluation) -> None:
    """Let the checkpoint remember the training photos, as the best epoch's network sees them, and tell strangers.

    `on_valid`: its answers to the validation photos.
    """
    train, valid, _ = inputs
    trust = state.best.trust
    if trust.stranger_scores is None:
        bank = trust.feature_bank
        if bank is None:  # remember as many of the training photos as there is room for
            photos, labels = [train.split.photos[index] for index in train.used], train.labels.tolist()
            axes, count = capacity(state.classifier.feature_width, photos)
            indices = balanced_sample(labels, count)
            sample = [labels[index] for index in indices], [photos[index] for index in indices]
            bank = remember(feature_reader(state.learner, train, indices), *sample, axes)
        features = feature_reader(state.learner, valid, range(len(valid.used)))(range(len(valid.used)))
        measure, answers = StrangerMeasure.for_classes(len(state.classes)), on_valid.at(trust.temperature)
        state.keep_feature_bank(bank, stranger_scores(bank, features, answers, measure), measure)
