"""--augment: how the views of a training photo differ, and what is said where a mirror image is of another class."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from support import TINY, TUNABLE, read

import train
from flower_classifier.config.allowed import AUGMENTS
from flower_classifier.features.batches import read_augmented
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.views import FIXED_VIEWS, Augmentation, Preprocessing, open_views

SMALL = Preprocessing(36, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")


def ramp():
    """A picture that is redder to the right and greener downwards."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(80) * 3, np.arange(60)[:, None] * 4
    return Image.fromarray(pixels)


def orientation_of(view):
    """Say which way red and green grow in a view (S, S, 3): one of eight orientations."""
    red, green = (view[..., channel].astype(float) for channel in (0, 1))
    is_turned = bool(np.ptp(red.mean(axis=1)) > np.ptp(red.mean(axis=0)))
    across = red.mean(axis=int(is_turned)), green.mean(axis=int(not is_turned))
    return is_turned, *(bool(values[-1] > values[0]) for values in across)


def orientations(kind, views):
    """The orientations that occur in some views of a picture, each with its count."""
    seen = [orientation_of(view) for view in open_views(ramp(), SMALL, views, Augmentation(kind), "a.jpg")]
    return {way: seen.count(way) for way in seen}


UPRIGHT, MIRRORED = (False, True, True), (False, False, True)


def test_the_options_are_the_kinds_that_there_are():
    assert tuple(FIXED_VIEWS) == AUGMENTS


def test_turned_views_are_what_numpy_turns_and_crops_come_in_all_eight_orientations():
    plain, *turned = open_views(ramp(), SMALL, range(4), Augmentation("turns"))
    for quarters, view in enumerate(turned, start=1):
        assert np.array_equal(view, np.rot90(plain, quarters))
    counts = orientations("turns", range(4, 164))
    assert len(counts) == 8
    assert min(counts.values()) > 5


def test_crops_are_never_mirrored_and_mirror_makes_half_of_them_so():
    assert set(orientations("crops", range(1, 60))) == {UPRIGHT}
    counts = orientations("mirror", range(2, 102))
    assert set(counts) == {UPRIGHT, MIRRORED}
    assert min(counts.values()) > 30
    with pytest.raises(ValueError, match="view 0 alone"):
        open_views(ramp(), SMALL, [1], Augmentation("none"))


