"""Runs whose heads learn from whitened features: which do, what they learn, and how they go on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import QUICK, TINY, read, same
from torch.nn import functional as F

import model_utils
import train
from data_utils import load_data
from flower_classifier.base.console import progress
from flower_classifier.config.allowed import DEFAULT_SHRINKAGE
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.training.heads import FoldHeads

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def few(flowers, tmp_path_factory):
    """Photos of two species: fewer than it takes to know how photos of a species differ."""
    folder = tmp_path_factory.mktemp("few")
    for split in ("train", "valid"):
        for species in ("54", "74"):
            shutil.copytree(flowers / split / species, folder / split / species)
    return folder


@pytest.mark.parametrize(
    ("options", "layers", "shrinkage"),
    [
        ((), "last", 0.0),
        (("--layers", "several"), "several", 0.0),
        (("--shrinkage", 0.3), "last", 0.3),
        (("--layers", "several", "--shrinkage", 1), "several", 1.0),
        (("--no_whitening",), "last", 0.0),
    ],
)
def test_of_few_photos_a_head_learns_from_the_backbones_own_output_unless_it_is_told_otherwise(
    train_into, few, tmp_path, options, layers, shrinkage
):
    train_into(tmp_path, few, *TINY, "--epochs", 1, "--views", 1, *options)
    contents = read(tmp_path / "checkpoint.pth")
    assert (contents["layers"], contents["training"]["shrinkage"]) == (layers, shrinkage)
    assert contents["state_dict"]["head.0.weight"].shape[1] == (256 if layers == "last" else 512)


@pytest.mark.parametrize(("removed", "layers"), [(10, "several"), (11, "last")])
def test_it_takes_32_photos_beside_the_first_of_each_class(flowers, tmp_path, removed, layers):
    """Of 48 photos of six classes."""
    data = shutil.copytree(flowers, tmp_path / "flowers")
    for photo in sorted((data / "train").rglob("*_00[1-7].jpg"))[:removed]:
        photo.unlink()
    assert len(load_splits(data).train) == 48 - removed
    model = model_utils.build_model("timm/test_byobnet", load_data(data), weights="none")
    assert model.classifier.config.layers == layers


def test_shrinkage_and_no_whitening_exclude_each_other(run, flowers, tmp_path):
    outcome = run(train, flowers, *TINY, "--shrinkage", 0.5, "--no_whitening", "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--shrinkage cannot be used together with --no_whitening" in outcome.err
    for value in (0, 1.5, "nan"):
        assert run(train, flowers, *TINY, "--shrinkage", value, "--save_dir", tmp_path).code == 2


def test_a_run_learns_from_the_whitened_plain_views_what_plain_torch_does(train_into, flowers, tmp_path):
    """One step of all photos, whose gradient is Adam's first: each number of the head moves by the learning rate."""
    own = ("--epochs", 1, "--views", 1, "--batch_size", 100, "--hidden_units", 0, "--lr", 0.01, "--no_roots")
    train_into(tmp_path, flowers, *QUICK, *own)
    saved = read(tmp_path / "checkpoint.pth")
    assert saved["training"]["shrinkage"] == DEFAULT_SHRINKAGE
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", ())
    inputs = Inputs(FrozenBackbone(classifier, CPU), load_splits(flowers).train)
    features, labels = inputs.rows()[torch.arange(48)].float(), inputs.labels
    numbers = features.double().numpy()
    deviations = numbers - np.stack([numbers[labels == label].mean(axis=0) for label in labels])
    covariance = deviations.T @ deviations / 48
    alike = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    root = np.linalg.cholesky((1 - DEFAULT_SHRINKAGE) * covariance + DEFAULT_SHRINKAGE * alike)
    whitened = torch.tensor(np.linalg.solve(root, (numbers - numbers.mean(axis=0)).T).T, dtype=torch.float32)
    head = classifier.head[0]
    loss = F.cross_entropy(head(whitened), labels)
    assert saved["history"][0]["train_loss"] == pytest.approx(loss.item(), abs=1e-4)
    loss.backward()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.sub_(0.01 * parameter.grad / (parameter.grad.abs() + 1e-8))
        expected = head(whitened)
        weight, bias = (saved["state_dict"][f"head.0.{name}"] for name in ("weight", "bias"))
        answers = features @ weight.T + bias
    # Of the smallest gradients the sign is a matter of rounding
    assert (answers - expected).norm() < 0.01 * expected.norm()


