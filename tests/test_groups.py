"""Photos that belong together: near copies, series and what --groups names stay on one side of a hold-out."""

import itertools
import json
import re
import shutil
import tarfile
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from support import TINY

import train
from flower_classifier.base.messages import InputError
from flower_classifier.base.seeding import generator
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.seen_before import warn_of_seen
from flower_classifier.photos import near_copies as near_copies_module
from flower_classifier.photos.hold_out import choose, series_of
from flower_classifier.photos.near_copies import near_copies
from flower_classifier.photos.splits import load_splits

SIDE = 128  # pixels of a scene; frames show most of it


def scene(number):
    """Draw blots in colours, like no other scene's."""
    draw = np.random.default_rng(number)
    picture = Image.new("RGB", (SIDE, SIDE))
    for blots, weight in ((6, 1.0), (20, 0.4)):
        layer = Image.fromarray(draw.integers(0, 256, (blots, blots, 3), np.uint8))
        picture = Image.blend(picture, layer.resize(picture.size, Image.Resampling.BICUBIC), weight)
    return picture


def frame(number, shift=0, light=1.0):
    """What a camera sees of a scene, a little to the side of where it was."""
    box = (10 + shift, 10 - shift, SIDE - 10 + shift, SIDE - 10 - shift)
    return ImageEnhance.Brightness(scene(number).crop(box)).enhance(light)


