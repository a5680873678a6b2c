"""predict.py --evaluate, run whole: against train.py's own result, and against numpy on the answers to each photo."""

import contextlib
import csv
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support import QUICK

import predict
import train
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.report.report_files import REPORT_FILES, files_of

REPORT = sorted(files_of("evaluation") + files_of("result"))


@pytest.fixture(scope="module", params=[("--arch", "cnn", "--no_report"), QUICK], ids=["cnn", "frozen"])
def result(request, flowers, tmp_path_factory):
    """The checkpoint of a short run, and the two lines that train.py printed about the test photos."""
    save_dir, printed = tmp_path_factory.mktemp("evaluated"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        train.main([str(flowers), *request.param, "--epochs", "1", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth", printed.getvalue().splitlines()[-3:-1]


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A checkpoint in a folder of the test's own."""
    return shutil.copy(trained / "checkpoint.pth", tmp_path / "checkpoint.pth")


def answers(run, folder, checkpoint):
    """Class folder, classes by falling probability and those probabilities of each photo, as predict.py gives them."""
    records = json.loads(run(predict, folder, checkpoint, "--format", "json", "--top_k", 99).out)
    return [
        (record["path"].split("/")[-2], *zip(*((row["class"], row["probability"]) for row in record["predictions"])))  # noqa: B905
        for record in records
    ]


def numbers(line):
    """The numbers of a line of results by what stands before them."""
    found = [re.fullmatch(r"([a-z].*?) ([0-9.]+)%?( \(.*)?", part) for part in line.split("   ")]
    right = re.search(r"   (\d+) of (\d+) right: ", line)
    return {match[1]: float(match[2]) for match in found if match} | {"right": tuple(map(int, right.groups()))}


def evaluated(run, folder, checkpoint, *options):
    """The object that --format json prints, alone on stdout."""
    outcome = run(predict, folder, checkpoint, "--evaluate", "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_evaluating_prints_what_training_printed(run, result, flowers, tmp_path):
    checkpoint, printed = result
    outcome = run(predict, flowers / "test", checkpoint, "--evaluate", "--report", tmp_path / "report")
    assert (outcome.code, outcome.out.splitlines()) == (0, printed)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == REPORT
    assert not (checkpoint.parent / "evaluation").exists()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_numbers_are_those_of_numpy_on_the_answers_to_single_photos(run, checkpoint, flowers, temperature):
    loaded = Checkpoint.load(checkpoint)
    replace(loaded, trust=replace(loaded.trust, temperature=temperature)).save(checkpoint)
    rows = answers(run, flowers / "test", checkpoint)
    right = np.array([likeliest[0] == true for true, likeliest, _ in rows])
    confidence = np.array([shares[0] for _, _, shares in rows])
    outcome = run(predict, flowers / "test", checkpoint, "--evaluate")
    first, second = outcome.out.splitlines()
    assert first.startswith(f"{len(rows)} test photos   loss ")
    assert numbers(first) == {
        "loss": pytest.approx(np.mean([-np.log(dict(zip(*row[1:], strict=True))[row[0]]) for row in rows]), abs=1e-4),
        "right": (right.sum(), len(rows)),
        "top-5 accuracy": pytest.approx(100 * np.mean([true in likeliest[:5] for true, likeliest, _ in rows]), abs=0.5),
    }
    assert second == f"{confidence.mean():.0%} sure on average, right {right.mean():.0%} of the time"


def test_programs_get_the_numbers_as_an_object_which_the_report_keeps(run, result, flowers, tmp_path):
    checkpoint, printed = result
    found = evaluated(run, flowers / "test", checkpoint, "--report", tmp_path / "report")
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text()) == found
    about = {key: found.pop(key) for key in ("folder", "checkpoint", "split", "photos", "bad_photos")}
    assert about == {
        "folder": str((flowers / "test").resolve()),
        "checkpoint": str(checkpoint.resolve()),
        "split": "test",
        "photos": 18,
        "bad_photos": [],
    }
    people = numbers(printed[0])
    written = json.loads((checkpoint.parent / "run" / "summary.json").read_text())["results"]["test"]  # by train.py
    assert found == {
        "loss": pytest.approx(people["loss"], abs=5e-5),
        "accuracy": people["right"][0] / people["right"][1],
        "top_5_accuracy": pytest.approx(people["top-5 accuracy"] / 100, abs=5e-3),
        "right": people["right"][0],
        **{name: written[name] for name in ("accuracy_low", "accuracy_high", "guessing")},
        **{name: written[name] for name in ("balanced_accuracy", "macro_precision", "macro_f1")},
        "chose_epoch": 0,
        "calibration_error": written["calibration_error"],
        "temperature": Checkpoint.load(checkpoint).trust.temperature,
    }


@pytest.mark.thorough
def test_the_report_of_each_folder_has_a_place_of_its_own(run, checkpoint, flowers, tmp_path, monkeypatch):
    """Under the folder's name; a second folder of the name, or checkpoint beside the first, gets a number."""
    other = shutil.copytree(flowers / "valid", tmp_path / "garden" / "test")
    beside = shutil.copy(checkpoint, checkpoint.with_name("second.pth"))
    (checkpoint.parent / "evaluation" / "garden").mkdir(parents=True)
    (checkpoint.parent / "evaluation" / "garden" / "mine.txt").touch()
    cases = [
        ((flowers / "test", checkpoint), "test"),
        ((flowers / "valid", checkpoint), "valid"),
        ((other, checkpoint), "test-2"),
        ((other / ".", beside), "test-3"),
        ((flowers / "train" / ".." / "test", checkpoint), "test"),
        ((other, checkpoint), "test-2"),
    ]
    for arguments, place in cases:
        outcome = run(predict, *arguments, "--evaluate")
        assert outcome.err.endswith(f"tables and pictures of it: {checkpoint.parent / 'evaluation' / place}\n")
    shutil.copytree(flowers / "test", tmp_path / "deep" / "garden")
    monkeypatch.chdir(tmp_path / "deep" / "garden")
    run(predict, ".", checkpoint, "--evaluate")
    reports = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "evaluation").rglob("*.json")}
    assert {name: report["folder"] for name, report in reports.items()} == {
        "test": str((flowers / "test").resolve()),
        "valid": str((flowers / "valid").resolve()),
        "test-2": str(other.resolve()),
        "test-3": str(other.resolve()),
        "garden-2": str((tmp_path / "deep" / "garden").resolve()),
    }


def test_the_table_counts_the_answers_by_class(run, checkpoint, flowers):
    """Also where the report lies without being told: beside the checkpoint."""
    outcome = run(predict, flowers / "valid", checkpoint, "--evaluate")
    assert outcome.err.endswith(f"tables and pictures of it: {checkpoint.parent / 'evaluation' / 'valid'}\n")
    assert outcome.out.startswith("18 validation photos ")
    loaded, predicted = Checkpoint.load(checkpoint), Counter()
    for line in run(predict, flowers / "valid", checkpoint, "--format", "jsonl", "--top_k", 1).out.splitlines():
        record = json.loads(line)
        predicted[record["path"].split("/")[-2], record["predictions"][0]["class"]] += 1
    interval, measured = ["right", "accuracy_low", "accuracy_high"], ["precision", "recall", "f1"]
    expected = [["class", "name", "photos", "accuracy", *interval, *measured, "most_frequent_mistake", "times"]]
    intervals = {0: ("0.0", "0.5615"), 1: ("0.0615", "0.7923"), 2: ("0.2077", "0.9385"), 3: ("0.4385", "1.0")}
    for name in loaded.classes:
        wrong = {other: predicted[name, other] for other in loaded.classes if other != name}
        most = max(wrong, key=wrong.get)  # of equals the first
        mistake = [loaded.category_names[most], str(wrong[most])] if wrong[most] else ["", "0"]
        right = predicted[name, name]
        shares = [str(round(right / 3, 4)), str(right), *intervals[right]]
        times = sum(predicted[true, name] for true in loaded.classes)  # that it was predicted
        measures = [right / times if times else "", right / 3, 2 * right / (times + 3)]
        shares += [str(round(share, 4)) if times or place else "" for place, share in enumerate(measures)]
        expected.append([name, loaded.category_names[name], "3", *shares, *mistake])
    with (checkpoint.parent / "evaluation" / "valid" / "per_class.csv").open(newline="", encoding="utf-8-sig") as file:
        assert list(csv.reader(file)) == expected


def test_some_classes_are_enough_and_those_without_photos_have_no_accuracy(run, checkpoint, flowers, tmp_path):
    for name in ("54", "91"):
        shutil.copytree(flowers / "test" / name, tmp_path / "garden" / name)
    outcome = run(predict, tmp_path / "garden", checkpoint, "--evaluate", "--report", tmp_path / "deep" / "report")
    assert (outcome.code, outcome.out.startswith("6 photos   loss ")) == (0, True)
    with (tmp_path / "deep" / "report" / "per_class.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert {name: row["photos"] for name, row in rows.items()} == dict.fromkeys(rows, "0") | {"54": "3", "91": "3"}
    assert [name for name, row in rows.items() if row["accuracy"]] == ["54", "91"]


def test_without_mistakes_there_is_no_picture_of_any_and_an_old_one_goes(run, checkpoint, flowers, tmp_path):
    """Every photo is put into the folder of its predicted class."""
    records = json.loads(run(predict, flowers / "test", checkpoint, "--format", "json", "--top_k", 1).out)
    for number, record in enumerate(records):
        folder = tmp_path / "right" / record["predictions"][0]["class"]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(record["path"], folder / f"{number}.jpg")
    for name in (*REPORT, "mine.txt"):
        (tmp_path / "report").mkdir(exist_ok=True)
        (tmp_path / "report" / name).write_text("old")
    outcome = run(predict, tmp_path / "right", checkpoint, "--evaluate", "--report", tmp_path / "report")
    assert (outcome.code, outcome.out.count(f"{len(records)} of {len(records)} right: 100%")) == (0, 1)
    left = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert sorted(left) == sorted({*REPORT, "mine.txt"} - {"mistakes.png"})
    assert [name for name, contents in left.items() if contents == b"old"] == ["mine.txt"]


def test_the_pictures_open(run, checkpoint, flowers, tmp_path):
    run(predict, flowers / "test", checkpoint, "--evaluate")
    for name in (file.name for file in REPORT_FILES if file.is_picture and file.part == "evaluation"):
        with Image.open(tmp_path / "evaluation" / "test" / name) as picture:
            assert picture.width > 500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


# -------------------------------------------------------------------------------------------- bad photos, no photos


@pytest.mark.slow
def test_bad_photos_are_named_and_the_numbers_are_those_of_the_rest(run, checkpoint, flowers, tmp_path):
    shutil.copytree(flowers / "test", tmp_path / "good" / "test")
    shutil.copytree(flowers / "test", tmp_path / "bad" / "test")
    for photo in ("51/drawn_001.jpg", "91/drawn_002.jpg"):
        (tmp_path / "good" / "test" / photo).unlink()
        (tmp_path / "bad" / "test" / photo).write_text("no photo")
    expected = run(predict, tmp_path / "good" / "test", checkpoint, "--evaluate", "--report", tmp_path / "one")
    outcome = run(predict, tmp_path / "bad" / "test", checkpoint, "--evaluate", "--report", tmp_path / "other")
    assert (expected.code, expected.out[:15]) == (0, "16 test photos ")
    assert (outcome.code, outcome.out) == (1, expected.out)
    said = r"warning: .*51/drawn_001.jpg: .*\nwarning: .*91/drawn_002.jpg: .*\n.*: 16 of 18 photos answered; 2 .*\n"
    assert re.fullmatch(said, outcome.err.partition("/other\n")[2])
    found = json.loads(run(predict, tmp_path / "bad" / "test", checkpoint, "--evaluate", "--format", "json").out)
    bad = [str(tmp_path / "bad" / "test" / photo) for photo in ("51/drawn_001.jpg", "91/drawn_002.jpg")]
    assert (found["photos"], [photo["path"] for photo in found["bad_photos"]]) == (16, bad)
    assert found["bad_photos"][0]["error"].startswith(f"cannot open {bad[0]}: it is no JPEG")
    tables = [(tmp_path / name / "per_class.csv").read_bytes() for name in ("one", "other")]
    assert tables[0] == tables[1]


def test_where_no_photo_can_be_opened_there_is_no_result(run, checkpoint, tmp_path):
    (tmp_path / "garden" / "54").mkdir(parents=True)
    (tmp_path / "garden" / "54" / "only.jpg").touch()
    outcome = run(predict, tmp_path / "garden", checkpoint, "--evaluate")
    assert (outcome.code, outcome.out, outcome.err.count("only.jpg: it is empty")) == (2, "", 1)
    outcome = run(predict, tmp_path / "garden", checkpoint, "--evaluate", "--format", "json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["photos"], "accuracy" in found, len(found["bad_photos"])) == (2, 0, False, 1)
    assert not (tmp_path / "evaluation").exists()


def test_broken_weights_are_said_to_be_broken(run, checkpoint, flowers):
    loaded = Checkpoint.load(checkpoint)
    loaded.classifier.head[-1].bias.data[0] = float("nan")
    loaded.save(checkpoint)
    for extra in ((), ("--evaluate",)):
        outcome = run(predict, flowers / "test", checkpoint, *extra)
        assert (outcome.code, outcome.out, outcome.err.count("its weights are broken")) == (2, "", 1)


def test_what_cannot_be_evaluated_is_refused_in_a_line(run, checkpoint, flowers, tmp_path):
    test, photo = flowers / "test", flowers / "test" / "54" / "drawn_000.jpg"
    for name in ("54", "rose", "tulip"):
        shutil.copytree(flowers / "test" / "54", tmp_path / "strange" / name)
    (tmp_path / "empty").mkdir()
    one_folder, single = "--evaluate takes one folder", "are for single ones"
    cases = [
        ((tmp_path / "strange",), "no classes of the checkpoint: rose, tulip; it knows 49, 51, 54 and 3 more"),
        ((flowers,), f"{flowers} holds test/, train/, valid/: name one of them"),
        ((tmp_path / "empty",), "holds no class folders with photos"),
        ((tmp_path / "none",), one_folder),
        ((photo,), one_folder),
        ((test, test), one_folder),
        (("-",), one_folder),
        ((test, "--plot", tmp_path / "plots"), single),
        ((test, "--top_k", 3), single),
        ((test, "--format", "jsonl"), "--format is text or json with --evaluate, not jsonl"),
        ((test, "--min_probability", "0.5"), single),
        ((test, "--heatmap"), single),
        ((test, "--sets", 95), single),
    ]
    for arguments, said in cases:
        outcome = run(predict, *arguments, checkpoint, "--evaluate")
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert said in outcome.err
    outcome = run(predict, photo, checkpoint, "--report", tmp_path / "report")
    assert (outcome.code, outcome.out, outcome.err.count("--report works only together with --evaluate")) == (2, "", 1)
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "evaluation").exists()


def test_a_report_that_cannot_be_written_is_refused_before_the_work(run, checkpoint, flowers, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "report", "/proc/report"):
        outcome = run(predict, flowers / "test", checkpoint, "--evaluate", "--report", place)
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert re.search(r": --report \S+ cannot be written to: ", outcome.err)


def test_a_table_that_cannot_be_written_ends_in_1_after_the_results(run, checkpoint, flowers, tmp_path):
    (tmp_path / "report" / "per_class.csv").mkdir(parents=True)
    outcome = run(predict, flowers / "test", checkpoint, "--evaluate", "--report", tmp_path / "report")
    assert (outcome.code, outcome.err.count("cannot write")) == (1, 1)
    assert " right: " in outcome.out
