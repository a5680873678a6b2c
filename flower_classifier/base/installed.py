"""Packages that a command needs, and one clear line where they are missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from flower_classifier.base.errors import RunError

NEEDED = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "tqdm", "platformdirs", "filelock")  # requirements.txt
NEEDED_BY_EXPORTED = ("onnxruntime", "numpy", "PIL")  # to ask an exported folder
NEEDED_TO_EXPORT = ("onnx", "onnxscript", "onnxruntime")  # beside requirements.txt


def check_installed(needed: Sequence[str]) -> None:
    """Raise RunError where a package is missing without which nothing runs: before its import ends in a traceback."""
    if missing := [name for name in needed if not is_installed(name)]:
        names = " ".join("pillow" if name == "PIL" else name for name in missing)
        how = "-r requirements.txt" if set(missing) & set(NEEDED) - set(NEEDED_BY_EXPORTED) else names
        raise RunError(f"needs {', '.join(missing)}, which this Python lacks: pip install {how}")


def is_installed(name: str) -> bool:
    """Say whether a package could be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # this process has forbidden it
        return False
