"""Labels in a table, or in the photos' names: --labels gives what folders give, and refuses what is not plain."""

import json
import os
import random
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import PROJECT, TINY, read, same

import data_utils
import predict
import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos.label_tables import Labels
from flower_classifier.photos.left_out import leave_out
from flower_classifier.photos.splits import load_labelled, load_splits
from flower_classifier.report.report_files import report_folder

CASES = PROJECT.parent / "shared" / "cases"


@pytest.fixture
def draw(tmp_path):
    """Draw photos, each another: `draw("train/cat.0.png", …)`; return their folder."""
    rng = np.random.default_rng(0)

    def draw_photos(*names):
        for name in names:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path, "png")
        return tmp_path / "photos"

    return draw_photos


@pytest.fixture
def pets(draw):
    """Six photos of two classes in one flat folder."""
    return draw(*(f"{name}.{index}.png" for name in ("cat", "dog") for index in range(3)))


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def by_class(split, classes):
    """The photos of a split by the names of their classes."""
    photos = {}
    for photo, label in zip(split.photos, split.labels, strict=True):
        photos.setdefault(classes[label], []).append(photo)
    return photos


# ---------------------------------------------------------------------------------------- a table says what folders say


def records_of(flowers):
    """Path, label and split of each photo as its folders say, in no order."""
    paths = [path.relative_to(flowers).as_posix() for path in flowers.rglob("*.jpg")]
    random.Random(0).shuffle(paths)
    return [(path, path.split("/")[1], path.split("/")[0]) for path in paths]


def as_csv(rows, header=("path", "label", "split"), delimiter=","):
    return "".join(delimiter.join(cells) + "\r\n" for cells in (header, *rows))


def in_table(folder, rows, header=("path", "label", "split"), delimiter=",", encoding="utf-8", **options):
    """Labels in a CSV of these rows."""
    return Labels(written(folder / "t.csv", as_csv(rows, header, delimiter), encoding), **options)


def in_json(folder, *objects, name="t.json"):
    """Labels in a file with a JSON object in each line."""
    return Labels(written(folder / name, "\n".join(map(json.dumps, objects))))


def plain(flowers, folder):
    return in_table(folder, records_of(flowers))


def absolute(flowers, folder):
    return in_table(folder, [(str(flowers / path), *rest) for path, *rest in records_of(flowers)])


def from_the_table(flowers, folder):
    return in_table(folder, [(os.path.relpath(flowers / path, folder), *rest) for path, *rest in records_of(flowers)])


def without_endings(flowers, folder):
    rows = [(path.removesuffix(".jpg"), *rest) for path, *rest in records_of(flowers)]
    return in_table(folder, rows, ("ImageID", "Class Name", "Set"))


def of_windows(flowers, folder):
    rows = [(path.replace("/", "\\").upper(), *rest) for path, *rest in records_of(flowers)]
    return in_table(folder, rows, delimiter=";", encoding="utf-8-sig")


def of_excel(flowers, folder):
    return in_table(folder, records_of(flowers), delimiter="\t", encoding="utf-16")


def with_a_separator_named(flowers, folder):
    rows = [(label, "a, b", path, split) for path, label, split in records_of(flowers)]
    return Labels(written(folder / "t.csv", "sep=;\r\n" + as_csv(rows, ("class", "notes", "file", "fold"), ";")))


def with_columns_named(flowers, folder):
    rows = [(label, path, split, "0") for path, label, split in records_of(flowers)]
    return in_table(folder, rows, ("a", "b", "c", "label"), columns="path=b,label=A,split=c")


def in_three_tables(flowers, folder):
    tables = []
    for split, column in (("train", "train"), ("valid", "val"), ("test", "testing")):
        rows = [(path, label, column) for path, label, other in records_of(flowers) if other == split]
        tables.append(written(folder / f"{split}.csv", as_csv(rows)))
    return Labels(*tables)


def with_splits_in_the_paths(flowers, folder):
    return in_table(folder, [row[:2] for row in records_of(flowers)], ("name", "label"))


