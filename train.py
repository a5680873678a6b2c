"""Train a classifier on a folder of labelled photos.

    python train.py flowers --arch vgg16 --gpu
    python train.py flowers --arch cnn                      (needs no pretrained weights)
    python train.py flowers --download                      (fetches the photos of 102 species first)
    python train.py flowers --save_dir out --category_names cat_to_name.json
    python train.py flowers --arch resnet50 --tune          (searches for the head's settings first)
    python train.py flowers --arch resnet50 --fine_tune 4   (lets the network learn too, in the end)
    python train.py flowers --save_dir out --resume         (goes on where the last run there stopped)
    python train.py flowers --summary                       (says what it found and how long it would take)
    python train.py flowers --arch resnet50 --doctor        (says what may be wrong with the photos)
    torchrun --nproc_per_node 4 train.py flowers --gpu      (on four GPUs; docs/scale.md)

Writes checkpoint.pth into --save_dir, for predict.py: the epoch that was best on the validation photos. Tables and
pictures of the run, and what --resume needs, go into the folder run/ beside it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from flower_classifier.base import process
from flower_classifier.base.options import parse
from flower_classifier.config.train_options import TrainConfig

if __name__ == "__main__":  # torch takes seconds to load: --help, mistakes and Ctrl-C end the process before it does
    process.begin()
    asked = process.read_command_line(lambda: parse(TrainConfig, "train.py", __doc__))

# isort: split

from flower_classifier.base.console import note, warn
from flower_classifier.base.errors import InputError
from flower_classifier.base.files import check_writable
from flower_classifier.base.signals import signals_held
from flower_classifier.base.text import counted
from flower_classifier.base.torchrun import rank
from flower_classifier.doctor.doctor import examine, leaks
from flower_classifier.doctor.findings import TABLE, summary_of, write_findings
from flower_classifier.doctor.second_opinion import SCHEDULE
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import (
    Inputs,
    Schedule,
    Timings,
    UnusablePhotosError,
    check_photos_left,
    prepare_inputs,
)
from flower_classifier.judging.calibration import cross_validated
from flower_classifier.judging.evaluation import Evaluation, evaluate_on
from flower_classifier.networks.backbones import resolve_arch, source_of
from flower_classifier.networks.checkpoint import Row
from flower_classifier.networks.classifier import Classifier, new_classifier, renew_head
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.frozen_backbone import FrozenBackbone, place
from flower_classifier.networks.job import leading
from flower_classifier.networks.source import Weights
from flower_classifier.photos.category_names import load_category_names
from flower_classifier.photos.download import download
from flower_classifier.photos.splits import Splits, load_splits, without_listed
from flower_classifier.report.report_files import is_there, reports_on
from flower_classifier.report.run_log import RunLog, check_tensorboard, finish_tensorboard
from flower_classifier.report.run_report import Diagnosis, write_diagnosis, write_history, write_summary
from flower_classifier.report.tables import Table, write_table
from flower_classifier.studies.dry_run import survey
from flower_classifier.studies.left_out_classes import can_leave_out, leave_classes_out
from flower_classifier.training.head_search import OPTIONS, search
from flower_classifier.training.job_helper import help_rank_0
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe, second_recipe
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.saved_state import Identity, epoch_line
from flower_classifier.training.state import TrainState
from flower_classifier.training.steps import CHANGEABLE, doing_of, go_on, keep_memory, report_best, report_start

FLOWER_NAMES = Path(__file__).with_name("cat_to_name.json")


def train_classifier(config: TrainConfig, run_folder: RunFolder) -> None:
    """Train as `config` asks, from the folder of photos to the tested checkpoint; or only look at what is there."""
    started = time.perf_counter()
    saved = run_folder.read_last() if config.resume and not (config.summary or config.doctor) else None
    if saved:
        config = config.resuming(saved.settings)
    arch, device = resolve_arch(config.arch), choose_device(config.gpu)
    if config.tensorboard:
        check_tensorboard()
    splits, category_names = find_photos(config)
    classifier, weights = untrained(config, arch, splits)
    frozen = place(classifier, device)
    if config.doctor:
        return examine_photos(config, splits, frozen, category_names)
    state = start_state(config, classifier, weights, frozen, splits, category_names)
    if config.summary:
        second = second_recipe(config, state.recipe, classifier, config.epochs) if config.fine_tune else None
        fixed = fixed_by(config) if config.tune else None
        return survey(splits, state, frozen, config.skip_bad, config.bad_limit, not config.no_cache, fixed, second)

    report_start(config, splits, state, device, doing_of(config, saved))
    run_folder.begin()
    if saved:
        go_on(config, run_folder, state, saved)
        if config.no_memory:
            state.keep_memory(None)

    train, valid, test = read_photos(config, run_folder, splits, state, frozen)
    weigh_classes(config, state, train)
    tuning = None
    if config.tune and not saved:
        config, tuning = tune(config, state, train, valid)
        state = start_state(config, classifier, weights, frozen, splits, category_names)
        weigh_classes(config, state, train)
    left_out = [photo for part in (train, valid, test) if part for photo in part.left_out]
    state.leave_out(left_out, tested=splits.test.photos if splits.test else ())
    log = RunLog(run_folder.folder, state.finished.history, not config.no_report, config.tensorboard, tuning)
    with log, run_folder.saving(state, log.write):
        train_epochs(state, train, valid, run_folder, log)
        if config.fine_tune and not state.is_fine_tuning:
            begin_fine_tuning(config, run_folder, state)
            train_epochs(state, train, valid, run_folder, log)
        evaluations = judge_best(state, valid, test)
        if not config.no_memory:
            keep_memory(state, train, valid, evaluations["valid"])

    judged = test or valid
    report_best(state, judged.split.name, evaluations[judged.split.name], run_folder)
    if run_folder.has_saved or not is_there(run_folder.folder, tables=not config.no_report):
        if not config.no_report:
            write_report(config, run_folder, state, log, (train, valid, test), evaluations)
        inputs = [part for part in (train, valid, test) if part]
        checkpoint, best = run_folder.checkpoint_path, state.best.row["epoch"]
        write_summary(run_folder.folder, config, checkpoint, best, evaluations, state.classes, inputs, log, started)


# ------------------------------------------------------------------------------------------- before the first epoch


def find_photos(config: TrainConfig) -> tuple[Splits, dict[str, str]]:
    """Return the photos of the run by split, and what people call their classes; with --download, fetch them first."""
    if config.download:
        download(config.data_dir)
    elif not config.data_dir.exists():
        own = "give the folder that holds train/ and valid/, or one folder per class"
        raise InputError(f"{config.data_dir} does not exist; {own}, or let --download fetch photos of 102 species")
    splits = load_splits(config.data_dir, config.valid_split, config.seed)
    if config.without:
        splits = without_listed(splits, config.without)
    if config.category_names is None and not config.resume:  # a resumed run has its names
        suggest_names(splits.classes)
    return splits, load_category_names(config.category_names, splits.classes)


def suggest_names(classes: Sequence[str]) -> None:
    """Point to the file of names beside this program, where all class folders go by numbers that it knows."""
    with contextlib.suppress(OSError, ValueError):  # it is only a hint
        if set(classes) <= json.loads(FLOWER_NAMES.read_text(encoding="utf-8")).keys():
            note(f"classes are numbers; if of the 102 flowers, --category_names {FLOWER_NAMES.name} gives their names")


def untrained(config: TrainConfig, arch: str, splits: Splits) -> tuple[Classifier, Weights]:
    """Return a new head on a backbone, and what the backbone's weights are. Raises InputError for options at odds."""
    for option in ("tune", "fine_tune", "doctor"):
        if getattr(config, option) and not source_of(arch).pretrained:
            raise InputError(f"is for pretrained networks; all layers of {arch} learn from the start", option)
    units, classes = config.hidden_units, len(splits.classes)
    model = (units, config.dropout, config.image_size, config.seed, config.mirror)
    return new_classifier(arch, classes, config.weights, *model)


