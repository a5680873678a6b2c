"""An exported folder: what is made of a checkpoint, what every folder has, and how all of it gets onto the disk.

The package's files that its predict.py needs are found by reading imports, so no list grows old. A folder is whole or
not there at all.
"""

from __future__ import annotations

import ast
import functools
import gzip
import html
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from flower_classifier.base.files import check_writable, sha256_of, sync_folder
from flower_classifier.base.messages import InputError, RunError, counted, first_few, megabytes, printable, reason_of
from flower_classifier.base.signals import signals_held
from flower_classifier.config.allowed import MODEL_FILE, SPEC_FILE
from flower_classifier.export.onnx_model import OPSET, pattern_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.grey import GreyRange
from flower_classifier.predicting.exported_predictor import ExportSpec

PACKAGE = Path(__file__).resolve().parent.parent
SCRIPT = PACKAGE / "export" / "app" / "predict.py"
HEAVY = ("torch", "torchvision", "matplotlib")  # a file that needs one of them to be imported is left out
LEFT_BY_PYTHON = "__pycache__"


def script_files() -> dict[str, bytes]:
    """Return predict.py and the files of this package that it needs, by their names in an exported folder.

    It needs those that it imports, directly or through each other, also inside functions. A file that loads torch is
    left out, so only functions that an exported folder never calls may import it: a test runs the folder's script
    without torch.
    """
    needed: set[Path] = set()
    waiting = [SCRIPT]
    while waiting:
        for path in imported_files(waiting.pop()):
            if path not in needed and not is_heavy(path):
                needed.add(path)
                waiting.append(path)
    # The package and its subpackages
    folders = {folder for path in needed for folder in path.parents if PACKAGE in (folder, folder.parent)}
    needed |= {folder / "__init__.py" for folder in folders}
    modules = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in sorted(needed)}
    return {"predict.py": SCRIPT.read_bytes(), **modules}


@functools.cache
def is_heavy(path: Path) -> bool:
    """Say whether importing a file of the package loads one of the heavy libraries."""
    if any(name.split(".")[0] in HEAVY for name in imported_names(path, at_once=True)):
        return True
    return any(is_heavy(imported) for imported in imported_files(path, at_once=True))  # imports make no circle


def imported_files(script: Path, at_once: bool = False) -> list[Path]:
    """Return the package's files that a file imports itself."""
    paths = (PACKAGE.parent.joinpath(*name.split(".")) for name in imported_names(script, at_once))
    files = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths)
    return [path for path in files if path.is_file() and PACKAGE in path.parents]


def imported_names(script: Path, at_once: bool) -> Iterator[str]:
    """Yield the modules that a file names in imports.

    `at_once`: only in those that run when it is imported itself, which are not in functions or for type checkers.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = []
    for statement in tree.body:
        if not isinstance(statement, ast.If):
            nodes.append(statement)
        elif ast.unparse(statement.test) != "TYPE_CHECKING":
            nodes += statement.body
    for node in nodes if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def check_place(folder: Path) -> None:
    """Raise InputError where a folder cannot be written, or holds files that are not from an earlier export."""
    real = folder.resolve()
    if real == Path.cwd() or real in Path.cwd().parents:
        raise InputError(f"{folder} is where you are: give another folder")
    if folder.exists():
        if any(folder.iterdir()) and not is_from_export(folder):
            raise InputError(f"{folder} holds other files: give a new folder, or one that export.py wrote")
        if foreign := foreign_files(folder):
            raise InputError(f"{folder} holds files that are no part of an export ({first_few(foreign)}): move them")
    try:
        check_writable(real.parent)
    except InputError as error:
        raise InputError(f"{folder} cannot be made: {error}") from None


def is_from_export(folder: Path) -> bool:
    """Say whether export.py wrote a folder: by its classifier.json, since many a folder has a model.onnx."""
    try:
        return {"format_version", "model", "digest"} <= set(json.loads((folder / SPEC_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def foreign_files(folder: Path) -> list[str]:
    """Return the names of the files and links below a folder that are not of an export; Python's caches may be there.

    An earlier version may have exported other modules of the package than this one does.
    """
    ours = {*static_files(), *script_files(), *FILLED, MANIFEST, MODEL_FILE, SPEC_FILE, README}
    names = []
    for path in folder.rglob("*"):
        name, is_link = path.relative_to(folder), path.is_symlink()
        is_module = name.parts[0] == PACKAGE.name and name.suffix == ".py" and not is_link
        if (is_link or not path.is_dir()) and LEFT_BY_PYTHON not in name.parts and not is_module:
            names.append(name.as_posix())
    return sorted(set(names) - ours)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files to a new folder; when they are on the disk, it replaces the earlier export.

    `folder`: without links. Raises RunError where the disk refuses; the folder that was there before is then untouched.
    A process that is killed between two renames leaves both folders, under names that begin with a dot.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name[:50]}-", dir=folder.parent))
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    try:
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        new.chmod(0o755)  # only the owner may read a temporary folder, but a web server must read the page
        with signals_held():
            put_in_place(new, folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`. The old folder is then deleted, or restored where the disk refuses."""
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------- what goes into it


README = "README.md"