def with_two_columns(flowers, folder):
    """Kaggle's way: `id,breed`."""
    return in_table(folder, [row[:2] for row in records_of(flowers)], ("id", "breed"))


def as_json_with_odd_keys(flowers, folder):
    """Column names as macOS stores letters, and a label of each object in a list of its own."""
    rows = [{"Pfa\u0308d": path, "kind": [label], "split": split} for path, label, split in records_of(flowers)]
    return replace(in_json(folder, rows), columns="path=pf\u00e4d,label=kind")


def with_row_numbers(flowers, folder):
    """pandas' way; the ids are those of no photo."""
    rows = [(f"{index}", f"{index}", *record) for index, record in enumerate(records_of(flowers))]
    return in_table(folder, rows, ("", "id", "image", "category", "split"))


def classes_of(flowers):
    """The classes, in an order of their own."""
    return sorted({label for _, label, _ in records_of(flowers)}, reverse=True)


def with_ones_and_zeros(flowers, folder):
    classes = classes_of(flowers)
    rows = [(path, split, *(str(int(label == name)) for name in classes)) for path, label, split in records_of(flowers)]
    return in_table(folder, rows, ("image_id", "split", *classes))


def as_json_lines(flowers, folder):
    """Hugging Face's metadata.jsonl."""
    names = ("file_name", "label", "split")
    records = (dict(zip(names, record, strict=True)) for record in records_of(flowers))
    return in_json(folder, *records, name="metadata.jsonl")


def as_numbers_in_json(flowers, folder):
    rows = [{"file_name": path, "label": int(label), "split": split} for path, label, split in records_of(flowers)]
    return Labels(written(folder / "t.json", json.dumps(rows, indent=1)))


def as_samples_of_fiftyone(flowers, folder):
    samples = [
        {"filepath": path, "tags": [split], "ground_truth": {"_cls": "Classification", "label": label}}
        for path, label, split in records_of(flowers)
    ]
    return in_json(folder, {"samples": samples})


def as_labels_of_fiftyone(flowers, folder):
    classes = classes_of(flowers)
    labels = {path.removesuffix(".jpg"): classes.index(label) for path, label, _ in records_of(flowers)}
    return in_json(folder, {"classes": classes, "labels": labels})


def as_ultralytics_have_it(flowers, folder):
    classes = classes_of(flowers)
    header = {"type": "dataset", "task": "classify", "class_names": {str(i): name for i, name in enumerate(classes)}}
    rows = [
        {"type": "image", "file": path, "split": split, "annotations": {"classification": [classes.index(label)]}}
        for path, label, split in records_of(flowers)
    ]
    return in_json(folder, header, *rows, name="t.ndjson")


