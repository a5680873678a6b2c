"""What earlier versions wrote is still read: checkpoints of formats 1 and 2, and the state of a run of theirs.

The files are what those versions wrote: their keys are listed here, not taken from the code that reads them.
"""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from support import QUICK, read, same
from torchvision.transforms.v2 import functional as F

import export
import flower_classifier as fc
import predict
from flower_classifier.networks.checkpoint import load_checkpoint
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.photos.views import Preprocessing

OLD_KEYS = (
    "format_version", "arch", "hidden_units", "dropout", "class_to_idx", "category_names", "preprocessing", "training",
    "history", "temperature", "state_dict",
)  # fmt: skip
OLD_PREPROCESSING = ("resize_size", "crop_size", "mean", "std", "interpolation")
OLD_IDENTITY = {
    "--arch": "arch",
    "--weights": "weights",
    "--hidden_units": "hidden_units",
    "--dropout": "dropout",
    "--image_size": "image_size",
    "--seed": "seed",
    "what the backbone's weights hold": "backbone",
    "the list of classes": "classes",
    "the set of training photos (or --valid_split)": "train",
    "the set of validation photos": "valid",
}
OLD_STATE = ("epoch", "history", "best", "average", "optimizer", "training", "category_names")


def as_format(version, path):
    """Rewrite a checkpoint of today as an earlier version wrote it."""
    contents = read(path)
    old = {key: contents[key] for key in OLD_KEYS if not (key == "temperature" and version == 1)}
    old["preprocessing"] = {key: contents["preprocessing"][key] for key in OLD_PREPROCESSING}
    write_atomically(path, {**old, "format_version": version})


@pytest.mark.slow
def test_a_checkpoint_of_an_early_format_is_exported_by_todays_resampling(run, trained, flowers, tmp_path):
    path, photo = tmp_path / "checkpoint.pth", min((flowers / "test").glob("*/*.jpg"))
    shutil.copy(trained / "checkpoint.pth", path)
    as_format(2, path)
    outcome = run(export, path, tmp_path / "app")
    assert outcome.code == 0
    assert "the checkpoint is of an early format" in outcome.err
    assert fc.load(tmp_path / "app").card.preprocessing.resampling == "pillow"
    by_class = {row["class"]: row["probability"] for row in fc.load(path)(photo, top_k=6)}
    for row in fc.load(tmp_path / "app")(photo, top_k=6):
        assert row["probability"] == pytest.approx(by_class[row["class"]], abs=0.02)


def as_state_of_format_2(path):
    """Rewrite last.pth of today as format 2 was."""
    now = read(path)
    identity = {old: now["identity"][new] for old, new in OLD_IDENTITY.items()}
    renamed = {"identity": identity, "best_trained": now["best_learned"], "trainee": now["learner"]}
    write_atomically(path, {**renamed, **{key: now[key] for key in OLD_STATE}})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("kind", "learns"), [("trained", "all"), ("trained_on_features", "head")])
def test_checkpoints_of_earlier_formats_answer_as_they_did(request, run, flowers, tmp_path, version, kind, learns):
    """By torchvision's resampling, and by a forward through the whole network in plain float32."""
    path = tmp_path / "checkpoint.pth"
    path.write_bytes((request.getfixturevalue(kind) / "checkpoint.pth").read_bytes())
    as_format(version, path)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.model.learns, checkpoint.preprocessing.resampling) == (learns, "torchvision")
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    resize, crop = checkpoint.preprocessing.resize_size, checkpoint.preprocessing.crop_size
    pixels = F.center_crop(F.resize(F.pil_to_tensor(Image.open(photo)), [resize], antialias=True), [crop, crop])
    with torch.inference_mode():
        logits = checkpoint.classifier(pixels[None])[0] / checkpoint.temperature
    (record,) = json.loads(run(predict, photo, path, "--format", "json", "--top_k", 6).out)
    found = {row["class"]: row["probability"] for row in record["predictions"]}
    expected = dict(zip(checkpoint.classes, logits.softmax(dim=0).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6 if learns == "all" else 0.02)  # a frozen part may be bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--arch", "cnn"), QUICK], ids=["whole", "head"])
def test_a_run_of_format_2_resumes_bit_for_bit(train_into, flowers, tmp_path, monkeypatch, options):
    """The photos go on being resampled as they were: the undisturbed run sees them so from the start."""
    with monkeypatch.context() as earlier:
        earlier.setattr(Preprocessing.__init__, "__defaults__", ("torchvision",))
        train_into(tmp_path / "whole", flowers, *options, "--epochs", 3)
        train_into(tmp_path / "parts", flowers, *options, "--epochs", 2)
    as_state_of_format_2(tmp_path / "parts" / "run" / "last.pth")
    outcome = train_into(tmp_path / "parts", flowers, *options, "--epochs", 3, "--resume")
    assert re.search("^resuming after epoch 2$", outcome.err, re.MULTILINE)
    assert read(tmp_path / "parts" / "checkpoint.pth")["preprocessing"]["resampling"] == "torchvision"
    for file in ("checkpoint.pth", "run/last.pth"):
        resumed, undisturbed = (
            {**read(tmp_path / run / file), "settings": 0, "digest": 0} for run in ("parts", "whole")
        )
        assert same(resumed, undisturbed)  # but for the options as they were given, which format 2 does not tell
