"""summary.json, and what tensorboard gets: what programs read of a run."""

import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL
import pytest
import torch
import torchvision
from support import NAMES, PROJECT, TINY, read, run_program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import LIMIT
from warm import WarmPopen

from flower_classifier.report.report_files import REPORT_FILES
from flower_classifier.report.run_log import plain

PICTURES = [file.name for file in REPORT_FILES if file.is_picture and file.part != "tuning"]


def summary_of(save_dir):
    """The summary of a run, which must be JSON as everybody reads it."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((save_dir / "run" / "summary.json").read_text(), parse_constant=refuse)


def points_of(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.slow
@pytest.mark.parametrize("options", [TINY, ("--arch", "cnn")], ids=["no report", "report"])
def test_the_summary_says_all_of_a_run(train_into, flowers, tmp_path, options):
    data = shutil.copytree(flowers, tmp_path / "flowers")
    for photo in ("test/54/drawn_001.jpg", "train/91/drawn_002.jpg"):
        (data / photo).write_text("no photo")
    arguments = ("--epochs", 3, "--skip_bad", "--hidden_units", 16, 8, "--category_names", NAMES)
    out = tmp_path / "out"
    outcome = train_into(out, data, *options, *arguments)
    summary, contents = summary_of(out), read(out / "checkpoint.pth")

    settings = summary.pop("settings")
    assert (settings["data_dir"], settings["save_dir"]) == (str(data), str(out))
    assert (settings["hidden_units"], settings["epochs"], settings["views"]) == ([16, 8], 3, 4)
    assert (settings["no_report"], settings["weights"]) == (options == TINY, "none" if options == TINY else None)

    results, lines = summary.pop("results"), outcome.out.splitlines()
    tested = (
        "{photos} test photos   loss {loss:.4f}   {right} of {photos} right: {accuracy:.0%} ("
        "{accuracy_low:.0f} to {accuracy_high:.0%}; guessing: {guessing:.0%})   top-5 accuracy {top_5_accuracy:.0%}"
    )
    percent = {**results["test"], "accuracy_low": 100 * results["test"]["accuracy_low"]}
    assert tested.format(**percent) in lines
    assert [found["chose_epoch"] for found in results.values()] == [18, 0]
    assert results == contents["training"]["results"]
    assert list(results) == ["valid", "test"]
    best = contents["history"][contents["training"]["epoch"] - 1]
    assert results["valid"]["photos"] == 18
    assert results["valid"]["accuracy"] == best["valid_accuracy"]
    assert {found["temperature"] for found in results.values()} == {contents["temperature"]}

    seconds = summary.pop("seconds")
    assert list(seconds) == ["reading", "computing", "training", "run"]
    assert all(spent > 0 for spent in seconds.values())
    assert seconds["run"] > seconds["training"]

    machine = summary.pop("machine")
    assert (machine["device"], machine["threads"]) == ("cpu", torch.get_num_threads())
    libraries = {"torch": torch, "torchvision": torchvision, "numpy": np, "pillow": PIL}
    version = re.search(r'__version__ = "(.*)"', (PROJECT / "flower_classifier" / "__init__.py").read_text())[1]
    assert summary == {
        "format_version": 1,
        "epochs": 3,
        "best_epoch": contents["training"]["epoch"],
        "versions": {
            "flower_classifier": version,
            "python": platform.python_version(),
            **{name: library.__version__ for name, library in libraries.items()},
        },
        "data": {
            "classes": 6,
            "photos": {"train": 47, "valid": 18, "test": 17},
            "left_out": ["train/91/drawn_002.jpg", "test/54/drawn_001.jpg"],
        },
        "checkpoint": {
            "file": f"{out}/checkpoint.pth",
            "sha256": hashlib.sha256((out / "checkpoint.pth").read_bytes()).hexdigest(),
        },
    }


def test_without_test_photos_the_summary_has_the_validation_result_alone(train_into, flowers, tmp_path):
    outcome = train_into(tmp_path, flowers / "train", *TINY, "--epochs", 1)
    results = summary_of(tmp_path)["results"]
    assert list(results) == ["valid"]
    assert "{photos} validation photos   loss {loss:.4f}   ".format(**results["valid"]) in outcome.out


def test_two_classes_have_no_top_5_accuracy(train_into, flowers, tmp_path):
    for split in ("train", "valid"):
        for name in ("54", "91"):
            shutil.copytree(flowers / split / name, tmp_path / "two" / split / name)
    train_into(tmp_path / "out", tmp_path / "two", *TINY, "--epochs", 1)
    assert "top_5_accuracy" not in summary_of(tmp_path / "out")["results"]["valid"]


def test_a_number_that_is_none_is_null():
    assert plain({"a": [float("nan"), float("inf"), 1.5, None, True], 2: ("b",)}) == {
        "a": [None, None, 1.5, None, True],
        "2": ["b"],
    }


def test_a_run_that_goes_on_has_no_summary_until_it_has_ended(train_into, flowers, tmp_path):
    """A real kill -9 in a resumed run, whose earlier part had ended well."""
    options = (flowers, *TINY, "--views", 1, "--save_dir", tmp_path)
    train_into(tmp_path, *options[:-2], "--epochs", 1)
    assert summary_of(tmp_path)["epochs"] == 1
    kill_after(2, options, "--resume")
    assert not (tmp_path / "run" / "summary.json").exists()
    train_into(tmp_path, *options[:-2], "--epochs", 2, "--resume")
    assert summary_of(tmp_path)["epochs"] == 2


def kill_after(lines, *arguments):
    """Train 100,000 epochs with every epoch's save due, and kill the process after the lines of some."""
    code = (
        "import sys, train\n"
        "from flower_classifier.training import run_folder\n"
        "run_folder.SAVE_EVERY = 0\n"
        "train.main(sys.argv[1:])"
    )
    options = [str(part) for group in arguments for part in (group if isinstance(group, tuple) else (group,))]
    command = [sys.executable, "-c", code, *options, "--epochs", "100000"]
    process = WarmPopen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    for _ in range(lines):
        assert process.stdout.readline().startswith("epoch")
    process.kill()
    process.communicate(timeout=LIMIT)


