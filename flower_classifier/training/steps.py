"""What a run does around its epochs: it says where it begins, goes on where an earlier run stopped, and ends well."""

from __future__ import annotations

from dataclasses import replace

import torch

from flower_classifier.base.console import note, warn
from flower_classifier.base.errors import InputError
from flower_classifier.base.text import counted, printable
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.evaluation import Evaluation, looking, summary
from flower_classifier.judging.strangers import stranger_scores
from flower_classifier.networks.devices import PRECISION
from flower_classifier.networks.feature_bank import FeatureBank, balanced_sample, capacity, remember
from flower_classifier.photos.splits import Splits
from flower_classifier.training.recipe import second_recipe
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.saved_state import Finished
from flower_classifier.training.state import TrainState

# Options that may have other values when a run is resumed, which the checkpoint tells; beside the number of epochs
CHANGEABLE = ("learning_rate", "batch_size", "views", "weight_decay", "label_smoothing", "class_weights")
# Options that may not, once the network is fine-tuned: the head has learned with them
SETTLED = ("epochs", "learning_rate", "views")


def go_on(config: TrainConfig, run_folder: RunFolder, state: TrainState, saved: Finished) -> None:
    """Go on from what an earlier run has saved. Raises InputError if that is not possible."""
    second = None
    if saved.began is not None:
        check_settled(config, saved)
        same = replace(config, unfreeze=saved.unfreeze)
        second = second_recipe(same, state.recipe, state.classifier, saved.began)
    run_folder.go_on(state, saved, second)
    report_resumed(config, state, saved)


def check_settled(config: TrainConfig, saved: Finished) -> None:
    """Raise InputError for an option that came too late: the network is being fine-tuned already."""
    settled = {**{name: saved.settings[name] for name in SETTLED}, "unfreeze": saved.unfreeze}
    for name, before in settled.items():
        now = getattr(config, name)
        if config.is_given(name) and now != before:
            change = f"was {before}, now {now}, but the network is being fine-tuned already"
            raise InputError(f"{change}: put that back, or start a new run", name)


def report_resumed(config: TrainConfig, state: TrainState, saved: Finished) -> None:
    """Say on stderr where a resumed run stands, and what is different from here on."""
    if saved.epoch >= state.recipe.epochs and not (config.fine_tune and saved.began is None):
        more = "a larger --epochs, or --fine_tune," if saved.began is None else "a larger --fine_tune"
        note(f"{counted(saved.epoch, 'epoch')} trained already: {more} trains longer")
        return
    note(f"resuming after epoch {saved.epoch}{', in the midst of fine-tuning' if state.is_fine_tuning else ''}")
    for key in (*CHANGEABLE, *state.recipe.told):
        now = state.told.get(key)
        before = saved.training.get(key, now)  # an earlier version may not have had the option
        if before != now:
            note(f"--{key} was {before}, now {now} from epoch {saved.epoch + 1} on")
    now = state.training["precision"]
    if (before := saved.training.get("precision", now)) != now:
        warn(f"the network computed in {before} so far, now it does in {now}: {PRECISION}={before} would keep that")


# --------------------------------------------------------------------------------------------------------- what is said


def doing_of(config: TrainConfig, saved: Finished | None) -> str:
    """Return in a word what comes first: a search, fine-tuning that goes on, or else training."""
    if saved and saved.began is not None:
        return "fine-tuning"
    return "searching" if config.tune and not saved else "training"


def report_start(config: TrainConfig, splits: Splits, state: TrainState, device: torch.device, doing: str) -> None:
    """Say on stderr what was found and what will be trained."""
    parts = [f"{len(split):,} {split.spoken}" for split in (splits.train, splits.valid, splits.test) if split]
    note(f"{counted(len(splits.classes), 'class', 'classes')}; photos: {', '.join(parts)}")
    model, recipe = state.classifier.config, state.recipe
    numbers = sum(parameter.numel() for parameter in state.learner.parameters())
    learns = f"its head of {numbers:,} parameters" if model.learns == "head" else f"all {numbers:,} parameters"
    what = {"fine-tuning": "fine-tuning it", "searching": "searching for its head", "training": f"training {learns}"}
    note(f"{model.arch} on {device}: {what[doing]}")
    for name in {"unfreeze", "backbone_lr"} & config.typed if not config.fine_tune else ():
        warn(f"--{name} says how --fine_tune goes, which is not asked for")
    if recipe.views > max(recipe.epochs, TrainConfig.views):
        note(f"--views {recipe.views}: only the first {recipe.epochs} will be used, one per epoch")


def report_best(state: TrainState, judged: str, evaluation: Evaluation, run_folder: RunFolder) -> None:
    """Print which epoch the checkpoint holds, what it is worth, and where it is; say how earlier runs compare."""
    best = state.best.row
    print(f"best epoch {best['epoch']}   validation accuracy {best['valid_accuracy']:.2%}")
    print(summary(judged, evaluation))
    print(f"checkpoint: {printable(str(run_folder.checkpoint_path))}", flush=True)
    if state.is_fine_tuning and state.best.learns == "head":
        note("fine-tuning made nothing better: the checkpoint holds the best epoch of the head")
    earlier = run_folder.best_earlier(state.identity.valid)
    if earlier and not earlier.comparable:
        note(f"an earlier run reached {earlier.accuracy:.2%} on other validation photos: {earlier.checkpoint}")
    elif earlier and earlier.accuracy > best["valid_accuracy"]:
        warn(f"an earlier run was better: validation accuracy {earlier.accuracy:.2%}; its {earlier.checkpoint} is kept")
    elif earlier:
        note(f"the best earlier run reached a validation accuracy of {earlier.accuracy:.2%}: {earlier.checkpoint}")


# ---------------------------------------------------------------------------------------- what the checkpoint remembers


def keep_memory(state: TrainState, train: Inputs, valid: Inputs, on_valid: Evaluation) -> None:
    """Let the checkpoint remember the training photos, as the best epoch's network sees them, and tell strangers.

    `on_valid`: its answers to the validation photos.
    """
    if state.best.stranger_scores is None:
        memory = state.best.memory or memory_of(state, train)
        features = looking(state.learner, valid, range(len(valid.used)))(range(len(valid.used)))
        state.keep_memory(memory, stranger_scores(memory, features, on_valid.at(state.best.temperature)))


def memory_of(state: TrainState, train: Inputs) -> FeatureBank:
    """Return what there is room to remember of the training photos."""
    photos, labels = [train.split.photos[index] for index in train.used], train.labels.tolist()
    axes, number = capacity(state.classifier.feature_width, photos)
    chosen = balanced_sample(labels, number)
    known = [labels[place] for place in chosen], [photos[place] for place in chosen]
    return remember(looking(state.learner, train, chosen), *known, axes)
