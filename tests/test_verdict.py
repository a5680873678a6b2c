"""How an accuracy is said: with its interval, what guessing reaches, and which photos chose the epoch."""

import json
import math
import shutil

import numpy as np
import pytest

import predict
from flower_classifier.judging.verdict import AccuracyVerdict, wilson
from flower_classifier.networks.checkpoint import VALIDATION_PHOTOS, Checkpoint


@pytest.mark.parametrize(("right", "photos"), [(0, 1), (1, 1), (0, 7), (7, 7), (52, 61), (390, 408), (1, 10**6)])
def test_the_interval_ends_where_the_share_is_1_96_standard_errors_away(right, photos):
    """Which is a quadratic equation in the true share: its roots, by NumPy."""
    share, square = right / photos, 1.959964**2 / photos
    roots = np.roots([1 + square, -2 * share - square, share**2])
    assert wilson(right, photos) == pytest.approx(sorted(roots.real), abs=1e-7)


def test_without_photos_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("photos", [6, 10, 20, 61, 200, 800])
def test_the_interval_holds_the_true_accuracy_about_95_times_in_100(photos):
    """Simulated: 20,000 classifiers, each with a true accuracy between 50 and 99.5 %, and so many photos."""
    draw = np.random.default_rng(photos)
    accuracies = draw.uniform(0.5, 0.995, 20_000)
    ends = np.array([wilson(right, photos) for right in range(photos + 1)])
    low, high = ends[draw.binomial(photos, accuracies)].T
    assert 0.94 <= ((low <= accuracies) & (accuracies <= high)).mean() <= 0.965


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (AccuracyVerdict(52, 61, 0.2), "52 of 61 right: 85% (74 to 92%; guessing: 20%)"),
        (AccuracyVerdict(3, 3, 0.5), "3 of 3 right: 100% (44 to 100%; guessing: 50%)"),
        (AccuracyVerdict(390, 408, 1 / 102), "390 of 408 right: 95.6% (93.1 to 97.2%; guessing: 1.0%)"),
        (AccuracyVerdict(18_000, 20_000, 0.1), "18,000 of 20,000 right: 90.00% (89.58 to 90.41%; guessing: 10.00%)"),
    ],
)
def test_it_has_the_digits_that_the_number_of_photos_bears(verdict, text):
    assert str(verdict) == text


def evaluated(run, folder, checkpoint, tmp_path):
    outcome = run(predict, folder, checkpoint, "--evaluate", "--report", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    return outcome.out, json.loads((tmp_path / "report" / "evaluation.json").read_text()).get("chose_epoch")


def test_only_the_photos_that_chose_the_epoch_are_said_to_have(run, trained, flowers, tmp_path):
    """By their content: not a folder of other photos that is called val, but their own under whatever name."""
    checkpoint, said = trained / "checkpoint.pth", "the epoch was chosen on"
    shutil.copytree(flowers / "test", tmp_path / "val")
    out, chose = evaluated(run, tmp_path / "val", checkpoint, tmp_path)
    assert (said in out, chose) == (False, 0)
    shutil.copytree(flowers / "valid", tmp_path / "garden")
    out, chose = evaluated(run, tmp_path / "garden", checkpoint, tmp_path)
    assert (out.endswith(f"; {said} these photos\n"), chose) == (True, 18)
    for number, photo in enumerate(sorted((flowers / "valid" / "54").iterdir())[:2]):
        shutil.copy(photo, tmp_path / "val" / "54" / f"{number}.jpg")
    out, chose = evaluated(run, tmp_path / "val", checkpoint, tmp_path)
    assert (out.endswith(f"; {said} 2 of these photos\n"), chose) == (True, 2)


@pytest.mark.parametrize(("name", "accused"), [("val", True), ("garden", False)])
def test_an_earlier_versions_checkpoint_does_not_say(run, trained, flowers, tmp_path, name, accused):
    checkpoint = Checkpoint.load(trained / "checkpoint.pth")
    del checkpoint.training[VALIDATION_PHOTOS]
    checkpoint.save(tmp_path / "checkpoint.pth")
    shutil.copytree(flowers / "test", tmp_path / name)
    out, chose = evaluated(run, tmp_path / name, tmp_path / "checkpoint.pth", tmp_path)
    assert ("the epoch may have been chosen on these photos" in out, chose) == (accused, None)


def test_guessing_is_the_share_of_the_class_that_most_photos_have(run, trained, flowers, tmp_path):
    shutil.copytree(flowers / "test" / "54", tmp_path / "garden" / "54")
    (tmp_path / "garden" / "91").mkdir()
    shutil.copy(min((flowers / "test" / "91").iterdir()), tmp_path / "garden" / "91")
    out, _ = evaluated(run, tmp_path / "garden", trained / "checkpoint.pth", tmp_path)
    assert "guessing: 75%" in out
    report = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert report["guessing"] == 0.75
    assert math.isclose(report["accuracy"], report["right"] / 4)
    assert report["accuracy_low"] <= report["accuracy"] <= report["accuracy_high"]
