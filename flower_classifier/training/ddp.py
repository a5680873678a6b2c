"""Fine-tuning in all processes of a job, in step with each other.

Each process reads and runs its share of every batch's photos, and torch's DistributedDataParallel gives all of them the
gradient of the whole batch. So all take the steps that a single process would take, apart from rounding and dropout's
draws, and the parameters stay the same everywhere without being sent.
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
from flower_classifier.networks.devices import torch_threads
from flower_classifier.networks.job import EPOCH, FINE_TUNE, current_job, talking
from flower_classifier.networks.source import black_picture
from flower_classifier.training.state import TrainState


def learner_in_job(state: TrainState, train: Inputs) -> nn.Module:
    """Return the learner to train: the state's, or where a job fine-tunes, the same in step with the helpers'.

    Then it also orders the helpers to prepare theirs. A head learns in rank 0 alone: sending its gradients would take
    longer than computing them (docs/scale.md).
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
    """Wrap a learner so that its gradients are those of all processes. Each process must call this.

    The parameters of rank 0's learner are copied to the others.
    """
    learner, side, is_cuda = state.learner, state.classifier.preprocessing.crop_size, device.type == "cuda"
    with talking():
        group = dist.new_group(backend="nccl") if is_cuda else None
        device_ids = [torch.cuda.current_device()] if is_cuda else None
        unused = has_unused(learner, side)
        return DistributedDataParallel(learner, device_ids, process_group=group, find_unused_parameters=unused)


def has_unused(learner: nn.Module, side: int) -> bool:
    """Say whether a forward leaves some parameters unused, as in some of timm's networks."""
    learner.zero_grad()
    learner(black_picture(learner, side, torch.uint8)).sum().backward()
    unused = any(parameter.grad is None for parameter in learner.parameters() if parameter.requires_grad)
    learner.zero_grad()
    return unused


def is_in_step(learner: nn.Module) -> TypeGuard[DistributedDataParallel]:
    """Say whether a learner learns together with those of other processes."""
    return isinstance(learner, DistributedDataParallel)


def processes_of(learner: nn.Module) -> int:
    """Return how many processes train a learner."""
    return dist.get_world_size() if is_in_step(learner) else 1


def begin_epoch(learner: nn.Module, epoch: int) -> None:
    """In rank 0, order the helpers to begin an epoch too, if they train this learner."""
    if is_in_step(learner) and (job := current_job()):
        job.order({"do": EPOCH, "epoch": epoch})


@contextlib.contextmanager
def synchronised_step(learner: nn.Module) -> Iterator[None]:
    """Take a step together with the other processes, on a share of the cores. Raises LostError if one has ended."""
    if not is_in_step(learner):
        yield
        return
    with torch_threads(max(torch.get_num_threads() // local_world_size(), 1)), talking():
        yield


def no_sync_unless_last(learner: nn.Module, more_follow: bool) -> contextlib.AbstractContextManager[object]:
    """Return the context of a backward: with `more_follow`, its gradients are not sent to the others yet."""
    return learner.no_sync() if more_follow and is_in_step(learner) else contextlib.nullcontext()


def sum_of_all(value: torch.Tensor, learner: nn.Module) -> torch.Tensor:
    """Return the sum of a scalar () over all processes. Each of them must call this."""
    if not is_in_step(learner):
        return value
    total = value.detach().to("cpu", copy=True)
    with talking():
        dist.all_reduce(total)
    return total
