"""Data folders as people unpack them: what is a split, what a class, and what is neither."""

import os
import re
import shutil
import tarfile
import unicodedata

import numpy as np
import pytest
from PIL import Image
from support import TINY

import predict
import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos.folders import split_of
from flower_classifier.photos.splits import load_labelled, load_splits


@pytest.fixture
def lay_out(tmp_path):
    """Draw photos, each another: `lay_out({"train/cat": 3, "notes.csv": 0})`, folders with so many, and empty files."""
    rng = np.random.default_rng(0)

    def draw(numbers):
        for name, number in numbers.items():
            if "." in name.rpartition("/")[2].lstrip(".") and not number:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).touch()
                continue
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            for index in range(number):
                pixels = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((32, 32)).save(tmp_path / name / f"p{index}.png")
        return tmp_path

    return draw


def sizes(splits):
    """The photos of each class by split: {"train": {"cat": 3}}."""
    return {
        split.name: {name: split.labels.count(label) for label, name in enumerate(splits.classes)}
        for split in splits.parts
    }


# ------------------------------------------------------------------------------------------------------ names of splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "Training", "seg_train", "training_set", "train_images", "trainset")],
        *[(name, "train") for name in ("train1", "TrainData", "images-train", "train 2")],
        *[(name, "valid") for name in ("val", "Validation", "valid_set", "val2017")],
        *[(name, "test") for name in ("test", "test1", "testing_set", "test_images", "Test")],
        *[
            (name, None)
            for name in ("train_station", "bullet train", "testarossa", "valuable", "validity", "roses", "")
        ],
        *[(name, None) for name in ("train_test", "images", "data", "set", "1", "seg_pred")],
    ],
)
def test_names_of_splits_are_told_from_names_of_classes(name, split):
    assert split_of(name) == split


# ------------------------------------------------------------------------------------------------ layouts that are read


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (
            {"training_set/training_set/cats": 4, "training_set/training_set/dogs": 4, "test_set/test_set/cats": 2},
            {"train": {"cats": 3, "dogs": 3}, "valid": {"cats": 1, "dogs": 1}, "test": {"cats": 2, "dogs": 0}},
        ),
        (
            {
                "seg_train/seg_train/sea": 4,
                "seg_train/seg_train/wood": 4,
                "seg_test/seg_test/sea": 2,
                "seg_pred/seg_pred": 3,
            },
            {"train": {"sea": 3, "wood": 3}, "valid": {"sea": 1, "wood": 1}, "test": {"sea": 2, "wood": 0}},
        ),
        (
            {"cat/train": 3, "cat/test": 1, "dog/train": 2, "dog/val": 2, "dog/test": 2},
            {"train": {"cat": 3, "dog": 2}, "valid": {"cat": 0, "dog": 2}, "test": {"cat": 1, "dog": 2}},
        ),
        (
            {"archive/flowers/train/rose": 2, "archive/flowers/train/lily": 2, "archive/flowers/valid/rose": 1},
            {"train": {"lily": 2, "rose": 2}, "valid": {"lily": 0, "rose": 1}},
        ),
        (
            {"train_images/cat": 2, "train_images/dog": 2, "val_images/cat": 1, "val_images/dog": 1},
            {"train": {"cat": 2, "dog": 2}, "valid": {"cat": 1, "dog": 1}},
        ),
        (
            {"train/images/cat": 2, "train/images/dog": 2, "valid/images/dog": 1},
            {"train": {"cat": 2, "dog": 2}, "valid": {"cat": 0, "dog": 1}},
        ),
        (
            {"archive/flowers/rose": 5, "archive/flowers/lily": 5},
            {"train": {"lily": 4, "rose": 4}, "valid": {"lily": 1, "rose": 1}},
        ),
        (
            {"train/flowers/rose": 2, "train/flowers/lily": 2, "valid/flowers/rose": 1, "valid/flowers/lily": 1},
            {"train": {"lily": 2, "rose": 2}, "valid": {"lily": 1, "rose": 1}},
        ),
        (
            {"train/rose": 2, "train/lily": 2, "valid/rose/red": 1, "valid/rose/white": 1},
            {"train": {"lily": 2, "rose": 2}, "valid": {"lily": 0, "rose": 2}},
        ),
        (
            {"cat/train": 3, "cat/val": 1, "dog/train": 2, "dog/val": 2, "annotations": 0},
            {"train": {"cat": 3, "dog": 2}, "valid": {"cat": 1, "dog": 2}},
        ),
        (
            {"train/Part 1": 2, "train/Part 2": 2, "train/Val": 2, "valid/Val": 1, "valid/Part 1": 1},
            {"train": {"Part 1": 2, "Part 2": 2, "Val": 2}, "valid": {"Part 1": 1, "Part 2": 0, "Val": 1}},
        ),
        (
            {"train": 5, "plane": 5, "ship": 5},
            {"train": {"plane": 4, "ship": 4, "train": 4}, "valid": {"plane": 1, "ship": 1, "train": 1}},
        ),
    ],
    ids=[
        *("doubled", "with a prefix", "classes first", "below other folders", "images", "images within"),
        *(
            "one folder",
            "one folder in each split",
            "one class in valid",
            "classes first and annotations",
            "classes named so",
            "a class",
        ),
    ],
)
def test_where_one_reading_makes_sense_it_is_taken(lay_out, numbers, expected):
    assert sizes(load_splits(lay_out(numbers))) == expected


