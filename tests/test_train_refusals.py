"""What train.py refuses or goes on without, and what it says of it."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support import QUICK, TINY, read, run_program, same

import train


def test_a_mistake_leaves_no_folders_behind(run, tmp_path):
    assert run(train, tmp_path / "nowhere", "--save_dir", tmp_path / "made" / "by" / "typo").code == 2
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said_with_what_to_lower(run, flowers, tmp_path):
    outcome = run(train, flowers, *TINY, "--hidden_units", 1, 10**6, 10**6, "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (1, "")
    assert "out of memory: take a smaller --arch (in training also: lower --batch_size" in outcome.err


def test_an_unknown_architecture_is_refused_before_the_folder_is_looked_at(run, tmp_path):
    outcome = run(train, tmp_path / "nowhere", "--arch", "vgg61", "--gpu", "--save_dir", tmp_path)
    assert outcome.code == 2
    assert outcome.err.startswith(f"{Path(sys.argv[0]).name}: --arch 'vgg61': there is no such architecture")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--epochs", 0), "--epochs must be from 1 to 100,000, not 0"),
        (("--seed", "9" * 400), "--seed must be at least 0 and below 2^63, not 9"),
        (("--views", 10**7), "--views must be from 1 to 1,000,000"),
        (("--dropout", 1), "--dropout must be"),
        (("--dropout", "nan"), "--dropout must be"),
        (("--learning_rate", -1), "--learning_rate must be above 0"),
        (("--learning_rate", 1e9), "--learning_rate must be above 0"),
        (("--lr", "inf"), "--learning_rate must be above 0"),
        (("--batch_size", 0), "--batch_size must be"),
        (("--views", 0), "--views must be"),
        (("--seed", -1), "--seed must be"),
        (("--valid_split", 1.5), "--valid_split must be"),
        (("--image_size", 4), "--image_size must be"),
        (("--image_size", 0), "--image_size must be"),
        (("--image_size", 64), "--image_size is for cnn and timm's models; "),
        (("--hidden_units", "0,-3"), "--hidden_units must be"),
        (("--hidden_units", "many"), "'many' should be numbers"),
        (("--arch", "vgg61"), "did you mean"),
        (("--weights", "IMAGENET21K"), "IMAGENET1K_V1"),
        (("--arch", "cnn", "--weights", "DEFAULT"), "cnn is trained from scratch"),
        (("--category_names", "nowhere.json"), "--category_names cannot read nowhere.json"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_flag(run, flowers, tmp_path, options, said):
    outcome = run(train, flowers, "--save_dir", tmp_path, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 2


def test_a_save_dir_that_cannot_be_written_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "file").touch()
    outcome = run(train, tmp_path / "no data either", "--save_dir", tmp_path / "file" / "out")
    assert outcome.code == 2
    assert re.search(r"--save_dir .* cannot be written to", outcome.err)


def test_every_bad_photo_of_every_split_is_listed_before_the_first_epoch(run, flowers, tmp_path):
    broken = shutil.copytree(flowers, tmp_path / "flowers")
    for split, number in (("train", 4), ("valid", 1), ("test", 2)):
        for i, photo in enumerate(sorted((broken / split).glob("*/*"))[:: 18 // number][:number]):
            photo.write_bytes(photo.read_bytes()[: 400 if i % 2 else 0])
    outcome = run(train, broken, *TINY, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    listing = tmp_path / "out" / "run" / "bad_photos.txt"
    assert (
        f"7 photos cannot be used; repair or remove them, or add --skip_bad (all are listed in {listing}):"
        in outcome.err
    )
    assert outcome.err.count("cannot open") == 5
    assert f"cannot open {broken}/valid/49/drawn_000.jpg: it is empty" in outcome.err
    assert "and 2 more" in outcome.err
    assert len(listing.read_text().splitlines()) == 7
    assert [path.name for path in listing.parent.iterdir() if path.name != "lock"] == ["bad_photos.txt"]


@pytest.mark.parametrize("cache", [(), ("--no_cache",)])
def test_a_split_of_which_no_photo_can_be_opened_is_named_with_all_the_others(run, flowers, tmp_path, cache):
    broken = shutil.copytree(flowers, tmp_path / "broken")
    for photo in [*(broken / "valid").glob("*/*"), broken / "train" / "54" / "drawn_000.jpg"]:
        photo.write_bytes(b"")
    outcome = run(train, broken, *TINY, *cache, "--skip_bad", "--bad_limit", 1, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "none of the validation photos can be opened" in outcome.err
    assert len((tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()) == 19


def test_the_limit_ends_a_run_before_all_photos_are_read(run, flowers, tmp_path):
    broken = shutil.copytree(flowers, tmp_path / "broken")
    photos = sorted((broken / "train").glob("*/*"))
    for photo in photos:
        photo.write_bytes(b"")
    outcome = run(train, broken, *TINY, "--skip_bad", "--no_cache", "--save_dir", tmp_path / "out")
    assert outcome.code == 2
    number = int(outcome.err.partition("is exceeded: ")[2].split()[0])
    assert number == 32  # more than half of 48, in micro-batches of eight


@pytest.mark.slow
def test_skip_bad_trains_as_if_the_bad_photos_were_not_there(train_into, run, flowers, tmp_path):
    """Also with the cache, and resumed; rounding may differ, since other photos share their micro-batches."""
    broken = shutil.copytree(flowers, tmp_path / "broken")
    bad = [*sorted((broken / "train").glob("*/*"))[5::17], sorted((broken / "valid").glob("*/*"))[7]]
    for photo in bad:
        photo.write_bytes(b"")
    options = (*TINY, "--epochs", 5, "--views", 3, "--skip_bad", "--cache_dir", tmp_path / "cache")
    first = train_into(tmp_path / "out", broken, *options)
    assert f"going on without {len(bad)} photos" in first.err
    names = [photo.relative_to(broken).as_posix() for photo in bad]
    assert read(tmp_path / "out" / "checkpoint.pth")["training"]["skipped"] == names
    lines = (tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()
    assert [line.startswith(f"cannot open {photo}: it is empty") for line, photo in zip(lines, bad, strict=True)]
    again = train_into(tmp_path / "again", broken, *options[:-2], "--no_cache")
    assert again.out.replace("again", "out") == first.out
    train_into(tmp_path / "parts", broken, *TINY, "--epochs", 2, "--views", 3, "--skip_bad")
    train_into(tmp_path / "parts", broken, *options, "--resume")
    assert same(
        read(tmp_path / "parts" / "run" / "last.pth")["average"], read(tmp_path / "out" / "run" / "last.pth")["average"]
    )

    removed = shutil.copytree(broken, tmp_path / "removed")
    for name in names:
        (removed / name).unlink()
    clean = train_into(tmp_path / "clean", removed, *options)
    assert "going on without" not in clean.err
    losses = [
        [float(loss) for loss in re.findall(r"loss (\S+)", outcome.out.split("best")[0])] for outcome in (first, clean)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)

    for photo in (broken / "train" / "54").iterdir():
        photo.write_bytes(b"")
    outcome = run(train, broken, *options, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no training photo can be opened of 54" in outcome.err


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_finished_epochs(train_into, run, flowers, tmp_path):
    deep = (*QUICK, "--hidden_units", *[64] * 12)
    train_into(tmp_path, flowers, *deep, "--epochs", 1)
    kept = {file: read(tmp_path / file) for file in ("checkpoint.pth", "run/last.pth")}
    outcome = run(train, flowers, *deep, "--epochs", 9, "--lr", 1000, "--save_dir", tmp_path, "--resume")
    assert outcome.code == 1
    assert re.search(
        r"the loss is not finite \((nan|inf)\) in epoch 2: lower --learning_rate \(now 1000\)", outcome.err
    )
    assert same({file: read(tmp_path / file) for file in kept}, kept)


def test_without_a_gpu_it_says_so_once_and_goes_on(train_into, flowers, tmp_path):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is a GPU")
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 1, "--gpu", "gpu")
    assert outcome.err.count("no GPU found; using the CPU") == 1


def test_without_weights_or_network_it_says_what_to_fetch(flowers, tmp_path):
    """A real process, whose way to the network ends at a closed port of this machine."""
    nowhere = "http://127.0.0.1:9"
    outcome = run_program(
        "train.py", flowers, "--arch", "resnet18", "--save_dir", tmp_path,
        TORCH_HOME=str(tmp_path), https_proxy=nowhere, HTTPS_PROXY=nowhere, no_proxy="", NO_PROXY="",
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (1, "")
    assert "https://download.pytorch.org/models/resnet18" in outcome.err
    assert f"{tmp_path}/hub/checkpoints" in outcome.err
    assert "architecture cnn" in outcome.err
    assert "Traceback" not in outcome.err
