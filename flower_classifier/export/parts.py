"""The parts of an exported folder: what is made of a checkpoint, and what is the same in every folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from flower_classifier.base.files import sha256_of
from flower_classifier.base.messages import note
from flower_classifier.base.words import counted, megabytes, printable
from flower_classifier.export.card import Card, card_text
from flower_classifier.export.folder import script_files
from flower_classifier.export.onnx_model import OPSET, pattern_of
from flower_classifier.export.page_files import FILLED, MANIFEST, filled_files, static_files
from flower_classifier.judging.exported_folder import CARD_FILE, MODEL_FILE
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.views import Preprocessing

README = "README.md"


def card_of(checkpoint: Checkpoint, model: bytes, path: Path) -> Card:
    """Return what goes into classifier.json beside a network: `path` is where the checkpoint was."""
    training = checkpoint.training
    scores = checkpoint.stranger_scores if checkpoint.tells_strangers else None
    provenance = {
        "checkpoint_sha256": sha256_of(path.read_bytes()),
        "arch": checkpoint.model.arch,
        "learned": checkpoint.model.learns,
        "weights": training.get("weights", ""),
        "licence_of_weights": training.get("licence", ""),
        "mirror": checkpoint.model.mirror,
        "numbers": "float32",
        "opset": OPSET,
        "made_with": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
    }
    return Card(
        model_sha256=sha256_of(model),
        classes=checkpoint.classes,
        preprocessing=by_contract(checkpoint.preprocessing),
        category_names=checkpoint.category_names,
        temperature=checkpoint.temperature,
        set_scores=checkpoint.set_scores,
        stranger_scores=None if scores is None else scores.tolist(),
        pattern=pattern_of(model, checkpoint.preprocessing.crop_size),
        provenance=provenance,
    )


def by_contract(preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing of docs/resampling.md; a checkpoint of an early format saw photos by torchvision's."""
    if preprocessing.resampling != "pillow":
        note(
            "the checkpoint is of an early format: of a photo's values the folder makes some that are 1 higher or lower"
        )
    return replace(preprocessing, resampling="pillow")


def files_of(title: str, model: bytes, card: Card) -> dict[str, bytes]:
    """Return all files of an exported folder, by their names in it."""
    made = {MODEL_FILE: model, CARD_FILE: card_text(card), README: readme(title, card, len(model))}
    static = {**script_files(), **static_files()}
    return {**static, **made, **filled_files(title, {**static, **made})}


def names_of_files() -> set[str]:
    """Return the names of all files that an exported folder may hold."""
    return {*static_files(), *script_files(), *FILLED, MANIFEST, MODEL_FILE, CARD_FILE, README}


def readme(title: str, card: Card, size: int) -> bytes:
    """Return the folder's README.md."""
    made: Mapping[str, object] = card.provenance
    unknown = "not stated: look where they come from before you pass this folder on"
    licence = printable(str(made["licence_of_weights"])) or unknown
    return f"""# {title}

A classifier for {counted(len(card.classes), "class", "classes")}. It runs without torch, and nothing leaves the device.

In a browser, with the camera or a photo: serve this folder from any file host that has https, or try it here:

    python -m http.server --directory .          then open http://localhost:8000

In a terminal (`pip install onnxruntime numpy pillow`):

    python predict.py image.jpg

In a program, with this folder in Python's path:

    import flower_classifier as fc
    answer = fc.load("this/folder")("image.jpg")
    answer[0]["name"], answer[0]["probability"], answer.known

| file | what it is |
|---|---|
| {MODEL_FILE} | the network, {megabytes(size)}: uint8 pixels (B, S, S, 3) in; logits, features, distances out |
| {CARD_FILE} | the classes and their names, how photos become pixels, and what the outputs are worth |
| predict.py, flower_classifier/ | answers in a terminal or a program |
| index.html and the other files | the page; vendor/ holds onnxruntime-web, with its licence |

Made of a `{made["arch"]}`. Licence of its pretrained weights: {licence}.
""".encode()
