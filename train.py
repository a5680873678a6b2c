"""Train a classifier on a folder of labelled photos.

    python train.py flowers --arch vgg16 --gpu
    python train.py flowers --arch cnn                      (needs no pretrained weights)
    python train.py flowers --download                      (fetches the photos of 102 species first)
    python train.py flowers --save_dir out --category_names cat_to_name.json
    python train.py flowers --save_dir out --epochs 30 --resume
    python train.py flowers --summary                       (says what it found and how long it would take)

Writes checkpoint.pth into --save_dir, for predict.py: the epoch that was best on the validation photos. Tables and
pictures of the run, and what --resume needs, go into the folder run/ beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import program  # first: Ctrl-C while torch loads should not end in a traceback

if __name__ == "__main__":
    program.begin()

# isort: split
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from backbones import backbone_with_weights
from data_utils import Splits, load_category_names, load_splits
from devices import choose_device
from download import download
from errors import RunError
from evaluation import Evaluation, calibrate, evaluate, summary
from feature_cache import FeatureCache
from features import Batch, Inputs, UnusablePhotosError, check_photos_left, epoch_batches, extract_inputs, whole
from messages import note, progress, warn, watched
from model_utils import Checkpoint, Classifier, ModelConfig, build_classifier
from randomness import fold_seed, seed_torch
from report import Diagnosis, check_tensorboard, write_diagnosis, write_history, write_tensorboard
from run_state import Row, RunFolder, TrainState
from survey import survey
from train_config import TrainConfig, build_parser
from words import counted

CHANGEABLE = ("learning_rate", "batch_size", "views")  # what --resume may go on with other values of


def fit(config: TrainConfig, run_folder: RunFolder) -> None:
    """Train as `config` asks, from the folder of photos to the tested checkpoint; with --summary, only survey it."""
    device = choose_device(config.gpu)
    if config.tensorboard:
        check_tensorboard()
    if config.download:
        download(config.data_dir)
    splits = load_splits(config.data_dir, config.valid_split, config.seed)
    category_names = load_category_names(config.category_names, splits.classes)
    classifier, weights = new_classifier(config, len(splits.classes), device)
    state = start_state(config, splits, category_names, classifier, weights)
    if config.summary:
        survey(config, splits, state, device, train_one_epoch)
        return

    report_start(config, splits, classifier, device)
    run_folder.begin()
    if config.resume:
        run_folder.resume(state)
        report_resumed(state, config)

    # The backbone runs here, over what the first epoch needs; further views wait for the epochs that use them.
    views = min(config.views, config.epochs)
    train, valid, test = extract_inputs(classifier, splits, config.seed, device, open_cache(config), views)
    skipped = check_bad_photos(config, run_folder, splits.classes, train, valid, test)
    state.leave_out(skipped, tested=splits.test.photos if splits.test else ())
    try:
        while state.epoch < config.epochs:
            row = state.record(*run_epoch(config, state, train, valid))
            report_epoch(row, config)
            run_folder.save_if_due(state)
    except (KeyboardInterrupt, BrokenPipeError):  # nobody reads stdout any more
        if state.epoch:
            note(f"stopped after epoch {state.epoch}; the same command with --resume goes on from there")
        raise
    finally:
        run_folder.save(state)  # whatever ended the loop: finished epochs are not lost

    classifier.trainee.load_state_dict(state.finished["best_trained"])
    temperature = calibrate(evaluate(classifier.trainee, whole(valid)))
    run_folder.save_calibrated(state, temperature)
    judged = test or valid
    evaluation = evaluate(classifier.trainee, whole(judged)).at(temperature)
    report_best(state.best, judged.split.name, evaluation)
    print(f"checkpoint: {run_folder.checkpoint_path}", flush=True)
    if not config.no_report:
        write_report(config, run_folder, state, judged, evaluation)


# ------------------------------------------------------------------------------------------- before the first epoch


def new_classifier(config: TrainConfig, num_classes: int, device: torch.device) -> tuple[Classifier, str]:
    """Put a new head on the backbone that the config asks for; return it and the name of the backbone's weights."""
    seed_torch(config.seed, "backbone")  # what --weights none and cnn draw from
    backbone = backbone_with_weights(config.arch, config.weights, config.image_size)
    seed_torch(config.seed, "head")
    model = ModelConfig(config.arch, config.hidden_units, config.dropout, num_classes)
    classifier = build_classifier(model, backbone)
    if model.frozen and backbone.weights == "none":
        warn(f"--weights none: the features of a random, frozen {config.arch} are good for trying things out alone")
    return classifier.place(device), backbone.weights


