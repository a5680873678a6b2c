"""Fine-tuning in all processes of a job, in step with each other.

Each process reads and runs its share of every batch's photos, and torch's DistributedDataParallel gives all of them the
gradient of the whole batch. So they take the steps that a single process would take, but for rounding and for what
dropout draws, and none needs to be told what the others have become.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flower_classifier.base.torchrun import local_world_size
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.job_extraction import new_model_or_split, numerics_key
from flower_classifier.networks.job import EPOCH, FINE_TUNE, current_job, talking
from flower_classifier.networks.threads import torch_threads
from flower_classifier.training.state import TrainState


def learner_in_job(state: TrainState, train: Inputs) -> nn.Module:
    """Return what is to learn: the state's learner; where a job fine-tunes, the same in step with the helpers'.

    Orders the helpers to make theirs ready. A head learns in rank 0 alone: to send its gradients would take longer than
    to compute them (docs/scale.md).
    """
    job = current_job()
    if job is None or not state.is_fine_tuning:
        return state.learner
    about = {"recipe": asdict(state.recipe), "finished": state.finished.to_plain(), "left out": list(train.bad)}
    job.order(
        {"do": FINE_TUNE, **about, "way": numerics_key(train.frozen), **new_model_or_split(train.frozen, train.split)}
    )
    return in_step(state, train.frozen.device)


def in_step(state: TrainState, device: torch.device) -> nn.Module:
    """Wrap a learner so that its gradients are those of all processes; every one of them must. Rank 0's is copied."""
    learner, side, is_cuda = state.learner, state.classifier.preprocessing.crop_size, device.type == "cuda"
    with talking():
        group = dist.new_group(backend="nccl") if is_cuda else None
        places = [torch.cuda.current_device()] if is_cuda else None
        unused = has_unused(learner, side, device)
        return DistributedDataParallel(learner, places, process_group=group, find_unused_parameters=unused)


def has_unused(learner: nn.Module, side: int, device: torch.device) -> bool:
    """Say whether there are parameters that a forward of photos does not use, as some networks of timm's have them."""
    learner.zero_grad()
    learner(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)).sum().backward()
    unused = any(one.grad is None for one in learner.parameters() if one.requires_grad)
    learner.zero_grad()
    return unused


def is_in_step(learner: nn.Module) -> TypeGuard[DistributedDataParallel]:
    """Say whether a learner learns together with those of other processes."""
    return isinstance(learner, DistributedDataParallel)


def processes_of(learner: nn.Module) -> int:
    """Return in how many processes a learner learns."""
    return dist.get_world_size() if is_in_step(learner) else 1


def begin_epoch(learner: nn.Module, epoch: int) -> None:
    """Order the helpers to begin an epoch too, where they learn; for rank 0."""
    if is_in_step(learner) and (job := current_job()):
        job.order({"do": EPOCH, "epoch": epoch})


@contextlib.contextmanager
def synchronised_step(learner: nn.Module) -> Iterator[None]:
    """Take a step while the other processes do: on a share of the cores. Raises LostError where one has ended."""
    if not is_in_step(learner):
        yield
        return
    with torch_threads(max(torch.get_num_threads() // local_world_size(), 1)), talking():
        yield


def no_sync_unless_last(learner: nn.Module, more_follow: bool) -> contextlib.AbstractContextManager[object]:
    """Return the context of a backward: with `more_follow`, its gradients do not go to the other processes yet."""
    return learner.no_sync() if more_follow and is_in_step(learner) else contextlib.nullcontext()


def sum_of_all(number: torch.Tensor, learner: nn.Module) -> torch.Tensor:
    """Return the sum of a number () over all processes, which each of them must ask for."""
    if not is_in_step(learner):
        return number
    total = number.detach().to("cpu", copy=True)
    with talking():
        dist.all_reduce(total)
    return total
