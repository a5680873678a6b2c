"""Folders as people have them: which photos belong to which split and class."""

import json
import os
import re
import shutil

import pytest
from support import PROJECT
from torchvision.datasets import Flowers102, ImageFolder

import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos import folders
from flower_classifier.photos.category_names import load_category_names
from flower_classifier.photos.splits import load_splits


@pytest.fixture
def folder(tmp_path, flowers):
    """Lay out folders: `folder("train/1", "valid/1")` puts three photos into each, none a copy of another."""
    photos = sorted((flowers / "train" / "54").iterdir())[:3]

    def lay_out(*class_folders):
        for class_folder in class_folders:
            (tmp_path / class_folder).mkdir(parents=True)
            for photo in photos:
                copy = shutil.copy(photo, tmp_path / class_folder)
                with open(copy, "ab") as file:  # noqa: PTH123 -- behind a JPEG's end anything may stand
                    file.write(class_folder.encode())
        return tmp_path

    return lay_out


def test_order_and_labels_are_image_folders_own(flowers):
    """torchvision's ImageFolder is the independent way to the same list."""
    splits = load_splits(flowers)
    for split in (splits.train, splits.valid, splits.test):
        reference = ImageFolder(flowers / split.name)
        assert list(splits.classes) == reference.classes
        assert [(str(flowers / photo), label) for photo, label in zip(split.photos, split.labels, strict=True)] == (
            reference.samples
        )


def test_names_sort_as_strings(folder):
    root = folder("train/2", "train/10", "train/1", "train/100", "valid/2")
    assert load_splits(root).classes == ("1", "10", "100", "2")


@pytest.mark.parametrize("name", ["valid", "val", "validation", "validate", "Val"])
def test_the_validation_folder_goes_by_many_names(folder, name, capsys, speaking):
    splits = load_splits(folder("train/a", "train/b", f"{name}/a", f"{name}/b"))
    assert (len(splits.train), len(splits.valid), splits.test) == (6, 6, None)
    assert capsys.readouterr().err == ""


def test_two_validation_folders_are_refused(folder):
    with pytest.raises(InputError, match="val/ and valid/"):
        load_splits(folder("train/a", "train/b", "val/a", "valid/a"))


@pytest.mark.parametrize("layout", [("train/a", "train/b", "test/a"), ("a", "b")], ids=["train and test", "flat"])
def test_without_a_validation_folder_a_share_of_each_class_is_held_out_and_said(folder, layout, capsys, speaking):
    root = folder(*layout)
    splits = load_splits(root, valid_split=0.34, seed=1)
    assert splits.classes == ("a", "b")
    assert sorted(splits.valid.labels) == [0, 1]
    assert sorted(splits.train.labels) == [0, 0, 1, 1]
    assert not set(splits.train.photos) & set(splits.valid.photos)
    assert bool(splits.test) == ("test/a" in layout)
    assert "held out 2 training photos (34% of each class)" in capsys.readouterr().err
    assert load_splits(root, valid_split=0.34, seed=1) == splits
    others = {load_splits(root, valid_split=0.34, seed=seed).valid.photos for seed in range(5)}
    assert len(others) > 1


def test_a_class_of_one_photo_is_trained_on_and_not_held_out(folder):
    root = folder("a", "b", "c")
    for photo in list((root / "c").iterdir())[1:]:
        photo.unlink()
    splits = load_splits(root, valid_split=0.9)
    assert (sorted(splits.train.labels), sorted(splits.valid.labels)) == ([0, 1, 2], [0, 0, 1, 1])


def test_a_class_that_train_lacks_is_named(folder):
    with pytest.raises(InputError, match="classes without training photos: rose"):
        load_splits(folder("train/a", "train/b", "valid/a", "valid/rose"))
    with pytest.raises(InputError, match="test photos of classes without training photos: tulip"):
        load_splits(folder("x/train/a", "x/train/b", "x/valid/a", "x/test/tulip") / "x")


def test_a_class_that_valid_lacks_is_fine(folder):
    assert set(load_splits(folder("train/a", "train/b", "valid/b")).valid.labels) == {1}


