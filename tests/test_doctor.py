"""train.py --doctor, which says what may be wrong with the photos."""

import contextlib
import csv
import io
import itertools
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from support import TINY

import train
from flower_classifier.doctor.doctor import Examined
from flower_classifier.doctor.findings import KINDS, Finding, RowDrawer, write_findings
from flower_classifier.doctor.image_stats import ImageStats
from flower_classifier.doctor.second_opinion import Opinion, fold_of_each_photo
from flower_classifier.doctor.twins import find_twins, likeness, near_pairs
from flower_classifier.photos.copies import linked
from flower_classifier.photos.demo import SPECIES, draw_dataset
from flower_classifier.photos.left_out import leave_out
from flower_classifier.photos.splits import PhotoRef, Split, load_splits
from flower_classifier.photos.views import Preprocessing
from flower_classifier.report.pictures import square_of
from flower_classifier.report.report_files import read_table

SPLITS = ("train", "valid", "test")
LOOK = ("--arch", "squeezenet1_1", "--weights", "none", "--doctor")


def scene(path, seed, size=(320, 240)):
    """Paint a photo of its own: blobs on a gradient, with grain."""
    draw = np.random.default_rng(seed)
    base = Image.fromarray(draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(base)
    for _ in range(12):
        x, y, radius = (int(draw.integers(0, limit)) for limit in (*size, 60))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(map(int, draw.integers(0, 256, 3))))
    grain = draw.normal(0, 8, (size[1], size[0], 3))
    picture = Image.fromarray((np.asarray(base) + grain).clip(0, 255).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=92)
    return picture


