"""Fine-tuning in all processes of a job, in step with each other.

Each process reads and runs its share of every batch's photos, and torch's DistributedDataParallel gives all of them the
gradient of the whole batch. So all take the steps that a single process would take, apart from rounding and dropout's
draws, and the parameters stay the same everywhere without being sent.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from flower_classifier.base.torchrun import local_world_size
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.job_extraction import new_model_or_split, numerics_key
from flower_classifier.networks.devices import torch_threads
from flower_classifier.networks.job import EPOCH, FINE_TUNE, current_job, talking
from flower_classifier.networks.source import black_picture
from flower_classifier.training.state import TrainState


class Alone:
    """A learner that this process trains by itself."""

    processes = 1

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def begin_epoch(self, epoch: int) -> None:
        """Begin an epoch: nobody else takes part in it."""

    def batch_size(self, labels: torch.Tensor, whole: int) -> int:
        """Return how many photos a batch has in all processes; `labels` are those of this process."""
        return len(labels)

    def step(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of an optimizer step."""
        return contextlib.nullcontext()

    def unsent(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a backward after which more gradients of the same step follow."""
        return contextlib.nullcontext()

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a scalar () over all processes."""
        return value


class InStep(Alone):
    """A learner that all processes of a job train in step. Each process must make one, and take every step with it.

    The parameters of rank 0's learner are copied to the others.
    """

    module: DistributedDataParallel

    def __init__(self, state: TrainState, device: torch.device) -> None:
        learner, is_cuda = state.learner, device.type == "cuda"
        with talking():
            group = dist.new_group(backend="nccl") if is_cuda else None
            device_ids = [torch.cuda.current_device()] if is_cuda else None
            learner.zero_grad()
            learner(black_picture(learner, state.classifier.preprocessing.crop_size, torch.uint8)).sum().backward()
            # A forward leaves some parameters unused in some of timm's networks
            unused = any(parameter.grad is None for parameter in learner.parameters() if parameter.requires_grad)
            learner.zero_grad()
            super().__init__(
                DistributedDataParallel(learner, device_ids, process_group=group, find_unused_parameters=unused)
            )
        self.processes = dist.get_world_size()

    def begin_epoch(self, epoch: int) -> None:
        """In rank 0, order the helpers to begin an epoch; they do not call this."""
        if job := current_job():
            job.order({"do": EPOCH, "epoch": epoch})

    def batch_size(self, labels: torch.Tensor, whole: int) -> int:
        """Return how many photos a batch has in all processes, of which this one has a share."""
        return whole

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Take a step on a share of the cores. Raises LostError if another process has ended."""
        with torch_threads(max(torch.get_num_threads() // local_world_size(), 1)), talking():
            yield

    def unsent(self) -> contextlib.AbstractContextManager[object]:
        """Keep the gradients of a backward here: those of the step's last one are sent with them."""
        return self.module.no_sync()

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a scalar () over all processes. Each of them must call this."""
        total = value.detach().to("cpu", copy=True)
        with talking():
            dist.all_reduce(total)
        return total


def learner_of(state: TrainState, train: Inputs) -> Alone:
    """Return the learner to train: in a job that fine-tunes, in step with the helpers, which are ordered to join in.

    A head learns in rank 0 alone: sending its gradients would take longer than computing them (docs/scale.md).
    """
    job = current_job()
    if job is None or not state.is_fine_tuning:
        return Alone(state.learner)
    about = {"recipe": asdict(state.recipe), "finished": state.finished.to_plain(), "left out": list(train.bad)}
    job.order(
        {"do": FINE_TUNE, **about, "way": numerics_key(train.frozen), **new_model_or_split(train.frozen, train.split)}
    )
    return InStep(state, train.frozen.device)
