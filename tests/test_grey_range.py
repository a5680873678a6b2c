"""Grey of more than 8 bits: one range for a data set, kept with the checkpoint; every kind the right way up."""

import json
import re
import shutil
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support import TINY, read, same

import flower_classifier as fc
import predict
import train
from data_utils import load_data
from flower_classifier.export.bundle import readme
from flower_classifier.features.grey_range import find_grey_range
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.splits import Split
from flower_classifier.photos.views import Preprocessing, open_views
from flower_classifier.predicting.exported_predictor import ExportSpec
from model_utils import build_model

LOW, HIGH = 2800, 3300  # what a thermal camera may fill of 65,535
PLAIN = Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")


def squeezed(path):
    """A photo in grey, in the narrow band."""
    grey = np.asarray(load_image(path).convert("L"), float)
    return np.round(LOW + grey * (HIGH - LOW) / 255).astype(np.uint16)


@pytest.fixture(scope="module")
def thermal(flowers, tmp_path_factory):
    """The drawn flowers as PNG of 16 bits, in the narrow band. Tests must not change it."""
    data = tmp_path_factory.mktemp("thermal") / "flowers"
    for path in flowers.glob("*/*/*"):
        copy = (data / path.relative_to(flowers)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squeezed(path)).save(copy)
    return data


@pytest.fixture(scope="module")
def trained(thermal, tmp_path_factory):
    """What a short run on them leaves. Tests must not change it."""
    save_dir = tmp_path_factory.mktemp("thermal_run")
    train.main([str(thermal), "--arch", "cnn", "--epochs", "2", "--no_report", "--save_dir", str(save_dir)])
    return save_dir


def tiff_of(values, photometric=1):
    """An uncompressed little-endian TIFF (TIFF 6.0) of one kind of samples, some of which Pillow cannot write."""
    height, width = values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 8 * values.itemsize), (259, 3, 1), (262, 3, photometric),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


