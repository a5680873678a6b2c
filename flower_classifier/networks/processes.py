"""The processes of a job that torchrun has started, and how they talk: rank 0 runs the program, the others help it.

    with leading():                     rank 0: whatever it does meanwhile, the others can be asked to share
        job.order({"do": "extract", ...})
    with helping() as job:              the others
        order = job.next_order()

Rank 0 alone finds the photos, keeps what was computed, decides, speaks and writes. So the other processes, and other
machines, need the photos and nothing else: networks and numbers come with the orders. Messages are plain types and
tensors, read with `weights_only=True` as checkpoints are.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from flower_classifier.base.errors import RunError
from flower_classifier.base.ranks import rank, restarts, world_size
from flower_classifier.base.signals import ignore_signals
from flower_classifier.base.words import reason_of

PATIENCE = timedelta(days=7)  # the others wait while rank 0 trains a head, which may take long
TO_JOIN = timedelta(minutes=10)  # until all machines of a job are there
LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")  # words of who cannot talk any more
TOLD = "told"  # the key under which a process that fails says that it has said why
END = {"do": "end"}
EXIT_FAILED = 1

Message = dict[str, object]  # plain types and tensors
Item = TypeVar("Item")


class LostError(Exception):
    """Another process of the job has ended, and torchrun is about to end this one, which may have something to save."""

    def __init__(self) -> None:
        super().__init__()
        with contextlib.suppress(ValueError):  # not the main thread, which alone is given signals
            ignore_signals()


class Job:
    """All processes of a job, seen from one of them. There are at least two.

    Raises RunError where they do not find each other.
    """

    def __init__(self) -> None:
        try:
            store, self.rank, self.size = next(dist.rendezvous("env://", timeout=TO_JOIN))
            # The store outlives a job that torchrun starts again
            self.store = dist.PrefixStore(f"flower_classifier/attempt {restarts()}", store)
            dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the processes of the job do not find each other: {reason_of(error)}") from error
        self.helpers = range(1, self.size)  # ranks
        self.lists = 0  # of work that was shared so far

    def order(self, message: Message) -> None:
        """Tell the other processes what to do; for rank 0. Each order but the end takes the same from all."""
        data = io.BytesIO()
        torch.save(message, data)
        content = torch.frombuffer(data.getbuffer(), dtype=torch.uint8)
        with talking():
            dist.broadcast(torch.tensor([len(content)]), src=0)
            dist.broadcast(content, src=0)

    def next_order(self) -> Message:
        """Wait for what rank 0 orders; for the others."""
        length = torch.empty(1, dtype=torch.int64)
        with talking():
            dist.broadcast(length, src=0)
            content = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, src=0)
        return torch.load(io.BytesIO(content.numpy()), map_location="cpu", weights_only=True)

    def send(self, head: object, body: Iterable[torch.Tensor] = ()) -> None:
        """Send to rank 0 what JSON can hold, and tensors, whose forms rank 0 must know."""
        words = torch.frombuffer(bytearray(json.dumps(head).encode()), dtype=torch.uint8)
        # The words last: numbers must begin where their type may
        parts = torch.cat([*(tensor.contiguous().flatten().view(torch.uint8) for tensor in body), words])
        with talking():
            dist.send(torch.tensor([len(parts) - len(words), len(words)]), dst=0)
            dist.send(parts, dst=0)

    def receive(self, helper: int) -> tuple[object, torch.Tensor]:
        """Return what a process has sent: what JSON holds, and the bytes of all tensors, uint8 (B,)."""
        lengths = torch.empty(2, dtype=torch.int64)
        with talking():
            dist.recv(lengths, src=helper)
            parts = torch.empty(int(lengths.sum()), dtype=torch.uint8)
            dist.recv(parts, src=helper)
        body, words = parts.split(lengths.tolist())
        return json.loads(words.numpy().tobytes()), body

    def begin_list(self) -> None:
        """Begin a new list of work; every process of the job must."""
        self.lists += 1

    def shares(self, work: Sequence[Item]) -> Iterator[Item]:
        """Yield work from a list that all processes have, until it is done: each item goes to who asks first."""
        while (place := self.count(1) - 1) < len(work):
            yield work[place]

    def drop(self, work: Sequence[object]) -> None:
        """Leave undone what nobody has begun."""
        self.count(len(work))

    def count(self, more: int) -> int:
        """Count how much of a list is given out, and return it."""
        with talking():
            return self.store.add(f"list {self.lists}", more)


job: Job | None = None  # that this process is in


def current_job() -> Job | None:
    """Return the job that this process is in, if it is in one."""
    return job


@contextlib.contextmanager
def joined() -> Iterator[Job]:
    """Be in the job that the environment tells of."""
    global job  # noqa: PLW0603 -- a process is in one job or in none, as torch.distributed has it too
    job = Job()
    try:
        yield job
        dist.destroy_process_group()  # not where others have ended: it would wait for them
    finally:
        job = None


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Have the others' help, where there are others; for rank 0.

    Raises RunError where one of them ends, in whatever rank 0 does then.
    """
    if world_size() == 1:
        yield
        return
    with joined() as led:
        try:
            yield
            led.order(END)
        except LostError:
            end_without_others(led)


@contextlib.contextmanager
def helping() -> Iterator[Job]:
    """Be one of the others. Where rank 0, or another one, has ended, end without a word: that one has said why."""
    with joined() as helped:
        try:
            yield helped
        except LostError:
            raise SystemExit(EXIT_FAILED) from None
        except Exception as error:
            helped.store.set(TOLD, "1")
            raise RunError(f"process {rank()} on {platform.node()}: {reason_of(error)}") from error


def end_without_others(led: Job) -> NoReturn:
    """End rank 0, saying why, unless the process that failed has done so."""
    with contextlib.suppress(RuntimeError):  # the store may be gone too
        if led.store.check([TOLD]):
            raise SystemExit(EXIT_FAILED)
    raise RunError("another process of the job has ended: torchrun says below which one")


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Raise LostError where another process does not answer any more."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise LostError from error


def is_lost(error: RuntimeError) -> bool:
    """Say whether an error means that another process has ended."""
    return isinstance(error, dist.DistError) or any(words in str(error).lower() for words in LOST)
