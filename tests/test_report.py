"""What a run leaves for people: tables that programs read, pictures that people look at."""

import csv
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image
from support import NAMES, read, run_program

import predict
import train
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.verdict import AccuracyVerdict, wilson
from flower_classifier.report import style
from flower_classifier.report.charts import draw_curves, draw_reliability, epoch_ticks
from flower_classifier.report.confusion_matrix import MARKS, draw_confusion, order_by_likeness
from flower_classifier.report.evaluation_report import EvaluationReport
from flower_classifier.report.pictures import save_figure
from flower_classifier.report.report_files import REPORT_FILES, files_of

PICTURES = [file.name for file in REPORT_FILES if file.is_picture and file.part != "tuning"]
SECONDS = ("reading_seconds", "computing_seconds", "training_seconds")


def table(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def keeps_a_margin(path):
    """Say whether a picture shows something, and nothing within six pixels of its edges."""
    ink = (np.asarray(Image.open(path).convert("RGB")) < 250).any(axis=2)  # (H, W)
    return ink.mean() > 0.01 and not any(edge.any() for edge in (ink[:6], ink[-6:], ink[:, :6], ink[:, -6:]))


def texts_of(figure):
    """The texts of a figure that show anything."""
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.fixture(scope="module")
def reported(flowers, tmp_path_factory):
    """The run folder of a short run, names included, with a cache of its own: it reads all photos."""
    save_dir = tmp_path_factory.mktemp("reported")
    options = ["--arch", "cnn", "--epochs", "4", "--category_names", str(NAMES), "--tensorboard"]
    options += ["--cache_dir", str(tmp_path_factory.mktemp("cache"))]
    train.main([str(flowers), *options, "--save_dir", str(save_dir)])
    return save_dir / "run"


def test_the_history_is_a_table_of_the_checkpoints_with_the_seconds_of_each_epoch(reported):
    rows = [{key: float(value) for key, value in row.items()} for row in table(reported / "history.csv")]
    seconds = [[row.pop(name) for name in SECONDS] for row in rows]
    assert rows == read(reported.parent / "checkpoint.pth")["history"]
    assert all(training > 0 for *_, training in seconds)
    assert [reading > 0 for reading, *_ in seconds] == [False, False, True, False]  # views 2 and 3


def test_a_run_leaves_the_files_of_the_list(reported):
    beside = {"last.pth", "lock"}  # of the run itself
    others = ("result", "tuning", "strangers")  # of an evaluation, of a search, and of pretrained networks
    files = {file.name for file in REPORT_FILES if file.part not in others}
    assert {path.name for path in reported.iterdir()} == files | beside


def test_what_needs_no_torch_and_no_matplotlib_loads_none():
    code = """if True:
        import sys
        from flower_classifier.report import report_files
        print({"torch", "matplotlib"} & set(sys.modules))
        from flower_classifier.report import charts, confusion_matrix, pictures
        print({"torch"} & set(sys.modules))
    """
    assert run_program("-c", code, cold=True).out == "set()\nset()\n"
    code = (
        "import sys; from flower_classifier.report import run_log\n"
        "print({'matplotlib', 'tensorboard'} & set(sys.modules))"
    )
    assert run_program("-c", code).out == "set()\n"


def test_every_class_has_a_row_by_its_name(reported, flowers):
    rows = table(reported / "per_class.csv")
    assert [row["class"] for row in rows] == ["49", "51", "54", "74", "78", "91"]
    assert [row["name"] for row in rows] == ["oxeye daisy", "petunia", "sunflower", "rose", "lotus", "hippeastrum"]
    for row in rows:
        assert int(row["photos"]) == len(list((flowers / "test" / row["class"]).iterdir()))
        missed = int(row["photos"]) - round(float(row["accuracy"]) * int(row["photos"]))
        assert 0 <= int(row["times"]) <= missed
        assert (row["most_frequent_mistake"] == "") == (missed == 0)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_the_tables_of_mistakes_and_of_all_predictions_are_those_of_predict(run, reported, flowers, tmp_path, split):
    """Of training's report, and of an evaluation of other photos."""
    checkpoint, folder = reported.parent / "checkpoint.pth", reported
    if split == "valid":
        folder = tmp_path
        assert run(predict, flowers / split, checkpoint, "--evaluate", "--report", folder).code == 0
    answers = run(predict, flowers / split, checkpoint, "--format", "jsonl", "--top_k", 1).out.splitlines()
    names, expected, counts = json.loads(NAMES.read_text()), [], {}
    for answer in map(json.loads, answers):
        true, found = answer["path"].split("/")[-2], answer["predictions"][0]
        counts[true, found["class"]] = counts.get((true, found["class"]), 0) + 1
        if found["class"] != true:
            row = [answer["path"], true, names[true], found["class"], found["name"], found["probability"]]
            expected.append(row)
    expected.sort(key=lambda row: -row[-1])
    mistakes = [[*row.values()] for row in table(folder / "mistakes.csv")]
    assert [row[:-1] for row in mistakes] == [row[:-1] for row in expected]
    assert [float(row[-1]) for row in mistakes] == pytest.approx([row[-1] for row in expected], rel=1e-5)
    matrix = {row.pop("class"): row for row in table(folder / "confusion_matrix.csv")}
    cells = {(true, wrong): int(photos) for true, row in matrix.items() for wrong, photos in row.items()}
    assert {cell: photos for cell, photos in cells.items() if photos} == counts
    assert len(cells) == 36


# ------------------------------------------------------------------------------------------------- a run that goes on


@pytest.mark.thorough
def test_a_resumed_run_keeps_the_seconds_of_the_epochs_behind_it(train_into, flowers, tmp_path):
    """But not the row of an epoch that was never saved, nor the seconds of a row that is another run's."""
    options = (flowers, "--arch", "cnn")
    train_into(tmp_path, *options, "--epochs", 2)
    path = tmp_path / "run" / "history.csv"
    before = table(path)
    with path.open("a") as file:
        file.write("3,0.5,0.5,0.5,7,7,7\n")
    train_into(tmp_path, *options, "--epochs", 3, "--resume")
    rows = table(path)
    assert rows[:2] == before
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[2]["training_seconds"] != "7"
    path.write_text(path.read_text("utf-8").replace(rows[1]["train_loss"], "0.5"), "utf-8")
    train_into(tmp_path, *options, "--epochs", 4, "--resume")
    changed = {**rows[1], **dict.fromkeys(SECONDS, "")}
    assert table(path)[:3] == [rows[0], changed, rows[2]]


def test_a_resumed_run_without_an_earlier_table_has_empty_cells(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1, "--no_report")
    assert not (tmp_path / "run" / "history.csv").exists()
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 2, "--resume")
    assert [row["training_seconds"] == "" for row in table(tmp_path / "run" / "history.csv")] == [True, False]


