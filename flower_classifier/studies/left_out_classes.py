"""How well strangers are detected: some classes are left out of training, so that their photos are strangers.

    rows = leave_classes_out(train, valid, test, schedule)         those of strangers.csv
    estimate(rows)                                                 what they say, in a sentence

A fifth of the classes is left out, five times; all features are computed already, so it takes seconds.
"""

import math
from collections.abc import Sequence

import torch

from flower_classifier.base.console import progress
from flower_classifier.config.allowed import DEFAULT_RATE, StrangerMeasure
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.calibration import calibrate
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.judging.evaluation import Evaluation, feature_reader
from flower_classifier.judging.strangers import Clusters, auroc, stranger_scores
from flower_classifier.networks.feature_bank import FeatureBank, balanced_sample, remember
from flower_classifier.training.heads import FoldHeads

ROUNDS = 5
FEWEST_CLASSES = 2  # with fewer, none can be left out
MOST_PHOTOS = 10_000  # that heads learn from: more would change little and take long


def can_leave_out(train: Inputs, *judged: Inputs | None) -> bool:
    """Return whether there are enough classes, and each split that judges has photos of all of them."""
    classes = set(train.labels.tolist())
    return len(classes) >= FEWEST_CLASSES and all(classes <= set(inputs.labels.tolist()) for inputs in judged if inputs)


def leave_classes_out(train: Inputs, valid: Inputs, test: Inputs | None, schedule: Schedule) -> list[list[object]]:
    """Return the rows of strangers.csv, header first and means last. `schedule`: of the heads, as in the run."""
    labels = train.labels
    class_count = int(labels.max()) + 1
    rounds = min(ROUNDS, class_count)
    class_mask = torch.stack([torch.arange(class_count) % rounds != index for index in range(rounds)])  # (R, C)
    sampled = torch.zeros(len(labels), dtype=torch.bool)
    sampled[balanced_sample(labels.tolist(), MOST_PHOTOS)] = True
    heads = FoldHeads(train, schedule, sampled & class_mask[:, labels], class_mask)
    with progress(heads.work, f"{rounds} heads, classes left out", "photo", scaled=True) as bar:
        heads.learn(bar)
    judged = []
    for inputs in (valid, test):
        if inputs:
            every = range(len(inputs.used))
            judged.append((inputs, feature_reader(torch.nn.Identity(), inputs, every)(every)))
    cells = []
    for index, mask in enumerate(class_mask):
        photos = heads.photos[index].nonzero()[:, 0].tolist()
        memory = remember(feature_reader(torch.nn.Identity(), train, photos), labels[photos].tolist())
        seen = []
        for inputs, features in judged:
            logits = heads.logits_by(torch.full((len(features),), index), inputs)
            seen.append((features, Evaluation(logits, inputs.labels), mask[inputs.labels]))
        cells.append([int((~mask).sum()), *judge(memory, seen, StrangerMeasure.for_classes(class_count))])
    means = torch.tensor(cells, dtype=torch.float64).mean(dim=0).tolist()
    header: list[object] = ["round", "classes_left_out", "known_photos", "strangers", "auroc", "auroc_of_probability"]
    header += [f"strangers_found_at_{DEFAULT_RATE:g}", f"false_alarms_at_{DEFAULT_RATE:g}"]
    table = [header]
    for name, row in [*enumerate(cells, 1), ("mean", means)]:
        table.append([name, *("" if math.isnan(value) else round(value, 4) for value in row)])
    return table


def estimate(table: Sequence[Sequence[object]]) -> str:
    """Say what the table of `leave_classes_out` tells of photos of something else."""
    header, *_, means = table
    mean = dict(zip(header, means, strict=True))
    share = mean[f"strangers_found_at_{DEFAULT_RATE:g}"]
    if not isinstance(share, float):
        return "how many photos of other classes would be noticed cannot be told from so few validation photos"
    return (
        f"of photos of other classes, about {share:.0%} would be noticed (strangers.csv); of quite other things, more"
    )


def judge(
    memory: FeatureBank, seen: Sequence[tuple[torch.Tensor, Evaluation, torch.Tensor]], measure: StrangerMeasure
) -> list[float]:
    """Return how strange the photos of the known and of the left-out classes look to a head: cells of strangers.csv.

    `seen`: of each split the features (N, D), the head's logits, and which photos are of known classes, bool (N,). The
    known photos of the first split (valid) set the scale; those of the last split (test, if there is one) are judged by
    it, and so are the strangers of all splits.
    """
    features, evaluation, is_known = seen[0]
    answers = evaluation.of(is_known)
    temperature = calibrate(answers)
    scores = stranger_scores(memory, features[is_known], answers.at(temperature), measure)
    stranger_test, clusters = StrangerTest(scores, measure), Clusters(memory, measure)
    all_scores = [clusters.strangeness(rows, split.at(temperature).probabilities) for rows, split, _ in seen]
    known = all_scores[-1][seen[-1][2]]  # (N, 2)
    strangers = torch.cat([scores[~is_known] for scores, (_, _, is_known) in zip(all_scores, seen, strict=True)])
    p_known, p_strangers = (
        torch.tensor([stranger_test.p_value(score) for score in scores], dtype=torch.float64)
        for scores in (known, strangers)
    )
    rate = DEFAULT_RATE / 100
    # Without test photos, the known ones are those that the scores are compared with: they cannot say how often it errs
    alarms = (p_known <= rate).double().mean().item() if len(seen) > 1 else float("nan")
    return [
        len(p_known),
        len(p_strangers),
        auroc(-p_known, -p_strangers),
        auroc(known[:, 0], strangers[:, 0]),  # by the probability of the likeliest class alone
        # With too few photos to compare with, no photo of these rounds can be called a stranger
        (p_strangers <= rate).double().mean().item() if stranger_test.can_promise(DEFAULT_RATE) else float("nan"),
        alarms,
    ]
