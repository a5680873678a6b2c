"""--sets: the smallest set of classes that holds the true one so many times in a hundred."""

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest
import torch
from support import read

import predict
import train
from flower_classifier.config.allowed import MOST_SCORED
from flower_classifier.judging.calibration import LEVELS
from flower_classifier.judging.conformal import least_probability, members
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.training.saved_state import Best

OPTIONS = ("--arch", "cnn", "--epochs", "3")


@pytest.fixture(scope="module")
def reported(flowers, tmp_path_factory):
    """The save_dir of a run with its report."""
    save_dir = tmp_path_factory.mktemp("reported")
    train.main([str(flowers), *OPTIONS, "--save_dir", str(save_dir)])
    return save_dir


def drawn(number, classes, seed, sharper=1.0):
    """Draw photos whose classes follow some probabilities, and a classifier that finds these sharper than they are."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (number, classes)))
    labels = torch.from_numpy((logits.numpy() + rng.gumbel(size=(number, classes))).argmax(1))
    return Evaluation(sharper * logits, labels)


# ------------------------------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("number", [1, 9, 19, 99, 100, 408])
@pytest.mark.parametrize("level", [50.0, *LEVELS])
def test_the_least_probability_is_the_kth_largest_score(number, level):
    """Of n + 1 photos k = ceil((n + 1) level / 100) have to be inside; with k = n + 1 no score is low enough."""
    scores = sorted(np.random.default_rng(number).random(number).tolist())
    k = math.ceil(round((number + 1) * level / 100, 9))
    expected = scores[::-1][k - 1] if k <= number else 0.0
    assert least_probability(scores, level) == expected


@pytest.mark.parametrize("sharper", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("level", LEVELS)
def test_sets_keep_the_promise_however_far_off_the_probabilities_are(level, sharper):
    """Over many draws of 60 photos that decide: at least the level, and at most 1 / 61 more."""
    shares = []
    for seed in range(300):
        deciding, others = drawn(60, 8, 2 * seed, sharper), drawn(200, 8, 2 * seed + 1, sharper)
        least = torch.tensor(least_probability(deciding.true_class_scores, level), dtype=torch.float64)
        shares.append(others.set_coverage(least)[0].double().mean().item())
    error = np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) > level / 100 - 3 * error
    if sharper <= 1:  # else the likeliest class alone may be enough
        assert np.mean(shares) < level / 100 + 1 / 61 + 3 * error


def test_a_set_holds_the_likeliest_class_and_every_one_that_is_likely_enough():
    probabilities = torch.tensor([0.1, 0.6, 0.05, 0.25])
    assert members(probabilities, 0.1) == [1, 3, 0]
    assert members(probabilities, 0.7) == [1]
    assert members(probabilities, 0.0) == [1, 3, 0, 2]


def test_photos_that_decide_are_judged_by_those_of_other_folds():
    valid = drawn(50, 5, 0)
    true = valid.probabilities[torch.arange(50), valid.labels]
    found = valid.chosen_by_others(lambda deciding: least_probability(deciding.true_class_scores, 80))
    folds = np.empty(50, dtype=int)
    folds[np.argsort(valid.labels.numpy(), kind="stable")] = np.arange(50) % 5  # each class in turn
    for index in range(50):
        others = true[folds != folds[index]].tolist()
        assert found[index] == sorted(others)[7]  # floor(41 * 0.2) = 8 of the 40 may be outside


def test_a_checkpoint_keeps_so_many_scores_and_no_more():
    scores = drawn(3 * MOST_SCORED, 3, 0).true_class_scores
    assert len(scores) == MOST_SCORED
    assert scores == sorted(scores)
    photos = drawn(3 * MOST_SCORED, 3, 0)
    every = photos.probabilities[torch.arange(len(photos)), photos.labels].sort().values.tolist()
    for level in LEVELS:
        assert least_probability(scores, level) == pytest.approx(least_probability(every, level), abs=1e-3)


# ------------------------------------------------------------------------------------------------------- the program


def test_every_format_names_the_set(run, flowers, reported):
    photo, checkpoint = next((flowers / "test").rglob("*.jpg")), reported / "checkpoint.pth"
    least = least_probability(read(checkpoint)["set_scores"], 80)
    ask = (photo, checkpoint, "--sets", 80, "--top_k", 6, "--format")
    (found,) = json.loads(run(predict, *ask, "json").out)
    likely = [row["class"] for row in found["predictions"] if row["probability"] >= least]
    assert found["set"] == likely
    assert 1 <= len(likely) < 6
    rows = list(csv.DictReader(io.StringIO(run(predict, *ask, "csv").out.lstrip("\ufeff"))))
    assert [row["class"] for row in rows if row["in_set"] == "true"] == likely
    assert json.loads(run(predict, *ask, "jsonl").out) == found
    assert run(predict, *ask, "text").out.endswith(f"\n80% set: {', '.join(likely)}\n")
    plain = json.loads(run(predict, photo, checkpoint, "--format", "json").out)
    assert "set" not in plain[0]


def test_a_set_is_whole_however_few_classes_are_shown(run, flowers, reported):
    photo, checkpoint = next((flowers / "test").rglob("*.jpg")), reported / "checkpoint.pth"
    few, all_of_them = (
        json.loads(run(predict, photo, checkpoint, "--sets", 90, "--top_k", number, "--format", "json").out)[0]["set"]
        for number in (1, 6)
    )
    assert few == all_of_them


def test_what_too_few_photos_cannot_promise_is_said(run, flowers, reported):
    photo = next((flowers / "test").rglob("*.jpg"))
    outcome = run(predict, photo, reported / "checkpoint.pth", "--sets", 99, "--format", "json")
    assert "warning: --sets 99: 18 validation photos cannot promise that, so every class is in the sets" in outcome.err
    assert len(json.loads(outcome.out)[0]["set"]) == 6


def test_a_checkpoint_without_scores_says_what_it_lacks(run, flowers, reported, tmp_path):
    write_atomically(tmp_path / "old.pth", {**read(reported / "checkpoint.pth"), "set_scores": []})
    photo = next((flowers / "test").rglob("*.jpg"))
    assert run(predict, photo, tmp_path / "old.pth").code == 0
    outcome = run(predict, photo, tmp_path / "old.pth", "--sets", 95)
    assert outcome.code == 2
    assert "--sets needs scores that the checkpoint lacks" in outcome.err
    evaluated = run(predict, flowers / "test", tmp_path / "old.pth", "--evaluate", "--report", tmp_path / "report")
    assert evaluated.code == 0
    assert not (tmp_path / "report" / "sets.csv").exists()


@pytest.mark.parametrize("scores", [[0.5, 0.1], [1.5], ["a"], (0.1, 0.2), [math.nan]], ids=str)
def test_impossible_scores_are_refused(run, flowers, reported, tmp_path, scores):
    write_atomically(tmp_path / "odd.pth", {**read(reported / "checkpoint.pth"), "set_scores": scores})
    outcome = run(predict, next((flowers / "test").rglob("*.jpg")), tmp_path / "odd.pth")
    assert outcome.code == 2
    assert "scores for sets that are" in outcome.err


def test_csv_has_a_row_for_each_class_in_the_set(run, flowers, reported):
    photo, checkpoint = next((flowers / "test").rglob("*.jpg")), reported / "checkpoint.pth"
    (found,) = json.loads(run(predict, photo, checkpoint, "--sets", 80, "--format", "json").out)
    table = run(predict, photo, checkpoint, "--sets", 80, "--top_k", 1, "--format", "csv").out.lstrip("\ufeff")
    assert [row["class"] for row in csv.DictReader(io.StringIO(table))] == found["set"]
    assert len(found["set"]) > 1


def test_the_photo_that_decides_is_in_its_own_set(run, flowers, reported):
    """To the last digit: its true class is exactly as probable as a class must be."""
    scores = read(reported / "checkpoint.pth")["set_scores"]
    outside = 4  # of 18: floor(19 * 0.24)
    photos = sorted((flowers / "valid").rglob("*.jpg"))
    answers = json.loads(run(predict, *photos, reported / "checkpoint.pth", "--sets", 76, "--format", "json").out)
    holds = sorted(photo.parent.name in answer["set"] for photo, answer in zip(photos, answers, strict=True))
    assert least_probability(scores, 76) == scores[outside - 1]
    assert sum(holds) >= len(photos) - outside + 1


# --------------------------------------------------------------------------------------------------------- the report


def table(folder):
    """Read sets.csv: {(level, photos of): row}."""
    with (folder / "sets.csv").open(encoding="utf-8-sig", newline="") as file:
        return {(row["level"], row["photos_of"]): row for row in csv.DictReader(file)}


def test_the_report_counts_what_single_answers_give(run, flowers, reported, tmp_path):
    rows = table(reported / "run")
    photos = sorted((flowers / "test").rglob("*.jpg"))
    for level in ("80", "90"):
        ask = (*photos, reported / "checkpoint.pth", "--sets", level, "--format", "json")
        found = [one["set"] for one in json.loads(run(predict, *ask).out)]
        holds = [photo.parent.name in classes for photo, classes in zip(photos, found, strict=True)]
        sizes = np.array([len(classes) for classes in found])
        expected = {"coverage": holds, "mean_size": sizes, "share_of_one_class": sizes == 1}
        for column, values in expected.items():
            assert float(rows[level, "all classes"][column]) == pytest.approx(np.mean(values), abs=1e-4)
    assert {level for level, _ in rows} == {"80", "90", "95", "99"}
    run(predict, flowers / "test", reported / "checkpoint.pth", "--evaluate", "--report", tmp_path)
    assert table(tmp_path) == rows


def test_classes_of_unequal_size_are_told_apart(train_into, flowers, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(flowers, data)
    for folder, kept in zip(sorted((data / "train").iterdir()), (2, 2, 5, 5, 8, 8), strict=True):
        for photo in sorted(folder.iterdir())[kept:]:
            photo.unlink()
    train_into(tmp_path / "run", data, *OPTIONS)
    rows = table(tmp_path / "run" / "run")
    groups = ("small classes", "middle classes", "large classes")
    assert [rows["90", group]["photos"] for group in groups] == ["6", "6", "6"]
    mean = np.mean([float(rows["90", group]["coverage"]) for group in groups])
    assert mean == pytest.approx(float(rows["90", "all classes"]["coverage"]), abs=1e-4)


def test_a_resumed_run_makes_the_same_sets(train_into, flowers, reported, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 2, "--no_report")
    train_into(tmp_path, flowers, "--resume", "--epochs", 3, "--no_report")
    scores = read(tmp_path / "checkpoint.pth")["set_scores"]
    assert scores == read(reported / "checkpoint.pth")["set_scores"]
    train_into(tmp_path, flowers, "--resume", "--no_report")
    assert scores == read(tmp_path / "checkpoint.pth")["set_scores"]
    assert len(scores) == 18


def test_the_validation_photos_are_judged_by_folds_whatever_their_folder_is_called(run, flowers, reported, tmp_path):
    """And others are not, though their folder may be called valid."""
    checkpoint = reported / "checkpoint.pth"
    shutil.copytree(flowers / "valid", tmp_path / "held")
    shutil.copytree(flowers / "test", tmp_path / "other" / "valid")
    for folder in ("held", "other/valid"):
        run(predict, tmp_path / folder, checkpoint, "--evaluate", "--report", tmp_path / folder / "report")
    assert table(tmp_path / "other" / "valid" / "report") == table(reported / "run")
    photos = sorted((flowers / "valid").rglob("*.jpg"))
    answers = json.loads(run(predict, *photos, checkpoint, "--top_k", 6, "--format", "json").out)
    found = [{row["class"]: row["probability"] for row in answer["predictions"]} for answer in answers]
    true = [one[photo.parent.name] for photo, one in zip(photos, found, strict=True)]
    sizes = []
    for index, one in enumerate(found):
        others = sorted(true[other] for other in range(18) if other % 5 != index % 5)
        outside = math.floor((len(others) + 1) * 0.2)
        sizes.append(max(sum(value >= others[outside - 1] for value in one.values()), 1))
    row = table(tmp_path / "held" / "report")["80", "all classes"]
    assert float(row["mean_size"]) == pytest.approx(np.mean(sizes), abs=1e-4)


def test_sets_are_made_at_the_temperature_that_the_checkpoint_keeps():
    valid = drawn(400, 6, 1, sharper=4.0)
    best = Best({"epoch": 1, "train_loss": 0.0, "valid_loss": 0.0, "valid_accuracy": 0.0}, {}, valid)
    assert best.trust.temperature > 2
    logits = valid.logits / best.trust.temperature
    expected = logits.softmax(1)[torch.arange(400), valid.labels].sort().values
    torch.testing.assert_close(torch.tensor(best.trust.set_scores, dtype=torch.float64), expected)


def test_a_level_near_0_gives_the_smallest_sets():
    scores = [0.2, 0.5, 0.9]
    assert least_probability(scores, 1e-9) == least_probability(scores, 1) == 0.9
