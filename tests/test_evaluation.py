"""What is computed from logits and labels, and the temperature: compared with numpy and with plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from flower_classifier.judging.calibration import best_temperature, calibrate, cross_validated
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import BINS, FOLDS, Evaluation, folds_of


def drawn(number=600, classes=7, scale=1.0, seed=0):
    """Draw logits and, from the probabilities they stand for, labels: calibrated at temperature `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (number, classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [rng.choice(classes, p=share) for share in shares]
    return Evaluation(torch.tensor(logits * scale, dtype=torch.float32), torch.tensor(labels))


def softmax(evaluation):
    return shares_at(evaluation.logits.double().numpy(), evaluation.temperature)


def shares_at(logits, temperature):
    values = logits / temperature
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def losses_of(shares, labels):
    return -np.log(shares[np.arange(len(labels)), labels])


def error_of(shares, labels):
    """Expected calibration error, bin by bin."""
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    error = 0.0
    for lower in np.arange(BINS) / BINS:
        inside = (confidence > lower) & (confidence <= lower + 1 / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def searched(logits, labels):
    """The best temperature by trying all of them."""
    grid = np.geomspace(0.05, 20, 3001)
    return grid[np.argmin([losses_of(shares_at(logits, t), labels).mean() for t in grid])]


def by_other_folds(choose, logits, labels):
    """The temperature (N, 1) that `choose` finds for each photo among the photos of other folds."""
    folds = np.empty(len(labels), dtype=int)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    return np.array([[choose(logits[folds != k], labels[folds != k])] for k in range(FOLDS)])[folds]


def kept(logits, labels):
    """The temperature that is kept, by the rule as docs/calibration.md tells it."""
    held_out, plain = shares_at(logits, by_other_folds(searched, logits, labels)), shares_at(logits, 1)
    confidence, right = plain.max(axis=1), plain.argmax(axis=1) == labels
    by_chance = np.sqrt((confidence * (1 - confidence)).sum())
    is_miscalibrated = abs(confidence.sum() - right.sum()) > 2 * by_chance and not right.all()
    loss_falls = losses_of(held_out, labels).mean() < losses_of(plain, labels).mean()
    error_falls = error_of(held_out, labels) < error_of(plain, labels)
    return searched(logits, labels) if is_miscalibrated and loss_falls and error_falls else 1.0


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
def test_numbers_are_those_of_numpy(temperature):
    evaluation = drawn().at(temperature)
    shares, labels = softmax(evaluation), evaluation.labels.numpy()
    answers = shares.argmax(axis=1)
    own = shares[np.arange(len(labels)), labels]
    assert evaluation.loss == pytest.approx(-np.log(own).mean())
    assert evaluation.accuracy == pytest.approx((answers == labels).mean())
    places = (shares > own[:, None]).sum(axis=1)
    assert evaluation.top_accuracy == pytest.approx((places < 5).mean())
    assert evaluation.calibration_error == pytest.approx(error_of(shares, labels))


def test_confusions_are_counted_and_the_most_confident_mistake_comes_first():
    evaluation = drawn(number=200)
    shares, labels = softmax(evaluation), evaluation.labels.tolist()
    answers = shares.argmax(axis=1).tolist()
    counted = {}
    for label, answer in zip(labels, answers, strict=True):
        counted[label, answer] = counted.get((label, answer), 0) + 1
    confusion = evaluation.confusion
    assert confusion.sum() == 200
    assert all(confusion[pair] == times for pair, times in counted.items())
    pairs = evaluation.confused_pairs
    assert {(true, predicted): times for true, predicted, times in pairs} == {
        p: n for p, n in counted.items() if p[0] != p[1]
    }
    assert [times for *_, times in pairs] == sorted((times for *_, times in pairs), reverse=True)
    assert sorted(evaluation.mistakes) == [i for i in range(200) if labels[i] != answers[i]]
    confidence = [shares[i].max() for i in evaluation.mistakes]
    assert confidence == sorted(confidence, reverse=True)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_the_best_temperature_is_that_of_a_search_through_all(scale):
    evaluation = drawn(scale=scale)
    grid = np.geomspace(0.05, 20, 4001)
    losses = [evaluation.at(temperature).loss for temperature in grid]
    found = best_temperature(evaluation)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    assert found == pytest.approx(scale, rel=0.15)


def test_a_temperature_is_kept_where_it_helps_photos_it_was_not_fitted_to():
    for scale in (0.4, 3.0):
        temperature = calibrate(drawn(scale=scale))
        assert temperature == pytest.approx(scale, rel=0.15)
        unseen = drawn(scale=scale, seed=1)
        assert unseen.at(temperature).calibration_error < unseen.calibration_error / 2


def test_every_fold_has_photos_of_several_classes_in_whatever_order_they_come():
    """In a tar file one photo of each class may follow the other; of a folder they come class by class."""
    in_turn = torch.arange(20) % 5
    folds = folds_of(in_turn)
    assert folds.bincount().tolist() == [4] * FOLDS
    assert all(len(set(in_turn[folds == fold].tolist())) == 4 for fold in range(FOLDS))
    assert torch.equal(folds_of(in_turn.sort().values), torch.arange(20) % FOLDS)


def test_noise_is_not_fitted():
    temperatures = [calibrate(drawn(number=number, seed=seed)) for number in (60, 600) for seed in range(10)]
    assert temperatures.count(1.0) >= 19


def assert_unchanged(judged, photos):
    """Python 3.13 compares dataclasses field by field, and tensors by value: neither says yes or no."""
    assert judged.logits is photos.logits
    assert (judged.temperature, judged.others_temperatures) == (photos.temperature, None)


def test_a_few_photos_that_were_right_a_little_more_often_than_expected_keep_no_temperature():
    """22 of 24 instead of 19: that happens by chance. The loss alone would take a temperature of 0.23."""
    logits, labels = torch.zeros(24, 2), torch.zeros(24, dtype=torch.long)
    logits[:, 0], logits[[3, 17], 0], labels[[3, 17]] = 1.5, 0.05, 1
    photos = Evaluation(logits, labels)
    assert photos.at(0.23).loss < photos.loss
    assert best_temperature(photos) == pytest.approx(0.23, abs=0.01)
    assert calibrate(photos) == 1.0
    assert_unchanged(cross_validated(photos, 1.0), photos)


def test_a_temperature_that_lowers_the_loss_but_raises_the_calibration_error_is_not_kept():
    """400 photos at 73 % that are right as often, and 80 at 99.99 % of which every fourth is wrong."""
    logits = torch.zeros(480, 2)
    logits[:400, 0], logits[400:, 0] = 1.0, 10.0
    labels = torch.zeros(480, dtype=torch.long)
    labels[0:400:4], labels[2:400:100], labels[400::4] = 1, 1, 1
    photos = Evaluation(logits, labels)
    rescaled = photos.at(best_temperature(photos))
    assert rescaled.loss < photos.loss - 0.1
    assert rescaled.calibration_error > photos.calibration_error + 0.01
    assert calibrate(photos) == 1.0


@pytest.mark.slow
def test_photos_that_chose_a_temperature_are_judged_at_those_that_others_chose():
    photos = drawn(number=150, classes=3, scale=2.0, seed=3)
    logits, labels = photos.logits.double().numpy(), photos.labels.numpy()
    judged, temperatures = cross_validated(photos, calibrate(photos)), by_other_folds(kept, logits, labels)
    assert judged.temperature == calibrate(photos) == pytest.approx(kept(logits, labels), rel=2e-3)
    assert judged.others_temperatures.numpy() == pytest.approx(temperatures[:, 0], rel=2e-3)
    assert len(set(judged.others_temperatures.tolist())) == FOLDS
    shares = shares_at(logits, judged.others_temperatures.numpy()[:, None])
    assert judged.probabilities.numpy() == pytest.approx(shares)
    assert judged.loss == pytest.approx(losses_of(shares, labels).mean())
    assert judged.calibration_error == pytest.approx(error_of(shares, labels))
    assert judged.accuracy == photos.accuracy
    assert not judged.at(judged.temperature).is_cross_validated


def test_photos_that_keep_no_temperature_are_judged_without_one():
    photos = drawn(number=60, classes=3)
    assert calibrate(photos) == 1.0
    assert_unchanged(cross_validated(photos, 1.0), photos)


@pytest.mark.parametrize(("number", "classes"), [(800, 7), (90, 7)], ids=["many", "few"])
def test_the_summary_tells_how_far_to_believe_in_numbers_of_numpy(number, classes):
    photos, names = drawn(number=number, classes=classes, scale=2.0), [str(label) for label in range(classes)]
    shares, labels = softmax(photos), photos.labels.numpy()
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    about_90 = (confidence >= 0.85) & (confidence < 0.95)
    if number == 800:
        assert about_90.sum() >= 50
        clause = f"answers of about 90% are right {right[about_90].mean():.0%} of the time ({about_90.sum()} photos)"
    else:
        assert about_90.sum() < 50
        clause = f"{confidence.mean():.0%} sure on average, right {right.mean():.0%} of the time"
    first, second = photos.result_lines("test", names).splitlines()
    assert first.startswith(f"{number} test photos   loss {losses_of(shares, labels).mean():.4f}   {right.sum()} of ")
    assert second == clause
    first, second = replace(photos, chose_epoch=number).result_lines("valid", names).splitlines()
    assert first.startswith(f"{number} validation photos   loss ")
    assert second == f"{clause}; the epoch was chosen on these photos"
    assert photos.result_lines("", names).startswith(f"{number} photos   loss ")


def test_photos_that_are_all_right_say_nothing_of_a_temperature():
    labels = torch.arange(60) % 3
    assert calibrate(Evaluation(torch.nn.functional.one_hot(labels, 3).float() * 2, labels)) == 1.0


def test_certain_and_always_right_is_no_reason_to_fail():
    logits = torch.full((20, 3), -1000.0)
    logits[torch.arange(20), torch.arange(20) % 3] = 1000.0
    evaluation = Evaluation(logits, torch.arange(20) % 3)
    assert (evaluation.loss, evaluation.accuracy, evaluation.mistakes) == (0.0, 1.0, [])
    assert evaluation.calibration_error == pytest.approx(0.0)
    assert calibrate(evaluation) == 1.0


def test_a_handful_of_photos_that_all_went_wrong_keep_no_temperature():
    """Two classes at 88 %: a draw of bad luck would make every answer a guess."""
    for number in (2, 4, 8):
        logits = torch.tensor([[2.0, 0.0]]).repeat(number, 1)
        assert calibrate(Evaluation(logits, torch.ones(number, dtype=torch.int64))) == 1.0


def test_balanced_accuracy_and_its_line_are_counted_by_hand():
    """Nineteen ants, all right; four bees of which one is; no wasps, which one bee is taken for."""
    predicted = torch.tensor([0] * 19 + [1, 0, 0, 2])
    photos = Evaluation(torch.nn.functional.one_hot(predicted, 3).float(), torch.tensor([0] * 19 + [1] * 4))
    precision, recall, f1 = (values.tolist() for values in photos.of_each_class)
    assert precision == pytest.approx([19 / 21, 1, 0])
    assert recall[:2] == [1, 0.25] and math.isnan(recall[2])
    assert f1 == pytest.approx([38 / 40, 2 / 5, 0])
    assert photos.results["balanced_accuracy"] == pytest.approx((1 + 0.25) / 2)
    assert photos.results["macro_precision"] == pytest.approx((19 / 21 + 1) / 2)
    assert photos.results["macro_f1"] == pytest.approx((38 / 40 + 2 / 5) / 2)
    weighted = (photos.right * balancing_weights(photos.labels)).mean().item()
    assert weighted == pytest.approx(photos.balanced_accuracy)
    lines = photos.result_lines("test", ("ants", "bees", "wasps")).splitlines()
    assert "20 of 23 right: 87%" in lines[0]
    assert lines[1] == (
        "balanced accuracy 62%, the mean over classes (always saying ants: 50%, and 83% of the photos); "
        "largest class: ants, 19 of 19 right; smallest of those with photos here: bees, 1 of 4 right; without any "
        "here: wasps"
    )
