"""What a run says at the terminal: what it begins with, and what it has reached in the end."""

from __future__ import annotations

import torch

from flower_classifier.base.messages import note, warn
from flower_classifier.base.words import counted, printable
from flower_classifier.judging.evaluation import Evaluation, summary
from flower_classifier.photos.splits import Splits
from flower_classifier.training.finished import Finished
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.state import TrainState
from flower_classifier.training.train_config import TrainConfig


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