def start_state(
    config: TrainConfig,
    classifier: Classifier,
    weights: Weights,
    frozen: FrozenBackbone,
    splits: Splits,
    category_names: dict[str, str],
) -> TrainState:
    """Return the state before the first epoch."""
    given = {entry.name: getattr(config, entry.name) for entry in fields(Recipe)}
    recipe = Recipe(**{**given, "class_weights": ()})  # which are known when the photos are
    identity = Identity(
        arch=classifier.config.arch,
        learns=classifier.config.learns,
        weights=weights.name,
        hidden_units=list(classifier.config.hidden_units),
        dropout=classifier.config.dropout,
        image_size=classifier.preprocessing.crop_size,
        seed=config.seed,
        backbone=frozen.digest,
        classes=list(splits.classes),
        train=splits.train.fingerprint(),
        valid=splits.valid.fingerprint(),
        mirror=config.mirror,
    )
    training = {"weights": weights.name, "seed": config.seed, "precision": frozen.precision_name}
    training |= {key: getattr(config, key) for key in CHANGEABLE}
    if weights.licence:
        training["licence"] = weights.licence
    return TrainState(classifier, recipe, splits.classes, category_names, training, identity, config.kept)


def read_photos(
    config: TrainConfig, run_folder: RunFolder, splits: Splits, state: TrainState, frozen: FrozenBackbone
) -> tuple[Inputs, Inputs, Inputs | None]:
    """Run the frozen part over what the first epoch needs; return the inputs of train, valid and (if any) test.

    Further views wait for the epochs that use them.
    """
    bad_limit = config.bad_limit if config.skip_bad else 1.0  # else all that are bad are listed
    parts = prepare_inputs(frozen, splits, config.seed, open_cache(config), state.recipe.schedule, bad_limit)
    check_bad_photos(config, run_folder, splits.classes, *parts)
    return parts


