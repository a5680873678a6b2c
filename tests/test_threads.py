"""How many threads a head gets: what its work is worth, so that most heads learn the same digits on any cores."""

import pytest
import torch
from support import TINY, read, run_program, same

from flower_classifier.networks.classifier import ModelConfig, new_classifier
from flower_classifier.networks.devices import threads_for, torch_threads


def head(width, *hidden_units):
    return ModelConfig("any", hidden_units, 0.2, 102, "head").build_head(width)


@pytest.mark.parametrize(
    ("width", "hidden_units", "batch_size", "threads"),
    [(512, (512,), 64, 1), (1280, (), 64, 1), (2048, (512,), 64, 1), (25_088, (512,), 64, 5), (25_088, (512,), 8, 1)],
)
def test_a_large_head_gets_several_threads_and_a_small_one_gets_one(width, hidden_units, batch_size, threads):
    with torch_threads(16):
        assert threads_for(head(width, *hidden_units), batch_size) == threads
        assert torch.get_num_threads() == 16


def test_no_head_gets_more_threads_than_torch_has():
    with torch_threads(2):
        assert threads_for(head(25_088, 4_096), 64) == 2


def test_a_network_that_learns_from_pixels_gets_all_threads():
    with torch_threads(3):
        assert threads_for(new_classifier("cnn", 2)[0], 64) == 3


@pytest.mark.thorough
def test_a_run_learns_the_same_digits_with_any_number_of_threads(train_into, flowers, tmp_path):
    """The whole of train.py: views, a search among heads, training, judging, the memory."""
    options = (flowers, *TINY, "--epochs", 3, "--batch_size", 7, "--tune", "--weight_decay", 0, "--label_smoothing", 0)
    options += ("--cache_dir", tmp_path / "cache")
    outcome = run_program("train.py", *options, "--save_dir", tmp_path / "1", cold=True, OMP_NUM_THREADS="1")
    assert outcome.code == 0, outcome.err
    for threads in (2, 3):
        with torch_threads(threads):
            train_into(tmp_path / str(threads), *options)
    first, *others = (read(tmp_path / threads / "checkpoint.pth") for threads in "123")
    assert all(same(first, other) for other in others)