def test_litter_is_neither_class_nor_sample(folder, capsys, speaking):
    root = folder("train/a", "train/b", "train/.hidden", "train/.ipynb_checkpoints", "train/__MACOSX", "valid/a")
    (root / "train" / "a" / "notes.txt").write_text("not a photo")
    (root / "train" / "a" / "._photo.jpg").write_bytes(b"macOS's shadow of a photo")
    (root / "train" / "a" / "folder.jpg").mkdir()
    os.mkfifo(root / "train" / "a" / "pipe.jpg")
    (root / "train" / "empty").mkdir()
    splits = load_splits(root)
    assert (splits.classes, len(splits.train)) == (("a", "b"), 6)
    assert "1 folder without photos left out: empty" in capsys.readouterr().err


def test_spaces_letters_and_nested_folders(folder):
    root = folder("Meine Blumen/train/Gänse blümchen", "Meine Blumen/train/玫瑰/im Garten", "Meine Blumen/val/玫瑰")
    splits = load_splits(root / "Meine Blumen")
    assert splits.classes == ("Gänse blümchen", "玫瑰")
    assert all((splits.train.root / photo).is_file() for photo in splits.train.photos)
    assert len(splits.train) == 6


def test_a_loop_of_links_is_walked_once(folder):
    root = folder("train/a", "train/b", "valid/a")
    (root / "train" / "a" / "again").symlink_to(root / "train" / "a")
    assert len(load_splits(root).train) == 6


def test_a_class_may_be_called_train(folder):
    """A split folder holds folders, a class folder holds photos."""
    assert load_splits(folder("train", "plane")).classes == ("plane", "train")


def test_training_and_testing_are_split_folders_too(folder):
    splits = load_splits(folder("training/a", "training/b", "testing/a", "testing/b"))
    assert (splits.classes, len(splits.test)) == (("a", "b"), 6)


def test_a_level_too_high_and_photos_of_no_class_are_told(folder, capsys, speaking):
    root = folder("zoo/cats/a", "zoo/cats/b", "zoo/dogs/a", "zoo/dogs/b", "loose", "loose/a", "loose/b")
    load_splits(root / "zoo")
    assert "is this a level too high?" in capsys.readouterr().err
    load_splits(root / "loose")
    assert "3 photos beside the class folders left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ((), "no class folders with photos"),
        (("only",), "only one class"),
        (("valid/a", "test/a"), "no train/"),
    ],
)
def test_nothing_to_learn_from_is_an_error_that_helps(folder, layout, said):
    with pytest.raises(InputError, match=said):
        load_splits(folder(*layout))


def test_a_missing_folder_and_a_file_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_splits(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        load_splits(tmp_path / "file")


# --------------------------------------------------------------------------------------------------- category names


def test_cat_to_name_is_torchvisions_published_list():
    names = json.loads((PROJECT / "cat_to_name.json").read_text(encoding="utf-8"))
    assert names == {str(label): name for label, name in enumerate(Flowers102.classes, start=1)}


def test_names_are_those_of_the_classes_alone():
    assert load_category_names(PROJECT / "cat_to_name.json", ("1", "74")) == {"1": "pink primrose", "74": "rose"}


def test_an_empty_name_is_refused(tmp_path):
    (tmp_path / "names.json").write_text('{"1": " ", "74": "rose"}')
    with pytest.raises(InputError, match=r"names\.json gives no name to 1: write one, or leave the class out"):
        load_category_names(tmp_path / "names.json", ("1", "74"))


def test_classes_without_a_name_are_told(capsys, speaking):
    assert load_category_names(PROJECT / "cat_to_name.json", ("1", "rose")) == {"1": "pink primrose"}
    assert "names 1 of 2 classes; without a name: rose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        (("rose", "lotus"), {"rsoe": "a", "lotus": "b"}, "no class is called 'rsoe' (is 'rsoe' meant for 'rose'?)"),
        (("1", "74"), {"01": "a", "74": "b"}, "no class is called '01' (is '01' meant for '1'?)"),
        (
            ("rose", "tulip"),
            {"Tulip ": "a", "rose": "b"},
            "no class is called 'Tulip ' (is 'Tulip ' meant for 'tulip'?)",
        ),
        (("rose", "lotus"), {"rose": "a", "iris": "b"}, "no class is called 'iris'"),
        (("1", "74"), {"1": "a", "75": "b"}, "no class is called '75'"),
        (tuple("abcdef"), {name: name for name in "abuvwxyz"}, ""),  # more than can be mistaken
        (("12", "103"), {str(number): "a" for number in range(1, 103)}, ""),  # a file of many, and one class besides
        (("1", "74"), {str(number): "a" for number in range(1, 103)}, ""),
        (("rose", "lotus"), {"rose": "a", "lotus": "b", "roses": "c"}, ""),  # every class has its name
        (("rose", "lotus"), {"rose": "a"}, ""),
    ],
)
def test_a_key_that_may_be_meant_for_a_class_is_told_and_a_larger_file_is_not(
    tmp_path, capsys, speaking, classes, names, said
):
    (tmp_path / "names.json").write_text(json.dumps(names))
    assert load_category_names(tmp_path / "names.json", classes) == {
        name: names[name] for name in classes if name in names
    }
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no class is called" in line]
    assert warnings == ([f"warning: {tmp_path / 'names.json'}: {said}"] if said else [])