def start_state(
    config: TrainConfig, splits: Splits, category_names: dict[str, str], classifier: Classifier, weights: str
) -> TrainState:
    """Return the state before the first epoch: an empty checkpoint, a fresh optimizer and average."""
    training = {"weights": weights, "seed": config.seed, **{key: getattr(config, key) for key in CHANGEABLE}}
    checkpoint = Checkpoint(classifier, splits.classes, category_names, training)
    optimizer = torch.optim.Adam(classifier.trainee.parameters(), lr=config.learning_rate, fused=True)
    identity = {
        "--arch": config.arch,
        "--weights": weights,
        "--hidden_units": list(config.hidden_units),
        "--dropout": config.dropout,
        "--image_size": classifier.preprocessing.crop_size,
        "--seed": config.seed,
        "what the backbone's weights hold": classifier.backbone_digest,
        "the list of classes": list(splits.classes),
        "the set of training photos (or --valid_split)": splits.train.fingerprint(),
        "the set of validation photos": splits.valid.fingerprint(),
    }
    return TrainState(checkpoint, optimizer, identity)


def check_bad_photos(
    config: TrainConfig, run_folder: RunFolder, classes: Sequence[str], train: Inputs, *others: Inputs | None
) -> list[str]:
    """List the photos that cannot be opened in a file of the run; return their names, or refuse to train without them.

    Raises UnusablePhotosError without --skip_bad, and InputError where a split or a class has no photo left.
    """
    bad = [(part, index) for part in (train, *others) if part for index in sorted(part.bad)]
    errors = [part.bad[index] for part, index in bad]
    run_folder.list_bad([str(error) for error in errors])
    listed = f"listed in {run_folder.bad_path}"
    if bad and not config.skip_bad:
        raise UnusablePhotosError(errors, f"repair or remove them, or add --skip_bad (all are {listed})")
    if bad:
        warn(f"going on without {counted(len(bad), 'photo')} that cannot be opened, {listed}")
    check_photos_left(classes, train, *others)
    return [part.split.photos[index] for part, index in bad]


def open_cache(config: TrainConfig) -> FeatureCache | None:
    """Return the cache that the features go into and come from."""
    return None if config.no_cache else FeatureCache(config.cache_dir, limit=config.cache_limit * 1e9)


# --------------------------------------------------------------------------------------------------------- one epoch


def run_epoch(config: TrainConfig, state: TrainState, train: Inputs, valid: Inputs) -> tuple[float, Evaluation]:
    """Train for one epoch; return the training loss, and the average's answers to the validation photos.

    Whatever is random in an epoch is a function of its number and the seed. Raises RunError for losses that are
    not finite.
    """
    epoch = state.epoch + 1
    rows = train.rows(view=(epoch - 1) % config.views)  # extracted in the first epoch that needs it
    order_seed = fold_seed(config.seed, "shuffle", epoch)
    batches = epoch_batches(rows, train.labels, config.batch_size, train.device, order_seed)
    seed_torch(config.seed, "dropout", epoch)
    try:
        with progress(len(rows), f"epoch {epoch}/{config.epochs}", "photo") as bar:
            train_loss = train_one_epoch(state.trainee, watched(batches, bar), state.optimizer, state.average)
        return train_loss, evaluate(state.average.module, whole(valid))
    except FloatingPointError as error:
        rate = f"--learning_rate (now {config.learning_rate:g})"
        raise RunError(f"the loss is not finite ({error}) in epoch {epoch}: lower {rate}") from None