def test_two_epochs_and_two_more_equal_four_bit_for_bit(train_into, flowers, tmp_path, precision):
    options = (*TINY, "--views", 2, "--hidden_units", 0)
    train_into(tmp_path / "whole", flowers, *options, "--epochs", 4)
    train_into(tmp_path / "parts", flowers, *options, "--epochs", 2)
    train_into(tmp_path / "parts", flowers, "--resume", "--no_report", "--epochs", 4)
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "whole" / file), read(tmp_path / "parts" / file))
    assert read(tmp_path / "whole" / "run" / "last.pth")["identity"]["whitening"] == DEFAULT_SHRINKAGE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--shrinkage", 0.2), "--shrinkage"),
        (("--no_whitening",), "--no_whitening"),
        (("--no_roots",), "--no_roots"),
        (("--layers", "last"), "--layers was several, now last"),
    ],
    ids=str,
)
def test_a_run_is_not_resumed_with_other_features(train_into, run, flowers, tmp_path, change, said):
    train_into(tmp_path, flowers, *TINY, "--epochs", 1, "--views", 1)
    outcome = run(train, flowers, "--resume", "--no_report", "--epochs", 2, *change, "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err.splitlines()[-1]
    assert "put that back, or start a new run" in outcome.err


@pytest.mark.parametrize("options", [{}, {"no_whitening": True}, {"hidden_units": 16}], ids=str)
def test_a_second_training_goes_on_from_the_first(flowers, capsys, options):
    """The loss of its first step, of all photos, is that of the head which the first training has left."""
    data = load_data(flowers)
    model = model_utils.build_model("timm/test_byobnet", data, options.pop("hidden_units", 0), 0.0, weights="none")
    settings = {"batch_size": 100, "views": 1, "learning_rate": 0.01, **options}
    model_utils.train_model(model, data, epochs=3, **settings)
    first = [row["train_loss"] for row in model.history]
    inputs = Inputs(model.frozen, data.splits.train)
    with torch.inference_mode():
        rows = inputs.features()[torch.arange(48)].float()
        expected = F.cross_entropy(model.classifier.head(rows), inputs.labels).item()
    model_utils.train_model(model, data, epochs=1, **settings)
    assert model.history[0]["train_loss"] == pytest.approx(expected, abs=2e-3)
    assert expected < first[0] - 0.05
    capsys.readouterr()


def test_a_trained_model_of_the_exercise_is_saved_as_it_answers(flowers, tmp_path, capsys):
    data, photo = load_data(flowers), flowers / "test" / "54" / "drawn_000.jpg"
    model = model_utils.build_model("timm/test_byobnet", data, weights="none")
    model_utils.train_model(model, data, epochs=2, views=1)
    model_utils.save_checkpoint(model, tmp_path / "mine.pth")
    assert model_utils.predict(photo, model_utils.load_checkpoint(tmp_path / "mine.pth")) == model_utils.predict(
        photo, model
    )
    assert Checkpoint.load(tmp_path / "mine.pth").model == model.classifier.config
    capsys.readouterr()


def test_a_head_of_a_fold_knows_nothing_of_the_labels_that_it_has_not_learned_from(flowers):
    """Of the doctor's heads, each judges the labels of the photos that it has not seen."""
    classifier, _ = new_classifier("timm/test_byobnet", 6, "none", ())
    frozen, split = FrozenBackbone(classifier, CPU), load_splits(flowers).train
    photos, labels = torch.ones(2, 48, dtype=torch.bool), torch.tensor(split.labels)
    unseen = torch.arange(48) % 4 == 0
    photos[0, unseen] = False
    answers = []
    for given in (labels, torch.where(unseen, (labels + 1) % 6, labels)):
        inputs = Inputs(frozen, replace(split, labels=tuple(given.tolist())))
        heads = FoldHeads(inputs, Schedule(1, 3), photos, torch.ones(2, 6, dtype=torch.bool))
        with progress(heads.work, "heads", "photo") as bar:
            heads.learn(bar)
        answers.append(heads.logits_by(torch.zeros(48, dtype=torch.int64), inputs))
    torch.testing.assert_close(*answers, rtol=1e-2, atol=1e-2)
