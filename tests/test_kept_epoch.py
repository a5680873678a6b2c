"""Which epoch a checkpoint holds: the last one whose validation loss is as low as the lowest, but for chance."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import read, same

from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

CLASSES = 4


@functools.cache
def small_classifier():
    return new_classifier("squeezenet1_1", CLASSES, "none", ())[0]


def losses_of(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def at_best_temperature(logits, labels):
    """The losses (N,) at the best of many temperatures."""
    return min((losses_of(logits / t, labels) for t in np.geomspace(0.05, 20, 600)), key=np.mean)


def kept_by_numpy(logits, labels):
    """The epoch, counting from 1, by the rule as a person would write it who sees all epochs at once."""
    compared = losses_of if len(labels) < 100 else at_best_temperature
    losses = np.stack([compared(epoch, labels) for epoch in logits])  # (E, N)
    lowest = losses[losses.mean(axis=1).argmin()]
    gaps = losses - lowest
    errors = gaps.std(axis=1, ddof=1) / np.sqrt(len(labels)) if len(labels) > 1 else np.zeros(len(gaps))
    return 1 + max(np.flatnonzero(gaps.mean(axis=1) <= errors))


def kept_by_a_run(logits, labels, patience=0, began=None):
    """The epoch that a run keeps, whose head is as many as its number; and whether its patience is used up."""
    recipe = Recipe(epochs=len(logits), learning_rate=0.1, batch_size=4, views=1, seed=0, patience=patience)
    state = TrainState(small_classifier(), recipe)
    state.finished = replace(state.finished, began=began)
    for epoch, answers in enumerate(logits, 1):
        with torch.no_grad():
            for tensor in state.average.module.parameters():
                tensor.fill_(epoch)
        state.record(1.0, Evaluation(torch.from_numpy(answers), torch.from_numpy(labels)))
    assert all((tensor == state.best.row["epoch"]).all() for tensor in state.best.learned.values())
    return state.best.row["epoch"], state.has_stalled


@pytest.mark.parametrize("photos", [1, 2, 12, 99, 100])
def test_the_last_epoch_is_kept_whose_loss_is_within_a_standard_error_of_the_lowest(photos):
    """Of epochs that learn, that walk at random, and that learn too much."""
    rng = np.random.default_rng(photos)
    labels = rng.integers(CLASSES, size=photos)
    right = np.eye(CLASSES)[labels]
    kept = []
    for drift in (0.3, 0.0, -0.3):
        for _ in range(5):
            noise = rng.normal(size=(12, photos, CLASSES)).cumsum(axis=0) * 0.3
            logits = (noise + drift * np.arange(12)[:, None, None] * right).astype(np.float32)
            expected = kept_by_numpy(logits.astype(np.float64), labels)
            assert kept_by_a_run(logits, labels)[0] == expected
            kept.append(expected)
    assert {12} < set(kept)  # the last epoch, and others


def test_a_few_photos_do_not_end_a_run_at_its_first_epoch():
    """All photos are right from the first epoch on, and their probabilities rise: the last is the best."""
    labels = np.arange(8) % CLASSES
    logits = np.stack([np.eye(CLASSES)[labels] * sure for sure in (1, 2, 3)]).astype(np.float32)
    assert kept_by_a_run(logits, labels)[0] == 3


def test_a_network_must_beat_the_head_before_it_is_kept():
    """Photos that are a little less sure: within the standard error, but not better. Then better, then a bit worse."""
    labels = np.arange(60) % CLASSES
    sureness = np.random.default_rng(0).uniform(1, 3, size=(60, 1))
    factors = [np.full((60, 1), factor) for factor in (1.0, 0.99, 1.1, 1.09)]
    factors[1][::2] = 1.009  # so that there is a standard error
    factors[3][::2] = 1.109
    logits = [(np.eye(CLASSES)[labels] * sureness * factor).astype(np.float32) for factor in factors]
    assert kept_by_a_run(np.stack(logits), labels)[0] == 4
    assert [kept_by_a_run(np.stack(logits[:count]), labels, began=1)[0] for count in (1, 2, 3, 4)] == [1, 1, 3, 4]


def test_patience_counts_from_the_lowest_loss():
    labels = np.arange(40) % CLASSES  # too few for temperatures
    sureness = np.random.default_rng(0).uniform(1, 3, size=(40, 1))
    logits = np.stack([np.eye(CLASSES)[labels] * sureness * factor for factor in (1, 2, 1.9, 1.8)]).astype(np.float32)
    assert kept_by_a_run(logits, labels, patience=2) == (2, True)
    assert kept_by_a_run(logits, labels, patience=3) == (2, False)
    assert kept_by_a_run(logits[:2], labels, patience=1) == (2, False)


def test_a_resumed_run_knows_the_lowest_loss_of_the_epochs_before(train_into, flowers, tmp_path):
    """Steps that are far too large, so that the lowest loss lies early, and another epoch is kept."""
    options = [flowers, "--arch", "cnn", "--views", 1, "--learning_rate", 0.02, "--no_report"]
    train_into(tmp_path / "whole", *options, "--epochs", 6)
    train_into(tmp_path / "halves", *options, "--epochs", 4)
    train_into(tmp_path / "halves", *options, "--epochs", 6, "--resume")
    whole, halves = (read(tmp_path / name / "run" / "last.pth") for name in ("whole", "halves"))
    assert same(whole["lowest"], halves["lowest"])
    assert whole["best"] == halves["best"]
    epoch, losses = whole["lowest"]
    by_epoch = [row["valid_loss"] for row in whole["history"]]
    assert len(losses) < 100  # so they are as they were printed
    assert by_epoch[epoch - 1] == min(by_epoch) == pytest.approx(losses.mean().item())


def test_a_head_that_is_held_back_is_not_kept_from_its_first_epochs():
    """Its logits shrink again once it knows the classes, so its loss rises, and with it the share of right answers."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=400)
    right = np.eye(CLASSES)[labels]
    epochs = [(2 * right + rng.normal(size=right.shape) * noise) * scale for noise, scale in ((1.5, 1), (0.8, 0.3))]
    logits = np.stack(epochs).astype(np.float32)
    losses = [losses_of(epoch, labels).mean() for epoch in logits]
    assert losses[0] < losses[1]
    assert kept_by_a_run(logits, labels)[0] == 2