# ------------------------------------------------------------------------------------------------------- the pictures


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_show_something_and_clip_nothing(reported, name):
    assert keeps_a_margin(reported / name)


def diagnosis(number, name="the flower of a rather long name, number {}, von der Wiese"):
    """Make up an evaluation of `number` classes with long names. The files of its photos do not exist."""
    labels = torch.arange(2 * number) % number
    predicted = torch.where(torch.arange(2 * number) < number, labels, (labels * 7 + 1) % number)
    logits = torch.nn.functional.one_hot(predicted, number).float() * 5
    names = [name.format(index) for index in range(number)]
    classes = [str(index) for index in range(number)]
    return EvaluationReport("test", Evaluation(logits, labels), [Path("gone")] * 2 * number, classes, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [2, 3, 15, 30, 36, *(pytest.param(many, marks=pytest.mark.slow) for many in (102, 300))]
)
@pytest.mark.parametrize("name", ["the flower of a rather long name, number {}, von der Wiese", "{}"])
def test_a_confusion_matrix_has_room_for_any_number_of_classes_and_long_names(tmp_path, number, name):
    made = diagnosis(number, name)
    figure = draw_confusion(made.evaluation, made.names, made.judged)
    save_figure(figure, tmp_path / "confusion_matrix.png")
    assert Image.open(tmp_path / "confusion_matrix.png").width == 1200
    assert keeps_a_margin(tmp_path / "confusion_matrix.png")
    texts = texts_of(figure)
    assert all(text.get_fontsize() >= 8 for text in texts)
    headings = [
        text.get_text() for text in texts if re.match(r"all mistakes|most frequent|\d+ of \d+ conf", text.get_text())
    ]
    assert headings
    assert "…" not in headings[0]
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(one.y0 >= other.y1 - 3 for one, other in itertools.pairwise(boxes))  # 3: of a line's height


