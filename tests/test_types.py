"""The package is typed: mypy checks what a program does with it. `make lint` checks the package itself."""

import os
import re
import subprocess
import sys

import pytest
from support import PROJECT

# What a program may do, as README and docs/export.md show it. assert_type refuses Any, too.
FINE = """
from pathlib import Path

import numpy as np
from PIL import Image
from typing_extensions import assert_type

import flower_classifier as fc
from data_utils import Data, draw_data, load_data, process_image, show_photos
from flower_classifier.predicting.base_predictor import BasePredictor
from flower_classifier.predicting.base_predictor import Result
from model_utils import (
    Model, Results, build_model, evaluate_model, load_checkpoint, predict, save_checkpoint, show_confusion,
    show_mistakes, show_prediction, show_training, train_model,
)

predictor = fc.load("checkpoint.pth", gpu=True, category_names=Path("cat_to_name.json"))
assert_type(predictor, BasePredictor)
answer = predictor("rose.jpg")
assert_type(answer, Result)
assert_type(answer[0]["name"], str)
assert_type([one["probability"] for one in answer], list[float])
assert_type((answer.known, answer.p_known), tuple[bool | None, float | None])
assert_type(answer.set, list[str] | None)
assert_type(answer.plain(), dict[str, object])
data, image, array = Path("a.jpg").read_bytes(), Image.open("b.jpg"), np.zeros((9, 9, 3), np.uint8)
assert_type(predictor([image, data, array, "c.jpg"], top_k=1), list[Result])
assert_type(predictor((image, data), stranger_rate=1.5, sets=0), list[Result])
assert_type(predictor(sorted(Path("photos").iterdir()), 3), list[Result])
assert_type([predictor(one) for one in (image, data, array, Path("d.jpg"))], list[Result])
assert_type(predictor(open("e.jpg", "rb")), Result)
try:
    fc.load("rose_app")("f.jpg")
except (fc.InputError, fc.RunError) as error:
    assert_type(error.option, str | None)

draw_data("flowers", {"train": 3, "valid": 1})
flowers = load_data("flowers", "cat_to_name.json")
assert_type(flowers, Data)
assert_type((flowers.classes, flowers.names), tuple[tuple[str, ...], list[str]])
assert_type(show_photos(flowers, classes=4), Image.Image)
model = build_model("squeezenet1_1", flowers, hidden_units=(512, 256), dropout=0.1, weights="none")
assert_type(model, Model)
train_model(model, flowers, epochs=5, learning_rate=0.002)
results = evaluate_model(model, flowers)
assert_type((results, results.accuracy), tuple[Results, float])
save_checkpoint(model, "my_checkpoint.pth")
model = load_checkpoint(Path("my_checkpoint.pth"), gpu=False)
assert_type(predict(image, model, topk=5), tuple[list[float], list[str]])
assert_type(model.history[-1]["valid_accuracy"], float)
assert_type(process_image("a.jpg", model.preprocessing).ndim, int)  # of an array, whatever numpy calls its type
assert_type((show_prediction("a.jpg", model, heatmap=True), show_training(model)), tuple[Image.Image, Image.Image])
assert_type((show_confusion(results), show_mistakes(results)), tuple[Image.Image, Image.Image | None])
"""
WRONG = """
import flower_classifier as fc; import data_utils; import model_utils
fc.load(3)
fc.load("a.pth", names="names.json")
fc.load("a.pth")(3)
fc.load("a.pth")([3])
fc.load("a.pth")("a.jpg", topk=3)
fc.load("a.pth")("a.jpg").sure
fc.load("a.pth")("a.jpg")[0]["likelihood"]
fc.load("a.pth")(["a.jpg"]).known
one: float = fc.load("a.pth")("a.jpg")[0]["name"]
two: str = data_utils.process_image("a.jpg")
three: str = model_utils.evaluate_model(model_utils.load_checkpoint("a.pth"), data_utils.load_data("a"))
model_utils.build_model("cnn", "flowers")
model_utils.train_model(model_utils.load_checkpoint("a.pth"), data_utils.load_data("a"), epochs="5")
"""
# What others' libraries say of their types takes mypy four times as long, and is of no weight here. The package's own
# errors are for `make lint` to tell
SETTINGS = """[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,torchvision.*,timm.*,onnx.*,onnxruntime.*,matplotlib.*,tqdm.*,filelock.*,platformdirs.*,safetensors.*]
follow_imports = skip
ignore_missing_imports = true
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What mypy says of each script: (line, message) pairs, errors alone. It takes 10 seconds of a core."""
    folder = tmp_path_factory.mktemp("typed")
    scripts = {"fine.py": FINE, "wrong.py": WRONG, "watch.py": (PROJECT / "docs/examples/watch.py").read_text()}
    for name, text in {**scripts, "mypy.ini": SETTINGS}.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, *scripts],
        cwd=folder, env={**os.environ, "MYPYPATH": str(PROJECT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr  # 0: nothing is wrong with any; 2: it did not run
    found = re.findall(r"^(.+?):(\d+): error: (.+)$", done.stdout, re.MULTILINE)
    return {name: [(int(line), text) for file, line, text in found if file == name] for name in scripts}


@pytest.mark.parametrize("script", ["fine.py", "watch.py"])
def test_a_typed_program_may_use_what_the_documents_show(messages, script):
    assert messages[script] == []


def test_what_the_package_does_not_take_or_give_is_an_error_each(messages):
    lines = WRONG.splitlines()
    assert {line for line, _ in messages["wrong.py"]} == set(range(3, len(lines) + 1))
