"""The place of this process in a job of several, as torchrun tells it. A single process is a world of size 1."""

from __future__ import annotations

import os


def world_size() -> int:
    """Return the number of processes of the job."""
    return number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process, from 0. Rank 0 alone speaks."""
    return number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process among those of its machine: the number of its GPU, too."""
    return number("LOCAL_RANK", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes of the job on this machine."""
    return number("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def number(name: str, alone: int) -> int:
    """Return a number from the environment; `alone`: what holds outside a job."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and "RANK" in os.environ else alone
