"""Take a checkpoint out of Python: one folder that names photos without torch, in a terminal, a program or a browser.

    python export.py checkpoint.pth rose_app
    python export.py checkpoint.pth rose_app --category_names cat_to_name.json
    python rose_app/predict.py image.jpg                    (needs onnxruntime, numpy and pillow alone)
    python -m http.server --directory rose_app              (the page: http://localhost:8000)

Writes model.onnx, classifier.json, predict.py, a README and a page that opens the camera. Before anything is written,
onnxruntime's answers are compared with torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

from flower_classifier.base import process
from flower_classifier.config.export_options import ExportConfig

if __name__ == "__main__":  # torch takes seconds to load: --help, mistakes and Ctrl-C end the process before it does
    asked = process.begin(ExportConfig, "export.py", __doc__)

# isort: split

import shlex
from dataclasses import replace

from flower_classifier.base.messages import RunError, megabytes, note, printable
from flower_classifier.config.allowed import MODEL_FILE
from flower_classifier.export.bundle import check_place, files_of, spec_of, write_folder
from flower_classifier.export.onnx_model import WholeNetwork, compare, in_8_bits, onnx_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.category_names import load_category_names


def run(config: ExportConfig) -> None:
    """Write the folder that `config` asks for."""
    folder = config.folder.resolve()
    title = printable(config.title or folder.name.replace("_", " "))
    check_place(config.folder)
    checkpoint = Checkpoint.load(config.checkpoint)
    names = load_category_names(config.category_names, checkpoint.classes, checkpoint.category_names)
    checkpoint = replace(checkpoint, category_names=names)
    model = checked_model(checkpoint)
    spec = spec_of(checkpoint, model, config.checkpoint)
    if config.int8:
        model, spec = in_8_bits(model, spec, config.int8)
    write_folder(folder, files_of(title, model, spec))
    print(f"{config.folder}: {megabytes(len(model))} of {MODEL_FILE}, for {len(spec.classes)} classes", flush=True)
    note(f"its page: python -m http.server --directory {shlex.quote(str(config.folder))}, then http://localhost:8000")


def checked_model(checkpoint: Checkpoint) -> bytes:
    """Return the checkpoint's network as ONNX. Raises RunError where onnxruntime does not answer as torch does."""
    network = WholeNetwork(checkpoint)
    model = onnx_of(network, checkpoint.preprocessing.crop_size)
    comparison = compare(network, model, checkpoint.preprocessing)
    same = f"{comparison.same} of {comparison.photos} have the same first class"
    summary = f"logits differ by {comparison.difference:.1e} at most, {same}"
    if not comparison.holds:
        raise RunError(f"onnxruntime does not answer as torch does ({summary}): nothing is written; please report it")
    note(f"onnxruntime answers as torch does: of {comparison.photos} drawn photos, {summary}")
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Export as a command line asks, within a process that goes on."""
    run(ExportConfig.parse("export.py", __doc__, argv))


if __name__ == "__main__":
    process.run(lambda: run(asked), as_program=True)
