"""The epoch loop alone: without a folder, without a terminal, without a command."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.features.batches import whole
from flower_classifier.features.inputs import prepare_inputs
from flower_classifier.judging.evaluation import evaluate
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.training.ddp import Alone
from flower_classifier.training.loop import add_gradients, fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, learning_rate=0.001, batch_size=16, views=2, seed=0)


def test_it_calls_back_after_each_epoch_and_neither_prints_nor_writes(flowers, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    splits = load_splits(flowers)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", (8,))
    frozen = FrozenBackbone(classifier, CPU)
    state = TrainState(classifier, RECIPE, splits.classes)
    train, valid, _ = prepare_inputs(frozen, splits, RECIPE.augmentation, None, RECIPE.schedule)
    capfd.readouterr()
    rows, times = [], []

    def on_epoch(row, seconds):
        rows.append(row)
        times.append(seconds)

    fit(state, train, valid, on_epoch)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows == state.finished.history
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert [seconds.reading + seconds.computing for seconds in times] == [0, 0]  # views 0 and 1 were there already
    assert all(seconds.training > 0 for seconds in times)
    state.load_best()
    assert evaluate(state.learner, whole(valid)).accuracy == state.best.row["valid_accuracy"]
    fit(state, train, valid, on_epoch)  # there is nothing left to train
    assert len(rows) == 2


def test_a_classifier_can_be_exported_and_the_export_answers_the_same():
    """As a graph of plain tensor operations, from uint8 pixels to logits, normalisation included."""
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    classifier, _ = new_classifier("cnn", 6)
    exported = torch.export.export(classifier, (pixels,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(pixels), classifier(pixels))


@pytest.mark.parametrize("size", [49, 64, 98])
def test_the_gradients_of_a_batch_are_those_of_its_mean_loss_to_the_last_bit(size):
    """49 times a 49th is less than 1."""
    torch.manual_seed(0)
    head, inputs, labels = nn.Linear(5, 3), torch.randn(size, 5), torch.arange(size) % 3
    expected = F.cross_entropy(head(inputs), labels)
    expected.backward()
    gradient = head.weight.grad.clone()
    head.zero_grad()
    loss = add_gradients(Alone(head), inputs, labels, RECIPE, size, size)
    assert loss == expected.double()
    assert torch.equal(head.weight.grad, gradient)
