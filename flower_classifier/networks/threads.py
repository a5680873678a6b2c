"""How many of torch's threads an operation gets: as many as its work is worth, and no more than torch has.

    with torch_threads(threads_for(head, samples=64)):
        head(features)

At the end of every operation its threads wait for each other. Alone on a machine that costs microseconds. But where
another program has taken the core of one of them, all wait until it gets that core back: milliseconds, for each of the
forty operations in a step of a head. A thread that has little to do is not worth that
(benchmarks/neighbours.py, docs/measurements.md). Another rule changes the last digits of heads, in training, in the
search, in evaluation and in the doctor; features are not computed by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

# Multiply-adds of a forward for which another thread is worth its waits. Chosen by benchmarks/neighbours.py: a head of
# 4,096 features, 512 units and 102 classes (138 million for a batch of 64) takes 0.8 of the time with two threads on a
# quiet machine and 2.1 times as long beside one busy process; with vgg16's 25,088 features (825 million) 0.6 and 1.9.
WORK_OF_A_THREAD = 160_000_000


def threads_for(learner: nn.Module, samples: int) -> int:
    """Return how many threads a learner gets for a batch: all, unless it is a head of linear layers.

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