# -------------------------------------------------------------------------------------------------------- tensorboard


@pytest.mark.slow
def test_tensorboard_gets_the_numbers_pictures_results_and_options(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 3, "--tensorboard")
    events, history = points_of(tmp_path / "run" / "tensorboard"), read(tmp_path / "checkpoint.pth")["history"]
    for key in ("train_loss", "valid_loss", "valid_accuracy"):
        points = [(event.step, event.value) for event in events.Scalars(key)]
        assert points == [(row["epoch"], pytest.approx(row[key], rel=1e-6)) for row in history]
    summary = summary_of(tmp_path)
    assert {f"{name}.png" for name in events.Tags()["images"]} == set(PICTURES)
    for split, results in summary["results"].items():
        for name, value in results.items():
            ((step, found),) = [(event.step, event.value) for event in events.Scalars(f"{split}/{name}")]
            assert (step, found) == (summary["best_epoch"], pytest.approx(value, rel=1e-6))
    options = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in options


@pytest.mark.slow
def test_tensorboard_has_the_points_of_a_killed_run_and_after_resuming_none_twice(train_into, flowers, tmp_path):
    options = (flowers, *TINY[:-1], "--no_memory", "--views", 1, "--tensorboard")
    kill_after(4, options, "--save_dir", tmp_path)
    folder = tmp_path / "run" / "tensorboard"
    killed = [event.step for event in points_of(folder).Scalars("train_loss")]
    assert killed == [*range(1, len(killed) + 1)]
    assert len(killed) >= 3
    reached = read(tmp_path / "run" / "last.pth")["epoch"]
    train_into(tmp_path, *options, "--epochs", reached + 2, "--resume")
    events, history = points_of(folder), read(tmp_path / "run" / "last.pth")["history"]
    for key in ("train_loss", "valid_accuracy"):
        points = [(event.step, event.value) for event in events.Scalars(key)]
        assert points == [(row["epoch"], pytest.approx(row[key], rel=1e-6)) for row in history]
    assert len(history) == reached + 2


def test_tensorboard_is_loaded_by_nobody_who_did_not_ask_for_it(flowers, tmp_path):
    code = "import sys, train; train.main(sys.argv[1:]); print('tensorboard' in sys.modules)"
    outcome = run_program("-c", code, flowers, "--arch", "cnn", "--epochs", 1, "--save_dir", tmp_path)
    assert outcome.out.splitlines()[-1] == "False"