def burst(folder, numbers, frames=4):
    """Save frames of scenes: scene03_frame1.jpg, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in itertools.product(numbers, range(frames)):
        frame(number, 3 * step - 4, 0.9 + 0.1 * step).save(folder / f"scene{number:02}_frame{step}.jpg", quality=85)


@pytest.fixture(scope="session")
def bursts(built_once):
    """Two classes of five scenes, with four frames of each. Tests must not change it."""

    def draw(folder):
        burst(folder / "a", range(5))
        burst(folder / "b", range(5, 10))

    return built_once("bursts", draw)


def scenes(photos):
    return {photo.split("_")[0] for photo in photos}


# ------------------------------------------------------------------------------------------------- near copies


def test_frames_of_a_scene_are_held_out_together_and_the_run_says_so(bursts, capsys, speaking):
    for seed in range(3):
        splits = load_splits(bursts, seed=seed)
        assert not scenes(splits.train.photos) & scenes(splits.valid.photos)
        assert sorted(splits.valid.labels) == [0] * 4 + [1] * 4
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"no validation folder in {bursts}: held out 8 training photos (20%) as one; "
        "40 near copies, in 10 groups, are not torn apart"
    )
    torn = load_splits(bursts, groups="none")
    assert scenes(torn.train.photos) & scenes(torn.valid.photos)


def test_a_long_burst_is_one_group(tmp_path):
    """Longer than the number of photos that each is compared with."""
    burst(tmp_path, [1], frames=3)
    paths = []
    for number in (1, 2):
        for step in range(30):
            paths.append(tmp_path / f"{number}_{step}.png")
            frame(number, step % 7 - 3, 0.7 + 0.02 * step).save(paths[-1])
    assert near_copies(paths, [0] * 60) == [list(range(30)), list(range(30, 60))]
    assert near_copies(paths, list(range(60))) == []  # of other classes


def test_what_was_found_is_kept_until_a_photo_changes(bursts, tmp_path, capsys, speaking):
    data, cache = shutil.copytree(bursts, tmp_path / "data"), tmp_path / "cache"
    first = load_splits(data, cache_dir=cache)
    (kept,) = (cache / "near-copies").iterdir()
    assert sum(map(len, json.loads(kept.read_text()))) == 40
    kept.write_text("[]")  # which another search would not find
    assert load_splits(data, cache_dir=cache) == load_splits(data, groups="none")
    for damaged in ("no JSON", "null", "[[0, 40]]", '["0"]'):
        kept.write_text(damaged)
        assert load_splits(data, cache_dir=cache) == first
    frame(77).save(data / "a" / "scene00_frame0.jpg")
    capsys.readouterr()
    load_splits(data, cache_dir=cache)
    assert "39 near copies, in 10 groups" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert load_splits(data, cache_dir=tmp_path / "file") == load_splits(data)


def test_where_the_system_gives_no_threads_and_in_many_lots_the_same_is_found(bursts, monkeypatch):
    paths = sorted(bursts.rglob("*.jpg"))
    classes = [path.parent.name for path in paths]
    before = near_copies(paths, classes)

    def no_threads(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_threads)
    monkeypatch.setattr(near_copies_module, "LOT", 1)
    assert near_copies(paths, classes) == before
    assert len(before) == 10


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_frames_of_a_camera_that_uses_little_of_its_16_bits_are_near_copies_too(bursts, tmp_path, kind):
    for path in bursts.rglob("*.jpg"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        values = np.asarray(Image.open(path).convert("L")).astype(kind) + 2800
        Image.fromarray(values).save(tmp_path / path.parent.name / f"{path.stem}.tif")
    splits = load_splits(tmp_path)
    assert len(splits.valid) == 8
    assert not scenes(splits.train.photos) & scenes(splits.valid.photos)


def jpeg(picture, path, quality=85):
    picture.save(path, "JPEG", quality=quality)


CHANGES = {
    "the same bytes": shutil.copy,
    "resized": lambda path, copy: jpeg(Image.open(path).resize((75, 75)), copy),
    "recompressed": lambda path, copy: jpeg(Image.open(path), copy, 20),
    "cut": lambda path, copy: jpeg(Image.open(path).crop((4, 2, 104, 100)), copy),
    "brighter": lambda path, copy: jpeg(ImageEnhance.Brightness(Image.open(path)).enhance(1.25), copy),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_stay_together_however_they_were_made(tmp_path, change):
    for class_name, first in (("a", 0), ("b", 10)):
        (tmp_path / class_name).mkdir()
        for number in range(first, first + 6):
            path = tmp_path / class_name / f"{number}_original.jpg"
            jpeg(frame(number), path)
            CHANGES[change](path, path.with_name(f"{number}_copy.jpg"))
    for seed in range(3):
        splits = load_splits(tmp_path, valid_split=0.3, seed=seed)
        assert not scenes(splits.train.photos) & scenes(splits.valid.photos)
        assert len(splits.valid) == 8  # of 24: 2 pairs are nearer to 3.6 photos than 1


def test_photos_that_cannot_be_opened_are_copies_of_none(tmp_path):
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(b"" if name == "1.jpg" else b"no photo " + name.encode())
    Image.new("RGB", (60, 60), "white").save(tmp_path / "white.png")
    Image.new("RGB", (60, 60), "white").save(tmp_path / "white too.png")
    assert near_copies([*sorted(tmp_path.iterdir()), tmp_path / "gone.jpg"], [0] * 6) == []


def as_before(by_class, share, seed):
    """The rule of earlier versions, written once more: the first of a shuffled class."""
    held = set()
    for name, photos in by_class.items():
        count = min(max(1, round(share * len(photos))), len(photos) - 1)
        held |= {photos[i] for i in generator(seed, "hold out", name).permutation(len(photos))[:count]}
    return held


@pytest.mark.parametrize("seed", [0, 1])
def test_where_there_are_no_copies_the_same_photos_are_held_out_as_ever(flowers, seed):
    data = flowers / "train"
    by_class = {
        folder.name: sorted(f"{folder.name}/{path.name}" for path in folder.iterdir()) for folder in data.iterdir()
    }
    for share in (0.01, 0.2, 0.5, 0.99):
        splits = load_splits(data, share, seed)
        assert set(splits.valid.photos) == as_before(by_class, share, seed)
        assert splits == load_splits(data, share, seed, groups="none")


@given(st.data())
def test_every_class_keeps_photos_to_learn_from_and_to_hold_out(data):
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    starts = list(itertools.accumulate(sizes, initial=0))
    by_class = {f"{rank}": range(starts[rank], starts[rank + 1]) for rank in range(len(sizes))}
    of_one_class = [data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)) for size in sizes]
    groups = [
        [index for index, number in zip(indices, numbers, strict=True) if number == group]
        for indices, numbers in zip(by_class.values(), of_one_class, strict=True)
        for group in range(4)
    ]
    held = choose(by_class, data.draw(st.floats(0.01, 0.99)), data.draw(st.integers(0, 5)), groups)
    assert all(held.issuperset(group) or held.isdisjoint(group) for group in groups)
    for indices, numbers in zip(by_class.values(), of_one_class, strict=True):
        of_class = held.intersection(indices)
        assert len(of_class) < len(indices)
        assert bool(of_class) == (len(set(numbers)) > 1)


def test_a_class_of_one_scene_is_torn_and_said(tmp_path, capsys, speaking):
    burst(tmp_path / "a", [0], frames=6)
    burst(tmp_path / "b", [1, 2], frames=5)
    splits = load_splits(tmp_path)
    assert (sorted(splits.train.labels), sorted(splits.valid.labels)) == ([0] * 5 + [1] * 5, [0] + [1] * 5)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}: all photos of a are near copies of one another: some are held out nonetheless, "
        "and say little of other photos",
        f"no validation folder in {tmp_path}: held out 6 training photos (38% instead of 20%) as one; "
        "10 near copies, in 2 groups, are not torn apart",
    ]


# ------------------------------------------------------------------------------------------------------ --groups


@pytest.fixture
def lay_out(tmp_path):
    """Save a scene of its own under each name."""

    def save(*names):
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            frame(number).resize((32, 32)).save(tmp_path / name)
        return tmp_path

    return save


def together(splits, group_of):
    """Say whether no group has photos on both sides, and both sides have some."""
    sides = [{group_of(photo) for photo in split.photos} for split in (splits.train, splits.valid)]
    return all(sides) and not sides[0] & sides[1]


def test_folders_below_a_class_are_groups(lay_out):
    data = lay_out(*(f"{name}/plant {p}/day/{i}.png" for name in "ab" for p in range(4) for i in range(3)))
    for seed in range(3):
        assert together(load_splits(data, seed=seed, groups="folder"), lambda photo: photo.split("/")[:2][1] + photo[0])
    assert not together(load_splits(data, groups="none"), lambda photo: photo.split("/")[:2][1] + photo[0])


def test_photos_in_the_class_folder_itself_are_in_no_group_which_is_said(lay_out, capsys, speaking):
    data = lay_out(*(f"{name}/{i}.png" for name in "ab" for i in range(8)))
    each_for_itself = load_splits(data, groups="none")
    assert "belong together" not in capsys.readouterr().err
    assert load_splits(data, groups="folder") == each_for_itself
    assert f"{data}: by --groups folder no photos belong together" in capsys.readouterr().err


@pytest.mark.parametrize("inner", ["", "plant/"])
def test_folders_in_tar_files_are_groups_below_the_first(lay_out, inner):
    names = [f"{name}/{inner}{p}/{i}.png" for name in "ab" for p in range(3) for i in range(2)]
    data = lay_out(*names)
    for shard in range(2):
        with tarfile.open(data / f"shard{shard}.tar", "w") as tar:
            for name in names[shard::2]:
                tar.add(data / name, name)
    for name in "ab":
        shutil.rmtree(data / name)
    if inner:
        with pytest.raises(InputError, match="makes one group of each class"):
            load_splits(data, groups="folder")
    else:
        splits = load_splits(data, groups="folder")
        assert together(splits, lambda photo: photo.partition(".tar/")[2].rpartition("/")[0])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/scene09_frame7.jpg", "scene09_frame"),
        ("a/IMG_0001 (2).jpg", "IMG_0001"),
        ("a/clip-3.0012.png", "clip-3"),
        ("a/frame12_left.jpg", "frame"),
        ("a/rose.jpg", "rose"),
        ("a/0001.jpg", None),
    ],
)
def test_a_stem_is_the_name_up_to_its_last_number(name, stem):
    assert series_of(name) == (("a", stem) if stem else None)


def test_photos_with_the_same_stem_are_groups(lay_out):
    data = lay_out(*(f"{name}/walk{walk}-{i:03}.png" for name in "ab" for walk in range(4) for i in range(3)))
    for seed in range(3):
        assert together(load_splits(data, seed=seed, groups="stem"), lambda photo: photo.split("-")[0])


def test_names_that_look_like_series_are_pointed_out(lay_out, capsys, speaking):
    data = lay_out(*(f"{name}/walk{walk}-{i:03}.png" for name in "ab" for walk in range(2) for i in range(5)))
    load_splits(data)
    assert re.search(
        r"names look like \d series \(walk.*\): --groups stem keeps each together", capsys.readouterr().err
    )
    load_splits(data, groups="stem")
    assert "series (" not in capsys.readouterr().err


def table(path, *rows):
    path.write_text("\n".join(["path,group", *rows]) + "\n")
    return path


def test_a_table_says_what_belongs_together_across_classes_too(lay_out, tmp_path):
    names = [f"data/{name}/{i:02}.png" for name in "ab" for i in range(12)]
    data = lay_out(*names) / "data"
    person = {name.removeprefix("data/"): f"person {i % 12 // 3}" for i, name in enumerate(names)}
    of_windows = [name.replace("/", "\\") if i % 2 else name for i, name in enumerate(person)]
    rows = (f"{name},{who}" for name, who in zip(of_windows, person.values(), strict=True))
    groups = str(table(tmp_path / "people.csv", *rows))
    for seed in range(4):
        assert together(load_splits(data, seed=seed, groups=groups), person.get)


def test_a_table_that_lacks_photos_or_names_others_is_told(lay_out, tmp_path, capsys, speaking):
    data = lay_out(*(f"data/{name}/{i}.png" for name in "ab" for i in range(4))) / "data"
    rows = [f"{name}/{i},1" for name in "ab" for i in ("0.png", "9.png")]
    load_splits(data, groups=str(table(tmp_path / "t.csv", *rows)))
    assert capsys.readouterr().err.splitlines()[:2] == [
        f"warning: {tmp_path}/t.csv: 2 paths of no photo that may be held out of {data} (a/9.png, b/9.png)",
        f"warning: {tmp_path}/t.csv lacks 6 photos, which are in no group: a/1.png, a/2.png, a/3.png and 3 more",
    ]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("stems", "--groups must be folder, stem, none or a table (FILE.csv), not stems"),
        ("gone.csv", "--groups cannot read gone.csv"),
        ("lacking.csv", "--groups lacking.csv has no column group"),
        ("stem", "--groups makes one group of each class in"),
    ],
)
def test_groups_that_do_not_serve_are_refused(run, lay_out, tmp_path, monkeypatch, groups, said):
    data = lay_out(*(f"data/{name}/IMG_{i}.png" for name in "ab" for i in range(4))) / "data"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lacking.csv").write_text("path,scene\n")
    outcome = run(train, data, *TINY, "--groups", groups)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err.replace("\n  ", " ")


def test_a_class_that_is_one_group_is_not_held_out_of(lay_out, capsys, speaking):
    data = lay_out("a/1_1.png", "a/1_2.png", "a/2_1.png", "b/1_1.png", "b/1_2.png")
    assert set(load_splits(data, groups="stem").valid.labels) == {0}
    assert "nothing is held out of b: by --groups stem each class is one group" in capsys.readouterr().err


def test_groups_beside_a_validation_folder_are_said_to_do_nothing(flowers, capsys, speaking):
    assert load_splits(flowers, groups="none") == load_splits(flowers)  # as a run of an earlier version goes on
    assert capsys.readouterr().err == ""
    assert load_splits(flowers, groups="stem") == load_splits(flowers)
    assert "--groups says which photos are held out together" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_groups_and_notices_that_their_table_changed(run, train_into, bursts, tmp_path):
    names = [path.relative_to(bursts).as_posix() for path in sorted(bursts.rglob("*.jpg"))]
    groups = table(tmp_path / "groups.csv", *(f"{name},{name[:9]}" for name in names))
    train_into(tmp_path / "run", bursts, *TINY, "--epochs", 1, "--groups", groups)
    outcome = train_into(tmp_path / "run", bursts, "--epochs", 2, "--resume", "--no_report")
    assert "40 photos that belong together by --groups" in outcome.err
    assert "resuming after epoch 1" in outcome.err
    table(groups, *(f"{name},{name[-5]}{name[0]}" for name in names))
    outcome = run(train, bursts, "--epochs", 3, "--resume", "--save_dir", tmp_path / "run")
    assert (outcome.code, "the set of training photos" in outcome.err) == (2, True)


def test_a_run_of_an_earlier_version_goes_on_with_the_photos_that_it_held_out(bursts):
    config = TrainConfig(bursts)
    stored = config.kept
    assert config.resuming(stored).groups is None
    del stored["groups"]
    assert config.resuming(stored).groups == "none"


# ---------------------------------------------------------------------------------------------------- given splits


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Photos in train/ and valid/: of 8 to validate on, 2 are frames of scenes to learn from and 1 is a copy."""
    data = tmp_path_factory.mktemp("leaking")
    for class_name, first in (("a", 0), ("b", 20)):
        for number in range(12):
            path = data / ("train" if number < 8 else "valid") / class_name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame(first + number).save(path, quality=90)
    for class_name, number in (("a", 3), ("b", 25)):
        frame(number, 3, 1.1).save(data / "valid" / class_name / "11.jpg", quality=80)
    shutil.copy(data / "train" / "a" / "2.jpg", data / "valid" / "a" / "10.jpg")
    return data


SEEN = (
    "warning: 2 validation photos of 8 are near copies of training photos (valid/a/11.jpg, valid/b/11.jpg): "
    "accuracy on them says little of other photos"
)


def test_near_copies_across_given_splits_are_counted_once_the_features_are_there(
    train_into, leaking, tmp_path, precision
):
    outcome = train_into(tmp_path / "run", leaking, *TINY, "--epochs", 1)
    warnings = [line for line in outcome.err.splitlines() if "valid/" in line]
    assert warnings == [
        "warning: 1 validation photo of 8 is a training photo too (valid/a/10.jpg): "
        "the validation accuracy will look better than it is",
        SEEN,
    ]


@pytest.mark.parametrize("command", [("--epochs", 1, "--no_report"), ("--summary",), ("--doctor",)])
def test_the_cnn_the_summary_and_the_doctor_count_them_too(run, leaking, tmp_path, command):
    network = TINY[:-1] if "--doctor" in command else ("--arch", "cnn")
    outcome = run(train, leaking, *network, *command, "--save_dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines().count(SEEN) == 1


def test_other_photos_are_none(flowers, capsys, speaking):
    warn_of_seen(load_splits(flowers))
    assert capsys.readouterr().err == ""
