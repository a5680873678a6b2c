"""Which of ONNX's operator sets and which numbers an exported network has, for docs/export.md. Run by hand.

    python benchmarks/export_formats.py squeezenet1_1/checkpoint.pth lite0/checkpoint.pth

Each checkpoint is exported in each way; then onnxruntime loads it and takes one photo, all ways in turn, seven rounds:
the median. float16 is made by onnxruntime's own converter; pixels go in and logits come out as ever.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.export import onnx_model
from flower_classifier.export.onnx_model import WholeNetwork, drawn_photos, onnx_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.predicting.exported_predictor import LOGITS, PIXELS, import_onnxruntime, session_of

OPSETS = (18, 20, 22, 23)
ROUNDS = 7


def in_float16(model: bytes) -> bytes:
    """Return a network with half the bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        convert_float_to_float16 = import_onnxruntime("onnxruntime.transformers.float16").convert_float_to_float16
        return convert_float_to_float16(onnx.load(path), keep_io_types=True).SerializeToString()


def ways_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the network in each way."""
    ways = {}
    for opset in OPSETS:
        onnx_model.OPSET = opset
        ways[f"float32, opset {opset}"] = onnx_of(WholeNetwork(checkpoint), checkpoint.preprocessing.crop_size)
    ways["float16, opset 18"] = in_float16(ways["float32, opset 18"])
    return ways


def main() -> None:
    """Print a table for each checkpoint."""
    for path in map(Path, sys.argv[1:]):
        checkpoint = Checkpoint.load(path)
        ways, pixels = ways_of(checkpoint), drawn_photos(checkpoint.preprocessing)
        loads, runs, found = {}, {}, {}
        for _ in range(ROUNDS):
            for name, model in ways.items():
                began = time.perf_counter()
                session = session_of(model, Path(name))
                loads.setdefault(name, []).append(time.perf_counter() - began)
                found[name] = session.run([LOGITS], {PIXELS: pixels[:1]})[0]
                began = time.perf_counter()
                session.run([LOGITS], {PIXELS: pixels[:1]})
                runs.setdefault(name, []).append(time.perf_counter() - began)
        print(
            f"\n{checkpoint.model.arch}\n\n| numbers, operators | size, MB | loading | a photo | largest difference |"
        )
        print("|---|---|---|---|---|")
        first = next(iter(ways))
        for name, model in ways.items():
            load, run = (statistics.median(of[name]) / statistics.median(of[first]) for of in (loads, runs))
            difference = np.abs(found[name] - found[first]).max()
            print(f"| {name} | {len(model) / 1e6:.1f} | {load:.2f} | {run:.2f} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