def test_what_is_gone_into_or_left_out_is_said(lay_out, run, tmp_path):
    data = lay_out({"seg_train/seg_train/sea": 4, "seg_train/seg_train/wood": 4, "seg_pred/seg_pred": 3})
    outcome = run(train, data, "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path / "out")
    assert f"{data}/seg_train holds seg_train/ alone: its folders are the classes\n" in outcome.err
    assert f"warning: {data}: 1 folder beside seg_train/ left out: seg_pred/\n" in outcome.err
    assert "2 classes (sea, wood); photos: 6 training, 2 validation; 3 training photos of a class\n" in outcome.err


# --------------------------------------------------------------------------------------------- layouts that are refused


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (
            {"train": 5, "test": 5, "train.csv": 0},
            r"photos in test/ and train/ lie in no class folders.*: add --labels .*/train\.csv, if it says",
        ),
        ({"train": 5, "test1": 5}, "photos in test1/ and train/ lie in no class folders"),
        ({"train": 5, "valid": 5}, "photos in train/ and valid/ lie in no class folders"),
        ({"train_images": 5, "test_images": 5}, "lie in no class folders"),
        ({"train/cat": 3, "train/dog": 3, "valid": 4}, "photos in valid/ lie in no class folders"),
        ({"cat": 3, "dog": 3, "test": 4}, "photos in test/ lie in no class folders"),
        ({"fold1/cat": 3, "fold1/dog": 3, "fold2/cat": 3}, "fold1/, fold2/ are no classes, by their names"),
        ({"fold_0": 3, "fold_1": 3}, "are no classes, by their names"),
        ({"cat/train": 3, "cat/test": 3, "dog": 3}, "cat/ holds train/ for itself, and dog/ does not: divide all"),
        ({"train/train/cat": 3, "train/val/cat": 3}, "train holds train/, val/, no classes by their names"),
        ({"train/part1/cat": 3, "train/part2/cat": 3}, "train holds part1/, part2/, no classes by their names"),
        ({"Ana": 3, "Bo": 3, "Val": 3}, "Val/ lie in no class folders.*if these are classes, put all .* into .*train/"),
        ({"train": 3, "test/cat": 3}, "photos in train/ lie in no class folders"),
        ({"train/train": 3, "test/images": 3}, "photos in test/ and train/ lie in no class folders"),
        (
            {"train/cat": 3, "train/dog": 3, "val/images": 3, "val/labels.csv": 0},
            r"photos in val/ .*: add --labels .*/val/labels\.csv, if it",
        ),
        (
            {"cat/train_1": 3, "cat/train_2": 3, "cat/val": 3, "dog/train": 3, "dog/val": 3},
            "two folders of train photos",
        ),
        ({"train/cat": 3, "seg_train/cat": 3}, "holds both seg_train/ and train/; keep one of them"),
    ],
)
def test_splits_are_never_taken_for_classes(lay_out, run, numbers, said):
    outcome = run(train, lay_out(numbers), "--summary")
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) <= 2
    with pytest.raises(InputError, match=said):
        load_splits(lay_out(numbers))


def test_flat_test_photos_beside_train_are_left_out_and_that_is_said(lay_out, capsys, speaking):
    data = lay_out({"train/cat": 3, "train/dog": 3, "test": 4})
    assert load_splits(data).test is None
    assert (
        f"{data}/test: its photos lie in no class folders, and are left out; predict.py can name"
        in capsys.readouterr().err
    )