KINDS = {  # dtype -> the lowest and the highest value of a ramp
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint32": (0, 2**32 - 2**24),
    "int32": (0, 2**30),
    "float32": (0.0, 1.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_range_the_lowest_value_is_black_and_the_highest_white(kind):
    """Signed values and those of 32 bits neither wrap nor fill half."""
    values = np.linspace(*KINDS[kind], 256).astype(kind).reshape(16, 16)
    assert np.array_equal(np.asarray(load_image(tiff_of(values)))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_a_tiff_whose_low_values_are_white_is_no_negative(kind):
    lowest, highest = KINDS[kind]
    values = np.linspace(highest, lowest, 256).astype(kind).reshape(16, 16)
    assert np.array_equal(np.asarray(load_image(tiff_of(values, photometric=0)))[..., 0].ravel(), np.arange(256))
    bright_first = np.asarray(load_image(tiff_of(values[::-1, ::-1].copy(), 0), 4))[..., 0]  # made smaller, too
    assert bright_first[0, 0] > bright_first[-1, -1] + 150


@pytest.mark.parametrize(("kind", "photometric"), [*((kind, 1) for kind in KINDS), ("uint16", 0), ("float32", 0)])
def test_by_a_range_every_kind_of_samples_gives_the_levels_of_its_values(kind, photometric):
    """Of a narrow band, whatever else the type can hold; what lies outside becomes black or white."""
    middle, width = (0.5, 1e-3) if kind == "float32" else (KINDS[kind][1] // 2, 1000)
    values = np.linspace(middle - width, middle + width, 4096).reshape(64, 64).astype(kind)
    bright = values.astype(np.float64)
    if photometric == 0:
        bright = -bright if kind == "float32" else 65535 - bright
    grey_range = tuple(map(float, np.percentile(bright, (25, 75))))
    expected = np.clip(255 * (bright - grey_range[0]) / (grey_range[1] - grey_range[0]), 0, 255)
    pixels = np.asarray(load_image(tiff_of(values, photometric), grey_range=grey_range))[..., 0]
    assert np.abs(pixels - expected).max() <= 0.5 + 1e-6
    assert (pixels == 0).sum() > 900 < (pixels == 255).sum()


def test_pixels_that_are_no_numbers_are_black_by_a_range():
    values = np.full((8, 8), 3000, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = np.asarray(load_image(tiff_of(values), grey_range=(2800.0, 3300.0)))[..., 0]
    assert pixels[0, :4].tolist() == [0, 255, 0, 102]


def test_a_view_by_a_range_is_that_of_the_picture_in_8_bits(thermal):
    """Also where blocks of a large picture are averaged first, and in a picture in memory."""
    path = next((thermal / "train" / "54").iterdir())
    values = np.asarray(Image.open(path)).astype(float)
    style = replace(PLAIN, grey_range=(2850.0, 3250.0))
    for size in ((48, 48), (500, 400)):
        large = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size)).astype(np.uint16)
        by_hand = np.round(np.clip((large - 2850.0) * 255 / 400, 0, 255)).astype(np.uint8)
        expected = open_views(np.stack([by_hand] * 3, axis=-1), PLAIN)
        for source in (tiff_of(large), Image.fromarray(large)):
            assert np.array_equal(open_views(source, style), expected)


# --------------------------------------------------------------------------------------------------------- the range


def test_a_run_says_the_range_of_its_training_photos_and_keeps_it(run, thermal, tmp_path):
    """It is that of nearly all pixels, rounded outwards by at most a thirty-second of it; a line says so."""
    outcome = run(train, thermal, "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    low, high = read(tmp_path / "checkpoint.pth")["preprocessing"]["grey_range"]
    photos = list(thermal.glob("train/*/*"))
    pixels = np.concatenate([np.asarray(Image.open(path)).ravel() for path in photos])
    lowest, highest = np.percentile(pixels, (0.1, 99.9))
    slack = (highest - lowest) / 32 + 1
    assert lowest - slack <= low <= lowest + 1
    assert highest - 1 <= high <= highest + slack
    said = f"grey of 16 bits: {low:,.0f} to {high:,.0f} of 65,535 becomes 0 to 255 (from {len(photos)} training photos)"
    assert outcome.err.count(said) == 1


def test_runs_on_photos_of_8_bits_keep_what_they_always_kept(request):
    """No new key in the checkpoint, in the state of a run, or in the name of a table of features."""
    save_dir = request.getfixturevalue("trained_on_features")
    names = {"resize_size", "crop_size", "mean", "std", "interpolation", "resampling"}
    assert set(read(save_dir / "checkpoint.pth")["preprocessing"]) == names
    assert "grey_range" not in read(save_dir / "run" / "last.pth")["identity"]
    assert set(PLAIN.to_plain()) == names
    assert Preprocessing.from_plain(PLAIN.to_plain()) == PLAIN


def test_what_makes_no_sense_as_a_range_is_refused():
    for grey_range in ([3, 3], [4, 3], [0, float("inf")], [float("nan"), 1], [1], ["a", "b"], [True, 3], 5):
        with pytest.raises((ValueError, TypeError)):
            Preprocessing.from_plain({**PLAIN.to_plain(), "grey_range": grey_range})


def test_narrow_photos_are_told_apart_as_those_in_8_bits(trained, thermal, flowers):
    """The pixels that the network sees are those of the photos before they were squeezed, but for the range's ends."""
    style = Checkpoint.load(trained / "checkpoint.pth").preprocessing
    for path in thermal.glob("valid/*/*"):
        (original,) = flowers.glob(f"valid/{path.parent.name}/{path.stem}.*")
        grey = np.asarray(load_image(original).convert("L").convert("RGB"))
        seen, expected = open_views(path, style)[0].astype(float), open_views(grey, style)[0].astype(float)
        assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.995
        assert np.ptp(seen) > 0.9 * np.ptp(expected)


def test_a_resumed_run_sees_photos_as_its_first_epochs_did(run, thermal, tmp_path):
    """Bit for bit. Photos that have got other values meanwhile are other photos."""
    data = shutil.copytree(thermal, tmp_path / "data")
    photo = next((data / "train" / "54").iterdir())
    values = np.asarray(Image.open(photo))
    photo.with_suffix(".tif").write_bytes(tiff_of(values))
    photo.unlink()
    options = ("--arch", "cnn", "--no_report", "--no_cache", "--save_dir")
    run(train, data, "--epochs", 2, *options, tmp_path / "whole")
    run(train, data, "--epochs", 1, *options, tmp_path / "broken")
    assert run(train, data, "--resume", "--epochs", 2, *options, tmp_path / "broken").code == 0
    whole, resumed = (read(tmp_path / name / "checkpoint.pth") for name in ("whole", "broken"))
    assert same(whole["state_dict"], resumed["state_dict"])
    assert whole["preprocessing"] == resumed["preprocessing"]
    photo.with_suffix(".tif").write_bytes(tiff_of(values * np.uint16(15)))  # as many bytes
    outcome = run(train, data, "--resume", "--epochs", 3, *options, tmp_path / "broken")
    assert (outcome.code, f"what is in 1 photo (train/54/{photo.stem}.tif) changed" in outcome.err) == (2, True)
    assert "becomes 0 to 255" in run(train, data, "--epochs", 1, *options, tmp_path / "new").err
    assert read(tmp_path / "new" / "checkpoint.pth")["preprocessing"] != whole["preprocessing"]


def test_features_are_kept_by_the_range_they_were_computed_with(run, thermal, tmp_path):
    """The same photos again cost nothing; a table says which range its rows are of."""
    options = (*TINY, "--epochs", 1, "--save_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    run(train, thermal, *options)
    again = run(train, thermal, *options)
    assert "taken from the cache" in again.err
    assert "reading" not in again.err
    tables = [json.loads(path.read_text()) for path in (tmp_path / "cache").glob("*/*/about.json")]
    expected = read(tmp_path / "out" / "checkpoint.pth")["preprocessing"]
    assert [table["preprocessing"] for table in tables] == [expected] * len(tables)


def test_what_follows_a_checkpoint_follows_its_range(run, trained, thermal, tmp_path):
    """Evaluating prints what training printed, an exported folder's card holds the range, a plot is no black square."""
    checkpoint = Checkpoint.load(trained / "checkpoint.pth")
    results = checkpoint.training["results"]["test"]
    outcome = run(predict, thermal / "test", trained / "checkpoint.pth", "--evaluate", "--report", tmp_path / "report")
    assert f" {results['right']} of {results['photos']} right: " in outcome.out
    model = (trained / "checkpoint.pth").read_bytes()  # whatever it is
    spec = ExportSpec("", checkpoint.classes, checkpoint.preprocessing)
    card = ExportSpec.from_plain(json.loads(spec.to_text()))
    assert card.preprocessing == checkpoint.preprocessing
    assert card.preprocessing.grey_range is not None
    assert b"16 bits" in readme("thermal", spec_like(spec), len(model))
    photo = next((thermal / "test" / "54").iterdir())
    assert fc.load(trained / "checkpoint.pth")(photo) == fc.load(trained / "checkpoint.pth")(Image.open(photo))
    run(predict, photo, trained / "checkpoint.pth", "--plot", tmp_path / "plot.png")
    shown = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    left = shown[:, : shown.shape[1] // 2]  # where the photo is
    assert np.mean((left > 60) & (left < 200)) > 0.1


def spec_like(spec):
    return replace(spec, provenance={"licence_of_weights": "none", "arch": "cnn"})


def test_the_exercises_functions_measure_the_same_range(trained, thermal):
    model = build_model("cnn", load_data(thermal))
    assert model.preprocessing == Checkpoint.load(trained / "checkpoint.pth").preprocessing


@pytest.mark.thorough
def test_the_doctor_sees_narrow_photos_as_the_network_does(run, thermal, tmp_path):
    """By what 16 bits can hold, all of them would be dark."""
    outcome = run(train, thermal, *TINY, "--doctor", "--save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "dark" not in outcome.out
    assert "grey of 16 bits" in outcome.err


def test_photos_in_tar_files_have_the_same_range(run, thermal, tmp_path):
    for name in ("train", "valid"):
        (tmp_path / "data" / name).mkdir(parents=True)
        with tarfile.open(tmp_path / "data" / name / "all.tar", "w") as tar:
            for folder in sorted((thermal / name).iterdir()):
                tar.add(folder, folder.name)
    outcome = run(train, tmp_path / "data", "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    line = re.search("grey of 16 bits: .*", outcome.err)[0]
    folders = run(train, thermal, "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path / "b")
    assert line in folders.err


def test_photos_of_several_kinds_of_grey_have_no_common_range(tmp_path, caplog):
    paths = []
    for i, kind in enumerate(["uint16", "uint16", "float32"]):
        values = np.linspace(0, 1 if kind == "float32" else 5000, 64).astype(kind).reshape(8, 8)
        (tmp_path / f"{i}.tif").write_bytes(tiff_of(values))
        paths.append(f"{i}.tif")
    assert find_grey_range(Split("train", tmp_path, tuple(paths), (0, 0, 1))) is None
    assert "several kinds (grey of 16 bits in 2, floating-point grey of 32 bits in 1)" in caplog.text


def test_a_few_stars_are_no_black_sky(tmp_path):
    """Where nearly all pixels are equal, the range is that of all; where all are, there is none."""
    for stars, expected in ((900, (0.0, 912.0)), (0, None)):
        values = np.zeros((64, 64), np.uint16)
        values[5, 7] = stars
        (tmp_path / "a.tif").write_bytes(tiff_of(values))
        assert find_grey_range(Split("train", tmp_path, ("a.tif",), (0,))) == expected


def test_no_file_is_opened_whose_name_says_8_bits(tmp_path):
    """There is none of these names; a pipe that is called .png would never answer."""
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    Image.new("L", (8, 8), 90).save(tmp_path / "eight.png")
    photos = ("a/1.jpg", "a/2.JPEG", "b/3.webp", "pipe.png", "broken.tif", "eight.png", "missing.png")
    assert find_grey_range(Split("train", tmp_path, photos, (0,) * len(photos))) is None


def test_a_tiff_that_pillow_does_not_read_is_called_one(tmp_path):
    """Two samples of 16 bits a pixel: no damage, and not "no TIFF"."""
    values = np.zeros((4, 4), np.uint16)
    data = tiff_of(values).replace(struct.pack("<HHII", 277, 3, 1, 1), struct.pack("<HHII", 277, 3, 1, 2))
    (tmp_path / "two.tif").write_bytes(data)
    for source in (tmp_path / "two.tif", data):
        with pytest.raises(ImageError, match="it is a kind of TIFF that cannot be read here: save it as PNG"):
            load_image(source)
