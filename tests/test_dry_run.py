"""train.py --summary, run whole: what it says is what is there, and it leaves nothing behind."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from support import NAMES, QUICK
from torchvision import models

import train
from flower_classifier.photos import views
from flower_classifier.photos.images import load_image, upright_size
from flower_classifier.photos.views import random_crop
from flower_classifier.studies import dry_run
from flower_classifier.studies.dry_run import duration

TIME = r"[\d,.]+ (?:s|minutes|hours)"
SUMMARY = rf"""6 classes: 48 training, 18 validation, 18 test photos
smallest class  8 photos, as all have
photo sizes     48 x 48 pixels, all of them
bad files       none
backbone        squeezenet1_1 with random weights: ([\d,]+) parameters, frozen; 1,792 features of 224 x 224 pixels
head            1,792 -> 512 -> 6: ([\d,]+) parameters
on              cpu, {torch.get_num_threads()} threads?, (?:bfloat16|float32)
expected        about {TIME} for 20 epochs: {TIME} for 4 passes over 48 photos and 1 over 36, {TIME} for the head
                \(less what the cache holds; loading and the report not counted\)
"""


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def summarise(run, tmp_path, cache_home, monkeypatch):
    """Summarise, and see that neither results, nor features, nor anything beside the photos has been written."""

    monkeypatch.setattr(dry_run, "BUDGET", 0.02)  # how near the expected time comes is not tested

    def summarise_data(data, *options, code=0):
        before = everything_in(data), everything_in(cache_home)
        outcome = run(train, data, "--summary", "--save_dir", tmp_path / "out", *options)
        assert outcome.code == code, outcome.err
        assert not (tmp_path / "out").exists()
        assert (everything_in(data), everything_in(cache_home)) == before
        return outcome

    return summarise_data


@pytest.fixture
def changed(flowers, tmp_path):
    """A copy of the drawn flowers that a test may change."""
    return shutil.copytree(flowers, tmp_path / "flowers")


def facts(outcome):
    """Map what stands in front of each line to what it says; lines that go on are joined."""
    joined = re.sub(r"\n {16}", " | ", outcome.out)
    return {line[:16].strip(): line[16:] for line in joined.splitlines()[1:]}


# ------------------------------------------------------------------------------------------------------------- facts


def test_the_whole_output_of_a_summary(summarise, flowers):
    outcome = summarise(flowers, *QUICK)
    backbone, head = re.fullmatch(SUMMARY, outcome.out).groups()
    plain = models.squeezenet1_1(weights=None).features
    assert int(backbone.replace(",", "")) == sum(parameter.numel() for parameter in plain.parameters())
    assert int(head.replace(",", "")) == (1792 + 1) * 512 + (512 + 1) * 6
    assert "training its head" not in outcome.err
    assert "opening 84 photos" in outcome.err


def test_without_the_pretrained_weights_all_else_is_said_and_then_that_they_are_not_here(
    summarise, flowers, tmp_path, monkeypatch
):
    """Of torchvision's, which cannot be reached: the proxy is a port where nobody listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    outcome = summarise(flowers, "--arch", "squeezenet1_1", code=1)
    assert re.fullmatch(SUMMARY.replace("random weights", "weights that are not here"), outcome.out)
    assert "random weights" not in outcome.err
    trouble, advice = outcome.err.splitlines()[-2:]
    assert "cannot get the pretrained weights (" in trouble
    assert str(tmp_path / "home" / "hub" / "checkpoints") in advice


def test_the_cnn_is_summed_up_too(summarise, flowers):
    options = ("--arch", "cnn", "--epochs", 3, "--hidden_units", 8, 4, "--image_size", 16, "--no_cache")
    said = facts(summarise(flowers, *options))
    weights = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 32 + 64 + 64)
    assert said["backbone"] == (
        f"cnn with random weights: {weights:,} parameters, trained; 4,096 features of 16 x 16 pixels"
    )
    assert said["head"] == f"4,096 -> 8 -> 4 -> 6: {4097 * 8 + 9 * 4 + 5 * 6:,} parameters"
    assert re.fullmatch(
        rf"about {TIME} for 3 epochs: {TIME} for 3 passes over 48 photos and 1 over 36, {TIME} for training "
        r"\| \(loading and the report not counted\)",
        said["expected"],
    )


def test_the_smallest_and_the_largest_class_go_by_the_names_people_use(summarise, changed):
    for photo in sorted((changed / "train" / "54").iterdir())[3:]:
        photo.unlink()
    for photo in sorted((changed / "valid" / "49").iterdir()):
        photo.unlink()
    name = json.loads(NAMES.read_text(encoding="utf-8"))
    outcome = summarise(changed, *QUICK, "--category_names", NAMES)
    assert outcome.out.startswith("6 classes: 43 training, 15 validation, 18 test photos\n")
    assert facts(outcome)["smallest class"] == (f"3 photos ({name['54']}), largest 8 photos ({name['49']} and 4 more)")


