"""What a run says of itself on the terminal: what it begins with, an epoch, what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from flower_classifier.base.messages import counted, first_few, note, photos_of, printable, warn
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.judging.class_balance import are_unequal
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.verdict import share_text
from flower_classifier.networks.checkpoint import Row
from flower_classifier.networks.devices import PRECISION
from flower_classifier.photos.splits import Data
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.saved_state import Finished
from flower_classifier.training.state import TrainState

# Options that the checkpoint records. A resumed run says which of them have changed
RECORDED = ("learning_rate", "batch_size", "views", "augment", "weight_decay", "label_smoothing", "class_weights")


def report_start(
    config: TrainConfig, data: Data, device: torch.device, state: TrainState, saved: Finished | None
) -> None:
    """Say on stderr what was found and what will be trained."""
    photos = [f"{len(split):,} {split.spoken}" for split in data.splits.parts]
    sizes = Counter(data.splits.train.labels)
    least, most = min(sizes.values()), max(sizes.values())
    each = photos_of("train", least) if least == most else f"{least:,} to {photos_of('train', most)}"
    names = first_few([printable(name) for name in data.names])
    note(f"{counted(len(data.classes), 'class', 'classes')} ({names}); photos: {', '.join(photos)}; {each} of a class")
    if not saved:
        warn_of_unequal(config, data)
    model, recipe = state.classifier.config, state.recipe
    numbers = sum(parameter.numel() for parameter in state.learner.parameters())
    learns = f"its head of {numbers:,} parameters" if model.learns == "head" else f"all {numbers:,} parameters"
    doing = f"training {learns}"
    if saved and saved.began is not None:
        doing = "fine-tuning it"
    elif config.tune and not saved:
        doing = "searching for its head"
    note(f"{model.arch} on {device}: {doing}")
    note_faster(config, device)
    for name in {"unfreeze", "backbone_lr"} & config.typed if not config.fine_tune else ():
        warn(f"--{name} says how --fine_tune goes, which is not asked for")
    if recipe.views > max(recipe.epochs, TrainConfig.views):
        note(f"--views {recipe.views}: only the first {recipe.epochs} will be used, one per epoch")


def note_faster(config: TrainConfig, device: torch.device) -> None:
    """Say on stderr that there are faster networks, to whoever has not chosen the slow default for a CPU."""
    if device.type == "cpu" and "arch" not in config.typed and not config.resume:
        note(f"{config.arch} is slow without a GPU: --arch squeezenet1_1 takes less than a tenth of the time")


def warn_of_unequal(config: TrainConfig, data: Data) -> None:
    """Warn where classes are so unequal that an accuracy over photos hides small ones; say what is done, and can be."""
    sizes, total = Counter(data.splits.train.labels), len(data.splits.train)
    if not are_unequal(list(sizes.values())):
        return
    (largest, most), (smallest, least) = sizes.most_common()[0], sizes.most_common()[-1]
    weights = "" if config.class_weights == "balanced" else "; --class_weights balanced lets small ones count as much"
    warn(
        f"classes are unequal, {counted(least, 'training photo')} of {printable(data.names[smallest])} and {most:,} of "
        f"{printable(data.names[largest])}: always saying {printable(data.names[largest])} would be right for "
        f"{share_text(most / total, total)} of them. Look at the balanced accuracy, the mean over classes; such a mean "
        f"of the validation loss chooses {'features, head and epoch' if config.tune else 'the epoch'}{weights}"
    )


def report_resumed(config: TrainConfig, state: TrainState, saved: Finished) -> None:
    """Say on stderr where a resumed run stands, and what is different from here on."""
    if saved.epoch >= state.recipe.epochs and not (config.fine_tune and saved.began is None):
        more = "a larger --epochs, or --fine_tune," if saved.began is None else "a larger --fine_tune"
        note(f"{counted(saved.epoch, 'epoch')} trained already: {more} trains longer")
        return
    note(f"resuming after epoch {saved.epoch}{', in the midst of fine-tuning' if state.is_fine_tuning else ''}")
    for key in (*RECORDED, *state.recipe.metadata):
        now = state.metadata.get(key)
        before = saved.training.get(key, now)  # an earlier version may not have had the option
        if before != now:
            note(f"--{key} was {before}, now {now} from epoch {saved.epoch + 1} on")
    now = state.training["precision"]
    if (before := saved.training.get("precision", now)) != now:
        warn(f"the network computed in {before} so far, now it does in {now}: {PRECISION}={before} would keep that")


def epoch_line(row: Row, epochs: int, photos: int) -> str:
    """Return an epoch's numbers, on so many validation photos, as a line for people; those of the same stage align."""
    accuracy, width = share_text(row["valid_accuracy"], photos), len(share_text(1, photos))
    return (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}   training loss {row['train_loss']:.4f}   "
        f"validation loss {row['valid_loss']:.4f}   validation accuracy {accuracy:>{width}}"
        + balanced_text(row, photos, width)
    )


def balanced_text(row: Row, photos: int, width: int = 0) -> str:
    """Return what follows an epoch's accuracy on so many photos where the run is judged by class; else nothing."""
    if "valid_balanced_accuracy" not in row:
        return ""
    return f"   balanced accuracy {share_text(row['valid_balanced_accuracy'], photos):>{width}}"


def report_best(
    state: TrainState, judged: str, evaluations: Mapping[str, Evaluation], run_folder: RunFolder, sizes: Sequence[int]
) -> None:
    """Print which epoch the checkpoint holds, what it is worth, and where it is; say how earlier runs compare.

    `judged`: the split that says what it is worth. `sizes` (C,): training photos of each class.
    """
    best, photos = state.best.row, len(evaluations["valid"])
    accuracy = share_text(best["valid_accuracy"], photos)
    print(f"best epoch {best['epoch']}   validation accuracy {accuracy}{balanced_text(best, photos)}")
    print(evaluations[judged].result_lines(judged, state.best_checkpoint().names, sizes))
    print(f"checkpoint: {printable(str(run_folder.checkpoint_path))}", flush=True)
    if state.is_fine_tuning and state.best.learns == "head":
        note("fine-tuning made nothing better: the checkpoint holds the best epoch of the head")
    earlier = run_folder.best_earlier(state.identity.valid)
    reached = share_text(earlier.accuracy, photos) if earlier else ""
    if earlier and not earlier.comparable:
        note(f"an earlier run reached {reached} on other validation photos: {earlier.checkpoint}")
    elif earlier and earlier.accuracy > best["valid_accuracy"]:
        warn(f"an earlier run was better: validation accuracy {reached}; its {earlier.checkpoint} is kept")
    elif earlier:
        note(f"the best earlier run reached a validation accuracy of {reached}: {earlier.checkpoint}")
