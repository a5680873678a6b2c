"""train.py --without, which leaves out the photos that a table lists."""

import os
import shutil
from pathlib import Path

import pytest
from support import TINY, read, same

import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos.left_out import leave_out
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.tables import read_values
from flower_classifier.report.report_files import read_table


def listing(path, *rows, header="path"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.slow
def test_a_run_without_photos_is_one_whose_folder_lacks_them(train_into, flowers, tmp_path):
    photos = ["train/54/drawn_000.jpg", "train/74/drawn_002.jpg", "valid/49/drawn_001.jpg", "test/91/drawn_000.jpg"]
    shutil.copytree(flowers, tmp_path / "less")
    for photo in photos:
        (tmp_path / "less" / photo).unlink()
    table = listing(
        tmp_path / "doctor.csv", *(f"{photo},label" for photo in photos), "54/,alike", header="path,finding"
    )
    listed = train_into(tmp_path / "listed", flowers, *TINY, "--epochs", 2, "--without", table, "--no_cache")
    train_into(tmp_path / "lacking", tmp_path / "less", *TINY, "--epochs", 2, "--no_cache")
    assert "going on without 4 photos of 84, listed in" in listed.err
    for part in ("state_dict", "history", "set_scores", "stranger_scores", "memory"):
        one, other = (read(tmp_path / run / "checkpoint.pth")[part] for run in ("listed", "lacking"))
        assert same(one, other), part
    assert len(list(flowers.rglob("*.jpg"))) == 84  # nothing is moved


def test_a_resumed_run_goes_on_without_them(run, train_into, flowers, tmp_path):
    table = listing(tmp_path / "doctor.csv", "train/54/drawn_000.jpg")
    train_into(tmp_path / "whole", flowers, *TINY, "--epochs", 3, "--without", table)
    train_into(tmp_path / "parts", flowers, *TINY, "--epochs", 2, "--without", table)
    train_into(tmp_path / "parts", flowers, "--epochs", 3, "--resume", "--no_report")
    one, other = (read(tmp_path / name / "checkpoint.pth")["state_dict"] for name in ("whole", "parts"))
    assert same(one, other)
    listing(table, "train/54/drawn_001.jpg")
    outcome = run(train, flowers, "--epochs", 4, "--resume", "--save_dir", tmp_path / "parts")
    assert (outcome.code, "the set of training photos" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "cannot read"),
        (b"title\na.jpg\n", "has no column path"),
        (b"", "has no column path"),
        (b"path\nvalid/54/gone.jpg\nelsewhere\\54\\a.jpg\n", "lists no photo in"),
        (b"path\n\x00\x81\n", "is no table"),
        (
            b"path\n" + b"\n".join(b"train/54/drawn_%03d.jpg" % index for index in range(60)),
            "all training photos of 54",
        ),
    ],
)
def test_a_table_that_does_not_serve_is_refused(run, flowers, tmp_path, contents, said):
    if contents is not None:
        (tmp_path / "t.csv").write_bytes(contents)
    outcome = run(train, flowers, *TINY, "--save_dir", tmp_path / "run", "--without", tmp_path / "t.csv")
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_path_of_no_photo_is_named(train_into, flowers, tmp_path):
    table = listing(tmp_path / "t.csv", "train/54/drawn_000.jpg", "train/54/gone.jpg")
    outcome = train_into(tmp_path / "run", flowers, *TINY, "--epochs", 1, "--without", table)
    assert "1 path of no photo in" in outcome.err
    assert "train/54/gone.jpg" in outcome.err


def test_a_class_that_loses_much_of_its_photos_is_named(flowers, tmp_path, caplog):
    """Of 8 training photos of each species one may go without a word, two not."""
    splits = load_splits(flowers)
    rows = [f"train/54/drawn_{index:03d}.jpg" for index in range(5)]
    rows += ["train/74/drawn_000.jpg", "train/91/drawn_000.jpg", "train/91/drawn_001.jpg"]
    rows += [f"valid/49/drawn_{index:03d}.jpg" for index in range(3)]
    table = listing(tmp_path / "t.csv", *rows)
    left = leave_out(splits, table)
    lost = [len(before) - len(after) for before, after in zip(splits.parts, left.parts, strict=True)]
    assert lost == [8, 3, 0]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"{table} leaves out more than 20% of the training photos of 2 classes: 54 (5 of 8), 91 (2 of 8); are these "
        "wrong?",
        f"{table} leaves no validation photos of 49: an accuracy there says nothing of them",
    ]


@pytest.mark.parametrize("header", ["leave_out", "Leave Out", "leave-out"])
def test_a_column_says_which_of_the_listed_photos_go(flowers, tmp_path, header):
    """One yes is enough, however it is written; what is neither yes nor no is refused."""
    splits = load_splits(flowers)
    photos = [f"test/54/drawn_{index:03d}.jpg" for index in range(3)]
    rows = [f"{photos[0]},no", f"{photos[0]}, Yes", f"{photos[1]},No", f"{photos[1]},", f"{photos[2]},TRUE"]
    left = leave_out(splits, listing(tmp_path / "t.csv", *rows, header=f"path,{header}"))
    assert set(splits.test.photos) - set(left.test.photos) == {photos[0], photos[2]}
    odd = listing(tmp_path / "odd.csv", f"{photos[0]},perhaps", header="path,leave_out")
    with pytest.raises(InputError, match="the column leave_out says perhaps: write yes or no"):
        leave_out(splits, odd)


def test_paths_may_be_written_in_other_ways(flowers, monkeypatch, tmp_path):
    monkeypatch.chdir(flowers.parent)
    root = Path(flowers.name)
    photos = [f"train/54/drawn_{index:03d}.jpg" for index in range(6)]
    written = [
        photos[0],
        f"./{photos[1]}",
        photos[2].replace("/", "\\"),
        str(flowers / photos[3]),
        f"{root}/{photos[4]}",
        f"{flowers}/../{flowers.name}//{photos[5]}",
    ]
    table = listing(tmp_path / "table.csv", *written)
    found = read_values(table, "without", root, [*photos, "train/54/other.jpg"], "there", "leave_out", default="yes")
    assert found == [["yes"]] * 6 + [[]]


@pytest.mark.thorough
def test_a_name_that_is_no_text_is_known_by_what_the_table_has_of_it(train_into, flowers, tmp_path):
    shutil.copytree(flowers, tmp_path / "data")
    odd = os.path.join(os.fsencode(tmp_path / "data" / "train" / "54"), b"\xe9, or not.jpg")  # noqa: PTH118 -- bytes
    shutil.copy(tmp_path / "data" / "train" / "54" / "drawn_000.jpg", odd)
    train_into(tmp_path / "run", tmp_path / "data", *TINY[:-1], "--doctor")
    rows = [row for row in read_table(tmp_path / "run" / "doctor" / "doctor.csv") if row["finding"] == "same_photo"]
    odd_ones = [path for row in rows for path in (row["path"], row["other"]) if "or not" in path]
    assert len(odd_ones) == 1
    quoted = f'"{odd_ones[0]}"'
    outcome = train_into(
        tmp_path / "run", tmp_path / "data", *TINY, "--epochs", 1, "--without", listing(tmp_path / "t.csv", quoted)
    )
    assert "going on without 1 photo of 85" in outcome.err
    assert "of no photo" not in outcome.err