def check_bad_photos(
    config: TrainConfig, run_folder: RunFolder, classes: Sequence[str], train: Inputs, *others: Inputs | None
) -> None:
    """List the photos that cannot be opened in a file of the run, and refuse to train without them, unless asked to.

    Raises UnusablePhotosError without --skip_bad, and InputError where a split or a class has no photo left.
    """
    errors = [error for part in (train, *others) if part for error in part.errors]
    run_folder.list_bad([str(error) for error in errors])
    listed = f"listed in {run_folder.bad_path}"
    if errors and not config.skip_bad:
        raise UnusablePhotosError(errors, f"repair or remove them, or add --skip_bad (all are {listed})")
    if errors:
        warn(f"going on without {counted(len(errors), 'photo')} that cannot be opened, {listed}")
    check_photos_left(classes, train, *others)


def weigh_classes(config: TrainConfig, state: TrainState, train: Inputs) -> None:
    """Let every class count the same, by the photos that can be opened, if that is asked for."""
    if config.class_weights == "balanced":
        state.weigh_classes(train.labels.tolist())


def tune(config: TrainConfig, state: TrainState, train: Inputs, valid: Inputs) -> tuple[TrainConfig, Table]:
    """Search for the head's settings, and give the classifier a new head of these; return them, and all that was tried.

    Options that were given stay as they are.
    """
    outcome = search(train, valid, state.classifier, state.recipe, fixed_by(config))
    note(outcome.summary)
    chosen = outcome.chosen
    renew_head(state.classifier, chosen.settings.hidden_units, chosen.settings.dropout, config.seed)
    return replace(config, **chosen.options), list(outcome.table())


def fixed_by(config: TrainConfig) -> dict[str, object]:
    """Return the options of the head that were given, which a search leaves as they are."""
    return {name: getattr(config, name) for name in OPTIONS if config.is_given(name)}


def open_cache(config: TrainConfig) -> FeatureCache | None:
    """Return the cache that the features go into and come from."""
    return None if config.no_cache else FeatureCache(config.cache_dir, limit=config.cache_limit * 1e9)


def examine_photos(config: TrainConfig, splits: Splits, frozen: FrozenBackbone, category_names: dict[str, str]) -> None:
    """Print what may be wrong with the photos; leave a table and sheets of it in --save_dir."""
    folder = config.save_dir / "doctor"
    if config.without and config.without.absolute() == (folder / TABLE).absolute():
        raise InputError(f"would move {config.without}, which --without reads: give another --save_dir", "doctor")
    check_writable(folder, "save_dir")
    parts = [part for part in prepare_inputs(frozen, splits, config.seed, open_cache(config), SCHEDULE) if part]
    check_photos_left(splits.classes, *parts)
    names = [category_names.get(name, name) for name in splits.classes]
    examined, findings = examine(parts, splits.classes, names, frozen.preprocessing.crop_size)
    print(summary_of(findings, sum(map(len, splits.parts)), len(splits.classes), list(leaks(examined))), flush=True)
    write_findings(folder, splits.train.root, findings, category_names)
    note(f"all of it, and sheets of the photos: {folder}")