@pytest.mark.parametrize("by_class", [False, True])
def test_a_mean_over_classes_chooses_the_epoch_only_where_that_is_asked_for(by_class):
    """The second epoch is surer of twenty photos of one class, and takes the two of another for that."""
    labels = np.array([0] * 20 + [1] * 2)
    wary = np.eye(CLASSES)[labels]
    sure = np.where((labels == 0)[:, None], [9.0, 0, 0, 0], [2.0, 1, 0, 0])
    recipe = Recipe(epochs=2, learning_rate=0.1, batch_size=4, views=1, seed=0, judged_by_class=by_class)
    state = TrainState(small_classifier(), recipe)
    rows = [
        state.record(1.0, Evaluation(torch.tensor(epoch).float(), torch.from_numpy(labels))) for epoch in (wary, sure)
    ]
    assert rows[1]["valid_loss"] < rows[0]["valid_loss"]
    assert state.finished.lowest.epoch == (1 if by_class else 2)
    assert [row.get("valid_balanced_accuracy") for row in rows] == ([1.0, 0.5] if by_class else [None, None])


@pytest.mark.parametrize(
    ("labels", "how", "expected"),
    [
        ([0] * 3 + [1], "equal", True),
        ([0] * 5 + [1] * 2, "equal", False),
        ([0] * 5 + [1] * 2, "balanced", True),
    ],
)
def test_runs_are_judged_by_class_where_classes_are_unequal_or_weighted(labels, how, expected):
    recipe = Recipe(epochs=1, learning_rate=0.1, batch_size=4, views=1, seed=0).for_photos(labels, 2, how)
    assert recipe.judged_by_class is expected
