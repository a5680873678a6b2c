"""An exported folder's network may be anybody's: what it does is ended, or told in a line."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from support import PROJECT, PYTHON, copy_of
from waiting import LIMIT, line_with, needs_proc, wait_until

import flower_classifier as fc
from flower_classifier.base.files import sha256_of
from flower_classifier.predicting.exported_predictor import ExportSpec

BRIGHT = 250  # of a picture's lightest pixel, from which on the network never ends


def folder_with(exported, tmp_path, distance_axes=()):
    """A copy of an exported folder with a network that never ends on a white picture.

    `distance_axes`: of what it gives for the distance, behind the axis of the photos, which should be all.
    """
    folder = copy_of(exported, tmp_path)
    spec = ExportSpec.read(folder)
    side, classes = spec.preprocessing.crop_size, len(spec.classes)
    number = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("sum", "next_sum")}
    goes_on = {name: helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("goes_on", "still")}
    step = helper.make_graph(
        [helper.make_node("Add", ["sum", "one"], ["next_sum"]), helper.make_node("Identity", ["goes_on"], ["still"])],
        "step",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []), goes_on["goes_on"], number["sum"]],
        [goes_on["still"], number["next_sum"]],
    )
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "sides"], ["features"], keepdims=0),
        helper.make_node("ReduceMax", ["values"], ["lightest"], keepdims=0),
        helper.make_node("Greater", ["lightest", "bright"], ["is_bright"]),
        helper.make_node("Loop", ["", "is_bright", "zero"], ["total"], body=step),
        helper.make_node("MatMul", ["features", "weights"], ["products"]),
        helper.make_node("Add", ["products", "total"], ["logits"]),
        helper.make_node("ReduceMean", ["features", "channels"], ["distance"], keepdims=bool(distance_axes)),
    ]
    constants = {
        "sides": np.array([1, 2]),
        "channels": np.array([1]),
        "bright": np.float32(BRIGHT),
        "zero": np.float32(0),
        "one": np.float32(1),
        "weights": np.eye(3, classes, dtype=np.float32),
    }
    outputs = {"logits": ["photos", classes], "features": ["photos", 3], "distance": ["photos", *distance_axes]}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["photos", side, side, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    scored = replace(spec, model_sha256=sha256_of(model), stranger_scores=[[0.5, 100.0]] * 30)
    (folder / "model.onnx").write_bytes(model)
    (folder / "classifier.json").write_bytes(scored.to_text())
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Eight dark pictures, which the network takes at once, and a white one."""
    shades = {f"{number}.png": 10 * number for number in range(8)} | {"white.png": 255}
    for name, shade in shades.items():
        Image.new("L", (40, 40), shade).save(tmp_path / name)
    return [tmp_path / name for name in shades]


@needs_proc
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_ends_a_network_that_never_does(exported, pictures, tmp_path, number, said):
    folder = folder_with(exported, tmp_path)
    command = [PYTHON, folder / "predict.py", *pictures, "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(line_with("7.png", process.stdout))["path"] == str(pictures[7])

        def ticks():  # that the process has computed for
            after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return int(after_name[11]) + int(after_name[12])

        before = ticks()
        wait_until(lambda: ticks() > before + 20, "the white picture is computed", process)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (128 + number, "", f"predict.py: {said}\n")


ALARMED = """
import signal, sys, threading, time
import flower_classifier as fc
class Rung(Exception): pass
def ring(*_):
    if time.process_time() > latest:  # so that it is the network that has computed for so long
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Rung
signal.signal(signal.SIGALRM, ring)
folder, dark, white = sys.argv[1:]
predictor = fc.load(folder)
threads = threading.active_count()
latest = time.process_time() + 0.3
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
try: predictor(white)
except Rung: print("rung")
while threading.active_count() >= threads: time.sleep(0.01)
print(predictor(dark).plain() == fc.load(folder)(dark).plain())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_program_can_end_a_network_by_an_alarm_and_ask_again(exported, pictures, tmp_path):
    """The thread that computed ends too, and is no burden to the program."""
    folder = folder_with(exported, tmp_path)
    command = [PYTHON, "-c", ALARMED, folder, pictures[0], pictures[-1]]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.stdout, done.stderr) == ("rung\nTrue\n", "")


def test_a_distance_of_another_shape_is_told_in_a_line(exported, pictures, tmp_path):
    predictor = fc.load(folder_with(exported, tmp_path, distance_axes=(1,)))
    with pytest.raises(
        fc.InputError, match=r"other shapes than classifier\.json tells of: export the checkpoint again"
    ):
        predictor(pictures[0])
