"""What is computed from logits and labels, and the temperature: compared with numpy and with plain loops."""

import numpy as np
import pytest
import torch

from flower_classifier.judging.calibration import best_temperature, calibrate
from flower_classifier.judging.evaluation import BINS, Evaluation


def drawn(number=600, classes=7, scale=1.0, seed=0):
    """Draw logits and, from the probabilities they stand for, labels: calibrated at temperature `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (number, classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [rng.choice(classes, p=share) for share in shares]
    return Evaluation(torch.tensor(logits * scale, dtype=torch.float32), torch.tensor(labels))


def softmax(evaluation):
    values = evaluation.logits.double().numpy() / evaluation.temperature
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


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
    error = 0.0
    confidence = shares.max(axis=1)
    for lower in np.arange(BINS) / BINS:
        inside = (confidence > lower) & (confidence <= lower + 1 / BINS)
        if inside.any():
            gap = abs((answers == labels)[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    assert evaluation.calibration_error == pytest.approx(error)


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
    found = best_temperature(evaluation.logits, evaluation.labels)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    assert found == pytest.approx(scale, rel=0.15)


def test_a_temperature_is_kept_only_where_it_helps_photos_it_was_not_fitted_to():
    for scale in (0.4, 3.0):
        temperature = calibrate(drawn(scale=scale))
        assert temperature == pytest.approx(scale, rel=0.15)
        unseen = drawn(scale=scale, seed=1)
        assert unseen.at(temperature).calibration_error < unseen.calibration_error / 2
    kept = [calibrate(drawn(number=number, seed=seed)) for number in (60, 600) for seed in range(10)]
    assert kept.count(1.0) >= 15  # noise is not fitted
    assert calibrate(drawn(number=5, scale=3.0)) == 1.0


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