WAYS = (
    *(plain, absolute, from_the_table, without_endings, of_windows, of_excel, with_a_separator_named, with_row_numbers),
    *(with_columns_named, in_three_tables, with_splits_in_the_paths, with_two_columns, with_ones_and_zeros),
    *(as_json_lines, as_json_with_odd_keys, as_numbers_in_json, as_samples_of_fiftyone, as_labels_of_fiftyone),
    as_ultralytics_have_it,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_table_gives_the_photos_classes_and_order_of_folders(flowers, tmp_path, way):
    assert load_splits(flowers, labels=way(flowers, tmp_path)) == load_splits(flowers)


def test_photos_in_deeper_folders_have_the_order_of_folders(draw, tmp_path):
    names = [f"{name}/{rest}.png" for name in ("b", "a") for rest in ("1", "z/1", "z/y/1", "a", "a.b/2", "10", "z.z/3")]
    data = draw(*names)
    table = written(tmp_path / "t.csv", as_csv([(name, name[0]) for name in names], ("path", "label")))
    assert load_splits(data, 0.3, 1, Labels(table)) == load_splits(data, 0.3, 1)


@pytest.mark.usefixtures("precision")
def test_a_run_on_a_table_learns_what_one_on_folders_learns_bit_for_bit(train_into, flowers, tmp_path):
    table = plain(flowers, tmp_path).labels
    options = (*TINY, "--epochs", 2, "--views", 3, "--no_cache")
    from_table = train_into(tmp_path / "table", flowers, *options, "--labels", table)
    from_folders = train_into(tmp_path / "folders", flowers, *options)
    one, other = (read(tmp_path / name / "checkpoint.pth") for name in ("table", "folders"))
    assert same(one, other)
    assert from_table.out.replace(str(tmp_path / "table"), str(tmp_path / "folders")) == from_folders.out
    assert f"{table}: photos by column path, labels by column label, splits by column split" in from_table.err


def test_a_resumed_run_remembers_the_table_and_notices_that_it_changed(run, train_into, flowers, tmp_path, monkeypatch):
    rows = records_of(flowers)
    table = written(tmp_path / "t.csv", as_csv(rows, ("file", "x", "split")))
    options = ("--labels", table.name, "--columns", "path=file,label=x,split=split")
    monkeypatch.chdir(tmp_path)
    train_into(tmp_path / "parts", flowers, *TINY, *options, "--epochs", 1)
    monkeypatch.chdir(flowers)
    train_into(tmp_path / "parts", flowers, "--resume", "--epochs", 2, "--no_report")
    train_into(tmp_path / "whole", flowers, *TINY, "--epochs", 2)
    assert same(*(read(tmp_path / name / "checkpoint.pth")["state_dict"] for name in ("parts", "whole")))
    settings = read(tmp_path / "parts" / "run" / "last.pth")["settings"]
    assert (settings["labels"], settings["valid_labels"], settings["columns"]) == (str(table), None, options[-1])

    def refused(said):
        outcome = run(train, flowers, "--resume", "--epochs", 3, "--save_dir", tmp_path / "parts")
        assert (outcome.code, outcome.out) == (2, "")
        assert said in outcome.err

    index = next(index for index, row in enumerate(rows) if row[2] == "train")
    other = next(row[1] for row in rows if row[1] != rows[index][1])
    rows[index] = (rows[index][0], other, "train")
    written(table, as_csv(rows, ("file", "x", "split")))
    refused("the set of training photos, or their labels")
    table.unlink()
    refused(f"--labels cannot read {table}")


# ---------------------------------------------------------------------------------------------- layouts of flat folders


def test_kaggles_flat_folders_are_told_apart_though_their_photos_have_the_same_names(draw, tmp_path, capsys, speaking):
    """Also where the training photo of a row is missing: that of the test folder is never taken for it."""
    data = draw(*(f"{split}/{index}.png" for split in ("train", "test") for index in range(8)))
    (data / "train" / "5.png").unlink()
    table = written(data / "train.csv", "id,label\n" + "".join(f"{index},{'ab'[index % 2]}\n" for index in range(8)))
    splits = load_splits(data, labels=Labels(table))
    photos = {photo for split in splits.parts for photo in split.photos}
    assert photos == {f"train/{index}.png" for index in range(8) if index != 5}
    err = capsys.readouterr().err
    assert f"{table}: photos by column id, labels by column label; photos are in train/" in err
    assert f"{table}: 1 row of no photo in {data}/train left out (5)" in err
    assert f"{data}: 8 photos in no row of {table} left out (test/" in err


def test_each_split_of_a_table_has_its_folder(draw, tmp_path):
    data = draw(*(f"{split}/{index}.png" for split in ("train", "valid", "test") for index in range(4)))
    rows = [(str(index), "ab"[index % 2], split) for split in ("train", "valid", "test") for index in range(4)]
    splits = load_splits(data, labels=in_table(tmp_path, rows, ("id", "label", "split")))
    for split in splits.parts:
        assert sorted(split.photos) == [f"{split.name}/{index}.png" for index in range(4)]
        assert by_class(split, splits.classes)["b"] == [f"{split.name}/1.png", f"{split.name}/3.png"]


def test_a_column_of_splits_divides_photos_of_one_folder_whatever_its_name(draw, tmp_path):
    data = draw(*(f"train/{index}.png" for index in range(8)))
    rows = [(str(index), "ab"[index % 2], ("train", "val")[index // 4]) for index in range(8)]
    splits = load_splits(data, labels=in_table(tmp_path, rows, ("id", "label", "split")))
    assert (len(splits.train), splits.valid.photos) == (4, tuple(f"train/{index}.png" for index in (4, 6, 5, 7)))


def test_a_table_in_a_folder_of_a_split_is_of_that_folder(draw):
    """And one beside them by its name, else it is unclear which photos are to be judged."""
    data = draw(*(f"{split}/{index}.png" for split in ("train", "test") for index in range(4)))
    text = as_csv([(f"{index}.png", "ab"[index % 2]) for index in range(4)], ("file_name", "label"))
    for table in (data / "test" / "metadata.csv", data / "test_labels.csv"):
        photos = load_labelled(data, ("a", "b"), Labels(written(table, text))).photos
        assert sorted(photos) == [f"test/{index}.png" for index in range(4)]
    with pytest.raises(InputError, match=r"0\.png may lie in te.*, tr.*: give one of these folders"):
        load_labelled(data, ("a", "b"), Labels(written(data / "labels.csv", text)))


def test_hugging_faces_folders_with_a_table_each(draw):
    data = draw(*(f"{split}/{index}.png" for split in ("train", "test") for index in range(4)))
    for split in ("train", "test"):
        rows = [(f"{index}.png", "ab"[index % 2]) for index in range(4)]
        written(data / split / "metadata.csv", as_csv(rows, ("file_name", "label")))
    splits = load_splits(
        data, labels=Labels(data / "train" / "metadata.csv", test_labels=data / "test" / "metadata.csv")
    )
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (2, 2, 4)
    assert all(photo.startswith("test/") for photo in splits.test.photos)


def test_photos_of_one_table_may_lie_in_several_folders_where_names_are_unique(draw, tmp_path):
    data = draw(*(f"part_{index % 2}/{index}.png" for index in range(6)))
    table = written(tmp_path / "t.csv", "image_id,dx,age\n" + "".join(f"{i},{'ab'[i // 3]},7\n" for i in range(6)))
    splits = load_splits(data, labels=Labels(table, columns="path=image_id,label=dx"))
    assert sorted(splits.train.photos + splits.valid.photos) == sorted(f"part_{i % 2}/{i}.png" for i in range(6))


def test_two_folders_that_serve_equally_well_are_named(draw, tmp_path):
    data = draw(*(f"{folder}/{index}.png" for folder in ("large", "small") for index in range(4)))
    table = written(tmp_path / "t.csv", "id,label\n" + "".join(f"{index},{'ab'[index % 2]}\n" for index in range(4)))
    with pytest.raises(InputError, match=r"t\.csv: 0 may lie in large/, small/: give one of these folders"):
        load_splits(data, labels=Labels(table))
    assert len(load_splits(data / "small", labels=Labels(table)).train) == 2


@pytest.mark.parametrize(
    "names",
    [
        [f"{name}.{index}.png" for name in ("cat", "dog") for index in range(4)],
        [f"{name}_{index}.png" for name in ("Abyssinian", "great_pyrenees") for index in range(8, 12)],
        [f"{name} ({index}).png" for name in ("red rose", "lily") for index in range(4)],
        [f"boeing_{kind}_{index}.png" for kind in (737, 747) for index in range(4)],
        [f"{index:05d}-{name}.png" for name in ("cat", "dog") for index in range(4)],
        [f"{name}{index}.png" for name in ("cat", "dog") for index in range(4)],
    ],
    ids=lambda names: names[0],
)
def test_labels_in_names_are_those_before_or_behind_the_number(draw, run, names):
    data = draw(*names)
    refused = run(train, data, "--summary")
    assert (refused.code, refused.out) == (2, "")
    assert "add --labels stem, if their names say it (" in refused.err
    splits = load_splits(data, labels=Labels(Path("stem")))
    assert len(splits.classes) == 2
    assert Counter(splits.train.labels) == {0: 3, 1: 3}
    for name, photos in (by_class(splits.train, splits.classes) | by_class(splits.valid, splits.classes)).items():
        assert all(name in photo for photo in photos)


def test_labels_in_names_of_flat_splits(draw, capsys, speaking):
    """The test photos of Kaggle's cats and dogs have numbers alone for names."""
    pets = [f"{name}.{index}.png" for name in ("cat", "dog") for index in range(4)]
    data = draw(
        *(f"train/{name}" for name in pets), *(f"val/{name}" for name in pets[::2]), "test1/0.png", "test1/1.png"
    )
    splits = load_splits(data, labels=Labels(Path("stem")))
    assert [len(split) for split in splits.parts] == [8, 4]
    assert (
        "2 of 2 test photos left out: their names have no label (test1/0.png, test1/1.png)" in capsys.readouterr().err
    )


def test_names_that_no_rule_explains_are_named(run, draw):
    outcome = run(train, draw("cat.0.png", "cat.1.png", "dog.1.png", "dog.png"), "--labels", "stem", "--summary")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--labels stem: no class and number are the names of 1 of 4 training photos (dog.png)" in outcome.err


def test_flat_photos_get_a_hint_that_names_a_table(draw, run, pets):
    """Of several tables the likeliest, and no submission."""
    for name in ("a.csv", "sample_submission.csv", "train_labels.csv"):
        written(pets / name, "id,label\n")
    assert f"; or add --labels {pets}/train_labels.csv, if it says of which class each is" in run(train, pets).err


# ------------------------------------------------------------------------------------------------- odd and wrong tables


def test_labels_are_taken_as_written_but_for_what_cannot_be_seen(draw, tmp_path, capsys, speaking):
    data = draw(*(f"{index}.png" for index in range(10)))
    labels = ["01", "1", "Ro\u0301se ", "R\u00f3se", "n/a", "n/a", " 01\u200b", "1", "x\u00a0", "x"]
    table = written(tmp_path / "t.csv", as_csv([(str(i), label) for i, label in enumerate(labels)], ("id", "label")))
    splits = load_splits(data, labels=Labels(table))
    assert splits.classes == ("01", "1", "R\u00f3se", "n/a", "x")
    assert all(Counter(splits.train.labels + splits.valid.labels)[label] == 2 for label in range(5))
    assert "classes that differ by leading zeros only are kept apart: 01 and 1" in capsys.readouterr().err


def test_what_is_left_out_is_counted_and_said(draw, tmp_path, capsys, speaking):
    data = draw(*(f"{index}.png" for index in range(8)))
    rows = [
        "0,a,train",
        "1,a,train",
        "2,b,train",
        "3,b,train",
        "3,b,train",
        "4,\u200b ,train",
        "5,b,",
        "9,a,train",
        "8,b,test",
    ]
    table = written(tmp_path / "t.csv", "id,label,split\n" + "\n".join(rows))
    splits = load_splits(data, labels=Labels(table))
    assert [len(split) for split in splits.parts] == [2, 2]
    err = capsys.readouterr().err
    assert f"{table}: 2 rows of no photo in {data} left out (9, 8)" in err
    assert f"{table}: 1 photo without a label left out" in err
    assert f"{table}: 1 photo of no split left out (5.png)" in err
    assert f"{table}: 1 row repeats another" in err
    assert f"{data}: 2 photos in no row of {table} left out (6.png, 7.png)" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        ("cat.0.png,cat\ncat.1.png,cat\n", "its first line is to name the columns, such as path,label"),
        ("cat.0,cat\ncat.1,cat\ndog.1,dog\n", "its first line is to name the columns, such as path,label"),
        ("path,label\na.png,cat\n", "nothing in column path is a photo in"),
        ("path,label\nhttps://x.org/cat.0.png,cat\n", "https://x.org/cat.0.png is an address: download the photos"),
        ("path,label\n/elsewhere/cat.0.png,cat\n", r"\(the folder must hold all photos\): /elsewhere"),
        ("title,label\na,cat\n", "has no column of paths: name it, --columns path=.*; it has title, label"),
        ("path,w,h\ncat.0,10,20\n", "has no column of labels by its name: name it"),
        ("path,label,species\ncat.0,1,cat\n", "label, species may all be the labels: name one, --columns label=label"),
        ("path,label\ncat.0,cat\ncat.0,dog\n", r"1 photo with several labels \(cat.0.png: cat, dog\)"),
        ("path,label,split\ncat.0,cat,train\ncat.0,cat,test\n", r"1 photo in several splits \(cat.0.png\)"),
        ("path,label,split\ncat.0,cat,train\ncat.1,cat,extra\n", "line 3: extra in column split is none of train"),
        ("path,label\ncat.0,cat, dog\n", "line 2 has 3 cells, and the first line names 2 columns"),
        ("path,label\ncat.0,\"['cat', 'dog']\"\n", "line 2: .* is no single label"),
        ('path,label\ncat.0,"cat\ndog"\n', "holds a line break or the like"),
        ("path,label\ncat.0,cat\ncat.1,cat\n", "only one class .cat., and at least two classes are needed"),
        ("path,label\ncat.0,cat\ndog.1,dog\n", "no class has two photos"),
        ("path,label\ncat.0,\ndog.1,\n", "labels no photo in"),
        ("path,label,label\ncat.0,a,b\n", "two columns called label"),
        (
            "path,cat,dog\ncat.0,1,0\ndog.0,0,1\ndog.1,1,1\n",
            r"1 row without exactly one 1 \(line 4\): a photo is of one",
        ),
        ("path,label,split\ncat.0,cat,test\ndog.0,dog,test\n", "no training photos, and at least two classes"),
        ('{"path": "cat.0", "label": "cat"}\n{"path": "cat.1", "label": }\n', "line 2 is not JSON"),
        ('{"images": [], "annotations": []}', "holds no rows of photos"),
        ('{"classes": ["cat"], "labels": {"cat.0": 1}}', "label 1 is the number of none of its classes"),
        ('{"type": "dataset", "task": "detect", "class_names": {}}\n{"file": "cat.0"}\n', "task 'detect', and not of"),
        ("PK\x03\x04", "is an Excel workbook: save it as CSV"),
        ("path\0,label", "is no table"),
        ('[{"path": "cat.0\\u0000", "label": "cat"}]', "letters that no text has"),
        ('{"labels": {"cat.0": "cat", "cat.0": "dog"}}', "'cat.0' is given twice"),
        ('path,label,notes\ncat.0,cat,"tall\ndog.0,dog,small\n', "is no table"),
        ('[{"path": "cat.0", "label": "cat"}, 5]', "its rows should be objects"),
        ('{"type": "dataset", "task": "classify", "class_names": {}}\n{"annotations": 5}\n', "is no table"),
        ("foo,label\nx,dog.0\ny,dog.1\n", "has no column of paths"),
    ],
)
def test_a_table_that_is_not_plain_is_refused_in_two_lines(run, pets, tmp_path, text, said):
    table = written(tmp_path / "t.csv", text)
    with pytest.raises(InputError, match=said):
        load_splits(pets, labels=Labels(table))
    outcome = run(train, pets, "--labels", table, "--summary")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1].startswith(f"{Path(sys.argv[0]).name}: ")


CELLS = st.sampled_from(
    ["cat.0", "cat.0.png", "dog.1", "cat", "dog", "", "train", "1", "..", "/", "\\", "\ud800", '"', "🌹"]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | CELLS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                ["path", "label", "labels", "classes", "samples", "type", "class_names", "annotations", "task"]
            ),
            inner,
        )
    ),
)