def test_names_that_a_checkpoint_has_fill_the_gaps_of_a_file(tmp_path, capsys, speaking):
    (tmp_path / "names.json").write_text('{"1": "Rose", "3": "Tulpe"}')
    stored = {"1": "rose", "2": "lotus"}
    assert load_category_names(tmp_path / "names.json", ("1", "2", "3"), stored) == {
        "1": "Rose",
        "2": "lotus",
        "3": "Tulpe",
    }
    assert capsys.readouterr().err == ""
    assert load_category_names(tmp_path / "names.json", ("1", "2", "4"), stored) == {"1": "Rose", "2": "lotus"}
    assert "names 2 of 3 classes; without a name: 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[1]", "must map"),
        ('{"1": 2}', "must map"),
        ("[" * 10**5, "not JSON"),
        ('{"1": "a", "1": "b"}', "'1' is given twice"),
    ],
)
def test_a_file_that_holds_no_names_is_refused(tmp_path, text, said):
    path = tmp_path / "names.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"category_names.*{said}"):
        load_category_names(path, ("1",))


def test_a_pipe_holds_no_names_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="is no file"):
        load_category_names(tmp_path / "pipe.json", ("1",))


def test_copies_of_training_photos_among_the_held_out_are_counted(flowers, tmp_path, capsys, speaking):
    """Byte for byte; a photo of the same size is none."""
    data = shutil.copytree(flowers, tmp_path / "flowers")
    load_splits(data)
    assert "training photos too" not in capsys.readouterr().err
    shutil.copy(data / "train" / "54" / "drawn_000.jpg", data / "valid" / "54" / "copy.jpg")
    shutil.copy(data / "train" / "54" / "drawn_001.jpg", data / "valid" / "49" / "under another label.jpg")
    other = bytearray((data / "train" / "54" / "drawn_002.jpg").read_bytes())
    other[-3] ^= 1
    (data / "test" / "54" / "same size.jpg").write_bytes(other)
    load_splits(data)
    said = capsys.readouterr().err
    assert (
        "2 validation photos of 20 are training photos too (valid/49/under another label.jpg, valid/54/copy.jpg): "
        "the validation accuracy will look better" in said
    )
    assert "test photo" not in said


def test_a_photo_in_validation_and_test_and_one_of_two_classes_are_told_too(flowers, tmp_path, capsys, speaking):
    """Empty files, which all have the same bytes, are told as bad photos and not as copies."""
    data = shutil.copytree(flowers, tmp_path / "flowers")
    shutil.copy(data / "valid" / "54" / "drawn_000.jpg", data / "test" / "54" / "seen.jpg")
    shutil.copy(data / "train" / "54" / "drawn_001.jpg", data / "train" / "49" / "torn.jpg")
    shutil.copy(data / "train" / "54" / "drawn_002.jpg", data / "train" / "54" / "twice.jpg")
    for name in ("54", "49"):
        (data / "train" / name / "empty.jpg").touch()
    load_splits(data)
    assert capsys.readouterr().err.splitlines() == [
        "warning: 1 test photo of 19 is a validation photo too (test/54/seen.jpg): "
        "the test accuracy will look better than it is",
        "warning: 2 photos lie under more than one class (train/49/torn.jpg, train/54/drawn_001.jpg): "
        "keep one copy of each",
    ]


# ------------------------------------------------------------------------------------------------------ wrong folders


@pytest.fixture
def tree(tmp_path):
    """Make empty files, which a search does not open: `tree({"a/1.jpg": 10})` makes a/1_0.jpg to a/1_9.jpg."""

    def make(numbers):
        for path, number in numbers.items():
            stem, ending = (tmp_path / path).with_suffix(""), (tmp_path / path).suffix
            stem.parent.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                stem.with_name(f"{stem.name}_{i}{ending}").touch()
        return tmp_path

    return make