def spec_of(checkpoint: Checkpoint, model: bytes, path: Path) -> ExportSpec:
    """Return what goes into classifier.json beside a network: `path` is where the checkpoint was."""
    training, trust = checkpoint.training, checkpoint.trust
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
    return ExportSpec(
        model_sha256=sha256_of(model),
        classes=checkpoint.classes,
        preprocessing=checkpoint.preprocessing,
        category_names=checkpoint.category_names,
        temperature=trust.temperature,
        set_scores=trust.set_scores,
        stranger_measure=trust.stranger_measure,
        stranger_scores=None if trust.stranger_scores is None else trust.stranger_scores.tolist(),
        pattern=pattern_of(model, checkpoint.preprocessing.crop_size),
        provenance=provenance,
    )


def files_of(title: str, model: bytes, spec: ExportSpec) -> dict[str, bytes]:
    """Return all files of an exported folder, by their names in it."""
    files = {**script_files(), **static_files(), MODEL_FILE: model, SPEC_FILE: spec.to_text()}
    files[README] = readme(title, spec, len(model))
    files[MANIFEST] = manifest(title)
    page = {name: data for name, data in files.items() if not name.endswith(NOT_OF_THE_PAGE)}
    heavy = {name: len(data) for name, data in page.items() if name == MODEL_FILE or name.endswith(".gz")}
    named = {
        "title": html.escape(title),
        "spec_sha256": sha256_of(files[SPEC_FILE]),
        "bytes": html.escape(json.dumps(heavy)),
    }
    contents = {name: sha256_of(data) for name, data in sorted(page.items())}
    version = sha256_of(f"{contents} {filled(INDEX, **named)!r}".encode())[:16]
    page[INDEX] = files[INDEX] = filled(INDEX, version=version, **named)
    digests = {name: [sha256_of(data)] for name, data in sorted(page.items())}
    for name, either in digests.items():
        if name.endswith(".gz"):  # a host may say how it is packed, and the browser unpacks it
            either.append(sha256_of(gzip.decompress(page[name])))
    # The page caches at once the files that every visit needs; the network and its runtime, when first fetched
    later = [name for name in digests if name == MODEL_FILE or name.startswith("vendor/")]
    worker = filled(SERVICE_WORKER, version=version, files=json.dumps(digests), later=json.dumps(later))
    return {**files, SERVICE_WORKER: worker}


def readme(title: str, spec: ExportSpec, size: int) -> bytes:
    """Return the folder's README.md."""
    made: Mapping[str, object] = spec.provenance
    unknown = "not stated: look where they come from before you pass this folder on"
    licence = printable(str(made["licence_of_weights"])) or unknown
    of_grey = f"\n{about_grey(spec.preprocessing.grey_range)}\n" if spec.preprocessing.grey_range else ""
    return f"""# {title}

A classifier for {counted(len(spec.classes), "class", "classes")}. It runs without torch, and nothing leaves the device.

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
| {SPEC_FILE} | the classes and their names, how photos become pixels, and what the outputs are worth |
| predict.py, flower_classifier/ | answers in a terminal or a program |
| index.html and the other files | the page; vendor/ holds onnxruntime-web, with its licence |
{of_grey}
Made of a `{made["arch"]}`. Licence of its pretrained weights: {licence}.
""".encode()


def about_grey(grey_range: GreyRange) -> str:
    """Return what the README says of photos in grey of more than 8 bits."""
    low, high = (f"{value:,g}" for value in grey_range)
    return (
        f"In photos of more than 8 bits of grey, the values {low} to {high} become 0 to 255, as in training. The page\n"
        "opens such photos as PNG of 16 bits; it refuses TIFF."
    )


# ------------------------------------------------------------------------------------------------------------- the page


PAGE = Path(__file__).resolve().parent / "page"
INDEX, SERVICE_WORKER, MANIFEST = "index.html", "service_worker.js", "manifest.webmanifest"
FILLED = (INDEX, SERVICE_WORKER)  # with {{words}} to be replaced
NOT_OF_THE_PAGE = (".py", ".md")  # endings of files beside it
PAPER = "#f6f4ef"  # as in style.css
MOST_LETTERS = 12  # of a name below an icon


def static_files() -> dict[str, bytes]:
    """Return the files that are the same in every exported folder, by their names in it."""
    paths = sorted(path for path in PAGE.rglob("*") if path.is_file() and path.name not in FILLED)
    return {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in paths}


def manifest(title: str) -> bytes:
    """Return what a phone asks for to install the page."""
    icons = [
        {"src": "icon-192.png", "sizes": "192x192", "type": "image/png", "purpose": "any maskable"},
        {"src": "icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any maskable"},
        {"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"},
    ]
    facts = {
        "name": title,
        "short_name": (textwrap.wrap(title, MOST_LETTERS) or [title])[0],
        "description": f"{title}: point the camera, and it says what it sees. Nothing leaves this device.",
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": PAPER,
        "theme_color": PAPER,
        "lang": "en",
        "icons": icons,
    }
    return (json.dumps(facts, indent=1) + "\n").encode()


def filled(name: str, **words: str) -> bytes:
    """Return a file of the page with its {{words}} replaced."""
    text = (PAGE / name).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    return text.encode()
