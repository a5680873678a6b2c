"""Going on from where an earlier run stopped: what may change by then, what may not, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import note, warn
from flower_classifier.base.words import counted
from flower_classifier.networks.devices import PRECISION
from flower_classifier.training.fine_tuning import second_recipe
from flower_classifier.training.finished import Finished
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.state import TrainState
from flower_classifier.training.train_config import TrainConfig

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