def packed(data, names):
    """Pack all folders of a data folder into tar files of these names, and remove them."""
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    for name in names:
        with tarfile.open(data / name, "w") as tar:
            for folder in folders:
                tar.add(folder, folder.name)
    for folder in folders:
        shutil.rmtree(folder)
    return data


def test_tar_files_of_several_splits_are_not_pooled(lay_out):
    data = packed(lay_out({"cat": 3, "dog": 3}), ["flowers-train-000.tar", "flowers-val-000.tar"])
    with pytest.raises(InputError, match=r"tar files of several splits .*: move them into folders train/, valid/"):
        load_splits(data)
    (data / "flowers-val-000.tar").unlink()
    assert load_splits(data).classes == ("cat", "dog")


@pytest.mark.parametrize("above", ["", "flowers/"])
@pytest.mark.parametrize("below", [".", "train"])
def test_a_tar_file_of_a_whole_data_set_is_not_learned_as_splits(lay_out, above, below):
    """Wherever the splits lie in it, and whether it lies in the data folder or in a split's."""
    names = [f"{above}{name}" for name in ("train/cat", "train/dog", "val/cat")]
    data = packed(lay_out(dict.fromkeys(names, 3)), ["all.tar"])
    (data / below).mkdir(exist_ok=True)
    (data / "all.tar").rename(data / below / "all.tar")
    refusal = rf"^{data / below}/all\.tar holds train/, val/, which are splits and no classes: unpack it$"
    with pytest.raises(InputError, match=refusal):
        load_splits(data)
    with pytest.raises(InputError, match=refusal):
        load_labelled(data / below / "all.tar", ("cat", "dog"))


def test_class_folders_may_lie_beside_the_tar_file_that_they_were_unpacked_from(lay_out):
    data = packed(lay_out({"train/cat": 3, "train/dog": 3, "val/cat": 3}), ["all.tar"])
    with tarfile.open(data / "all.tar") as tar:
        tar.extractall(data, filter="data")
    shutil.copy(data / "all.tar", data / "train" / "all.tar")
    assert len(load_splits(data).train) == 6


def test_a_folder_of_splits_is_not_evaluated_as_one(lay_out):
    data = lay_out({"cat/train": 3, "cat/test": 3, "dog/train": 3, "dog/test": 2})
    with pytest.raises(InputError, match="holds several splits"):
        load_labelled(data, ("cat", "dog"))


# --------------------------------------------------------------------------------------- what this program wrote itself


def test_a_second_run_in_the_folder_of_photos_learns_nothing_of_the_first(lay_out, run, monkeypatch, tmp_path):
    """Also --resume, the doctor, plots and reports leave the classes as they were."""
    data = lay_out({"cat": 6, "dog": 6})
    monkeypatch.chdir(data)
    options = [".", "--arch", "cnn", "--epochs", 1]
    first = run(train, *options)
    run(train, ".", *TINY[:-1], "--doctor")
    run(predict, "cat", "checkpoint.pth", "--plot", "plots")
    run(predict, ".", "checkpoint.pth", "--evaluate", "--report", "evaluated")
    second = run(train, *options, "--no_report")
    resumed = run(train, ".", "--resume", "--epochs", 2, "--no_report")
    assert [outcome.code for outcome in (first, second, resumed)] == [0, 0, 0]
    for outcome in (first, second, resumed):
        assert "2 classes (cat, dog); photos: 10 training, 2 validation" in outcome.err
    assert "left out what this program wrote: " in second.err
    assert "run/" in second.err


def test_a_class_is_not_taken_for_what_this_program_wrote(lay_out):
    """Tools that convert photos name them so, and people keep other files beside theirs."""
    data = lay_out({"train/rose": 3, "train/oak": 3, "train/lily": 3, "train/checkpoint.pth": 0})
    (data / "train" / "oak" / "evaluation.json").touch()
    for photo in (data / "train" / "oak").glob("*.png"):
        photo.rename(photo.with_suffix(".jpg"))
    assert load_splits(data).classes == ("lily", "oak", "rose")