def programs(number):
    """A tree of programs, as lie in a home folder or below /usr: some have pictures, nearly all is other files."""
    files = {}
    for i in range(number):
        files |= {f"code/project {i}/src/{part}/file.py": 9 for part in ("one", "two", "three")}
        files |= {f"lib/program {i}/icons/16x16/apps/icon.png": 3, f"lib/program {i}/file.so": 5}
    return files


def test_a_tree_of_other_files_is_refused_at_once_with_what_to_do(tree, run):
    data = tree({**programs(40), "Pictures/2019/summer/photo.jpg": 30, "Documents/letter.txt": 40})
    outcome = run(train, data, "--summary")
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(
        rf".*: {data} is no folder of photos: of the first \d+ folders with files below it, \d+ hold photos\.\n"
        r"  Give the folder that holds the class folders, or move those into a folder train/ of their own\n",
        outcome.err,
    )


@pytest.mark.parametrize("below", ["train/", ""])
@pytest.mark.parametrize(
    "files",
    [
        {f"class {i}/photo.jpg": 2 for i in range(400)},
        {f"class {i}/{year}/summer/photo.jpg": 2 for i in range(30) for year in (2019, 2020)},
        {f"class {i}/{name}": 9 for i in range(40) for name in ("photo.jpg", "photo.txt", "photo.json", "photo.xml")},
        {f"class {i}/{kind}": 3 for i in range(40) for kind in ("a.jpg", "labels/a.txt", "masks/a.npy", "info/a.xml")},
        {f"class {i}/{file}": 2 for i in range(40) for file in ("photo.jpg", "Thumbs.db", "about.html", "list.csv")},
        {"one/photo.jpg": 3, "two/photo.jpg": 3, **{f"two/code/{i}/file.py": 3 for i in range(10)}},
        {"one/photo.jpg": 30, "one/label.txt": 570, "two/photo.jpg": 30, "two/label.txt": 570},
        {f"class {i}/{file}": 2 for i in range(310) for file in ("Thumbs.db", "images/photo.jpg")},
        {
            f"class {i}/{kind}": 2
            for i in range(60)
            for kind in ("a/a.txt", "b/b.txt", "c/c.txt", "d/d.txt", "e/e.txt", "images/a.jpg")
        },
    ],
    ids=[
        "many classes",
        "nested",
        "labels beside",
        "labels below",
        "litter",
        "two classes",
        "mostly labels",
        "photos below litter",
        "many folders of labels",
    ],
)
def test_folders_as_data_sets_have_them_are_taken(tree, files, below):
    data = tree({below + path: number for path, number in files.items()})
    assert len(load_splits(data).classes) == len({path.split("/")[0] for path in files})


def test_what_is_in_train_is_not_judged_by_what_lies_beside_it(tree):
    assert load_splits(tree({**programs(40), "train/a/1.jpg": 2, "train/b/1.jpg": 2})).classes == ("a", "b")


def test_a_long_search_says_how_far_it_is(tree, monkeypatch, capsys, speaking):
    monkeypatch.setattr(folders, "TELL_EVERY", 0)
    load_splits(tree({"a/1.jpg": 2, "b/1.jpg": 3}))
    assert "still looking for photos in" in capsys.readouterr().err


def test_the_folder_of_one_class_is_called_that(flowers, run, monkeypatch):
    """With the folder to give instead; also from within it, where its path says nothing."""
    hint = "; or name a table of their classes, --labels FILE.csv"
    told = f"holds photos and no folders, so it is one class: give the folder above, {flowers}{hint}\n"
    outcome = run(train, flowers / "train" / "54")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith(f": {flowers}/train/54 {told}")
    monkeypatch.chdir(flowers / "train" / "54")
    assert run(train, ".").err.endswith(f": . {told}")


def test_classes_that_differ_by_case_only_are_pointed_out(flowers, tmp_path, capsys, speaking):
    for source, name in (("54", "Rose"), ("49", "rose"), ("74", "tulip")):
        shutil.copytree(flowers / "train" / source, tmp_path / name)
    assert load_splits(tmp_path).classes == ("Rose", "rose", "tulip")
    assert "kept apart: Rose and rose; is each" in capsys.readouterr().err
