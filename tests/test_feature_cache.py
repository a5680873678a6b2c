"""The feature cache: what is still true is used, nothing else is, and nothing that happens to it changes a result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from support import PROJECT, TINY, run_program
from waiting import LONG_LIMIT
from warm import WarmPopen

import train
from flower_classifier.features.feature_cache import FeatureCache, MappedRows
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.splits import load_splits

CPU = torch.device("cpu")
TAKEN = r"(train|valid|test)\w* photos, view (\d): ([\d,]+) of ([\d,]+) taken from the cache"


@pytest.fixture
def data(flowers, tmp_path):
    """A copy of the drawn flowers that a test may change."""
    return shutil.copytree(flowers, tmp_path / "flowers")


@pytest.fixture
def train_cached(train_into, data, tmp_path):
    """Train with the cache of this test, and return what was taken from it: {(split, view): number}."""

    def run_train(save_dir="out", *options):
        arguments = [*TINY, "--epochs", 2, "--views", 1, "--cache_dir", tmp_path / "cache", *options]
        outcome = train_into(tmp_path / save_dir, data, *arguments)
        return {(split, int(view)): int(found) for split, view, found, _ in re.findall(TAKEN, outcome.err)}

    return run_train


def checkpoint(tmp_path, save_dir):
    return (tmp_path / save_dir / "checkpoint.pth").read_bytes()


def table_of(tmp_path, split_size):
    """Return the folder of the only table with so many rows."""
    tables = [index.parent for index in (tmp_path / "cache").glob("features-v1/*/index.txt")]
    (found,) = [table for table in tables if len((table / "index.txt").read_text().splitlines()) == split_size]
    return found


ALL = {("train", 0): 48, ("valid", 0): 18, ("test", 0): 18}
ROWS = sum(ALL.values())  # all splits share a table: it is the photo that counts


@pytest.mark.usefixtures("precision")
def test_a_second_run_takes_everything_from_the_cache_and_gives_the_same_checkpoint(train_cached, tmp_path):
    assert train_cached("cold") == {}
    assert train_cached("warm") == ALL
    assert train_cached("without", "--no_cache") == {}
    assert checkpoint(tmp_path, "cold") == checkpoint(tmp_path, "warm") == checkpoint(tmp_path, "without")


@pytest.mark.slow
def test_another_head_reuses_and_another_network_or_seed_of_views_does_not(train_cached):
    train_cached("one", "--views", 2)
    assert train_cached("head", "--views", 2, "--hidden_units", 8, "--lr", 0.1) == {**ALL, ("train", 1): 48}
    assert train_cached("weights", "--views", 2, "--seed", 1) == {}  # --weights none draws others for another seed
    cnn = ("--arch", "cnn", "--image_size", 32, "--views", 3, "--epochs", 3)
    assert train_cached("cnn", *cnn) == {}
    plain = {**ALL, ("train", 1): 48}  # the photo and its mirror image know no chance
    assert train_cached("seed of views", *cnn, "--seed", 1) == plain


def test_features_of_one_precision_do_not_serve_the_other(train_cached, tmp_path, monkeypatch):
    """Nor does going back to the first compute anything."""
    for name, precision in (("exact", "float32"), ("rounded", "bfloat16"), ("again", "float32")):
        monkeypatch.setenv("FLOWERS_PRECISION", precision)
        assert train_cached(name) == (ALL if name == "again" else {})
    assert checkpoint(tmp_path, "exact") == checkpoint(tmp_path, "again") != checkpoint(tmp_path, "rounded")


def test_a_comment_in_the_code_drops_nobodys_features(train_into, data, tmp_path):
    """In a copy of the program in which every file has changed, but not what it computes."""
    arguments = [data, *TINY, "--epochs", 1, "--cache_dir", tmp_path / "cache"]
    train_into(tmp_path / "before", *arguments)
    program, unread = tmp_path / "program" / "flower_classifier", shutil.ignore_patterns("__pycache__", "vendor")
    shutil.copytree(PROJECT / "flower_classifier", program, ignore=unread)
    shutil.copy(PROJECT / "train.py", tmp_path / "program")
    for file in program.glob("**/*.py"):
        file.write_text(file.read_text(encoding="utf-8") + "# nothing that counts\n", encoding="utf-8")
    outcome = run_program(tmp_path / "program" / "train.py", *arguments, "--save_dir", tmp_path, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert sum(int(found) for _, _, found, _ in re.findall(TAKEN, outcome.err)) == ROWS


@pytest.mark.slow
def test_cnn_keeps_its_pixels(train_into, data, tmp_path):
    options = [data, "--arch", "cnn", "--epochs", 2, "--views", 1, "--no_report", "--cache_dir", tmp_path / "cache"]
    for name in ("cold", "warm"):
        outcome = train_into(tmp_path / name, *options)
    assert len(re.findall(TAKEN, outcome.err)) == 3
    assert checkpoint(tmp_path, "cold") == checkpoint(tmp_path, "warm")


def test_a_touched_and_a_renamed_photo_are_computed_again_and_no_other(train_cached, data, tmp_path):
    train_cached("before")
    photos = sorted((data / "train" / "54").iterdir())
    os.utime(photos[0], ns=(1, 1))
    assert train_cached("touched") == {**ALL, ("train", 0): 47}
    assert checkpoint(tmp_path, "touched") == checkpoint(tmp_path, "before")  # its pixels are what they were
    photos[1].rename(photos[1].with_name("another name.jpg"))
    assert train_cached("renamed")["train", 0] == 47
    photos[2].unlink()
    assert train_cached("removed")["train", 0] == 47
    assert len((table_of(tmp_path, ROWS + 2) / "index.txt").read_text().splitlines()) == ROWS + 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: truncate(table / "rows.bin", 1000),
        lambda table: truncate(table / "index.txt", 30),
        lambda table: flip_byte(table / "rows.bin", 5000),
        lambda table: (table / "rows.bin").unlink(),
        lambda table: (table / "index.txt").write_bytes(b"\xff\x00 no JSON\n[]\n[1, 2]\n"),
        lambda table: add_line(table, '[1e400, 1, "x", 1, 2, 3]'),
        lambda table: [add_line(table, f"[{row}, {tail_of(table)}") for row in (10**20, 10**15, 10**9, -1, 1)],
    ],
    ids=["rows cut", "index torn", "byte flipped", "rows gone", "index garbage", "infinite row", "wrong rows"],
)
def test_damage_is_found_and_mended_never_used(train_cached, tmp_path, damage):
    train_cached("before")
    damage(table_of(tmp_path, ROWS))
    train_cached("damaged")
    assert train_cached("mended") == ALL
    assert checkpoint(tmp_path, "before") == checkpoint(tmp_path, "damaged") == checkpoint(tmp_path, "mended")


def add_line(table, line):
    with (table / "index.txt").open("a") as index:
        index.write(line + "\n")


def tail_of(table):
    """Return the first line of the index without its row."""
    return (table / "index.txt").read_text().splitlines()[0].split(", ", 1)[1]


def truncate(path, missing):
    os.truncate(path, path.stat().st_size - missing)


def flip_byte(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_costs_one_row(train_cached, tmp_path):
    train_cached("before")
    flip_byte(table_of(tmp_path, ROWS) / "rows.bin", 5000)
    assert sum(train_cached("after").values()) == ROWS - 1


COMMAND = [sys.executable, "train.py"]


@pytest.mark.slow
@pytest.mark.usefixtures("precision")
def test_two_runs_at_once_share_the_work_and_agree(data, tmp_path):
    arguments = [str(data), *TINY, "--epochs", "2", "--cache_dir", str(tmp_path / "cache")]
    runs = [
        WarmPopen(
            [*COMMAND, *arguments, "--save_dir", str(tmp_path / name)], cwd=PROJECT, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    errors = [run.communicate(timeout=LONG_LIMIT)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert checkpoint(tmp_path, "one") == checkpoint(tmp_path, "two")
    lines = [json.loads(line) for line in (table_of(tmp_path, ROWS) / "index.txt").read_text().splitlines()]
    assert sorted(row for row, *_ in lines) == list(range(ROWS)), errors


KILLED = """
import os, pathlib, runpy, signal, sys, threading, time
cache, photo, *sys.argv = sys.argv[1:]
def look(event, details):
    # the main thread looks at headers before
    is_read = event == "open" and threading.current_thread() is not threading.main_thread()
    if is_read and str(details[0]).endswith(photo):
        while not any(index.stat().st_size for index in pathlib.Path(cache).glob("features-v1/*/index.txt")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("precision")
def test_a_run_killed_while_extracting_is_continued_not_repeated(data, tmp_path, train_cached):
    """A real kill -9 before the last training photo is opened, as soon as the index has its first lines."""
    cache = tmp_path / "cache"
    asked = ("train.py", data, *TINY, "--epochs", 2, "--views", 1, "--cache_dir", cache, "--save_dir", tmp_path)
    assert run_program("-c", KILLED, cache, "train/91/drawn_007.jpg", *asked).code == -signal.SIGKILL
    found = train_cached("continued")
    assert 8 <= found["train", 0] <= 40
    train_cached("without", "--no_cache")
    assert checkpoint(tmp_path, "continued") == checkpoint(tmp_path, "without")


@pytest.mark.slow
def test_a_full_disk_is_a_warning_and_the_run_goes_on_in_memory(data, tmp_path):
    """A real refusal by the system: no file may grow beyond 64 kB while features are computed."""
    code = (
        "import resource, signal, sys, train; from flower_classifier.training import steps\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "whole = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "prepare_inputs = steps.prepare_inputs\n"
        "def limited(*arguments):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, whole[1]))\n"
        "    try: return prepare_inputs(*arguments)\n"
        "    finally: resource.setrlimit(resource.RLIMIT_FSIZE, whole)\n"
        "steps.prepare_inputs = limited\n"
        "train.main(sys.argv[1:])"
    )
    arguments = (data, *TINY, "--epochs", 1, "--cache_dir", tmp_path / "cache")
    outcome = run_program("-c", code, *arguments, "--save_dir", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("going on without the feature cache") == 1
    assert (tmp_path / "out" / "checkpoint.pth").exists()


def test_a_cache_that_cannot_be_written_is_a_warning_said_once(train_into, data, tmp_path):
    (tmp_path / "file").touch()
    outcome = train_into(tmp_path / "out", data, *TINY, "--epochs", 1, "--cache_dir", tmp_path / "file" / "cache")
    assert outcome.err.count("going on without the feature cache") == 1


def test_no_cache_leaves_nothing(train_cached, tmp_path):
    train_cached("out", "--no_cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_beyond_its_limit_the_cache_drops_what_was_used_least_recently(train_cached, tmp_path):
    train_cached("one", "--seed", 1)
    train_cached("two", "--seed", 2)
    tables = list((tmp_path / "cache" / "features-v1").glob("*/about.json"))
    first, second = (path.parent for path in sorted(tables, key=lambda path: path.stat().st_mtime))
    size = sum(file.stat().st_size for file in first.iterdir())
    mine = tmp_path / "cache" / ("f" * 32)
    mine.mkdir()
    (mine / "about.json").write_text("precious")
    train_cached("one", "--seed", 1)  # now the first is the one used last
    train_cached("three", "--seed", 3, "--cache_limit", 2.5 * size / 1e9)
    assert first.exists()
    assert not second.exists()
    assert len(list((tmp_path / "cache" / "features-v1").glob("*/about.json"))) == 2
    assert (mine / "about.json").read_text() == "precious"


@pytest.mark.slow
def test_the_same_photos_as_another_data_folder_have_other_random_views(train_into, data, tmp_path):
    """A view is drawn by the photo's name below the data folder, so the folder is part of what a table is known by."""
    options = [*TINY, "--views", 3, "--epochs", 3, "--cache_dir", tmp_path / "cache"]
    train_into(tmp_path / "whole", data, *options)
    outcome = train_into(tmp_path / "part", data / "train", *options)
    assert not re.findall(TAKEN, outcome.err)
    train_into(tmp_path / "without", data / "train", *options, "--no_cache")
    assert checkpoint(tmp_path, "part") == checkpoint(tmp_path, "without")


def test_a_bad_photo_does_not_cost_the_good_ones(run, train_cached, data, tmp_path):
    bad = data / "test" / "91" / "drawn_002.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    outcome = run(train, data, *TINY, "--cache_dir", tmp_path / "cache", "--save_dir", tmp_path / "out")
    assert outcome.code == 2
    bad.write_bytes(whole)
    found = train_cached("out")
    assert (found["train", 0], found["valid", 0]) == (48, 18)


def test_a_bad_photo_has_its_micro_batch_computed_once_and_again_when_it_has_changed(train_into, data, tmp_path):
    """Without it its micro-batch needs nothing, in any run to come; another network makes its own experience."""
    bad = data / "train" / "54" / "drawn_003.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:400])
    options = (data, *TINY, "--epochs", 3, "--views", 3, "--skip_bad", "--cache_dir", tmp_path / "cache")
    first = train_into(tmp_path / "first", *options)
    again = train_into(tmp_path / "again", *options)
    assert first.err.count("reading") == 4
    assert "reading" not in again.err
    assert "training photos, view 0: 47 of 48 taken from the cache" in again.err
    lists = [(tmp_path / name / "run" / "bad_photos.txt").read_text() for name in ("first", "again")]
    assert lists[0] == lists[1] == lists[0].splitlines()[0] + "\n"
    assert str(bad) in lists[0]
    assert checkpoint(tmp_path, "first") == checkpoint(tmp_path, "again")
    bad.write_bytes(whole)
    mended = train_into(tmp_path / "mended", *options)
    assert "reading 8 training photos" in mended.err
    assert "going on without" not in mended.err


def test_a_line_about_a_bad_photo_that_was_damaged_is_passed_over(run, train_cached, data, tmp_path):
    (data / "train" / "54" / "drawn_003.jpg").write_bytes(b"")
    train_cached("before", "--skip_bad")
    index = table_of(tmp_path, ROWS) / "index.txt"
    text = index.read_text()
    assert text.count("it is empty") == 1
    index.write_text(text.replace("it is empty", "it is empti"))
    train_cached("after", "--skip_bad")
    assert "it is empty" in (tmp_path / "after" / "run" / "bad_photos.txt").read_text()


def test_a_good_photo_that_is_remembered_as_bad_is_opened_after_all(run, train_cached, data, tmp_path):
    """As where memory was short: decoders do not always say so."""
    photo = data / "train" / "54" / "drawn_003.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:400])
    train_cached("before", "--skip_bad")
    index = table_of(tmp_path, ROWS) / "index.txt"
    photo.write_bytes(whole)
    now = photo.stat()
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for line in lines:
        if line[0] == -1:  # the fault is now of the good photo
            line[3:6] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_cached("after")
    assert not (tmp_path / "after" / "run" / "bad_photos.txt").exists()


def test_what_the_system_is_to_blame_for_is_not_held_against_a_photo(tmp_path):
    """A link to itself, which the system refuses to follow, is no fault of the contents; an empty file is."""
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "empty.jpg").touch()
    faults = []
    for name in ("loop.jpg", "empty.jpg"):
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        faults.append(caught.value.fault)
    assert faults == ["", "it is empty"]


def test_rows_read_through_the_map_are_those_kept_in_memory(flowers, tmp_path, monkeypatch):
    """Also when the map's pages are given back after every read."""
    monkeypatch.setattr("flower_classifier.features.feature_cache.RELEASE_AFTER", 0)
    splits = load_splits(flowers)
    frozen = FrozenBackbone(new_classifier("squeezenet1_1", 6, "none", (8,))[0], CPU)
    in_memory = Inputs(frozen, splits.train).rows(2)
    mapped = Inputs(frozen, splits.train, cache=FeatureCache(tmp_path, limit=1e9)).rows(2)
    assert isinstance(mapped, MappedRows)
    assert len(mapped) == len(in_memory)
    order = torch.randperm(len(in_memory))
    for chosen in order.split(5):
        assert torch.equal(mapped[chosen], in_memory[chosen])