@pytest.mark.parametrize("kind", AUGMENTS)
def test_fine_tuning_augments_in_the_same_way(kind, flowers):
    """Without augmentation even the colours stay."""
    splits = load_splits(flowers)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", ())
    inputs = Inputs(FrozenBackbone(classifier, torch.device("cpu")), splits.train, Augmentation(kind))
    inputs.open_photo = lambda index, views: open_views(ramp(), SMALL, views, Augmentation(kind), str(index))
    seen = read_augmented(inputs, range(48), epoch=1).permute(0, 2, 3, 1).numpy()
    ways = {orientation_of(view) for view in seen}
    expected = {"none": {UPRIGHT}, "crops": {UPRIGHT}, "mirror": {UPRIGHT, MIRRORED}}
    assert ways == expected[kind] if kind in expected else len(ways) == 8
    plain = open_views(ramp(), SMALL)[0]
    assert all(np.array_equal(view, plain) for view in seen) == (kind == "none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "none", "--views", 3], "--views above 1 cannot be used together with --augment none"),
        (["--augment", "crops", "--mirror"], "--mirror goes with --augment mirror alone"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run, flowers, tmp_path, options, message):
    outcome = run(train, flowers, "--save_dir", tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


def test_kinds_share_the_plain_view_in_the_cache_and_nothing_else(run, train_into, flowers, tmp_path):
    """What comes out of a shared cache is what comes out of none."""
    options = (*TINY, "--epochs", 3, "--views", 3)
    for kind in ("mirror", "crops", "turns"):
        shared = run(
            train,
            flowers,
            *options,
            "--save_dir",
            tmp_path / kind,
            "--augment",
            kind,
            "--cache_dir",
            tmp_path / "cache",
        )
        reused = [line for line in shared.err.splitlines() if line.startswith("training") and "from the cache" in line]
        assert [line.split(":")[0] for line in reused] == ([] if kind == "mirror" else ["training photos, view 0"])
        train_into(tmp_path / f"{kind}_alone", flowers, *options, "--augment", kind, "--no_cache")
        saved = [read(tmp_path / name / "checkpoint.pth") for name in (kind, f"{kind}_alone")]
        assert saved[0]["training"]["augment"] == kind
        for name, tensor in saved[0]["state_dict"].items():
            assert torch.equal(tensor, saved[1]["state_dict"][name])


@pytest.mark.thorough
def test_a_resumed_run_keeps_the_kind(train_into, flowers, tmp_path):
    for kind, views in (("crops", 3), ("none", 1)):
        options = (*TINY, "--augment", kind, *(("--views", views) if kind == "crops" else ()))
        train_into(tmp_path / f"{kind}_whole", flowers, *options, "--epochs", 4)
        train_into(tmp_path / kind, flowers, *options, "--epochs", 2)
        train_into(tmp_path / kind, flowers, "--resume", "--no_report", "--epochs", 4)
        whole, resumed = (read(tmp_path / name / "run" / "last.pth") for name in (f"{kind}_whole", kind))
        assert resumed["training"]["augment"] == kind
        assert resumed["training"]["views"] == views
        assert [row["train_loss"] for row in whole["history"]] == [row["train_loss"] for row in resumed["history"]]


def test_a_run_without_augmentation_that_is_resumed_with_one_has_several_views_again(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *TINY, "--augment", "none", "--epochs", 1)
    outcome = train_into(tmp_path, flowers, "--resume", "--augment", "turns", "--epochs", 2, "--no_report")
    assert "--views was 1, now 4 from epoch 2 on" in outcome.err
    assert "reading 48 training photos, view 1" in outcome.err
    assert read(tmp_path / "run" / "last.pth")["training"]["views"] == 4


def test_fine_tuning_goes_on_without_augmentation_where_that_is_asked_for(train_into, flowers, tmp_path):
    options = ("--hidden_units", 0, "--epochs", 2, "--fine_tune", 1)
    train_into(tmp_path, flowers, *TUNABLE, *options)
    outcome = train_into(tmp_path, flowers, "--resume", "--augment", "none", "--fine_tune", 2, "--no_report")
    assert "--augment was mirror, now none from epoch 4 on" in outcome.err
    assert len(read(tmp_path / "run" / "last.pth")["history"]) == 4


@pytest.fixture(scope="module")
def arrows(tmp_path_factory):
    """Arrows that point left, and their mirror images, which point right."""
    folder, rng = tmp_path_factory.mktemp("arrows"), np.random.default_rng(0)
    for split, count in (("train", 30), ("valid", 15)):
        for label in ("left", "right"):
            (folder / split / label).mkdir(parents=True)
        for number in range(count):
            for label in ("left", "right"):
                tip, back, y, height = rng.integers([5, 38, 18, 8], [15, 58, 46, 16])
                picture = Image.new("RGB", (64, 64), tuple(rng.integers(150, 255, 3).tolist()))
                dark = tuple(rng.integers(0, 90, 3).tolist())
                ImageDraw.Draw(picture).polygon([(tip, y), (back, y - height), (back, y + height)], fill=dark)
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if label == "right" else picture
                picture.save(folder / split / label / f"{number}.png")
    return folder


def test_classes_that_are_mirror_images_of_each_other_are_warned_of(run, arrows, flowers, tmp_path, precision):
    """Not where somebody has chosen, and not where mirror images are of the same class."""
    options = (*TINY, "--epochs", 2)
    outcome = run(train, arrows, *options, "--save_dir", tmp_path / "arrows")
    (warning,) = [line for line in outcome.err.splitlines() if "mirror images" in line]
    assert "mirror images of 2 classes" in warning
    assert "left like right, right like left" in warning
    assert "--augment crops" in warning
    for name, data, chosen in (("chosen", arrows, ("--augment", "mirror")), ("flowers", flowers, ())):
        outcome = run(train, data, *options, "--save_dir", tmp_path / name, *chosen)
        assert outcome.code == 0
        assert "mirror images" not in outcome.err


def test_a_search_leaves_mirror_images_out_where_validation_photos_are_told_apart_worse_with_them(
    run, arrows, tmp_path
):
    outcome = run(train, arrows, *TINY, "--epochs", 2, "--tune", "--save_dir", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "--augment crops is chosen" in outcome.err
    assert "training shows them" not in outcome.err
    assert read(tmp_path / "out" / "checkpoint.pth")["training"]["augment"] == "crops"


def test_with_answers_by_mirror_images_too_they_stay_and_the_warning_says_what_helps(run, arrows, tmp_path):
    outcome = run(train, arrows, *TINY, "--epochs", 2, "--tune", "--mirror", "--save_dir", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "--augment crops, without --mirror, leaves mirror images out" in outcome.err
    assert read(tmp_path / "out" / "checkpoint.pth")["training"]["augment"] == "mirror"