def evaluation_of(pairs, classes):
    """Make up an evaluation of photos by their true and predicted classes."""
    labels, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return Evaluation(torch.nn.functional.one_hot(predicted, classes).float() * 5, labels)


def test_of_many_classes_each_name_beside_the_matrix_stands_at_its_own_row_and_column():
    """Whole numbers beside it would be read as class folders, which are called that way.

    Each class is taken once for another, so a cell beside the diagonal says which class its row is of.
    """
    made = diagnosis(102, "flower {}")
    (axes,) = draw_confusion(made.evaluation, made.names, "").axes
    (picture,) = axes.images
    inked = (np.asarray(picture.get_array()) < 0.99).any(axis=2)
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == [label.get_text() for label in axes.get_xticklabels()]
    assert list(axes.get_yticks()) == list(axes.get_xticks()) == list(range(0, 102, 3))
    assert len(set(rows)) == 34
    position = {made.names.index(name): tick for name, tick in zip(rows, range(0, 102, 3), strict=True)}
    for label in position.keys() & {(7 * label + 1) % 102 for label in position}:
        for true in position:
            assert inked[position[true], position[label]] == (label in (true, (7 * true + 1) % 102))


def test_of_many_classes_those_that_are_taken_for_each_other_stand_side_by_side():
    """Of three families that alternate in the folder's order, each is one run of rows and columns in the picture."""
    draw = np.random.default_rng(0)
    pairs = [(label, label % 3 + 3 * int(draw.integers(14))) for label in range(42) for _ in range(40)]
    order = order_by_likeness(evaluation_of(pairs, 42).likeness.numpy())
    assert sorted(order) == list(range(42))
    assert len(list(itertools.groupby(label % 3 for label in order))) == 3


def listed_beside(pairs, classes=102):
    """The texts at the right of a confusion matrix, from the heading of the mistakes on."""
    figure = draw_confusion(evaluation_of(pairs, classes), [f"class {label}" for label in range(classes)], "")
    return [text.get_text() for text in figure.texts]


def test_no_mistake_is_called_more_frequent_than_others_that_came_as_often():
    alone = [(label, label + 1) for label in range(0, 40, 2)]  # 20 pairs
    texts = listed_beside(alone)
    assert "12 of 20 confusions, by letter" in texts
    assert texts[-1] == "all 20 came equally often: 1×"
    texts = listed_beside([*alone, *alone[:3]])
    assert "most frequent mistakes, by letter" in texts
    assert [text for text in texts if "2×" in text] == [f"{'abc'[n]}  class {2 * n}  (2×)" for n in range(3)]
    assert not any("(1×)" in text for text in texts)
    assert texts[-1] == "and 17 pairs of classes, 1× at most"
    assert [text for text in listed_beside([(0, 1), (1, 1), (1, 0)], 2) if "mistakes" in text] == ["all mistakes"]
    assert "no mistakes" in listed_beside([(0, 0), (1, 1)], 2)


def test_of_a_class_all_mistakes_that_are_equally_frequent_are_in_its_row():
    pairs = [(0, 1), (0, 2), (0, 0), (1, 0), (1, 2), (1, 2), (2, 2)]
    made = EvaluationReport("test", evaluation_of(pairs, 3), [Path("gone")] * 7, ["0", "1", "2"], ["a", "b", "c"])
    assert [row[-2:] for row in made.per_class()][1:] == [["b; c", 1], ["c", 2], ["", 0]]


