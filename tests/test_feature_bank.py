"""What a checkpoint remembers of the training photos, and --neighbours, which names those most like a photo."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support import TINY, read, same
from torch.nn import functional as F

import model_utils
import predict
import train
from data_utils import load_data
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.feature_bank import MOST_BYTES, balanced_sample, capacity, remember
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.predicting.predictor import Predictor

WAYS = {
    "frozen": TINY,
    "cnn": ("--arch", "cnn", "--no_report"),
    "mirrored": (*TINY, "--mirror"),
}


@pytest.fixture(scope="module", params=[*WAYS, "fine-tuned"])
def remembering(request, flowers, tmp_path_factory):
    """The checkpoint of a short run."""
    if request.param == "fine-tuned":
        return request.getfixturevalue("fine_tuned") / "checkpoint.pth"
    save_dir = tmp_path_factory.mktemp("remembering")
    train.main([str(flowers), *WAYS[request.param], "--epochs", "2", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth"


@pytest.fixture(scope="module")
def checkpoint(flowers, tmp_path_factory):
    save_dir = tmp_path_factory.mktemp("remembers")
    train.main([str(flowers), *TINY, "--epochs", "1", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth"


# -------------------------------------------------------------------------------------------------------- the memory


def memory_of(features, axes=256):
    """Make a memory of features (M, D), looked at as a run does."""
    names = [f"{index}.jpg" for index in range(len(features))]
    return remember(lambda places: features[places], [0] * len(features), names, min(axes, len(features) - 1))


@pytest.mark.parametrize(("number", "width", "axes"), [(40, 12, 12), (12, 40, 11), (300, 500, 256), (300, 500, 20)])
def test_the_nearest_are_those_with_the_largest_cosine(number, width, axes):
    """With what is remembered of them, which with few axes is not all."""
    rng = np.random.default_rng(number)
    features = torch.from_numpy(rng.normal(1, 1, (number, width)).astype(np.float32))
    memory = memory_of(features, axes)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    centre = unit.mean(axis=0)
    _, _, directions = np.linalg.svd(unit - centre, full_matrices=False)
    remembered = centre + (unit - centre) @ directions[:axes].T @ directions[:axes]
    cosines = unit @ (remembered / np.linalg.norm(remembered, axis=1, keepdims=True)).T
    for index in range(0, number, 7):
        found = memory.nearest(features[index], 3)
        assert found[0][0] == index
        for other, similarity in found:
            assert similarity == pytest.approx(cosines[index, other], abs=0.01)
            assert cosines[index, other] >= np.sort(cosines[index])[-3] - 0.01


def test_a_photo_that_is_far_off_every_axis_is_like_none():
    features = torch.zeros(20, 50)
    features[:, :5] = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    stranger = torch.zeros(50)
    stranger[40] = 1
    assert abs(memory_of(features).nearest(stranger, 1)[0][1]) < 0.01


def test_photos_that_are_all_the_same_are_all_nearest():
    memory = memory_of(torch.ones(5, 30))
    assert [similarity for _, similarity in memory.nearest(torch.ones(30), 5)] == pytest.approx([1] * 5, abs=1e-3)


@pytest.mark.parametrize("width", [512, 2048, 25088])
def test_it_takes_ten_megabytes_at_most(width, tmp_path):
    names = [f"train/a class of some name/image_{index:09d}.jpg" for index in range(30_000)]
    axes, number = capacity(width, names)
    assert 50 < axes <= 256
    memory = memory_of(torch.rand(300, width), axes)
    whole = {**memory.to_plain(), "rows": memory.rows.repeat(number // 300 + 1, 1)[:number]}
    torch.save({**whole, "photos": names[:number], "labels": [0] * number}, tmp_path / "memory.pt")
    assert 0.5 * MOST_BYTES < (tmp_path / "memory.pt").stat().st_size < 1.05 * MOST_BYTES


def test_a_sample_has_as_many_of_each_class_as_there_are():
    labels = [0] * 50 + [1] * 3 + [2] * 20
    counts = np.bincount([labels[index] for index in balanced_sample(labels, 30)])
    assert counts.tolist() == [14, 3, 13]
    assert balanced_sample(labels, 1000) == list(range(73))


# ------------------------------------------------------------------------------------------------------- the program


def test_it_remembers_photos_as_a_prediction_sees_them(flowers, remembering):
    """Whatever has learned, to the digits that bfloat16 has."""
    saved = Checkpoint.load(remembering)
    assert saved.model.learns == ("last" if "fine_tune" in saved.training else saved.model.learns)
    memory, predictor = saved.trust.feature_bank, Predictor(saved, torch.device("cpu"))
    assert memory.photos == [str(path.relative_to(flowers)) for path in sorted((flowers / "train").rglob("*.jpg"))]
    answers = list(predictor.answers([flowers / photo for photo in memory.photos]))
    unit = F.normalize(torch.from_numpy(np.stack([answer.features for answer in answers])), dim=1)
    expected = (unit - memory.centre) @ memory.axes.float()
    spread = expected.std(dim=0).max()
    torch.testing.assert_close(memory.rows.float(), expected, rtol=0.02, atol=0.02 * spread.item())
    labels = [saved.classes.index(photo.split("/")[1]) for photo in memory.photos]
    assert memory.labels == labels


def test_a_training_photo_is_most_like_itself(run, flowers, remembering):
    photos = sorted((flowers / "train").rglob("*_00[0-2].jpg"))
    answers = json.loads(run(predict, *photos, remembering, "--neighbours", 2, "--format", "json").out)
    for photo, answer in zip(photos, answers, strict=True):
        first, second = answer["neighbours"]
        assert first["path"] == str(photo.relative_to(flowers))
        assert (first["class"], first["name"]) == (photo.parent.name, photo.parent.name)
        assert first["similarity"] == pytest.approx(1, abs=0.01)
        assert first["similarity"] >= second["similarity"]


def test_every_format_names_them_or_says_that_it_cannot(run, flowers, checkpoint):
    ask = (next((flowers / "test").rglob("*.jpg")), checkpoint, "--neighbours", 3)
    (found,) = json.loads(run(predict, *ask, "--format", "json").out)
    assert json.loads(run(predict, *ask, "--format", "jsonl").out) == found
    lines = run(predict, *ask).out.splitlines()
    assert lines[-4] == "training photos most like it:"
    for line, one in zip(lines[-3:], found["neighbours"], strict=True):
        assert line.split() == [f"{one['similarity']:.2f}", one["name"], one["path"]]
    outcome = run(predict, *ask, "--format", "csv")
    assert outcome.code == 2
    assert "--neighbours are not in csv" in outcome.err
    assert "neighbours" not in json.loads(run(predict, *ask[:2], "--format", "json").out)[0]


def test_a_picture_shows_them_from_the_folder_that_is_named(run, flowers, checkpoint, tmp_path):
    """Where their files are gone, there is room instead. A checkpoint does not choose what is opened."""
    data = tmp_path / "data"
    shutil.copytree(flowers, data)
    photo, pictures = next((flowers / "test").rglob("*.jpg")), {}
    asked = ("--neighbours", 4)
    named = (*asked, "--training_photos", data)
    for name, options in (("plain", ()), ("unnamed", asked), ("there", named), ("gone", named)):
        if name == "gone":
            shutil.rmtree(data)
        outcome = run(predict, photo, checkpoint, "--plot", tmp_path / f"{name}.png", *options)
        assert outcome.code == 0, outcome.err
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    assert np.array_equal(pictures["plain"], pictures["unnamed"])
    assert pictures["there"].shape == pictures["gone"].shape
    assert pictures["there"].shape[0] > pictures["plain"].shape[0] + 200
    difference = np.abs(pictures["there"] - pictures["gone"]).sum(axis=2) > 30
    assert difference[: pictures["plain"].shape[0] - 100].sum() == 0
    assert difference.mean() > 0.02
    outcome = run(predict, photo, checkpoint, "--training_photos", flowers)
    assert outcome.code == 2
    assert "--training_photos is where --plot finds the --neighbours: it needs both" in outcome.err


@pytest.mark.slow
def test_a_better_epoch_is_remembered_anew(train_into, flowers, tmp_path):
    """Of a network that learns, whose features change; as in a run that was never stopped."""
    options = ("--arch", "cnn", "--no_report")
    train_into(tmp_path / "whole", flowers, *options, "--epochs", 12)
    train_into(tmp_path / "parts", flowers, *options, "--epochs", 2)
    first = read(tmp_path / "parts" / "checkpoint.pth")
    train_into(tmp_path / "parts", flowers, "--resume", "--no_report", "--epochs", 12)
    whole, parts = (read(tmp_path / name / "checkpoint.pth") for name in ("whole", "parts"))
    assert parts["training"]["epoch"] > 2
    assert same(parts["memory"], whole["memory"])
    assert not torch.equal(parts["memory"]["rows"], first["memory"]["rows"])


def test_the_notebook_keeps_it_and_makes_its_own(flowers, checkpoint, tmp_path):
    model = model_utils.load_checkpoint(checkpoint)
    model_utils.save_checkpoint(model, tmp_path / "same.pth")
    assert same(read(tmp_path / "same.pth")["memory"], read(checkpoint)["memory"])
    model.take(
        replace(model.checkpoint, trust=replace(model.checkpoint.trust, feature_bank=None, stranger_scores=None))
    )
    model_utils.train_model(model, load_data(flowers), epochs=1)
    model_utils.save_checkpoint(model, tmp_path / "other.pth")
    assert same(read(tmp_path / "other.pth")["memory"], read(checkpoint)["memory"])  # of the same frozen network


def test_without_a_memory_it_is_said(train_into, run, flowers, checkpoint, tmp_path):
    train_into(tmp_path, flowers, *TINY, "--epochs", 1)
    train_into(tmp_path, flowers, "--resume", "--no_report", "--no_memory")
    own = tmp_path / "checkpoint.pth"
    assert read(own)["memory"] is None
    photo = next((flowers / "test").rglob("*.jpg"))
    assert run(predict, photo, own).code == 0
    outcome = run(predict, photo, own, "--neighbours", 3)
    assert outcome.code == 2
    assert "--neighbours needs training photos that the checkpoint remembers" in outcome.err
    train_into(tmp_path, flowers, "--resume", "--no_report")
    assert same(read(own)["memory"], read(checkpoint)["memory"])


def test_more_than_there_are_are_all(run, flowers, checkpoint):
    ask = (next((flowers / "test").rglob("*.jpg")), checkpoint, "--neighbours", 1000, "--format", "json")
    found = json.loads(run(predict, *ask).out)[0]["neighbours"]
    assert len({one["path"] for one in found}) == len(found) == 48


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory.update(rows=memory["rows"][:-1]),
        lambda memory: memory.update(axes=memory["axes"][:-1]),
        lambda memory: memory.update(centre=memory["centre"] * float("nan")),
        lambda memory: memory.update(labels=[6, *memory["labels"][1:]]),
        lambda memory: memory.update(photos=["../../secret.jpg", *memory["photos"][1:]]),
        lambda memory: memory.update(photos=["/etc/secret.jpg", *memory["photos"][1:]]),
        lambda memory: memory.update(photos=[7, *memory["photos"][1:]]),
        lambda memory: memory.update(photos=dict.fromkeys(memory["photos"])),
        lambda memory: memory.update(rows=memory["rows"].float()),
        lambda memory: memory.update(centre=memory["centre"].double()),
        lambda memory: memory.update(rows=memory["rows"] * 1e30),
        lambda memory: memory.update(rows=[]),
        lambda memory: memory.update(labels=[True, *memory["labels"][1:]]),
        lambda memory: memory.pop("axes"),
    ],
)
def test_a_memory_that_makes_no_sense_is_refused(run, flowers, checkpoint, tmp_path, change):
    contents = read(checkpoint)
    change(contents["memory"])
    write_atomically(tmp_path / "odd.pth", contents)
    outcome = run(predict, next((flowers / "test").rglob("*.jpg")), tmp_path / "odd.pth")
    assert outcome.code == 2
    assert "odd.pth is damaged or was changed by hand" in outcome.err


def test_csv_still_has_rows_of_classes_alone(run, flowers, checkpoint):
    table = run(predict, next((flowers / "test").rglob("*.jpg")), checkpoint, "--format", "csv").out.lstrip("\ufeff")
    columns = {"path", "rank", "class", "name", "probability", "known", "p_known"}
    assert next(csv.DictReader(io.StringIO(table))).keys() == columns
