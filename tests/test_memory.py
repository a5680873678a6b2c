"""What a checkpoint remembers of the training photos, and --neighbours, which names those most like a photo."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import QUICK, read

import predict
import train
from flower_classifier.networks.memory import MOST_BYTES, balanced_sample, remember, room_for
from flower_classifier.networks.tensor_files import write_atomically

WAYS = {
    "frozen": QUICK,
    "cnn": ("--arch", "cnn", "--no_report"),
    "mirrored": (*QUICK, "--mirror"),
    "fine-tuned": (*QUICK, "--fine_tune", "1"),
}


@pytest.fixture(scope="module", params=WAYS)
def remembering(request, flowers, tmp_path_factory):
    """The checkpoint of a short run."""
    save_dir = tmp_path_factory.mktemp("remembering")
    train.main([str(flowers), *WAYS[request.param], "--epochs", "2", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth"


@pytest.fixture(scope="module")
def checkpoint(flowers, tmp_path_factory):
    save_dir = tmp_path_factory.mktemp("remembers")
    train.main([str(flowers), *QUICK, "--epochs", "1", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth"


# -------------------------------------------------------------------------------------------------------- the memory


@pytest.mark.parametrize(("number", "width"), [(40, 12), (12, 40), (300, 500)])
def test_the_nearest_are_those_with_the_largest_cosine(number, width):
    """All of it is kept where there are no more directions than photos; else nearly all of the differences."""
    rng = np.random.default_rng(number)
    features = torch.from_numpy(rng.normal(1, 1, (number, width)).astype(np.float32))
    memory = remember(features, [0] * number, [f"{index}.jpg" for index in range(number)], "photos")
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    cosines = unit @ unit.T
    for index in range(0, number, 7):
        found = memory.nearest(features[index], 3)
        assert found[0][0] == index
        assert found[0][1] == pytest.approx(1, abs=0.01)
        for other, similarity in found:
            assert similarity == pytest.approx(cosines[index, other], abs=0.02)
            assert cosines[index, other] >= np.sort(cosines[index])[-3] - 0.02


def test_a_photo_that_is_far_off_every_axis_is_like_none():
    """The part that the axes do not show counts as distance."""
    features = torch.zeros(20, 50)
    features[:, :5] = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    memory = remember(features, [0] * 20, [str(index) for index in range(20)], "")
    stranger = torch.zeros(50)
    stranger[40] = 1
    assert abs(memory.nearest(stranger, 1)[0][1]) < 0.05


@pytest.mark.parametrize("width", [512, 2048, 25088])
def test_it_takes_ten_megabytes_at_most(width, tmp_path):
    names = [f"train/a class of some name/image_{index:09d}.jpg" for index in range(30_000)]
    axes, number = room_for(width, names)
    assert 50 < axes <= 256
    memory = remember(torch.rand(300, width), [0] * 300, names[:300], "photos")
    whole = {**memory.to_plain(), "rows": memory.rows.repeat(number // 300 + 1, 1)[:number]}
    torch.save({**whole, "photos": names[:number], "labels": [0] * number}, tmp_path / "memory.pt")
    assert 0.5 * MOST_BYTES < (tmp_path / "memory.pt").stat().st_size < 1.05 * MOST_BYTES


def test_a_sample_has_as_many_of_each_class_as_there_are():
    labels = [0] * 50 + [1] * 3 + [2] * 20
    counts = np.bincount([labels[index] for index in balanced_sample(labels, 30)])
    assert counts.tolist() == [14, 3, 13]
    assert balanced_sample(labels, 1000) == list(range(73))


# ------------------------------------------------------------------------------------------------------- the program


def test_a_training_photo_is_most_like_itself(run, flowers, remembering):
    """So the memory sees photos as a prediction does, whatever has learned."""
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


def test_a_picture_shows_them_also_where_their_files_are_gone(run, flowers, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(flowers, data)
    train.main([str(data), *QUICK, "--epochs", "1", "--save_dir", str(tmp_path)])
    photo = next((flowers / "test").rglob("*.jpg"))
    pictures = {}
    for name, options in (("plain", ()), ("there", ("--neighbours", 4)), ("gone", ("--neighbours", 4))):
        if name == "gone":
            shutil.rmtree(data)
        outcome = run(predict, photo, tmp_path / "checkpoint.pth", "--plot", tmp_path / f"{name}.png", *options)
        assert outcome.code == 0, outcome.err
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    assert pictures["there"].shape == pictures["gone"].shape
    assert pictures["there"].shape[0] > pictures["plain"].shape[0] + 200
    difference = np.abs(pictures["there"] - pictures["gone"]).sum(axis=2) > 30
    assert difference[: pictures["plain"].shape[0] - 100].sum() == 0
    assert difference.mean() > 0.02


def test_without_a_memory_it_is_said(train_into, run, flowers, checkpoint, tmp_path):
    train_into(tmp_path, flowers, *QUICK, "--epochs", 1, "--no_memory")
    train_into(tmp_path, flowers, "--resume", "--no_report", "--epochs", 2)  # which keeps the option
    own = tmp_path / "checkpoint.pth"
    assert read(own)["memory"] is None
    old = {**read(checkpoint), "format_version": 3}
    for key in ("memory", "set_scores", "mirror"):
        del old[key]
    write_atomically(tmp_path / "old.pth", old)
    photo = next((flowers / "test").rglob("*.jpg"))
    for path in (own, tmp_path / "old.pth"):
        assert run(predict, photo, path).code == 0
        outcome = run(predict, photo, path, "--neighbours", 3)
        assert outcome.code == 2
        assert "--neighbours needs training photos that the checkpoint remembers" in outcome.err


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
        lambda memory: memory.update(root=3),
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
    assert next(csv.DictReader(io.StringIO(table))).keys() == {"path", "rank", "class", "name", "probability"}