def test_a_folder_that_looks_like_plots_is_named(lay_out, capsys, speaking):
    data = lay_out({"train/rose": 3, "train/oak": 3, "train/lily": 3})
    for photo in (data / "train" / "oak").glob("*.png"):
        photo.rename(photo.with_suffix(".jpg.png"))
    load_splits(data)
    assert f"{data}/train: left out what this program wrote: oak/" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- files that are no photos


def test_files_that_are_not_read_are_counted_by_their_endings(lay_out, capsys, speaking):
    data = lay_out({"cat": 3, "dog": 3, "cat/a.raw": 0, "cat/b.RAW": 0, "dog/list.xlsx": 0, "dog/Thumbs.db": 0})
    load_splits(data)
    assert f"{data}: left out 3 files that cannot be read here: .raw 1, .RAW 1, .xlsx 1\n" in capsys.readouterr().err


def test_links_to_nothing_are_named(lay_out, capsys, speaking):
    data = lay_out({"cat": 3, "dog": 3})
    (data / "dog" / "gone.png").symlink_to(data / "nowhere.png")
    load_splits(data)
    assert f"{data}: left out 1 link to files that do not exist: dog/gone.png\n" in capsys.readouterr().err


def test_a_hidden_folder_with_photos_is_named_and_other_programs_litter_is_not(lay_out, capsys, speaking):
    data = lay_out({".net": 3, "c++": 3, "java": 3, ".thumbnails": 3})
    assert load_splits(data).classes == ("c++", "java")
    assert f"{data}: hidden folders left out: .net, as their names begin with a dot" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["p9", "p9.jpg_large", "p9.jpg.bak", "p9.jpg%3Fw=600", "p9.JPEG", "p9.jfif", "P9.PNG"])
def test_photos_are_known_by_their_content(lay_out, name):
    data = lay_out({"cat": 3, "dog": 3})
    Image.new("RGB", (8, 8), "red").save(data / "cat" / "p9.jpg", "PNG" if name == "P9.PNG" else "JPEG")
    (data / "cat" / "p9.jpg").rename(data / "cat" / name)
    splits = load_splits(data)
    assert f"cat/{name}" in splits.train.photos + splits.valid.photos


@pytest.mark.parametrize("name", ["p9.CR2", "p9.jpg_original", "p9.jpg.crdownload", "p9.txt", "notes"])
def test_other_files_are_not_taken_for_photos(lay_out, name):
    data = lay_out({"cat": 3, "dog": 3})
    Image.new("RGB", (8, 8), "red").save(data / "cat" / "p9.jpg")
    (data / "cat" / "p9.jpg").rename(data / "cat" / name)
    if name == "notes":
        (data / "cat" / name).write_text("Buy food.")
    splits = load_splits(data)
    assert len(splits.train) + len(splits.valid) == 6


def test_many_classes_of_photos_without_endings_are_taken(lay_out):
    data = lay_out({f"class {index}": 2 for index in range(25)})
    for photo in data.glob("*/*"):
        photo.rename(photo.with_suffix(""))
    os.mkfifo(data / "class 3" / "pipe")  # which is not waited for
    assert len(load_splits(data).classes) == 25