@given(
    st.one_of(
        st.binary(),
        st.lists(st.lists(CELLS, max_size=4), max_size=6).map(
            lambda rows: "\n".join(",".join(row) for row in [["path", "label", "split"], *rows]).encode(
                "utf-8", "replace"
            )
        ),
        JSON_VALUES.map(lambda value: json.dumps(value).encode()),
        st.lists(JSON_VALUES).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
    )
)
def test_whatever_a_file_holds_it_labels_photos_or_is_refused(pets, tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    try:
        by_split = Labels(tmp_path / "t.csv").by_split(pets, "train")
    except InputError:
        return
    photos = [photo for classes in by_split.values() for group in classes.values() for photo in group]
    assert len(set(photos)) == len(photos) > 0
    assert {*photos} <= {path.name for path in pets.iterdir()}


def test_a_linked_data_folder_is_known_by_its_real_path_too(pets, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(pets)
    rows = [(str(path), path.name[:3]) for path in pets.iterdir()]
    splits = load_splits(link, labels=in_table(tmp_path, rows, ("path", "label")))
    assert splits.classes == ("cat", "dog")


def test_a_name_without_ending_that_two_photos_have_is_refused(draw, tmp_path):
    data = draw("1.png", "1.webp", "2.png", "3.png", "4.png")
    with pytest.raises(InputError, match=r"1 may be 1\.png and 1\.webp: write the photo's whole name"):
        load_splits(data, labels=Labels(written(tmp_path / "t.csv", "id,label\n1,a\n2,a\n3,b\n4,b\n")))
    whole = written(tmp_path / "t.csv", "id,label\n1.webp,a\n2,a\n3,b\n4,b\n")
    splits = load_splits(data, labels=Labels(whole))
    assert "1.webp" in splits.train.photos + splits.valid.photos


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["cat", "cat", "dog", "dog", "cat|dog", "cat|dog"],
            "look like several at once are taken for classes: cat|dog",
        ),
        ([*"aabbccddee", *(f"{index}.5" for index in range(9))], "9 of 14 labels are of one photo alone: are these"),
    ],
)
def test_labels_that_are_hardly_classes_are_pointed_out(draw, tmp_path, capsys, speaking, labels, said):
    data = draw(*(f"{index}.png" for index in range(len(labels))))
    table = written(tmp_path / "t.csv", as_csv([(str(i), label) for i, label in enumerate(labels)], ("id", "label")))
    load_splits(data, labels=Labels(table))
    assert said in capsys.readouterr().err


