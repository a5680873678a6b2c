"""Fine-tuning: more of the network learns, from the best head on, and nothing that was better is lost."""

import copy
import json
import math
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support import PROJECT, QUICK, TINY, TUNABLE, TWO_STAGES, parse_blocks, read, run_program, same
from torch.nn import functional as F
from torchvision import models
from waiting import LIMIT
from warm import WarmPopen

import predict
import train
from flower_classifier.features.batches import fresh_batches
from flower_classifier.features.inputs import prepare_inputs
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.views import USUAL, open_views
from flower_classifier.studies import dry_run
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import FineTuning, Recipe, depths_of
from flower_classifier.training.saved_state import Identity
from flower_classifier.training.state import AVERAGE_DECAY, TrainState

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------- what learns, and how


def test_it_computes_in_the_precision_that_is_asked_for(precision):
    recipe, values = FineTuning(2, 0.0001, 16, 1, 0, unfreeze="last"), torch.ones(2, 2)
    with recipe.precision(CPU):
        assert (values @ values).dtype == precision


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["last", "all"])
def test_an_epoch_is_what_plain_torch_makes_of_the_same_pictures(flowers, unfreeze, monkeypatch):
    """Whole batches, rates and clipping written out, and layers in the order in which squeezenet lists them."""
    monkeypatch.setenv("FLOWERS_PRECISION", "float32")  # bfloat16 would hide small differences
    splits = load_splits(flowers)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", (8,), dropout=0.0)
    frozen, head_recipe = FrozenBackbone(classifier, CPU), Recipe(1, 0.001, 16, 1, 0)
    train_photos, valid, _ = prepare_inputs(frozen, splits, USUAL, None, head_recipe.schedule)
    state = TrainState(classifier, head_recipe, splits.classes)
    fit(state, train_photos, valid)
    depths = depths_of(classifier, unfreeze)
    recipe = FineTuning(2, 0.001, 16, 1, 0, weight_decay=0.1, began=1, unfreeze=unfreeze, depths=depths)
    state.begin_fine_tuning(recipe)
    plain = copy.deepcopy(classifier)
    fit(state, train_photos, valid)

    layers = [name for name, layer in plain.backbone.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    groups = []
    for name, parameter in plain.named_parameters():
        depth = layers.index(name[9:].rpartition(".")[0]) / (len(layers) - 1) if name.startswith("backbone") else None
        learns = depth is None or unfreeze == "all" or depth >= 2 / 3
        parameter.requires_grad_(learns)
        if learns:
            rate = 0.003 if depth is None else 0.001 * 10 ** (depth - 1)
            groups.append(
                {
                    "params": [parameter],
                    "full": rate,
                    "weight_decay": (0.1 if depth is None else 0.05) * (parameter.dim() > 1),
                }
            )
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    average, losses, seen = copy.deepcopy(plain), [], 0
    for step, (pixels, labels) in enumerate(fresh_batches(train_photos, 16, 2)):
        optimizer.zero_grad()
        loss = F.nll_loss(plain(pixels).log_softmax(1), labels)
        loss.backward()
        gradients = [group["params"][0].grad for group in groups]
        norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1, 1 / norm))
        done = (seen + len(labels) / 2) / 48
        share = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * share
        optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), plain.parameters(), strict=True):
                mean.lerp_(parameter, (AVERAGE_DECAY + 1) / (AVERAGE_DECAY + 1 + step))
        losses.append(loss.item() * len(labels))
        seen += len(labels)
    assert state.finished.history[-1]["train_loss"] == pytest.approx(sum(losses) / 48, abs=1e-4)
    for kept, expected in ((state.finished.learner, plain), (state.finished.average, average)):
        tensors = {name.removeprefix("module."): tensor for name, tensor in kept.items() if name != "n_averaged"}
        wanted = {name: tensor for name, tensor in expected.named_parameters() if tensor.requires_grad}
        assert tensors.keys() == wanted.keys()
        for name, tensor in wanted.items():  # where a gradient is near zero, rounding decides which way AdamW steps
            close = torch.isclose(tensors[name], tensor.detach(), rtol=1e-3, atol=2e-5)
            assert close.double().mean() > 0.99


