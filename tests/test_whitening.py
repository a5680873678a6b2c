"""Whitening against numpy's, in float64, and in and out of a head's first layer."""

import numpy as np
import pytest
import torch
from torch import nn

from flower_classifier.networks import whitening
from flower_classifier.networks.whitening import Whitening


def drawn(photos, width, classes, seed=0):
    """Draw features that differ in scale and go together, with a mean for each class; return them and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(photos) % classes
    mixed = rng.normal(size=(photos, width)) @ rng.normal(size=(width, width)) * np.logspace(-1, 1, width)
    features = mixed + rng.normal(size=(classes, width))[labels] * 5 + 3
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def found_for(features, labels, shrinkage):
    return Whitening.of(lambda block: features[block], labels, shrinkage)


def by_numpy(features, labels, shrinkage):
    """Return the centre and the covariance within the classes, shrunken, in float64."""
    features, labels = features.double().numpy(), labels.numpy()
    deviations = features - np.stack([features[labels == label].mean(axis=0) for label in labels])
    covariance = deviations.T @ deviations / len(features)
    alike = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return features.mean(axis=0), (1 - shrinkage) * covariance + shrinkage * alike


# ---------------------------------------------------------------------------------------------------------- the map


@pytest.mark.parametrize("shrinkage", [0.01, 0.4, 1])
@pytest.mark.parametrize(
    ("photos", "width", "classes"), [(200, 12, 5), (30, 40, 3), (2 * whitening.BLOCK + 100, 6, 4)], ids=str
)
def test_it_is_the_inverse_root_of_the_shrunken_covariance_within_the_classes(photos, width, classes, shrinkage):
    features, labels = drawn(photos, width, classes)
    found = found_for(features, labels, shrinkage)
    centre, covariance = by_numpy(features, labels, shrinkage)
    matrix = found.matrix.double().numpy()
    np.testing.assert_allclose(found.centre, centre, rtol=1e-5, atol=1e-5)
    assert np.allclose(np.triu(matrix), matrix, rtol=0, atol=1e-5 * abs(matrix).max())
    np.testing.assert_allclose(matrix.T @ covariance @ matrix, np.eye(width), atol=2e-3)
    inverse = np.linalg.inv(covariance)
    np.testing.assert_allclose(matrix @ matrix.T, inverse, rtol=1e-2, atol=1e-3 * np.abs(inverse).max())
    np.testing.assert_allclose(found(features), (features.numpy() - centre) @ matrix, rtol=1e-3, atol=1e-3)


def test_distances_become_those_of_mahalanobis():
    features, labels = drawn(100, 8, 3)
    whitened = found_for(features, labels, 0.3)(features).double()
    _, covariance = by_numpy(features, labels, 0.3)
    apart = (features[:1] - features).double().numpy()
    expected = np.sqrt(np.einsum("nd,de,ne->n", apart, np.linalg.inv(covariance), apart))
    np.testing.assert_allclose(torch.cdist(whitened[:1], whitened)[0], expected, rtol=1e-3)


def test_neither_the_order_of_the_photos_nor_which_numbers_the_labels_are_matters():
    features, labels = drawn(90, 10, 3)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    for other in (found_for(features[order], labels[order], 0.4), found_for(features, labels * 7 + 2, 0.4)):
        torch.testing.assert_close(other(features), found_for(features, labels, 0.4)(features), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("photos", [6, 24])
def test_a_feature_that_is_always_the_same_stays_a_number(photos):
    features, labels = drawn(photos, 30, 3)
    features[:, [0, 7]] = torch.tensor([0.0, 5.0])
    found = found_for(features, labels, 0.4)
    assert found(features).isfinite().all()
    torch.testing.assert_close(found(features)[:, 0], torch.zeros(photos), rtol=0, atol=1e-3)
    changed = features.clone()
    changed[:, 7] += 1  # as in photos of another kind
    assert 0 < (found(changed) - found(features)).abs().max() < 100


@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_photos_that_are_all_alike_can_be_whitened(value):
    features = torch.full((6, 4), value)
    found = found_for(features, torch.arange(6) % 2, 0.4)
    assert found(features).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in found.folded(torch.randn(3, 4), torch.randn(3)))


def test_with_one_photo_of_each_class_the_spread_is_that_of_all():
    """Nothing says how photos of a class differ."""
    features, _ = drawn(5, 8, 5)
    found = found_for(features, torch.arange(5), 0.4)
    _, covariance = by_numpy(features, torch.zeros(5, dtype=torch.int64), 0.4)
    matrix = found.matrix.double().numpy()
    np.testing.assert_allclose(matrix.T @ covariance @ matrix, np.eye(8), atol=1e-3)


# --------------------------------------------------------------------------------------------- in and out of a head


@pytest.mark.parametrize("width", [5, 300])
def test_a_folded_layer_answers_for_features_as_they_are_and_can_be_unfolded(width):
    features, labels = drawn(120, width, 4)
    found, layer = found_for(features, labels, 0.4), nn.Linear(width, 7)
    folded = nn.Linear(width, 7)
    with torch.no_grad():
        weight, bias = found.folded(layer.weight, layer.bias)
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)
        expected = layer(found(features))
        torch.testing.assert_close(folded(features), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        for again, was in zip(found.unfolded(weight, bias), (layer.weight, layer.bias), strict=True):
            assert again.dtype == torch.float32
            torch.testing.assert_close(again, was, rtol=1e-4, atol=1e-4)
