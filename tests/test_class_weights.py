"""--class_weights balanced: each class counts the same in all, however many photos it has."""

import shutil

import pytest
import torch
from support import QUICK, TINY, read
from torch.nn import functional as F

from flower_classifier.config.allowed import DEFAULT_SHRINKAGE
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.whitening import Whitening
from flower_classifier.photos.splits import load_splits
from flower_classifier.training.recipe import Recipe, balanced


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_are_what_repeated_photos_would_be(smoothing):
    """Two photos of one class and four of another count as if each of the two were there twice."""
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    weights = balanced(labels.tolist(), 2)
    assert weights == (1.5, 0.75)
    recipe = Recipe(1, 0.001, 6, 1, 0, label_smoothing=smoothing, class_weights=weights)
    repeated = [0, 0, 3, 3, 1, 2, 4, 5]
    expected = F.cross_entropy(logits[repeated], labels[repeated], label_smoothing=smoothing)
    torch.testing.assert_close(recipe.loss(logits, labels), expected)


@pytest.fixture(scope="module")
def unequal(flowers, tmp_path_factory):
    """The drawn flowers, all but two of one species' training photos taken away."""
    folder = tmp_path_factory.mktemp("unequal") / "flowers"
    shutil.copytree(flowers, folder)
    first = min((folder / "train").iterdir())
    for photo in sorted(first.iterdir())[2:]:
        photo.unlink()
    return folder


def test_a_run_weighs_by_class(train_into, unequal, tmp_path):
    """The first step's loss, of one batch with all photos, is the weighted one of the new head."""
    options = (*QUICK, "--epochs", 1, "--batch_size", 100, "--views", 1, "--hidden_units", 0)
    for name in ("equal", "balanced"):
        train_into(tmp_path / name, unequal, *options, "--class_weights", name)
    splits = load_splits(unequal)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", ())
    classifier.look_at("several", square_roots=True)
    inputs = Inputs(FrozenBackbone(classifier, torch.device("cpu")), splits.train)
    labels = inputs.labels
    features = inputs.rows()[torch.arange(len(labels))].float()
    whitening = Whitening.of(lambda block: features[block], labels, DEFAULT_SHRINKAGE)
    with torch.inference_mode():
        losses = F.cross_entropy(classifier.head(whitening(features)), labels, reduction="none")
    by_class = torch.stack([losses[labels == label].mean() for label in range(6)])
    expected = {"equal": losses.mean().item(), "balanced": by_class.mean().item()}
    assert abs(expected["equal"] - expected["balanced"]) > 1e-3
    for name, loss in expected.items():
        saved = read(tmp_path / name / "run" / "last.pth")
        assert saved["history"][0]["train_loss"] == pytest.approx(loss, abs=1e-5)
        assert saved["training"]["class_weights"] == name


@pytest.mark.thorough
def test_a_search_and_fine_tuning_weigh_too(train_into, unequal, tmp_path):
    """The same head goes on with weights and without; the same grid is searched."""
    options = (*TINY, "--epochs", 1, "--views", 1, "--hidden_units", 0)
    searched = {}
    for name in ("equal", "balanced"):
        train_into(tmp_path / "head", unequal, *options)
        tuned = ("--resume", "--no_report", "--fine_tune", 1, "--class_weights", name)
        train_into(tmp_path / "head", unequal, *tuned)
        searched[name] = [read(tmp_path / "head" / "run" / "last.pth")["history"][1]["train_loss"]]
        train_into(tmp_path / name, unequal, *options[:-4], "--tune", "--class_weights", name, *options[-4:-2])
        searched[name].append(read(tmp_path / name / "run" / "last.pth")["history"][0]["train_loss"])
    for equal, weighted in zip(searched["equal"], searched["balanced"], strict=True):
        assert equal != weighted


def test_photos_that_cannot_be_opened_do_not_count(train_into, unequal, tmp_path):
    """Broken or absent, it is the same."""
    data = tmp_path / "data"
    shutil.copytree(unequal, data)
    options = (*TINY, "--epochs", 1, "--class_weights", "balanced", "--views", 1)
    train_into(tmp_path / "absent", data, *options)
    folder = min((data / "train").iterdir())
    for number in range(6):
        (folder / f"zz_broken_{number}.jpg").write_bytes(b"no photo")
    train_into(tmp_path / "broken", data, *options, "--skip_bad")
    absent, broken = (read(tmp_path / name / "run" / "last.pth") for name in ("absent", "broken"))
    assert broken["history"][0]["train_loss"] == pytest.approx(absent["history"][0]["train_loss"], rel=1e-3)