def test_what_attracts_mistakes_is_named_but_not_where_others_attract_as_many():
    several = [(label, 50) for label in (1, 2, 3, 3)] + [(label, 60) for label in (4, 5)]
    assert listed_beside(several)[2:5] == [
        "attract mistakes", "class 50: 4 photos of 3 classes", "class 60: 2 photos of 2 classes",
    ]  # fmt: skip
    crowd = [(label, target) for target in (60, 70, 80, 90) for label in (4, 5)]
    assert listed_beside([*several, *crowd])[2:4] == ["attract mistakes", "class 50: 4 photos of 3 classes"]
    assert "attract mistakes" not in listed_beside([(1, 2)] * 5)  # one pair, which is listed


def test_each_bar_of_the_reliability_diagram_says_how_many_photos_it_is_of():
    """Of bars with fewer than ten photos the colour is grey, and their line is long."""
    confidences = torch.tensor([0.97] * 30 + [0.7] * 4)
    logits = torch.stack([confidences, 1 - confidences], dim=1).log()
    figure = draw_reliability(Evaluation(logits, torch.tensor([0] * 29 + [1] + [0] * 3 + [1])), "34 photos")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["4", "30"]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [style.PALE_GREY, style.PALE_GREEN]
    few, many = (
        line.get_ydata() for line in axes.lines if len({*line.get_xdata()}) == 1 and len(line.get_xdata()) == 2
    )
    assert (tuple(few), tuple(many)) == (wilson(3, 4), wilson(29, 30))
    said = [text.get_text() for text in figure.texts]
    assert "94% sure on average, right 94% of the time: can be believed, as far as 34 photos can tell" in said
    assert "no temperature: the validation photos gave no reason to change probabilities" in said


def test_the_verdict_on_probabilities_is_in_words():
    verdict = AccuracyVerdict(180, 200, 0.5)  # 85.1 to 93.4 %
    words = ["right more often than it says", "can be believed", "too sure of itself"]
    assert [verdict.on_confidence(sure) for sure in (0.8, 0.9, 0.95)] == words
    assert AccuracyVerdict(1, 1, 1.0).on_confidence(0.9) == "can be believed, as far as 1 photo can tell"


def test_the_last_epoch_has_its_number_and_what_a_photo_is_worth_is_said():
    for last in (1, 2, 7, 20, 23, 30, 99, 150, 1234):
        ticks = epoch_ticks(last)
        assert ticks[-1] == last
        assert len(ticks) <= 10
        assert ticks == sorted(set(ticks))
    history = [
        {"epoch": number, "train_loss": 1.0, "valid_loss": 1.0, "valid_accuracy": 1.0 - 0.05 * (number < 3)}
        for number in range(1, 24)
    ]
    for photos, share in ((408, "0.25%"), (90, "1.1%"), (8, "12.5%"), (20, "5%")):
        figure = draw_curves(history, 23, photos=photos)
        assert [text.get_text() for text in figure.texts] == [f"one of the {photos} validation photos is worth {share}"]
    low, high = figure.axes[1].get_ylim()
    assert high - low > 4 / 20
    (text,) = draw_curves(history, 23, photos=1).texts
    assert text.get_text() == "the only validation photo is worth 100%"
    assert not draw_curves(history, 23).texts