# -------------------------------------------------------------------------------------------------------- the epochs


def train_epochs(state: TrainState, train: Inputs, valid: Inputs, run_folder: RunFolder, log: RunLog) -> None:
    """Train all epochs of a stage; print and log each, and save now and then."""

    def on_epoch(row: Row, seconds: Timings) -> None:
        print(epoch_line(row, state.recipe.epochs), flush=True)
        log.add(row, seconds)
        run_folder.save_if_due(state)

    fit(state, train, valid, on_epoch)
    if state.has_stalled:
        best, patience = state.best.row["epoch"], state.recipe.patience
        note(f"no epoch after epoch {best} was better: --patience {patience} ends it here")


def begin_fine_tuning(config: TrainConfig, run_folder: RunFolder, state: TrainState) -> None:
    """Save what the head has reached, with the options of this process, and let the network learn from there."""
    run_folder.save(state, anyway=True)
    recipe = second_recipe(config, state.recipe, state.classifier, state.epoch)
    with signals_held():
        state.begin_fine_tuning(recipe)
    number = sum(parameter.numel() for parameter in state.learner.parameters() if parameter.requires_grad)
    what = "all layers" if recipe.unfreeze == "all" else "the last third of the layers"
    epochs = counted(config.fine_tune, "epoch")
    note(f"fine-tuning {what} of {state.identity.arch} and its head for {epochs}: {number:,} parameters")


def judge_best(state: TrainState, valid: Inputs, test: Inputs | None) -> dict[str, Evaluation]:
    """Load the best epoch, and find out what it is worth; return its answers by split: valid, and test if there is any.

    The validation photos chose the temperature, so they judge it by cross-validation.
    """
    state.load_best()
    on_valid = evaluate_on(state.learner, valid)
    state.keep_answers(on_valid)  # an earlier version of the program has kept no temperature
    evaluations = {"valid": cross_validated(on_valid, state.best.temperature)}
    if test:
        evaluations["test"] = evaluate_on(state.learner, test).at(state.best.temperature)
    state.keep_results({split: evaluation.results for split, evaluation in evaluations.items()})
    return evaluations


# ------------------------------------------------------------------------------------------------- after the last epoch


def write_report(
    config: TrainConfig,
    run_folder: RunFolder,
    state: TrainState,
    log: RunLog,
    inputs: tuple[Inputs, Inputs, Inputs | None],
    evaluations: dict[str, Evaluation],
) -> None:
    """Leave tables and pictures of the run in its folder."""
    train, valid, test = inputs
    judged = test or valid
    checkpoint, split, best_epoch = state.best_checkpoint(), judged.split.name, state.best.row["epoch"]
    figures = write_history(run_folder.folder, log.rows, best_epoch, state.finished.began)
    counts = Counter(train.labels.tolist())
    sizes = [counts[label] for label in range(len(checkpoint.classes))]
    diagnosis = Diagnosis(
        split, evaluations[split], judged.paths, checkpoint.classes, checkpoint.names, checkpoint.set_scores, sizes
    )
    figures |= write_diagnosis(run_folder.folder, diagnosis)
    if checkpoint.stranger_scores is not None and state.classifier.starts_frozen and can_leave_out(*inputs):
        schedule = Schedule(len(train.ready), min(best_epoch, config.epochs))  # of the views that are there
        write_table(run_folder.folder / "strangers.csv", leave_classes_out(*inputs, schedule))
    if config.tensorboard:
        finish_tensorboard(run_folder.folder / "tensorboard", best_epoch, figures, config, evaluations)
    note(f"tables and pictures of it: {run_folder.folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train as a command line asks, within a process that goes on."""
    run(parse(TrainConfig, "train.py", __doc__, argv))


def run(config: TrainConfig) -> None:
    """Train into the folder that the config names, which other runs are kept out of; in a job, rank 0 does."""
    if rank():
        return help_rank_0(config.gpu)
    with RunFolder(config.save_dir, reports_on) as run_folder, leading():
        train_classifier(run_folder.after_restart(config), run_folder)


if __name__ == "__main__":
    process.run(lambda: run(asked), as_program=True)
