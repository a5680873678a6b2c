"""predict.py --evaluate: how good a checkpoint's answers to a folder of labelled photos are."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from flower_classifier.base.messages import InputError, note
from flower_classifier.features.inputs import Inputs, eval_inputs
from flower_classifier.judging.evaluation import Evaluation, evaluate_on
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.copies import content_digests
from flower_classifier.photos.label_tables import Labels
from flower_classifier.photos.mending import counting_damaged
from flower_classifier.photos.splits import load_labelled
from flower_classifier.predicting.answering import report_failures
from flower_classifier.predicting.base_predictor import BROKEN
from flower_classifier.predicting.predictor import Predictor
from flower_classifier.report.evaluation_report import EvaluationReport
from flower_classifier.report.report_files import report_identity, write_facts


def evaluate_folder(
    predictor: Predictor, folder: Path, labels: Labels | None, checkpoint: Path, report: Path, output_format: str
) -> None:
    """Print how good the answers to a folder of labelled photos are; leave tables and pictures in `report`.

    `labels`: where they are written, if not in the folders' names. `checkpoint` is where the predictor comes from.
    `output_format`: "text", or "json" for one object. Raises RunError where some photos cannot be opened, InputError
    where none can be, once all is written.
    """
    split = load_labelled(folder, predictor.classes, labels)
    inputs = eval_inputs(predictor.frozen, split)
    with counting_damaged():
        inputs.prepare()
    evaluation = None
    if inputs.used:
        evaluation = judged(predictor.classifier.learner, predictor.checkpoint, inputs).at(predictor.temperature)
    bad = [(split.path(index), inputs.bad[index]) for index in sorted(inputs.bad)]
    facts = {  # for programs
        **report_identity(folder, checkpoint, labels.labels if labels else None),
        "split": split.name or None,
        **(evaluation.results if evaluation else {"photos": 0}),
        "bad_photos": [{"path": str(path), "error": str(error)} for path, error in bad],
    }
    if output_format == "json":
        print(json.dumps(facts), flush=True)
    elif evaluation:
        print(evaluation.result_lines(split.name, predictor.names), flush=True)
    if evaluation:
        write_facts(report, facts)
        evaluation_report = EvaluationReport(
            split.name,
            evaluation,
            inputs.paths,
            predictor.classes,
            predictor.names,
            predictor.set_scores,
            grey_range=predictor.preprocessing.grey_range,
        )
        evaluation_report.write(report)
        note(f"tables and pictures of it: {report}")
    report_failures([], [error for _, error in bad], len(split))


def judged(learner: nn.Module, checkpoint: Checkpoint, inputs: Inputs) -> Evaluation:
    """Judge what a checkpoint's learner answers to photos, at temperature 1; say whether these chose its epoch.

    Raises InputError for a checkpoint whose weights are broken.
    """
    try:
        answers = evaluate_on(learner, inputs)
    except FloatingPointError:
        raise InputError(BROKEN) from None
    return replace(answers, chose_epoch=checkpoint.chose_epoch(content_digests(inputs.paths)))