def test_photos_held_out_are_counted_as_such(summarise, flowers):
    outcome = summarise(flowers / "train", *QUICK, "--valid_split", 0.25, "--views", 1)
    assert outcome.out.startswith("6 classes: 36 training, 12 validation photos\n")
    assert "1 pass over 36 photos and 1 over 12," in facts(outcome)["expected"]


def test_sizes_are_those_of_the_upright_photos_before_they_are_shrunk(summarise, changed):
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, size in (("a.jpg", (2000, 1500)), ("b.jpg", (30, 20))):
        Image.new("RGB", size).save(changed / "train" / "54" / name, exif=turned)
    assert facts(summarise(changed, *QUICK))["photo sizes"] == "20 x 30 to 1,500 x 2,000 pixels, median 48 x 48"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_the_upright_size_is_that_of_the_photo_as_it_is_opened(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{ending}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert upright_size(path) == load_image(path).size == ((40, 20) if orientation < 5 else (20, 40))


# --------------------------------------------------------------------------------------------------------- bad files


def spoil(data, number):
    photos = sorted(path for path in data.rglob("*.jpg"))[:: 84 // number][:number]
    for photo in photos:
        photo.write_bytes(b"")
    return photos


def test_bad_files_are_listed_and_refused_as_training_would(summarise, changed):
    few, advice = spoil(changed, 2), "repair or remove them, or leave them out (option skip_bad)"
    outcome = summarise(changed, *QUICK, code=2)
    said = facts(outcome)
    listed = [f"{photo}: it is empty" for photo in few]
    assert sorted(said["bad files"].split(" | ")) == sorted(["2 cannot be opened:", *listed])
    assert said["expected"].startswith("about ")
    assert outcome.err.splitlines()[-1].endswith(f"2 photos cannot be used; {advice}")

    spoil(changed, 7)  # one of the two again
    said = facts(summarise(changed, *QUICK, code=2))["bad files"].split(" | ")
    assert (said[0], said[-1]) == ("8 cannot be opened:", "and 3 more")
    assert len(said) == 7


def test_names_of_files_and_classes_forge_no_line(summarise, changed):
    plain = summarise(changed, "--arch", "cnn")
    name = "\x1b[2J\nexpected        no time at all"
    for split in ("train", "valid", "test"):
        (changed / split / "54").rename(changed / split / name)
    for photo in sorted((changed / "train" / name).iterdir())[1:]:
        photo.unlink()
    (changed / "valid" / name / f"{name}.jpg").write_text("no photo")
    outcome = summarise(changed, "--skip_bad", "--arch", "cnn")
    assert "\x1b" not in outcome.out
    assert len(re.findall("^\\w+", outcome.out, re.MULTILINE)) == len(re.findall("^\\w+", plain.out, re.MULTILINE))
    assert outcome.out.count("\\x1b[2J\\nexpected        no time at all") >= 2


def test_with_skip_bad_it_goes_on_where_training_would(summarise, changed):
    spoil(changed, 7)
    said = facts(summarise(changed, *QUICK, "--skip_bad"))
    assert said["bad files"].startswith("7 cannot be opened, and will be left out (option skip_bad): | ")
    trained, held_out = map(int, re.search(r"over (\d+) photos and 1 over (\d+)", said["expected"]).groups())
    assert trained + held_out == 84 - 7

    for photo in (changed / "train" / "54").iterdir():
        photo.write_bytes(b"")
    outcome = summarise(changed, *QUICK, "--skip_bad", code=2)
    assert "no training photo can be opened of 54" in outcome.err
    for photo in (changed / "valid").rglob("*.jpg"):
        photo.write_bytes(b"")
    outcome = summarise(changed, *QUICK, "--skip_bad", code=2)
    assert "bad_limit of 0.5 is exceeded: 18 validation photos of 18 cannot be opened" in outcome.err
    outcome = summarise(changed, *QUICK, "--skip_bad", "--bad_limit", 1, code=2)
    assert "none of the validation photos can be opened" in outcome.err
    assert "expected" not in facts(outcome)


# ------------------------------------------------------------------------------------------------------ expected time


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (0.0, "0.01 s"),
        (0.123, "0.12 s"),
        (25.4, "25 s"),
        (99.4, "99 s"),
        (99.6, "1.7 minutes"),
        (5999, "1.7 hours"),
        (12345678, "3,400 hours"),
    ],
)
def test_a_duration_has_two_digits_and_a_fitting_unit(length, said):
    assert duration(length) == said


def test_every_pass_counts_the_random_crops_among_them(summarise, flowers, monkeypatch):
    """Of four views two are random crops, which are measured where a run would compute them, and only there."""
    cut = []
    monkeypatch.setattr(views, "random_crop", lambda *size: cut.append(size) or random_crop(*size))
    for number in (2, 4):
        assert f" {number} passes over 48 photos" in facts(summarise(flowers, *QUICK, "--views", number))["expected"]
        assert bool(cut) == (number > 2)


def test_a_learning_rate_that_training_cannot_survive_is_no_matter_here(summarise, flowers):
    assert "about" in facts(summarise(flowers, *QUICK, "--lr", 1000, "--hidden_units", *[64] * 12))["expected"]
