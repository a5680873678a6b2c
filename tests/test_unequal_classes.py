"""What a run says where some classes have many more photos than others, and a model may forget the small ones."""

import json
import re
import shutil
from collections import Counter

import pytest
from support import NAMES, TINY, read

import predict

SIZES = {"54": 8, "74": 8, "91": 2}  # training photos of each class


@pytest.fixture(scope="module")
def unequal(flowers, tmp_path_factory):
    """A folder of three classes, of which one has a quarter of the others' training photos. It must not change."""
    folder = tmp_path_factory.mktemp("unequal")
    for split in ("train", "valid", "test"):
        for name, count in SIZES.items():
            photos = sorted((flowers / split / name).iterdir())[: count if split == "train" else None]
            (folder / split / name).mkdir(parents=True)
            for photo in photos:
                shutil.copy(photo, folder / split / name)
    return folder


def mean_over_classes(answers):
    """Count what `predict.py --format jsonl` answered to photos in class folders."""
    photos, right = Counter(), Counter()
    for answer in map(json.loads, answers.splitlines()):
        true = answer["path"].split("/")[-2]
        photos[true] += 1
        right[true] += answer["predictions"][0]["class"] == true
    return sum(right[name] / photos[name] for name in photos) / len(photos)


def test_a_run_warns_with_the_numbers_and_each_epoch_says_its_mean_over_classes(run, train_into, unequal, tmp_path):
    outcome = train_into(tmp_path, unequal, *TINY, "--epochs", 2, "--category_names", NAMES)
    assert (
        "warning: classes are unequal, 2 training photos of hippeastrum and 8 of sunflower: always saying sunflower "
        "would be right for 44% of them. Look at the balanced accuracy, the mean over classes; such a mean of the "
        "validation loss chooses the epoch; --class_weights balanced lets small ones count as much\n" in outcome.err
    )
    rows = read(tmp_path / "checkpoint.pth")["history"]
    shown = re.findall(r"^epoch .* accuracy +(\d+)%   balanced accuracy +(\d+)%$", outcome.out, re.MULTILINE)
    keys = ("valid_accuracy", "valid_balanced_accuracy")
    assert shown == [tuple(f"{100 * row[key]:.0f}" for key in keys) for row in rows]
    best, balanced = re.search(r"^best epoch (\d).*   balanced accuracy (\d+)%$", outcome.out, re.MULTILINE).groups()
    options = ("--top_k", 1, "--format", "jsonl")
    of_valid = mean_over_classes(run(predict, unequal / "valid", tmp_path / "checkpoint.pth", *options).out)
    assert rows[int(best) - 1]["valid_balanced_accuracy"] == pytest.approx(of_valid)
    assert f"{100 * of_valid:.0f}" == balanced
    of_test = mean_over_classes(run(predict, unequal / "test", tmp_path / "checkpoint.pth", *options).out)
    assert f"balanced accuracy {100 * of_test:.0f}%, the mean over classes (always saying" in outcome.out


def test_equal_classes_are_not_warned_of_and_have_no_mean_over_classes(train_into, flowers, tmp_path):
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 1)
    assert "unequal" not in outcome.err
    assert "balanced" not in outcome.out
    assert "valid_balanced_accuracy" not in read(tmp_path / "checkpoint.pth")["history"][0]