def test_a_table_in_windows_1252_is_read_and_that_is_said(draw, tmp_path, capsys, speaking):
    data = draw(*(f"Rös'chen {index}.png" for index in range(4)))
    rows = [(f"Rös'chen {index}", "Café" if index % 2 else "Tee") for index in range(4)]
    table = written(tmp_path / "t.csv", as_csv(rows, ("id", "label"), ";"), "cp1252")
    assert load_splits(data, labels=Labels(table)).classes == ("Café", "Tee")
    assert 'is not in UTF-8: read as Windows-1252, as in "Rös\'chen 0;Tee"' in capsys.readouterr().err


def test_numbers_of_folds_are_no_splits(pets, tmp_path, capsys, speaking):
    table = written(
        tmp_path / "t.csv",
        "id,breed,fold\n" + "".join(f"{p.stem},{p.name[:3]},{i}\n" for i, p in enumerate(sorted(pets.iterdir()))),
    )
    assert len(load_splits(pets, labels=Labels(table)).valid) == 2
    assert (
        "column fold is not used, as it holds 0, 1, 2 and 3 more, and not train, valid, test" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--valid_labels", "v.csv"), "--valid_labels is a table beside that of --labels"),
        (("--labels", "stem", "--test_labels", "v.csv"), "--test_labels is a table beside that of --labels"),
        (("--columns", "path=a"), "--columns are those of the table that --labels names"),
        (("--labels", "t.csv", "--columns", "a,b"), "--columns should be such as path=image,label=species,split=set"),
        (("--labels", "t.csv"), "--labels cannot read t.csv: No such file or directory"),
        (("--labels", "."), "--labels . is no file"),
        (("--labels", "inner.csv"), "--labels inner.csv does not exist: did you mean "),
        (("--labels", ""), "the path is empty"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, pets, monkeypatch, options, said):
    written(pets / "inner.csv", "path,label\n")
    monkeypatch.chdir(pets.parent)
    outcome = run(train, pets, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err


def test_columns_that_the_table_lacks_are_named(pets, tmp_path):
    table = written(tmp_path / "t.csv", "a,b\ncat.0,cat\n")
    with pytest.raises(InputError, match=r"columns names x, which .* lacks: it has a, b"):
        load_splits(pets, labels=Labels(table, columns="path=a,label=x"))


# ------------------------------------------------------------------------------------- predict.py, load_data, --without


def test_a_table_is_evaluated_as_folders_are(run, trained, flowers, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.pth"
    table = plain(flowers, tmp_path).labels
    by_table = run(predict, flowers, checkpoint, "--evaluate", "--labels", table)
    assert by_table.code == 0, by_table.err
    assert by_table.out == run(predict, flowers / "test", checkpoint, "--evaluate").out
    assert "has several splits: judging by its 18 test photos" in by_table.err
    facts = json.loads((tmp_path / "run" / "evaluation" / "flowers" / "evaluation.json").read_text())
    assert (facts["photos"], facts["labels"]) == (18, str(table))
    reports = [report_folder(checkpoint, flowers, labels).name for labels in (table, tmp_path / "other.csv", None)]
    assert reports == ["flowers", "flowers-2", "flowers-2"]
    odd = written(tmp_path / "odd.csv", as_csv([(path, "rose") for path, *_ in records_of(flowers)], ("path", "label")))
    outcome = run(predict, flowers, checkpoint, "--evaluate", "--labels", odd)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{odd}: no classes of the checkpoint: rose" in outcome.err
    assert "works only together with --evaluate" in run(predict, flowers, checkpoint, "--labels", odd).err


def test_stems_are_evaluated(pets):
    assert load_labelled(pets, ("cat", "dog"), Labels(Path("stem"))).labels == (0, 0, 0, 1, 1, 1)


def test_load_data_takes_a_table(flowers, tmp_path):
    table = plain(flowers, tmp_path).labels
    assert data_utils.load_data(flowers, labels=str(table)).splits == data_utils.load_data(flowers).splits


def test_without_takes_what_excel_saves_in_europe(train_into, flowers, tmp_path):
    rows = [("train\\54\\drawn_000.jpg", "café"), ("train/54/drawn_001.jpg", "")]
    table = written(tmp_path / "doctor.csv", as_csv(rows, ("path", "finding"), ";"), "cp1252")
    outcome = train_into(tmp_path / "run", flowers, *TINY, "--epochs", 1, "--without", table)
    assert "going on without 2 photos of 84, listed in" in outcome.err
    assert "of no photo" not in outcome.err


def test_without_leaves_out_photos_of_a_table(flowers, tmp_path):
    splits = load_splits(flowers, labels=plain(flowers, tmp_path))
    listed = written(tmp_path / "less.csv", "path\ntrain/54/drawn_000.jpg\n")
    assert len(leave_out(splits, listed).train) == len(splits.train) - 1


@pytest.mark.skipif(not CASES.is_dir(), reason="the photos that users had trouble with are not here")
def test_kaggles_layouts_as_users_have_them(run, tmp_path):
    outcome = run(train, CASES / "kaggle_flat", "--summary")
    assert f"add --labels {CASES / 'kaggle_flat' / 'train.csv'}, if it says" in outcome.err
    for name in ("kaggle_flat", "kaggle_test1"):
        outcome = run(train, CASES / name, "--labels", "stem", "--arch", "cnn", "--summary")
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("2 classes: 10 training, 2 validation photos\n")
