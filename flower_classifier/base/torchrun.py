"""The place of this process in a job of several, as torchrun tells it. A single process is a world of size 1."""

from __future__ import annotations

import os
import platform


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


def restarts() -> int:
    """Return how often torchrun has started this job again, after a process of it had failed."""
    return number("TORCHELASTIC_RESTART_COUNT", 0)


def job_name() -> str:
    """Return what the job has in common with itself before torchrun started it again, on this machine; else ""."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"{run} {platform.node()} {os.getppid()}" if run else ""


def is_in_job() -> bool:
    """Say whether torchrun watches over this process, which may be the only one."""
    return world_size() > 1 or bool(job_name())


def have_every_core() -> None:
    """Undo that torchrun lets each of several processes have one thread, before torch is loaded.

    Each takes its share of the cores by itself, and rank 0 has them all while the others wait.
    """
    if local_world_size() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]


def number(name: str, alone: int) -> int:
    """Return a number from the environment; `alone`: what holds outside a job."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and "RANK" in os.environ else alone
