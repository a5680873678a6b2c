"""The device that a run uses, what it computes in and has room for, and how many threads work."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

import torch
from torch import nn

from flower_classifier.base.messages import InputError, RunError, counted, note, reason_of, warn
from flower_classifier.base.seeding import fold_seed
from flower_classifier.base.torchrun import local_rank, local_world_size, rank, world_size

# Photos per forward. On a CPU, 8 was best or nearly so for every architecture tried: the caches hold the activations.
MICRO_BATCH = {"cpu": 8, "cuda": 64, "mps": 64}

PRECISION = "FLOWERS_PRECISION"  # the environment variable that chooses what frozen networks compute in
# Those that a person can choose; a GPU without bfloat16 uses float16, too. Another must also be added to the forward of
# FrozenBackbone, to its `way`, which the cache's key is made of, and to FineTuning.precision
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(gpu: bool) -> torch.device:
    """Return CUDA, else Apple's MPS, else (with a warning) the CPU; without `gpu` the CPU."""
    if not can_start_threads():
        torch.set_num_threads(1)  # OpenMP, refused a thread, would end the process
    if not gpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        device = gpu_of_process()
    elif torch.backends.mps.is_available():
        if world_size() > 1:
            raise InputError("cannot be shared by several processes on a Mac: start one", "gpu")
        device = torch.device("mps")
    else:
        warn("no GPU found; using the CPU")
        return torch.device("cpu")
    if not (trouble := trouble_with(device)):
        return device
    if world_size() > 1:
        raise RunError(f"process {rank()} cannot use {device} ({trouble}), and on the CPU it would hold up all others")
    warn(f"the GPU cannot be used ({trouble}); using the CPU")
    return torch.device("cpu")


def gpu_of_process() -> torch.device:
    """Return the GPU of this process: in a job each has its own. Raises InputError where there are fewer of them."""
    if world_size() == 1:
        return torch.device("cuda")
    gpus = torch.cuda.device_count()
    if gpus > 1 and local_rank() >= gpus:
        raise InputError(f"finds {gpus} GPUs for {local_world_size()} processes: start as many as there are", "gpu")
    device = torch.device("cuda", local_rank() if gpus > 1 else 0)  # a launcher may show each process its own alone
    torch.cuda.set_device(device)
    return device


def trouble_with(device: torch.device) -> str:
    """Say why a GPU cannot be used, or "": this torch may have no kernels for it, or another program may fill it."""
    try:
        pictures, kernels = torch.ones(1, 3, 8, 8, device=device), torch.ones(4, 3, 3, 3, device=device)
        values = torch.nn.functional.conv2d(pictures, kernels).flatten()
        return "" if (values @ values).item() == 4 * 36 * 27**2 else "it computes wrongly"
    except Exception as error:  # of torch's many kinds
        return reason_of(error)


def halve(most: int, photos: int, device: torch.device, purpose: str) -> int:
    """Return how many photos a GPU takes at a time after it had no room for `photos`, or for `most` of them: half.

    Say so, and empty its cache. Call it behind the `except`: an error holds the tensors of the calls that it ended.
    """
    most = max(min(most, photos) // 2, 1)
    note(f"the GPU has too little memory {purpose} more than {counted(most, 'photo')} at a time")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return most


def seed_torch(*keys: object) -> None:
    """Seed torch's own generator, from which initialisation and dropout draw."""
    torch.manual_seed(fold_seed(*keys))


def precision_of(device: torch.device) -> torch.dtype:
    """Return the type in which frozen networks and fine-tuning compute on a device: the fastest that it has.

    FLOWERS_PRECISION=float32 or bfloat16 chooses it, on any device. Where a processor lacks bfloat16, torch emulates
    it, ten times more slowly. Raises InputError for another value.
    """
    if asked := os.environ.get(PRECISION):
        if asked not in PRECISIONS:
            raise InputError(f"{PRECISION} is {asked!r}: set it to {' or '.join(PRECISIONS)}, or unset it")
        return PRECISIONS[asked]
    if has_bfloat16(device):
        return torch.bfloat16
    # A GPU from Volta on that lacks bfloat16 (a T4, say) is fast in float16
    has_float16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if has_float16 else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Say whether the device computes in bfloat16 with instructions of its own; emulated, it gains nothing."""
    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_properties(device).major >= 8
    if device.type == "cpu":
        # torch of 2026 knows them by name
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def device_name(device: torch.device) -> str:
    """Return what tells devices apart whose results may differ in the last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


# ------------------------------------------------------------------------------------------- how many threads there are


# Multiply-adds of a forward for which another thread is worth its waits. Chosen by benchmarks/neighbours.py: a head of
# 4,096 features, 512 units and 102 classes (138 million for a batch of 64) takes 0.8 of the time with two threads on a
# quiet machine and 2.1 times as long beside one busy process; with vgg16's 25,088 features (825 million) 0.6 and 1.9.
WORK_OF_A_THREAD = 160_000_000


@functools.cache
def can_start_threads() -> bool:
    """Say whether the system gives threads, two per core (torch's and ours); where it does not, warn once."""
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(2 * torch.get_num_threads())]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # a limit on processes, as shared hosts and containers have it
        warn("the system gives no more threads (see `ulimit -u`): going on with one, which is slower")
        return False
    finally:
        done.set()
    return True


def threads_for(learner: nn.Module, samples: int) -> int:
    """Return how many threads a learner gets for a batch: all, unless it is a head of linear layers.

        with torch_threads(threads_for(head, samples=64)):
            head(features)

    At the end of every operation its threads wait for each other. Alone on a machine that costs microseconds. But where
    another program has taken the core of one of them, all wait until it gets that core back: milliseconds, for each of
    the forty operations in a step of a head. A thread that has little to do is not worth that
    (benchmarks/neighbours.py, docs/measurements.md). Another rule changes the last digits of heads, in training, in the
    search, in evaluation and in the doctor; features are not computed by it.

    The number follows from the head, the batch and torch's threads alone, since the last bits of a result may depend on
    it. Most heads get one, and so the same bits on every number of cores. The heads of a search, which learn together,
    are more work and may get more.
    """
    layers = [layer for layer in learner.modules() if any(True for _ in layer.parameters(recurse=False))]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return torch.get_num_threads()
    return threads_for_work(samples * sum(parameter.numel() for layer in layers for parameter in layer.parameters()))


def threads_for_work(multiply_adds: int) -> int:
    """Return how many threads so many multiply-adds get."""
    return min(max(multiply_adds // WORK_OF_A_THREAD, 1), torch.get_num_threads())


@functools.cache
def survive_forks() -> None:
    """Let processes that are forked from this one compute with one thread.

    Of OpenMP's threads, which torch would wait for without end, a fork copies none.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which forks none
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set how many threads torch's operations use, and restore the earlier count at the end: each costs a microsecond.

    The number belongs to the thread that sets it, and to threads that begin later. So let only one thread of a process
    train: one that began meanwhile would leave its own, smaller number to those that follow.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