def train_one_epoch(
    trainee: nn.Module, batches: Iterable[Batch], optimizer: torch.optim.Optimizer, average: AveragedModel
) -> float:
    """Take one optimizer step a batch; return the mean loss over all samples, each as it was before its step.

    Raises FloatingPointError, before the step, for a loss that is not finite.
    """
    trainee.train()
    total, count = 0.0, 0
    for inputs, labels in batches:  # (B, ...), (B,)
        loss = F.cross_entropy(trainee(inputs), labels)  # equals NLL of log-softmax
        if not torch.isfinite(loss):
            raise FloatingPointError(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(trainee)
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


# --------------------------------------------------------------------------------------------------- at the terminal


def report_start(config: TrainConfig, splits: Splits, classifier: Classifier, device: torch.device) -> None:
    """Say on stderr what was found and what will be trained."""
    parts = [f"{len(split):,} {split.name}" for split in (splits.train, splits.valid, splits.test) if split]
    note(f"{counted(len(splits.classes), 'class', 'classes')}; photos: {', '.join(parts)}")
    numbers = sum(parameter.numel() for parameter in classifier.trainee.parameters())
    learns = f"its head of {numbers:,} parameters" if classifier.config.frozen else f"all {numbers:,} parameters"
    note(f"{config.arch} on {device}: training {learns}")
    if config.views > max(config.epochs, TrainConfig.views):
        note(f"--views {config.views}: only the first {config.epochs} will be used, one an epoch")


def report_resumed(state: TrainState, config: TrainConfig) -> None:
    """Say on stderr where a resumed run stands, and what is different from here on."""
    if state.epoch >= config.epochs:
        note(f"{counted(state.epoch, 'epoch')} trained already: a larger --epochs goes on")
    elif state.epoch:
        note(f"resuming after epoch {state.epoch}")
        for key in CHANGEABLE:
            before, now = state.finished["training"][key], getattr(config, key)
            if before != now:
                note(f"--{key} was {before}, now {now} from epoch {state.epoch + 1} on")


def report_epoch(row: Row, config: TrainConfig) -> None:
    """Print an epoch's line."""
    print(
        f"epoch {row['epoch']:{len(str(config.epochs))}d}/{config.epochs}   training loss {row['train_loss']:.4f}   "
        f"validation loss {row['valid_loss']:.4f}   validation accuracy {row['valid_accuracy']:6.2%}",
        flush=True,
    )


def report_best(best: Row, judged: str, evaluation: Evaluation) -> None:
    """Print which epoch the checkpoint holds, and what it is worth: where there are test photos, on those."""
    print(f"best epoch {best['epoch']}   validation accuracy {best['valid_accuracy']:.2%}")
    print(summary(judged, evaluation))


def write_report(
    config: TrainConfig, run_folder: RunFolder, state: TrainState, judged: Inputs, evaluation: Evaluation
) -> None:
    """Leave tables and pictures of the run in its folder."""
    checkpoint = state.best_checkpoint()
    history = checkpoint.history
    figures = write_history(run_folder.folder, history, state.best["epoch"])
    diagnosis = Diagnosis(judged.split.name, evaluation, judged.paths, checkpoint.classes, checkpoint.names)
    figures |= write_diagnosis(run_folder.folder, diagnosis)
    if config.tensorboard:
        write_tensorboard(run_folder.folder / "tensorboard", history, figures)
    note(f"tables and pictures of it: {run_folder.folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    arguments = build_parser(__doc__).parse(argv)
    config = TrainConfig(**vars(arguments))
    with RunFolder(config.save_dir) as run_folder:
        fit(config, run_folder)


if __name__ == "__main__":
    program.run(main, as_program=True)
