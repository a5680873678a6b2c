"""Errors that a person sees as one line, without a traceback; and the check for missing packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

EXIT_FAILED, EXIT_WRONG_INPUT = 1, 2  # exit codes for RunError and InputError


class UserError(Exception):
    """An error that a person can mend. The message says what is wrong, where, and what to do.

    `option` is the name of the setting that the message begins with, such as "top_k". A program reads
    `top_k must be at least 1`; the commands show it as the flag that was typed: `--top_k must be at least 1`.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(f"{option} {message}" if option else message)
        self.option = option

    @property
    def at_terminal(self) -> str:
        """The message as the commands show it."""
        return f"--{self}" if self.option else str(self)


class InputError(UserError):
    """The input or the command line is wrong."""


class RunError(UserError):
    """A sound command failed on the way: network, disk, memory, loss."""


# How torch, and the libraries of a GPU below it, say that there is no memory
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
NO_WORKSPACE = ("unable to find an engine", "unable to find a valid cudnn algorithm")  # cuDNN's, where none fits
OF_A_GPU = ("cuda", "cublas", "cudnn", "mps", "hip", *NO_WORKSPACE)  # words in an error about a GPU


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory: torch raises a RuntimeError for it on the CPU, and a class of its own on a GPU."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in (*NO_MEMORY, *NO_WORKSPACE))


# ---------------------------------------------------------------------------------------------------- optional packages


NEEDED = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "tqdm", "platformdirs", "filelock")  # requirements.txt
NEEDED_BY_EXPORTED = ("onnxruntime", "numpy", "PIL")  # to ask an exported folder
NEEDED_TO_EXPORT = ("onnx", "onnxscript", "onnxruntime")  # beside requirements.txt


def check_installed(needed: Sequence[str]) -> None:
    """Raise RunError if a needed package is missing, before its import ends in a traceback."""
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        names = " ".join("pillow" if name == "PIL" else name for name in missing)
        how = "-r requirements.txt" if set(missing) & set(NEEDED) - set(NEEDED_BY_EXPORTED) else names
        raise RunError(f"needs {', '.join(missing)}, which this Python lacks: pip install {how}")
