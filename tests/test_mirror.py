"""--mirror: an answer is the mean of those to a photo and to its mirror image, wherever it is asked for."""

import json

import numpy as np
import pytest
import torch
from PIL import ImageOps
from support import QUICK, TINY, parse, read

import model_utils
import predict
import train
from data_utils import load_data
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.devices import precision_of
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.photos.images import load_image
from flower_classifier.photos.views import open_views


@pytest.fixture(scope="module", params=["cnn", "frozen"])
def mirrored(request, flowers, tmp_path_factory):
    """The save_dir of a run whose answers are means."""
    save_dir = tmp_path_factory.mktemp("mirrored")
    model = QUICK if request.param == "frozen" else ("--arch", "cnn", "--no_report")
    train.main([str(flowers), *model, "--mirror", "--epochs", "3", "--save_dir", str(save_dir)])
    return save_dir


def test_an_answer_is_the_mean_of_the_logits_of_both(run, flowers, mirrored):
    saved = Checkpoint.load(mirrored / "checkpoint.pth")
    for photo in sorted((flowers / "test").rglob("*_000.jpg")):
        outcome = run(predict, photo, mirrored / "checkpoint.pth", "--top_k", 6)
        plain = open_views(photo, saved.preprocessing)[0]  # (S, S, 3)
        both = torch.from_numpy(np.stack([plain, plain[:, ::-1]])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits = saved.classifier(both).mean(dim=0)
        expected = dict(zip(saved.classes, (logits / saved.trust.temperature).softmax(0).tolist(), strict=True))
        # A backbone that runs in bfloat16 moves the probabilities of random, whitened features by some points
        is_exact = saved.model.arch == "cnn" or precision_of(torch.device("cpu")) == torch.float32
        assert dict(parse(outcome.out)) == pytest.approx(expected, abs=0.0002 if is_exact else 0.05)


def test_a_photo_and_its_mirror_image_get_the_same_answer(run, flowers, mirrored, tmp_path):
    photo = next((flowers / "test").rglob("*.jpg"))
    load_image(photo).save(tmp_path / "one.png")
    ImageOps.mirror(load_image(photo)).save(tmp_path / "other.png")
    one, other = (run(predict, tmp_path / f"{name}.png", mirrored / "checkpoint.pth").out for name in ("one", "other"))
    assert dict(parse(one)) == pytest.approx(dict(parse(other)), abs=0.002)


def test_every_way_to_judge_it_gives_the_same_numbers(run, flowers, mirrored, tmp_path):
    checkpoint = mirrored / "checkpoint.pth"
    told = read(checkpoint)["training"]["results"]["test"]
    options = ("--evaluate", "--report", tmp_path / "report", "--format", "json")
    facts = json.loads(run(predict, flowers / "test", checkpoint, *options).out)
    results = model_utils.evaluate_model(model_utils.load_checkpoint(checkpoint), load_data(flowers))
    assert facts["accuracy"] == told["accuracy"] == results.accuracy
    assert facts["loss"] == pytest.approx(told["loss"], abs=1e-6)
    assert results.evaluation.loss == pytest.approx(told["loss"], abs=1e-6)


def test_it_is_kept_by_a_resumed_run_which_cannot_change_it(train_into, run, flowers, tmp_path):
    train_into(tmp_path / "mirrored", flowers, *TINY, "--mirror", "--epochs", 1)
    train_into(tmp_path / "mirrored", flowers, "--resume", "--no_report", "--epochs", 2)
    assert read(tmp_path / "mirrored" / "checkpoint.pth")["mirror"] is True
    train_into(tmp_path / "plain", flowers, *TINY, "--epochs", 1)
    outcome = run(train, flowers, "--save_dir", tmp_path / "plain", "--resume", "--mirror", "--epochs", 2)
    assert outcome.code == 2
    assert "--mirror was False, now True: put that back, or start a new run" in outcome.err


def test_a_search_judges_heads_as_their_runs_will_be(train_into, flowers, tmp_path):
    """The accuracy that it names is the one that the run reaches in that epoch."""
    fixed = ("--hidden_units", 0, "--weight_decay", 0, "--label_smoothing", 0, "--views", 1)
    outcome = train_into(tmp_path, flowers, *TINY, "--mirror", "--tune", "--epochs", 4, *fixed)
    rate = read(tmp_path / "checkpoint.pth")["training"]["learning_rate"]
    said = outcome.err.split("(validation loss ")[1].split(")")[0]
    assert f"--learning_rate {rate:g}" in outcome.err
    lines = [line for line in outcome.out.splitlines() if line.startswith("epoch")]
    assert any(f"accuracy {said.split()[-1]}" in line.replace("accuracy  ", "accuracy ") for line in lines)


def test_a_checkpoint_with_another_kind_of_mirror_is_refused(run, flowers, mirrored, tmp_path):
    contents = {**read(mirrored / "checkpoint.pth"), "mirror": 1}
    write_atomically(tmp_path / "odd.pth", contents)
    outcome = run(predict, next((flowers / "test").rglob("*.jpg")), tmp_path / "odd.pth")
    assert outcome.code == 2
    assert (
        "odd.pth is damaged or was changed by hand (ValueError: mirror, is_nonnegative or square_roots is no bool"
        in outcome.err
    )