@pytest.mark.parametrize("kind", ["spread", "first cells", "one column", "corner"])
def test_marks_cover_neither_cells_nor_each_other(kind):
    """The mistakes lie apart, on the first cells beside the diagonal, in one column, in the corners."""
    cells = {
        "spread": [(5 * place, 100 - 7 * place) for place in range(12)],
        "first cells": [(place, place + 1) for place in range(12)],
        "one column": [(40 + place, 90) for place in range(12)],
        "corner": [(0, 101), (1, 101), (0, 100), (101, 0), (100, 0), (101, 1), (2, 101), (99, 0)],
    }[kind]
    pairs = [*cells, *cells, *((label, label) for label in range(102))]
    evaluation = evaluation_of(pairs, 102)
    figure = draw_confusion(evaluation, [str(label) for label in range(102)], "")
    figure.canvas.draw()
    (axes,) = figure.axes
    marks = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert list(marks) == list(MARKS[: len(cells)])
    frame, half = axes.get_window_extent(), axes.get_window_extent().width / 102 / 2
    inked = axes.transData.transform([(column, row) for row, column in {*pairs}])
    for letter, box in marks.items():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        glyph = box.shrunk(1, 0.6)  # a line is higher than a letter
        assert not any(glyph.overlaps(other.shrunk(1, 0.6)) for name, other in marks.items() if name != letter)
        for x, y in inked:
            assert not (glyph.x0 < x + half and x - half < glyph.x1 and glyph.y0 < y + half and y - half < glyph.y1)


def test_counts_stay_in_their_cells():
    labels = torch.arange(15).repeat_interleave(12_345)
    evaluation = Evaluation(torch.nn.functional.one_hot(labels, 15).float(), labels)
    figure = draw_confusion(evaluation, ["a"] * 15, "")
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"12k"}
    assert max(text.get_window_extent().width for text in axes.texts) < axes.get_window_extent().width / 15


@pytest.mark.parametrize("accuracies", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.5, 0.75, 1.0], [0.2]])
def test_the_curves_have_no_accuracy_beyond_100_percent_and_the_best_epoch_is_above_the_grid(accuracies):
    history = [
        {"epoch": place + 1, "train_loss": 1.0, "valid_loss": 1.0, "valid_accuracy": accuracy}
        for place, accuracy in enumerate(accuracies)
    ]
    figure = draw_curves(history, len(history))
    figure.canvas.draw()
    for axes in figure.axes:
        (dashed,) = (line for line in axes.lines if list(line.get_xdata()) == [len(history)] * 2)
        grid = axes.xaxis.get_zorder()
        assert grid < dashed.get_zorder() < 2  # above the grid, below the curves
    low, high = figure.axes[1].get_ylim()
    assert all(0 <= tick <= 1 for tick in figure.axes[1].get_yticks() if low <= tick <= high)


def test_photos_of_one_name_are_told_apart_by_their_folders(tmp_path):
    photos = [tmp_path / "test" / name for name in ("rose/1.jpg", "tulip/1.jpg", "tulip/deep/1.jpg")]
    for photo in photos:
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(photo)
    logits = torch.tensor([[0.0, 3.0], [2.0, 0.0], [1.0, 0.0]])
    made = EvaluationReport(
        "test", Evaluation(logits, torch.tensor([0, 1, 1])), photos, ["rose", "tulip"], ["Rose", "Tulpe"]
    )
    texts = [text.get_text() for text in texts_of(made.draw_most_confident())]
    assert [text for text in texts if "/" in text] == ["rose/1.jpg", "tulip/1.jpg", "tulip/deep/1.jpg"]


def test_a_mistakes_picture_of_an_earlier_evaluation_does_not_stay(tmp_path):
    (tmp_path / "mistakes.png").write_bytes(b"of an earlier run")
    diagnosis(3).write(tmp_path)
    assert not (tmp_path / "mistakes.png").exists()


def test_a_report_that_cannot_be_written_fails_the_run_but_not_the_checkpoint(run, flowers, tmp_path):
    (tmp_path / "run" / "history.csv").mkdir(parents=True)
    outcome = run(train, flowers, "--arch", "cnn", "--epochs", 2, "--save_dir", tmp_path)
    assert outcome.code == 1
    assert outcome.out.endswith(f"checkpoint: {tmp_path}/checkpoint.pth\n")
    reason = f"cannot write {tmp_path}/run/history.csv: Is a directory"
    assert outcome.err.count(f"warning: {reason}; training goes on\n") == 1
    assert outcome.err.endswith(f": {reason}\n")
    assert (tmp_path / "checkpoint.pth").exists()
    assert not any((tmp_path / "run" / name).exists() for name in files_of("summary"))  # the run did not end well
