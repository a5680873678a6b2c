"""What a run leaves for people: tables that programs read, pictures that people look at."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import NAMES, read, run_program

import train
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.report.report_files import REPORT_FILES
from flower_classifier.report.run_report import Diagnosis, write_diagnosis

PICTURES = [file.name for file in REPORT_FILES if file.is_picture]


def table(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def keeps_a_margin(path):
    """Say whether a picture shows something, and nothing within six pixels of its edges."""
    ink = (np.asarray(Image.open(path).convert("RGB")) < 250).any(axis=2)  # (H, W)
    return ink.mean() > 0.01 and not any(edge.any() for edge in (ink[:6], ink[-6:], ink[:, :6], ink[:, -6:]))


@pytest.fixture(scope="module")
def reported(flowers, tmp_path_factory):
    """The run folder of a short run, names included."""
    save_dir = tmp_path_factory.mktemp("reported")
    options = ["--arch", "cnn", "--epochs", "4", "--category_names", str(NAMES), "--tensorboard"]
    train.main([str(flowers), *options, "--save_dir", str(save_dir)])
    return save_dir / "run"


def test_the_history_is_a_table_of_the_checkpoints(reported):
    rows = read(reported.parent / "checkpoint.pth")["history"]
    assert [{key: float(value) for key, value in row.items()} for row in table(reported / "history.csv")] == rows


def test_a_run_leaves_the_files_of_the_list(reported):
    beside = {"last.pth", "lock"}  # of the run itself
    files = {file.name for file in REPORT_FILES if file.part != "result"}
    assert {path.name for path in reported.iterdir()} == files | beside


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("charts, pictures, figures", ["torch"]),
        ("formats, report_files, tables, tensorboard_log", ["torch", "matplotlib"]),
    ],
)
def test_what_needs_no_torch_and_no_matplotlib_loads_none(modules, heavy):
    code = (
        f"import sys; from flower_classifier.report import {modules}; print([n for n in {heavy} if n in sys.modules])"
    )
    assert run_program("-c", code).out == "[]\n"


def test_every_class_has_a_row_by_its_name(reported, flowers):
    rows = table(reported / "per_class.csv")
    assert [row["class"] for row in rows] == ["49", "51", "54", "74", "78", "91"]
    assert [row["name"] for row in rows] == ["oxeye daisy", "petunia", "sunflower", "rose", "lotus", "hippeastrum"]
    for row in rows:
        assert int(row["photos"]) == len(list((flowers / "test" / row["class"]).iterdir()))
        missed = int(row["photos"]) - round(float(row["accuracy"]) * int(row["photos"]))
        assert 0 <= int(row["times"]) <= missed
        assert (row["most_frequent_mistake"] == "") == (missed == 0)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_show_something_and_clip_nothing(reported, name):
    assert keeps_a_margin(reported / name)


def test_tensorboard_gets_the_same_numbers_and_pictures(reported):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reported / "tensorboard"))
    events.Reload()
    for key in ("train_loss", "valid_loss", "valid_accuracy"):
        shown = [event.value for event in events.Scalars(key)]
        assert shown == pytest.approx([float(row[key]) for row in table(reported / "history.csv")], rel=1e-6)
    assert {f"{name}.png" for name in events.Tags()["images"]} == set(PICTURES)


def diagnosis(number):
    """Make up an evaluation of `number` classes with long names. The files of its photos do not exist."""
    labels = torch.arange(2 * number) % number
    predicted = torch.where(torch.arange(2 * number) < number, labels, (labels * 7 + 1) % number)
    logits = torch.nn.functional.one_hot(predicted, number).float() * 5
    names = [f"the flower of a rather long name, number {index}, von der Wiese" for index in range(number)]
    classes = [str(index) for index in range(number)]
    return Diagnosis("test", Evaluation(logits, labels), [Path("gone")] * 2 * number, classes, names)


@pytest.mark.parametrize("number", [2, 3, 15, 30, 31, 102])
def test_a_confusion_matrix_has_room_for_any_number_of_classes_and_long_names(tmp_path, number):
    write_diagnosis(tmp_path, diagnosis(number))
    assert Image.open(tmp_path / "confusion_matrix.png").width == 1200
    assert keeps_a_margin(tmp_path / "confusion_matrix.png")


def test_a_mistakes_picture_of_an_earlier_evaluation_does_not_stay(tmp_path):
    (tmp_path / "mistakes.png").write_bytes(b"of an earlier run")
    write_diagnosis(tmp_path, diagnosis(3))
    assert not (tmp_path / "mistakes.png").exists()


def test_a_report_that_cannot_be_written_fails_the_run_but_not_the_checkpoint(run, flowers, tmp_path):
    (tmp_path / "run" / "history.csv").mkdir(parents=True)
    outcome = run(train, flowers, "--arch", "cnn", "--epochs", 1, "--save_dir", tmp_path)
    assert outcome.code == 1
    assert outcome.out.endswith(f"checkpoint: {tmp_path}/checkpoint.pth\n")
    assert f"cannot write {tmp_path}/run/history.csv: Is a directory" in outcome.err
    assert (tmp_path / "checkpoint.pth").exists()