@pytest.mark.slow
def test_the_last_layers_learn_or_all_and_the_norms_keep_their_statistics(train_into, flowers, tmp_path):
    options = (*TUNABLE[:-2], "--epochs", 1, "--seed", 3)
    train_into(tmp_path / "head", flowers, *options)
    before = read(tmp_path / "head" / "checkpoint.pth")["state_dict"]
    for unfreeze in ("last", "all"):
        train_into(tmp_path / unfreeze, flowers, *options, "--fine_tune", 1, "--unfreeze", unfreeze)
        tensors = read(tmp_path / unfreeze / "run" / "last.pth")["learner"]
        changed = {name for name in tensors if not torch.equal(tensors[name], before[name])}
        statistics = {name for name in before if "running" in name or "tracked" in name}
        assert not changed & statistics
        assert {"backbone.model.layer4.0.conv2.weight", "head.0.weight"} <= changed
        assert ("backbone.model.conv1.0.weight" in changed) == (unfreeze == "all")
        assert ("backbone.model.layer2.0.conv1.weight" in tensors) == (unfreeze == "all")


# --------------------------------------------------------------------------------------------------------- the command


def test_what_it_reports_is_what_the_checkpoint_answers(run, flowers, fine_tuned):
    """Also in plain torch and float32, without what makes the network fast."""
    saved = Checkpoint.load(fine_tuned / "checkpoint.pth")
    assert saved.model.learns == "last"
    photos = sorted((flowers / "test").rglob("*.jpg"))
    outcome = run(predict, *photos, fine_tuned / "checkpoint.pth", "--top_k", 1)
    right = sum(answers[0][0] == path.split("/")[-2] for path, answers in parse_blocks(outcome.out).items())
    assert saved.training["results"]["test"]["accuracy"] == right / len(photos)
    pixels = torch.from_numpy(np.stack([open_views(photo, saved.preprocessing)[0] for photo in photos]))
    with torch.inference_mode():
        logits = saved.classifier(pixels.permute(0, 3, 1, 2))
    labels = torch.tensor([saved.classes.index(photo.parent.name) for photo in photos])
    loss = F.cross_entropy(logits / saved.trust.temperature, labels).item()
    assert saved.training["results"]["test"]["loss"] == pytest.approx(loss, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(TUNABLE, id="resnet"),
        pytest.param(
            ("--arch", "timm/levit_128s", "--weights", "none", "--no_report", "--backbone_lr", 0.0003),
            marks=pytest.mark.thorough,
            id="levit",
        ),
    ],
)
def test_an_epoch_is_judged_as_its_checkpoint_answers(train_into, run, flowers, tmp_path, model):
    """Levit keeps what it has computed from its weights until it is told that they change."""
    options = (*model, "--hidden_units", 0, "--epochs", 1, "--fine_tune", 2)
    few = shutil.copytree(flowers, tmp_path / "few", ignore=shutil.ignore_patterns("drawn_00[3-9].jpg"))
    train_into(tmp_path, few, *options, "--unfreeze", "all")
    saved = read(tmp_path / "checkpoint.pth")
    epoch = saved["training"]["epoch"]
    assert epoch > 2  # the first of fine-tuning would be judged right anyway
    own = ("--evaluate", "--format", "json", "--report", tmp_path / "report")
    facts = json.loads(run(predict, flowers / "valid", tmp_path / "checkpoint.pth", *own).out)
    assert saved["temperature"] == 1
    assert facts["loss"] == pytest.approx(saved["history"][epoch - 1]["valid_loss"], abs=1e-6)


def test_heat_maps_are_drawn_of_it(run, flowers, fine_tuned, tmp_path):
    photo = next((flowers / "test").rglob("*.jpg"))
    outcome = run(predict, photo, fine_tuned / "checkpoint.pth", "--heatmap", "--plot", tmp_path / "heat.png")
    assert outcome.code == 0, outcome.err
    assert Image.open(tmp_path / "heat.png").size > (100, 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rate"),
    [
        (signal.SIGKILL, 0.001),
        pytest.param(signal.SIGINT, 0.001, marks=pytest.mark.thorough),
        (signal.SIGINT, 0.5),
    ],
    ids=str,
)
def test_a_run_that_is_stopped_while_the_network_learns_ends_as_if_it_never_was(
    train_into, flowers, fine_tuned, tmp_path, how, rate
):
    """Also one whose network gets worse, so that the best epoch is the head's."""
    options = (flowers, *TWO_STAGES, "--backbone_lr", rate, *(("--lr", 0.01) if rate == 0.5 else ()))
    whole = fine_tuned if rate == 0.001 else tmp_path / "whole"
    if whole != fine_tuned:
        train_into(whole, *options)
        assert read(whole / "checkpoint.pth")["learns"] == "head"
    tmp_path = tmp_path / "stopped"
    command = [sys.executable, "train.py", *map(str, (*options, "--save_dir", tmp_path))]
    process = WarmPopen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for epoch in (1, 2, 3):
        assert process.stdout.readline().startswith(f"epoch {epoch}/{2 if epoch < 3 else 5}")
    process.send_signal(how)
    process.communicate(timeout=LIMIT)
    assert process.returncode == (-how if how == signal.SIGKILL else 130)
    finished = read(tmp_path / "run" / "last.pth")["epoch"]
    assert finished == 2 if how == signal.SIGKILL else finished in (3, 4)
    rest = train_into(tmp_path, flowers, "--resume", "--no_report")
    assert f"resuming after epoch {finished}" in rest.err
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / file), read(whole / file))


