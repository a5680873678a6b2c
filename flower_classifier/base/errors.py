"""The two kinds of errors that a person is told of in a line, without a traceback."""

from __future__ import annotations

EXIT_FAILED, EXIT_WRONG_INPUT = 1, 2  # what a command ends with for the one and the other


class ToldError(Exception):
    """Something that a person can do something about: what, where, and what to do.

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


class InputError(ToldError):
    """The input or the command line is wrong."""


class RunError(ToldError):
    """A sound command failed on the way: network, disk, memory, loss."""


# How torch, and the libraries of a GPU below it, say that there is no memory
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
NO_WORKSPACE = ("unable to find an engine", "unable to find a valid cudnn algorithm")  # cuDNN's, where none fits
OF_A_GPU = ("cuda", "cublas", "cudnn", "mps", "hip", *NO_WORKSPACE)  # words in an error about a GPU


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise a lack of memory: torch says it with a RuntimeError on the CPU, with a kind of its own on a GPU."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in (*NO_MEMORY, *NO_WORKSPACE))


def is_of_a_gpu(error: BaseException) -> bool:
    """Say whether it was a GPU that had no memory."""
    return any(word in str(error).lower() for word in OF_A_GPU)
