"""Train a classifier on a folder of labelled photos.

    python train.py flowers --arch vgg16 --gpu
    python train.py flowers --arch cnn                      (needs no pretrained weights)
    python train.py flowers --download                      (fetches the photos of 102 species first)
    python train.py flowers --save_dir out --category_names cat_to_name.json
    python train.py photos --labels labels.csv              (where a table says which photo is of which class)
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

import time
from collections.abc import Sequence

from flower_classifier.base import process
from flower_classifier.config.train_options import TrainConfig

if __name__ == "__main__":  # torch takes seconds to load: --help, mistakes and Ctrl-C end the process before it does
    asked = process.begin(TrainConfig, "train.py", __doc__)

# isort: split

from flower_classifier.base.messages import note
from flower_classifier.base.torchrun import rank
from flower_classifier.doctor.doctor import run_doctor
from flower_classifier.features.inputs import AllInputs, Schedule
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.checkpoint import VALIDATION_PHOTOS
from flower_classifier.networks.job import leading
from flower_classifier.photos.copies import content_digests
from flower_classifier.report.evaluation_report import EvaluationReport
from flower_classifier.report.report_files import is_there, reports_on, write_table
from flower_classifier.report.run_log import RunLog
from flower_classifier.studies.dry_run import dry_run
from flower_classifier.studies.left_out_classes import can_leave_out, estimate, leave_classes_out
from flower_classifier.training import run_messages, steps
from flower_classifier.training.job_helper import help_rank_0
from flower_classifier.training.run_folder import RunFolder
from flower_classifier.training.state import TrainState
from flower_classifier.training.view_checks import warn_of_mirrors, warn_of_wide


def main(argv: Sequence[str] | None = None) -> None:
    """Train as a command line asks, within a process that goes on."""
    run(TrainConfig.parse("train.py", __doc__, argv))


def run(config: TrainConfig) -> None:
    """Train into the folder that the config names, which other runs are kept out of; in a job, rank 0 does."""
    if rank():
        return help_rank_0(config.gpu)
    with RunFolder(config.checkpoint_path, reports_on) as run_folder, leading():
        config = run_folder.after_restart(config)
        if config.doctor:
            run_doctor(config)
        elif config.summary:
            dry_run(config)
        else:
            train_classifier(config, run_folder)


def train_classifier(config: TrainConfig, run_folder: RunFolder) -> None:
    """Train as `config` asks, from the folder of photos to the tested checkpoint."""
    started = time.perf_counter()
    config = run_folder.as_begun(config)
    saved = run_folder.read_last() if config.resume else None
    if saved:
        config = config.resuming(saved.settings)
    data, built = steps.prepare(config, saved)
    state = steps.start_state(config, data, built)
    run_messages.report_start(config, data, built.frozen.device, state, saved)
    run_folder.begin()
    if saved:
        steps.go_on(config, run_folder, state, saved)
    else:
        run_folder.leave_word(config)
        warn_of_wide(config, data.splits.train)

    inputs = steps.read_photos(config, run_folder, data, built, state)  # features: once, cached
    if config.tune and not saved:
        config, state, inputs = steps.tune(config, data, built, inputs, state)
    state.leave_out(inputs.left_out, tested=data.splits.test.photos if data.splits.test else ())
    state.training[VALIDATION_PHOTOS] = "".join(content_digests(inputs.valid.paths))
    seen = steps.whiten(state, inputs, state.identity.whitening)
    if not saved:
        warn_of_mirrors(config, state, seen)
    history, tuning = state.finished.history, state.finished.tuning
    log = RunLog(run_folder.folder, history, not config.no_report, config.tensorboard, tuning)
    with log, run_folder.saving(state, log.write):
        steps.train_epochs(state, seen, run_folder, log)
        if config.fine_tune and not state.is_fine_tuning:
            steps.begin_fine_tuning(config, run_folder, state, inputs)
            steps.train_epochs(state, inputs, run_folder, log)
        evaluations = steps.judge_best(state, inputs)
        if not config.no_memory:
            steps.keep_feature_bank(state, inputs, evaluations["valid"])

    split = inputs.judged.split.name
    sizes = inputs.train.labels.bincount(minlength=len(data.classes)).tolist()
    run_messages.report_best(state, split, evaluations, run_folder, sizes)
    if run_folder.has_saved or not is_there(run_folder.folder, tables=not config.no_report):
        if not config.no_report:
            write_report(config, run_folder, state, log, inputs, evaluations, sizes)
        checkpoint, best = run_folder.checkpoint_path, state.best.row["epoch"]
        log.write_summary(config, checkpoint, best, evaluations, data.classes, inputs.splits, started)


def write_report(
    config: TrainConfig,
    run_folder: RunFolder,
    state: TrainState,
    log: RunLog,
    inputs: AllInputs,
    evaluations: dict[str, Evaluation],
    sizes: Sequence[int],
) -> None:
    """Leave tables and pictures of the run in its folder. `sizes` (C,): training photos of each class."""
    folder, train, checkpoint = run_folder.folder, inputs.train, state.best_checkpoint()
    split, best_epoch = inputs.judged.split.name, state.best.row["epoch"]
    figures = log.finish_history(best_epoch, state.finished.began, len(evaluations["valid"]))
    evaluation_report = EvaluationReport(
        split,
        evaluations[split],
        inputs.judged.paths,
        checkpoint.classes,
        checkpoint.names,
        checkpoint.trust.set_scores,
        class_sizes=sizes,
        grey_range=checkpoint.preprocessing.grey_range,
    )
    figures |= evaluation_report.write(folder)
    if checkpoint.trust.stranger_scores is not None and state.classifier.starts_frozen:
        if can_leave_out(*inputs):
            schedule = Schedule(len(train.ready), min(best_epoch, config.epochs))  # of the views that are there
            strangers = leave_classes_out(*inputs, schedule)
            write_table(folder / "strangers.csv", strangers)
            note(estimate(strangers))
        else:
            note("how many photos of other classes would be noticed is not known: some classes lack photos to judge by")
    if config.tensorboard:
        log.finish_tensorboard(best_epoch, figures, config, evaluations)
    note(f"tables and pictures of it: {folder}")


if __name__ == "__main__":
    process.run(lambda: run(asked), as_program=True)