@pytest.mark.thorough
def test_what_is_stopped_before_its_first_epoch_ends_leaves_the_report_and_goes_on_later(train_into, flowers, tmp_path):
    """A finished run, which then is asked to fine-tune; and again, its checkpoint being removed meanwhile."""
    train_into(tmp_path / "run", flowers, *TINY[:-1], "--no_memory", "--epochs", 1)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run" / "run").iterdir() if path.name != "last.pth"}
    options = ("--resume", "--fine_tune", "1", "--save_dir", str(tmp_path / "run"))
    for removed in (False, True):
        assert run_program("-c", STOPPED, int(removed), flowers, *options).code == -signal.SIGINT
        if not removed:
            assert {name: (tmp_path / "run" / "run" / name).read_bytes() for name in kept} == kept
    outcome = train_into(tmp_path / "run", flowers, "--resume", "--no_report")
    assert outcome.out.startswith("epoch 2/2 ")


STOPPED = """
import pathlib, sys, train
from flower_classifier.training import loop
evaluate_on, (removed, *arguments) = loop.evaluate_on, sys.argv[1:]
def stopped(learner, inputs):
    if int(removed): (pathlib.Path(arguments[-1]) / "checkpoint.pth").unlink()
    raise KeyboardInterrupt
loop.evaluate_on = stopped
train.main(arguments)
"""


@pytest.mark.thorough
def test_a_finished_run_can_be_fine_tuned_later_and_longer(train_into, run, flowers, fine_tuned, tmp_path):
    head = train_into(tmp_path, flowers, *TUNABLE[:-2], "--hidden_units", 0, "--epochs", 2)
    later = train_into(tmp_path, flowers, "--resume", "--fine_tune", 3, "--backbone_lr", 0.001, "--no_report")
    assert "trained already" not in later.err
    assert same(read(tmp_path / "checkpoint.pth"), read(fine_tuned / "checkpoint.pth"))
    longer = train_into(tmp_path, flowers, "--resume", "--fine_tune", 4, "--no_report")
    assert longer.out.startswith("epoch 6/6 ")
    assert "--fine_tune was 3, now 4 from epoch 6 on" in longer.err
    assert head.out.startswith("epoch 1/2 ")
    done = train_into(tmp_path, flowers, "--resume", "--no_report")
    assert "6 epochs trained already: a larger --fine_tune trains longer" in done.err
    for name, was, now in (("epochs", 2, 3), ("learning_rate", 0.001, 0.5), ("unfreeze", "last", "all")):
        outcome = run(train, flowers, "--save_dir", tmp_path, "--resume", f"--{name}", now)
        assert outcome.code == 2
        assert f"--{name} was {was}, now {now}, but the network is being fine-tuned already" in outcome.err


@pytest.mark.slow
def test_a_stage_that_makes_nothing_better_changes_nothing_and_says_so(train_into, flowers, tmp_path):
    options = (flowers, *TUNABLE[:-2], "--epochs", 4)
    train_into(tmp_path / "one", *options)
    outcome = train_into(tmp_path / "two", *options, "--fine_tune", 1, "--backbone_lr", 10)
    assert "fine-tuning made nothing better: the checkpoint holds the best epoch of the head" in outcome.err
    one, two = (read(tmp_path / name / "checkpoint.pth") for name in ("one", "two"))
    assert two["learns"] == "head"
    assert one["temperature"] == two["temperature"]
    for split, results in one["training"]["results"].items():  # whitening was folded into the head in between
        assert two["training"]["results"][split] == pytest.approx(results, abs=1e-4)
    assert same(one["state_dict"], two["state_dict"])