@pytest.mark.parametrize("ending", ["ppm", "pgm"])
def test_photos_of_old_tools_are_read(lay_out, run, tmp_path, ending):
    data = lay_out({"cat": 3, "dog": 3, "bird": 0})
    for index in range(4):
        picture = Image.new("RGB" if ending == "ppm" else "L", (16, 16), index * 20)
        picture.save(data / "bird" / f"{index}.{ending}")
    outcome = run(train, data, "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path / "out")
    assert "3 classes (bird, cat, dog)" in outcome.err
    assert run(predict, data / "bird" / f"0.{ending}", tmp_path / "out" / "checkpoint.pth").code == 0


# ----------------------------------------------------------------------------------------------------- names of classes


def test_the_same_name_in_other_characters_is_the_same_class(lay_out, run, tmp_path):
    """macOS stores "ä" as two characters; names from web pages end in blanks, visible or not."""
    composed, decomposed = (unicodedata.normalize(form, "Gänseblume") for form in ("NFC", "NFD"))
    names = {f"train/{composed}": 5, "train/Rose": 5, f"valid/{decomposed}": 2, "valid/Rose \u200b": 2}
    data = lay_out(names)
    assert sizes(load_splits(data)) == {"train": {composed: 5, "Rose": 5}, "valid": {composed: 2, "Rose": 2}}
    (tmp_path / "names.json").write_text(f'{{"{decomposed}": "daisy", "Rose": "rose"}}', encoding="utf-8")
    (tmp_path / "without.csv").write_text(f"path\ntrain/{decomposed}/p0.png\n", encoding="utf-8")
    options = ["--category_names", tmp_path / "names.json", "--without", tmp_path / "without.csv"]
    outcome = run(train, data, *TINY, "--epochs", 1, *options, "--save_dir", tmp_path / "out")
    assert "2 classes (daisy, rose)" in outcome.err or "2 classes (rose, daisy)" in outcome.err
    assert "going on without 1 photo of 14" in outcome.err
    assert "warning: " not in outcome.err.replace("warning: random weights", "")
    judged = run(predict, data / "valid", tmp_path / "out" / "checkpoint.pth", "--evaluate")
    assert judged.code == 0
    assert "4 validation photos" in judged.out


def test_two_folders_whose_names_look_the_same_are_refused(lay_out):
    names = [unicodedata.normalize(form, "Gänseblume") for form in ("NFC", "NFD")]
    data = lay_out({names[0]: 3, names[1]: 3, "Rose": 3})
    with pytest.raises(InputError, match=f"two folders whose names look like {names[0]}"):
        load_splits(data)


@pytest.mark.parametrize("name", ["\U0001f468\u200d\U0001f33e", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"])
def test_joiners_within_a_name_are_spelling(lay_out, name):
    other = name.replace("\u200d", "").replace("\u200c", "")
    assert set(load_splits(lay_out({name: 3, other: 3})).classes) == {name, other}


def test_a_class_in_another_case_than_in_train_gets_a_hint(lay_out):
    data = lay_out({"train/Rose": 3, "train/Tulip": 3, "valid/rose": 2, "valid/tulip ": 2})
    with pytest.raises(InputError, match="without training photos: rose, tulip; rename them as there: Rose, Tulip"):
        load_splits(data)


def test_letters_that_no_font_has_spill_no_warnings(lay_out, run, tmp_path):
    data = lay_out({"玫瑰 \U0001f339": 8, "कमल": 8, "バラ": 8})
    outcome = run(train, data, "--arch", "cnn", "--epochs", 1, "--save_dir", tmp_path / "out")
    assert outcome.code == 0
    assert "Glyph" not in outcome.err
    assert "Warning" not in outcome.err
    plotted = run(predict, data / "कमल", tmp_path / "out" / "checkpoint.pth", "--plot", tmp_path / "plots")
    assert (plotted.code, "Glyph" in plotted.err) == (0, False)


def test_the_training_folder_alone_is_taken_with_a_word_on_the_validation_photos_beside_it(flowers, caplog):
    splits = load_splits(flowers / "train")
    assert (len(splits.train), len(splits.valid)) != (48, 18)
    said = f"{flowers / 'valid'} lies beside {flowers / 'train'}, and is not used: give {flowers} to use it"
    assert said in caplog.messages
    caplog.clear()
    load_splits(flowers)
    assert "lies beside" not in caplog.text


def test_a_zip_file_is_refused_with_the_command_that_unpacks_it(tmp_path):
    archive = tmp_path / "flower_data.zip"
    archive.write_bytes(b"PK")
    how = f"python -m zipfile -e {archive} {tmp_path / 'flower_data'}"
    with pytest.raises(InputError, match=re.escape(f"{archive} is a zip file: unpack it by `{how}`, and give that")):
        load_splits(archive)


@pytest.mark.parametrize("groups", ["none", None])
def test_test_photos_are_held_out_of_one_folder_beside_the_same_validation_photos(flowers, groups, caplog):
    """A share of each class, no photo in two splits, and what validates is as without it."""
    flat = flowers / "train"
    splits = load_splits(flat, 0.25, groups=groups, test_split=0.25)
    assert f"no test folder in {flat}: held out 12 training photos (25%" in caplog.text
    alone = load_splits(flat, 0.25, groups=groups)
    assert splits.valid.photos == alone.valid.photos
    assert set(splits.train.photos) | set(splits.test.photos) == set(alone.train.photos)
    photos = [photo for split in splits.parts for photo in split.photos]
    assert len(set(photos)) == len(photos) == 48
    assert [splits.test.labels.count(label) for label in range(6)] == [2] * 6
    assert load_splits(flat, 0.25, groups=groups, test_split=0.25) == splits
    assert alone.test is None