def few_scenes(data, photos):
    """Paint so many photos of two classes into each split."""
    for split, number in photos.items():
        for label, name in enumerate("ab"):
            for index in range(number):
                scene(data / split / name / f"{index}.jpg", 100 * label + 10 * index + SPLITS.index(split))
    return data


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A folder of photos with one thing wrong of each kind, by kind: the paths."""
    data = tmp_path_factory.mktemp("spoiled") / "data"
    seed = 0
    for split, number in (("train", 12), ("valid", 4), ("test", 4)):
        for name in ("a", "b"):
            for index in range(number):
                scene(data / split / name / f"{index:02d}.jpg", seed := seed + 1)
    for index in range(3):
        scene(data / "train" / "c" / f"{index:02d}.jpg", seed := seed + 1)
    photos = {
        split: [Image.open(data / split / "a" / f"{index:02d}.jpg") for index in range(4)]
        for split in ("train", "test")
    }
    photos["train"][0].resize((200, 150), Image.Resampling.LANCZOS).save(data / "train" / "a" / "small.jpg", quality=80)
    ImageOps.mirror(photos["train"][1]).save(data / "test" / "a" / "mirrored.jpg")
    photos["train"][2].crop((20, 10, 308, 226)).save(data / "train" / "b" / "cut.jpg")
    shutil.copy(data / "train" / "a" / "03.jpg", data / "valid" / "a" / "copied.jpg")
    Image.new("RGB", (300, 300), (9, 9, 9)).save(data / "train" / "a" / "black.jpg")
    scene(data / "train" / "a" / "tiny.png", 901).resize((40, 40)).save(data / "train" / "a" / "tiny.png")
    scene(data / "valid" / "b" / "fog.jpg", 904).point(lambda level: 150 + level // 8).save(data / "valid/b/fog.jpg")
    scene(data / "train" / "a" / "long.jpg", 902, (900, 120))
    scene(data / "train" / "b" / "blurry.jpg", 903).filter(ImageFilter.GaussianBlur(25)).save(
        data / "train/b/blurry.jpg"
    )
    (data / "train" / "b" / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    return data


@pytest.fixture(scope="module")
def printed(spoiled, tmp_path_factory):
    """What a run of the doctor prints, and its --save_dir."""
    save_dir = tmp_path_factory.mktemp("examined")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        train.main([str(spoiled), *LOOK, "--save_dir", str(save_dir)])
    return out.getvalue(), save_dir


@pytest.fixture
def examined(printed):
    """The folder of the findings."""
    return printed[1] / "doctor"


def findings(folder, kind):
    return [row for row in read_table(folder / "doctor.csv") if row["finding"] == kind]


# -------------------------------------------------------------------------------------------------------- what is found


def test_each_kind_of_trouble_is_found_where_it_is(examined):
    assert [row["path"] for row in findings(examined, "unreadable")] == ["train/b/broken.jpg"]
    leaks = {(row["path"], row["other"]) for row in findings(examined, "leak")}
    assert leaks == {("train/a/01.jpg", "test/a/mirrored.jpg"), ("train/a/03.jpg", "valid/a/copied.jpg")}
    ((torn),) = findings(examined, "two_labels")
    assert {torn["path"], torn["other"]} == {"train/a/02.jpg", "train/b/cut.jpg"}
    assert [(row["path"], row["other"]) for row in findings(examined, "same_photo")] == [
        ("train/a/small.jpg", "train/a/00.jpg")
    ]
    assert [row["path"] for row in findings(examined, "dark")] == ["train/a/black.jpg"]
    assert [row["path"] for row in findings(examined, "washed_out")] == ["valid/b/fog.jpg"]
    assert [row["path"] for row in findings(examined, "tiny")] == ["train/a/tiny.png"]
    assert [row["path"] for row in findings(examined, "narrow")] == ["train/a/long.jpg"]
    assert [row["path"] for row in findings(examined, "blurry")] == ["train/b/blurry.jpg"]
    assert [(row["path"], float(row["score"])) for row in findings(examined, "small_class")] == [("c/", 7)]


def test_findings_come_by_kind_and_the_worst_of_each_first(examined):
    table = read_table(examined / "doctor.csv")
    order = [kind.name for kind in KINDS]
    places = [(order.index(row["finding"]), -float(row["score"])) for row in table]
    assert places == sorted(places)
    assert len(set(places)) > 5


def test_each_kind_with_photos_has_a_sheet_and_no_photo_is_touched(spoiled, examined):
    sheets = {path.stem for path in examined.glob("*.png")}
    drawn = {row["finding"] for row in read_table(examined / "doctor.csv") if not row["path"].endswith("/")}
    assert {re.sub(r"-\d+$", "", sheet) for sheet in sheets} == drawn - {"unreadable"}
    for path in examined.glob("*.png"):
        assert Image.open(path).width == 1200
    assert len(list(spoiled.rglob("*.*"))) == 53


def test_sheets_show_all_photos_each_beside_some_of_the_class_it_looks_like(tmp_path):
    """Of 8 photos the rows of 4 take two sheets; photos that are doubted themselves stand for no class."""
    data = few_scenes(tmp_path / "data", {"train": 12, "valid": 1})
    rows = [Finding(f"train/a/{i}.jpg", "label", 9 - i, "looks like b", "b/", "a", "b", "train") for i in range(8)]
    rows += [Finding("train/b/0.jpg", "blurry", 1, "?", class_name="b", split="train")]
    (tmp_path / "doctor").mkdir()
    for name in ("label.png", "label-7.png", "label-mine.png"):
        (tmp_path / "doctor" / name).touch()
    preprocessing = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3, "bilinear")
    write_findings(tmp_path / "doctor", load_splits(data), rows, {}, preprocessing)
    names = sorted(path.name for path in (tmp_path / "doctor").glob("*.png"))
    assert names == ["blurry.png", "label-1.png", "label-2.png", "label-mine.png"]
    first, second = (Image.open(tmp_path / "doctor" / f"label-{number}.png") for number in (1, 2))
    assert first.height > 2 * second.height  # six rows and two
    drawer = RowDrawer(load_splits(data).train, ["a", "b"], {row.path for row in rows}, {"b": "rose"}, preprocessing)
    cells = drawer.row(rows[0], 4)
    assert [cell.file for cell in cells] == ["train/a/0.jpg", "train/b/1.jpg", "train/b/10.jpg", "train/b/11.jpg"]
    assert [cell.line for cell in cells] == ["label: a"] + ["label: rose"] * 3
    assert [cell.remark for cell in cells] == ["looks like b", "", "", ""]


def test_a_narrow_photo_is_shown_whole_with_what_is_seen_marked(tmp_path):
    data = few_scenes(tmp_path / "data", {"train": 2, "valid": 1})
    Image.new("RGB", (1600, 200), (40, 90, 200)).save(data / "train" / "a" / "long.png")
    finding = Finding("train/a/long.png", "narrow", 8, "cut it to what it shows", class_name="a", split="train")
    preprocessing = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3, "bilinear")
    drawer = RowDrawer(load_splits(data).train, ["a", "b"], {finding.path}, {}, preprocessing)
    (cell,) = drawer.row(finding, 1)
    picture = np.asarray(square_of(cell, 240)).astype(int)
    is_photo = (abs(picture - (40, 90, 200)) < 3).all(axis=2)
    columns, rows = (np.nonzero(is_photo.any(axis=axis))[0] for axis in (0, 1))
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(120, abs=2)
    assert columns[-1] - columns[0] == pytest.approx(240 / 8 * 224 / 256, abs=6)  # within the frame
    assert rows[-1] - rows[0] == pytest.approx(240 / 8 * 224 / 256, abs=6)


def test_it_prints_a_line_for_each_kind_and_trains_nothing(printed):
    out, save_dir = printed
    first, *lines = out.splitlines()
    assert first == "53 photos of 3 classes examined"
    assert "      1  files that cannot be opened: train/b/broken.jpg" in lines
    assert "      2  photos that are also in another split: train/a/03.jpg, train/a/01.jpg" in lines
    effect = "is among the training photos; accuracy of a linear head"
    assert [line.split()[:3] for line in lines if effect in line] == [
        ["1", "validation", "photo"],
        ["1", "test", "photo"],
    ]
    rows = read_table(save_dir / "doctor" / "doctor.csv")
    staying = {row["path"] for row in rows if row["leave_out"] == "no"}
    assert "valid/b/fog.jpg" in staying
    assert f"{len(staying)} validation or test photo" in lines[-1]
    assert not any(path.startswith("train/") for path in staying)
    assert [path.name for path in save_dir.iterdir()] == ["doctor"]


@pytest.mark.thorough
def test_what_an_earlier_time_found_is_gone_the_next_time(run, tmp_path):
    spoiled = few_scenes(tmp_path / "data", {"train": 4, "valid": 1})
    (tmp_path / "doctor").mkdir()
    (tmp_path / "doctor" / "outlier.png").write_bytes(b"of an earlier time")
    (tmp_path / "doctor" / "own.txt").write_text("mine")
    assert run(train, spoiled, *LOOK, "--save_dir", tmp_path).code == 0
    found = {row["finding"] for row in read_table(tmp_path / "doctor" / "doctor.csv")}
    assert (tmp_path / "doctor" / "outlier.png").exists() == ("outlier" in found)
    assert (tmp_path / "doctor" / "own.txt").read_text() == "mine"
    (tmp_path / "doctor" / "doctor.csv").write_text("what a person left of it")
    outcome = run(train, spoiled, *LOOK, "--save_dir", tmp_path)
    assert "doctor-earlier.csv" in outcome.err
    assert (tmp_path / "doctor" / "doctor-earlier.csv").read_text() == "what a person left of it"
    run(train, spoiled, *LOOK, "--save_dir", tmp_path)
    assert (tmp_path / "doctor" / "doctor-earlier.csv").read_text() == "what a person left of it"
    assert (tmp_path / "doctor" / "doctor-earlier-2.csv").exists()
    own = tmp_path / "doctor" / "doctor.csv"
    outcome = run(train, spoiled, *LOOK, "--save_dir", tmp_path, "--without", own)
    assert (outcome.code, "--doctor would move" in outcome.err) == (2, True)


@pytest.mark.thorough
def test_drawn_flowers_are_not_taken_for_one_another(train_into, tmp_path):
    """35 pictures of each species, of the same shapes on the same grounds."""
    draw_dataset(tmp_path / "data", {"train": 30, "valid": 5}, size=128)
    outcome = train_into(tmp_path / "run", tmp_path / "data", *TINY[:-1], "--doctor")
    assert "there twice" not in outcome.out
    assert "in another split" not in outcome.out


@pytest.mark.slow
def test_a_wrong_label_is_found_by_the_heads_that_did_not_learn_it(train_into, tmp_path):
    """Of two classes that any network can tell: pictures nearly red, and nearly blue."""
    draw = np.random.default_rng(0)
    for name, base in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for index in range(30):
            pixels = np.array(base) + draw.normal(0, 25, 3) + draw.normal(0, 12, (64, 64, 3))
            path = tmp_path / "data" / ("train" if index < 24 else "valid") / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    (tmp_path / "data" / "train" / "red" / "3.png").rename(tmp_path / "data" / "train" / "blue" / "wrong.png")
    (tmp_path / "data" / "valid" / "blue" / "29.png").rename(tmp_path / "data" / "valid" / "red" / "wrong.png")
    train_into(tmp_path / "run", tmp_path / "data", *LOOK)
    first = findings(tmp_path / "run" / "doctor", "label")[:2]
    found = {(row["path"], row["other"]) for row in first}
    assert found == {("train/blue/wrong.png", "red/"), ("valid/red/wrong.png", "blue/")}


@pytest.mark.slow
def test_classes_of_unequal_sizes_are_judged_alike(train_into, tmp_path):
    """Of two drawn species, one with 60 training photos and one with 6, few photos look like the other one."""
    data, (large, small) = tmp_path / "data", list(SPECIES.items())[-2:]
    for split, ((name, species), number) in itertools.product(("train", "valid"), ((large, 60), (small, 6))):
        (data / split / name).mkdir(parents=True)
        for index in range(number if split == "train" else 6):
            key = [0, SPLITS.index(split), int(name), index]
            species.draw(np.random.default_rng(key), 48).save(data / split / name / f"{index}.jpg", quality=88)
    outcome = train_into(tmp_path / "run", data, *LOOK)
    rows = findings(tmp_path / "run" / "doctor", "label")
    of_class = [sum(f"/{name}/" in row["path"] for row in rows) for name, _ in (large, small)]
    assert of_class[0] <= 4, outcome.out  # of 66
    assert of_class[1] <= 3, outcome.out  # of 12


@pytest.mark.slow
def test_of_photos_that_are_one_exactly_one_stays(train_into, tmp_path):
    """In all splits, under two classes, more often than a photo has neighbours; the one that judges."""
    few_scenes(tmp_path / "data", dict.fromkeys(SPLITS, 6))
    one = tmp_path / "data" / "train" / "a" / "0.jpg"
    copies = ["train/b/x.jpg", "train/a/y.jpg", "train/a/z.jpg", "valid/b/x.jpg", "valid/a/y.jpg", "test/a/x.jpg"]
    for copy in copies:
        shutil.copy(one, tmp_path / "data" / copy)
    train_into(tmp_path / "run", tmp_path / "data", *LOOK)
    rows = [row for row in read_table(tmp_path / "run" / "doctor" / "doctor.csv") if row["other"].endswith(".jpg")]
    assert {row["path"] for row in rows} == {"train/a/0.jpg", *copies} - {"test/a/x.jpg"}
    assert {row["other"] for row in rows} == {"test/a/x.jpg"}
    assert {row["path"] for row in rows if row["finding"] == "two_labels"} == {"train/b/x.jpg", "valid/b/x.jpg"}


def test_a_wrong_label_does_not_vouch_for_its_twin():
    """All photos that are one are judged by one head, which learned from none of them."""
    is_training = torch.arange(20) < 15
    judges = fold_of_each_photo(torch.zeros(20, dtype=torch.int64), is_training, [[3, 7, 16], [9, 11], [17, 18]])
    assert judges.tolist() == [0, 1, 2, 3, 4, 0, 1, 3, 3, 4, 0, 4, 2, 3, 4, 5, 3, 5, 5, 5]


@pytest.mark.parametrize("doubted", [3, 4])
def test_of_a_small_class_most_photos_are_not_called_wrong(tmp_path, doubted):
    """Where heads take most of 6 photos for another class, they are too few to learn from, and the class says so."""
    labels = torch.tensor([0] * 12 + [1] * 6)
    logits = torch.nn.functional.one_hot(torch.tensor([0] * 12 + [0] * doubted + [1] * (6 - doubted))) * 9.0
    opinion = Opinion(labels, logits, labels, torch.zeros(18), torch.ones(18, dtype=torch.bool))
    split = Split("train", tmp_path, tuple(f"{index}.jpg" for index in range(18)), tuple(labels.tolist()))
    refs = [PhotoRef(split, index) for index in range(18)]
    preprocessing = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3, "bilinear")
    examined = Examined(refs, [], opinion, {}, ["a", "b"], ["a", "b"], preprocessing)
    called_wrong = [finding.path for finding in examined.about_labels()]
    (small,) = (finding for finding in examined.about_classes() if finding.kind == "small_class")
    if doubted == 3:
        assert called_wrong == ["12.jpg", "13.jpg", "14.jpg"]
        assert small.suggestion == "6 training photos"
    else:
        assert called_wrong == []
        assert small.suggestion == "6 training photos, 4 of them taken for other classes: too few to learn from"


def test_groups_are_the_photos_that_twins_link():
    twins = [(1, 5), (2, 3), (5, 2), (7, 8)]
    assert linked(twins) == [[1, 2, 3, 5], [7, 8]]


@pytest.mark.thorough
def test_a_class_with_one_photo_is_not_called_an_outlier(train_into, tmp_path):
    for name, number in (("a", 14), ("b", 14), ("c", 1)):
        for split in ("train", "valid"):
            for index in range(number):
                scene(
                    tmp_path / "data" / split / name / f"{index}.jpg",
                    1000 * ord(name) + 10 * index + SPLITS.index(split),
                )
    train_into(tmp_path / "run", tmp_path / "data", *LOOK)
    table = read_table(tmp_path / "run" / "doctor" / "doctor.csv")
    assert [row["finding"] for row in table if "/c/" in f"/{row['path']}"] == ["small_class"]


@pytest.mark.thorough
def test_a_photo_that_cannot_be_opened_any_more_is_told(train_into, tmp_path):
    """Its features are in the cache."""
    few_scenes(tmp_path / "data", {"train": 4, "valid": 4})
    train_into(tmp_path / "run", tmp_path / "data", *LOOK, "--cache_dir", tmp_path / "cache")
    spoiled = tmp_path / "data" / "train" / "a" / "2.jpg"
    before = spoiled.stat()
    spoiled.write_bytes(bytes(before.st_size))
    os.utime(spoiled, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = train_into(tmp_path / "run", tmp_path / "data", *LOOK, "--cache_dir", tmp_path / "cache")
    assert "1  files that cannot be opened: train/a/2.jpg" in outcome.out


@pytest.mark.parametrize("number", [1, 3])
def test_few_photos_are_examined_too(run, tmp_path, number):
    few_scenes(tmp_path / "data", {"train": number, "valid": 1})
    outcome = run(train, tmp_path / "data", *TINY[:-1], "--doctor", "--save_dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{2 * number + 2} photos of 2 classes examined\n")


def test_what_it_cannot_do_is_said(run, flowers, tmp_path):
    outcome = run(train, flowers, "--arch", "cnn", "--doctor", "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--doctor is for pretrained networks" in outcome.err
    outcome = run(train, flowers, *LOOK, "--summary", "--save_dir", tmp_path)
    assert (outcome.code, "--doctor cannot be used together with --summary" in outcome.err) == (2, True)


def test_photos_that_judge_stay_where_the_doctor_only_doubts_them(run, spoiled, examined, tmp_path):
    """The doctor's table as it is, but for labels that a network with random weights takes for wrong in training."""
    rows = read_table(examined / "doctor.csv")
    rows = [row for row in rows if row["finding"] != "label" or not row["path"].startswith("train/")]
    with (tmp_path / "left.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    facts = ("unreadable", "leak", "two_labels", "same_photo")
    listed = {row["path"] for row in rows if not row["path"].endswith("/")}
    gone = {row["path"] for row in rows if row["path"] in listed and row["finding"] in facts}
    gone |= {path for path in listed if path.startswith("train/")}
    splits = load_splits(spoiled)
    left = {photo for split in leave_out(splits, tmp_path / "left.csv").parts for photo in split.photos}
    assert {photo for split in splits.parts for photo in split.photos} - left == gone
    assert "valid/b/fog.jpg" in listed - gone
    options = (*TINY, "--save_dir", tmp_path / "run", "--summary", "--without", tmp_path / "left.csv")
    outcome = run(train, spoiled, *options)
    assert f"going on without {len(gone)} photos of 53" in outcome.err
    assert "the column leave_out lets 1 validation photo stay" in outcome.err
    assert "cannot be opened" not in outcome.err  # the broken one is listed


# ----------------------------------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize("finely", [False, True])
def test_likeness_knows_a_photo_again_however_it_was_saved(tmp_path, finely):
    photo = scene(tmp_path / "one.png", 1, (400, 300))
    changed = {
        "smaller": photo.resize((160, 120), Image.Resampling.LANCZOS),
        "squeezed": photo.resize((300, 300), Image.Resampling.LANCZOS),
        "mirrored": ImageOps.mirror(photo),
        "cut": photo.crop((13, 7, 13 + 360, 7 + 270)),
        "cut and mirrored": ImageOps.mirror(photo.crop((40, 0, 400, 270))),
    }
    own = ImageStats.of(tmp_path / "one.png").thumbnail
    for name, picture in changed.items():
        picture.save(tmp_path / "other.jpg", quality=70)
        other = ImageStats.of(tmp_path / "other.jpg").thumbnail
        least = 0.97 if finely or "cut" not in name else 0.8
        assert likeness(own, other, finely) > least, name
        assert likeness(other, own, finely) == pytest.approx(likeness(own, other, finely), abs=1e-4)
    others = [
        ImageStats.of(tmp_path / "two.png").thumbnail for seed in range(2, 8) if scene(tmp_path / "two.png", seed)
    ]
    assert max(likeness(own, other, finely) for other in others) < 0.9
    assert likeness(own, np.zeros_like(own), finely) == 0  # of one colour


def test_a_look_measures_what_a_person_sees(tmp_path):
    photo = scene(tmp_path / "one.png", 1)
    plain = ImageStats.of(tmp_path / "one.png")
    assert plain.size == (320, 240)
    assert plain.brightness == pytest.approx(np.percentile(np.asarray(photo).max(axis=2), 95) / 255, abs=0.01)
    photo.filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "blurred.png")
    assert ImageStats.of(tmp_path / "blurred.png").sharpness < plain.sharpness - 3
    photo.point(lambda level: level // 8).save(tmp_path / "dark.png")
    assert ImageStats.of(tmp_path / "dark.png").brightness == pytest.approx(plain.brightness / 8, abs=0.01)
    photo.point(lambda level: 120 + level // 16).save(tmp_path / "flat.png")
    assert ImageStats.of(tmp_path / "flat.png").contrast < 0.08
    Image.new("RGB", (1, 900)).save(tmp_path / "line.png")
    assert ImageStats.of(tmp_path / "line.png").size == (1, 900)


def test_near_pairs_are_those_of_a_search_through_all(monkeypatch):
    monkeypatch.setattr("flower_classifier.doctor.twins.BLOCK", 7)
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    expected = {
        (min(row, other), max(row, other))
        for row in range(40)
        for other in np.argsort(-cosines[row])[:3].tolist()
        if cosines[row, other] >= 0.6
    }
    assert near_pairs(features) == sorted(expected)
    assert len(expected) > 20


def test_neither_features_nor_shapes_alone_make_two_photos_one(tmp_path):
    """Two photos of one scene are one, whatever the features; two of soft light from above only if a network agrees."""
    split = Split("train", tmp_path, ("a.png", "b.png", "c.png", "d.png", "e.png"), (0,) * 5)
    for photo, seed in zip(split.photos, (1, 1, 2), strict=False):
        scene(tmp_path / photo, seed).save(tmp_path / photo, compress_level=1 + (photo == "b.png"))
    for photo, seed in (("d.png", 3), ("e.png", 4)):
        light = (
            60 + 120 * np.sin(np.linspace(0, 3, 240))[:, None] + np.random.default_rng(seed).normal(0, 8, (240, 320))
        )
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).convert("RGB").save(tmp_path / photo)
    refs = [PhotoRef(split, index) for index in range(5)]
    thumbnails = [ImageStats.of(ref.path).thumbnail for ref in refs]
    assert likeness(thumbnails[3], thumbnails[4], finely=True) > 0.99
    apart, alike = torch.eye(5), torch.eye(5)
    alike[4, 3] = 2
    assert list(find_twins(refs, apart, thumbnails)) == [(0, 1)]
    assert set(find_twins(refs, alike, thumbnails)) == {(0, 1), (3, 4)}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_photo_that_was_turned_or_framed_is_known_again(tmp_path, is_first):
    """Whatever a network makes of it: the features here are those of different photos."""
    photos = [scene(tmp_path / f"{index}.png", index) for index in range(12)]
    changed = [
        photos[0].rotate(180),
        photos[1].transpose(Image.Transpose.ROTATE_90),
        photos[2].transpose(Image.Transpose.ROTATE_270),
        ImageOps.flip(photos[3]),
        photos[4].transpose(Image.Transpose.TRANSPOSE),
        photos[5].rotate(180).resize((200, 150), Image.Resampling.LANCZOS),
        ImageOps.expand(photos[6], 30, "white"),
        ImageOps.pad(photos[7], (320, 320), color=(20, 60, 20)),
        ImageOps.expand(photos[8], 20, "black").rotate(180),
    ]
    for index, photo in enumerate(changed):
        photo.save(tmp_path / f"changed_{index}.jpg", quality=80)
    names = [f"{index}.png" for index in range(12)]
    twins = [f"changed_{index}.jpg" for index in range(len(changed))]
    ordered = [*twins, *names] if is_first else [*names, *twins]
    split = Split("train", tmp_path, tuple(ordered), (0,) * len(ordered))
    refs = [PhotoRef(split, index) for index in range(len(ordered))]
    found = find_twins(refs, torch.eye(len(refs)), [ImageStats.of(ref.path).thumbnail for ref in refs])
    pairs = {frozenset((ordered[one], ordered[other])) for one, other in found}
    assert pairs == {frozenset((f"{index}.png", f"changed_{index}.jpg")) for index in range(len(changed))}