@pytest.mark.slow
def test_the_report_shows_where_fine_tuning_began(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *TINY[:-1], "--no_memory", "--epochs", 1, "--fine_tune", 1)
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["\ufeffepoch", "1", "2"]
    assert Image.open(tmp_path / "run" / "curves.png").width == 1200


@pytest.mark.slow
def test_the_summary_says_how_long_it_would_take(run, flowers, monkeypatch):
    monkeypatch.setattr(dry_run, "BUDGET", 0.02)  # how near the expected time comes is not tested
    outcome = run(train, flowers, *QUICK, "--fine_tune", 2, "--summary")
    assert outcome.code == 0, outcome.err
    layers = [layer for layer in models.squeezenet1_1().features.modules() if isinstance(layer, torch.nn.Conv2d)]
    number = sum(parameter.numel() for layer in layers[-9:] for parameter in layer.parameters())  # of 25
    assert f"for 2 epochs, after that: {number:,} parameters of the backbone learn" in outcome.out


def test_what_learns_as_a_whole_cannot_be_fine_tuned(run, flowers, tmp_path):
    outcome = run(train, flowers, "--arch", "cnn", "--fine_tune", 1, "--save_dir", tmp_path)
    assert outcome.code == 2
    assert "--fine_tune is for pretrained networks; all layers of cnn learn from the start" in outcome.err


def test_how_it_goes_does_nothing_without_it_and_that_is_said(train_into, flowers, tmp_path):
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 1, "--backbone_lr", 0.001)
    assert "warning: --backbone_lr says how --fine_tune goes, which is not asked for" in outcome.err


@pytest.mark.thorough
def test_the_features_of_the_frozen_network_stay_its_own(train_into, flowers, tmp_path):
    """A run that is resumed while its network learns reads photos into a cache that is empty by then.

    Squeezenet runs as it is, since it has no batch norms to be folded.
    """
    few = shutil.copytree(flowers, tmp_path / "few", ignore=shutil.ignore_patterns("49", "51", "74"))
    options = (*QUICK, "--epochs", 2)
    expected = train_into(tmp_path / "clean", few, *options, "--cache_dir", tmp_path / "own").out
    tuning = ("--fine_tune", 2, "--backbone_lr", 0.01)
    train_into(tmp_path / "tuned", few, *options, *tuning, "--cache_dir", tmp_path / "first")
    train_into(tmp_path / "tuned", few, "--resume", "--cache_dir", tmp_path / "second", "--no_report")
    found = train_into(tmp_path / "other", few, *options, "--cache_dir", tmp_path / "second")
    assert "24 of 24 taken from the cache" in found.err
    assert found.out.replace("other", "clean") == expected


def test_moments_come_back_in_the_parameters_memory_format(flowers):
    """On a Mac's GPU parameters have another one than on a CPU, and a fused step takes no notice of it."""
    classifier, _ = new_classifier("timm/test_resnet", 6, "none", ())
    frozen, recipe = FrozenBackbone(classifier, CPU), Recipe(1, 0.001, 16, 1, 0)
    splits = load_splits(flowers)
    inputs, valid, _ = prepare_inputs(frozen, splits, USUAL, None, recipe.schedule)
    state = TrainState(classifier, recipe, splits.classes, identity=identity_of(splits))
    fit(state, inputs, valid)
    second = FineTuning(2, 0.001, 16, 1, 0, began=1, unfreeze="last", depths=depths_of(classifier, "last"))
    state.begin_fine_tuning(second)
    fit(state, inputs, valid)
    restored = TrainState(classifier, recipe, splits.classes, identity=identity_of(splits))
    restored.restore(state.finished, second)
    pairs = zip(state.optimizer.state.items(), restored.optimizer.state.items(), strict=True)
    for (parameter, own), (other, theirs) in pairs:
        assert torch.equal(parameter, other)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(own[name], theirs[name])
            assert theirs[name].stride() == other.stride()
    assert any(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in restored.optimizer.state)


def identity_of(splits):
    """Return what a run on these photos is the run of."""
    photos = (splits.train.fingerprint(), splits.valid.fingerprint())
    return Identity("timm/test_resnet", "head", "none", [], 0.2, 160, 0, "", list(splits.classes), *photos)
