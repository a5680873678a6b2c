"""Which process of a job this is, from torchrun's variables, and its cores. A single process is a world of size 1."""

import os
import platform


def world_size() -> int:
    """Return the number of processes of the job."""
    return from_environment("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process, from 0. Rank 0 alone speaks."""
    return from_environment("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is the number of its GPU too."""
    return from_environment("LOCAL_RANK", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes of the job on this machine."""
    return from_environment("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def restarts() -> int:
    """Return how often torchrun has restarted this job after a process failed."""
    return from_environment("TORCHELASTIC_RESTART_COUNT", 0)


def job_name() -> str:
    """Return a name of the job on this machine that stays when torchrun restarts it; "" outside a job."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"{run} {platform.node()} {os.getppid()}" if run else ""


def is_in_job() -> bool:
    """Say whether torchrun runs this process, even if it is the only one."""
    return world_size() > 1 or bool(job_name())


def usable_cores() -> int:
    """Return how many cores this process may use: under taskset, or in a container, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def from_environment(name: str, alone: int) -> int:
    """Return a number from the environment; `alone`: its value outside a job."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and "RANK" in os.environ else alone
