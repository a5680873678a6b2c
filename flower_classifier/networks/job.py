"""The processes of a job that torchrun has started, and how they talk: rank 0 runs the program, the others help it.

    with leading():                     rank 0: whatever it does meanwhile, it can ask its helpers to share
        job.order({"do": EXTRACT, ...})
    with helping() as job:              a helper
        order = job.receive_order()

Rank 0 alone finds the photos, keeps what was computed, decides, speaks and writes. So its helpers, and other machines,
need the photos and nothing else: networks and numbers come with the orders. Messages are plain types and tensors, read
with `weights_only=True` as checkpoints are. The orders, by what they ask to `do`:

    EXTRACT       a share of a list of micro-batches (features/job_extraction.py)
    FINE_TUNE     make ready what rank 0 fine-tunes (training/ddp.py, training/job_helper.py)
    EPOCH         take an epoch's steps of it
    END           nothing more
"""

import contextlib
import io
import json
import os
import platform
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from flower_classifier.base.messages import EXIT_FAILED, RunError, UserError, reason_of
from flower_classifier.base.signals import answer_signals
from flower_classifier.base.torchrun import rank, restarts, world_size
from flower_classifier.networks.safe_files import Plain

TO_ORDER = timedelta(days=7)  # how long helpers wait while rank 0 trains a head, say
TO_ANSWER = timedelta(minutes=15)  # how long any other message of gloo may take, and all machines to be there
CUT = ("connection closed", "connection reset", "broken pipe")  # words in an error about a process that has ended
LOST = (*CUT, "gloo", "nccl")  # words in an error about messages
EXPLAINED = "explained"  # the key that a helper sets when it fails and says why
EXTRACT, FINE_TUNE, EPOCH, END = "extract", "fine-tune", "epoch", "end"

Message = Plain
Item = TypeVar("Item")


class LostError(Exception):
    """Another process of the job does not answer: nearly always because it has ended. Holds the reason, if another.

    From its creation on, signals are ignored: torchrun is about to end this process, which may have something to save.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        with contextlib.suppress(ValueError):  # not the main thread, which alone is given signals
            answer_signals(signal.SIG_IGN)


class Job:
    """All processes of a job, seen from one of them. There are at least two.

    Raises RunError where they do not find each other, and later LostError where one of them does not answer.
    """

    def __init__(self) -> None:
        try:
            store, self.rank, self.size = next(dist.rendezvous("env://", timeout=TO_ANSWER))
            # The store may outlive a job that torchrun starts again, with the addresses of the processes that were
            self.store = dist.PrefixStore(f"start {restarts()}", store)
            with stdout_on_stderr():  # gloo of torch 2.10 prints whom it is connected to
                dist.init_process_group(
                    "gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=TO_ANSWER
                )
                for_orders = dist.new_group(timeout=TO_ORDER)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the processes of the job do not find each other: {reason_of(error)}") from error
        assert not isinstance(for_orders, int)  # which would say that this process is not in the group: all are
        self.for_orders = for_orders
        self.helpers = range(1, self.size)  # ranks
        self.lists = 0  # of work that this process has shared out

    def order(self, message: Message) -> None:
        """Tell the helpers what to do; for rank 0.

        After an order all processes must do the same things that need all of them, in the same sequence.
        """
        data = io.BytesIO()
        torch.save(message, data)
        content = torch.frombuffer(data.getbuffer(), dtype=torch.uint8)
        with talking():
            dist.broadcast(torch.tensor([len(content)]), src=0, group=self.for_orders)
            dist.broadcast(content, src=0, group=self.for_orders)

    def receive_order(self) -> Message:
        """Wait for what rank 0 orders; for a helper."""
        length = torch.empty(1, dtype=torch.int64)
        with talking():
            dist.broadcast(length, src=0, group=self.for_orders)
            content = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, src=0, group=self.for_orders)
        return torch.load(io.BytesIO(content.numpy().data), map_location="cpu", weights_only=True)

    def send(self, head: object, body: Iterable[torch.Tensor] = ()) -> None:
        """Send to rank 0 what JSON can hold, and tensors, whose forms rank 0 must know; for a helper."""
        words = torch.frombuffer(bytearray(json.dumps(head).encode()), dtype=torch.uint8)
        # The words last: the tensors must begin at an address that suits their type
        content = torch.cat([*(tensor.contiguous().flatten().view(torch.uint8) for tensor in body), words])
        with talking():
            dist.send(torch.tensor([len(content) - len(words), len(words)]), dst=0)
            dist.send(content, dst=0)

    def receive(self, helper: int) -> tuple[Any, torch.Tensor]:
        """Return what a helper has sent: what JSON holds (Any), and the bytes of tensors, uint8 (B,); for rank 0."""
        lengths = torch.empty(2, dtype=torch.int64)
        with talking():
            dist.recv(lengths, src=helper)
            content = torch.empty(int(lengths.sum()), dtype=torch.uint8)
            dist.recv(content, src=helper)
        body, words = content.split(lengths.tolist())
        return json.loads(words.numpy().tobytes()), body

    def new_list(self) -> str:
        """Return the name of a new list of work, which goes to the helpers with an order; for rank 0."""
        self.lists += 1
        return f"list {self.lists}"

    def shares(self, name: str, work: Sequence[Item]) -> Iterator[Item]:
        """Yield work from a list that all processes have, until it is done: whichever asks first gets the next item."""
        while (index := self.add(name, 1) - 1) < len(work):
            yield work[index]

    def drop(self, name: str, work: Sequence[object]) -> None:
        """Leave undone what nobody has begun."""
        self.add(name, len(work))

    def add(self, name: str, more: int) -> int:
        """Add to the number of a list's items that are given out; return the sum."""
        with talking():
            return self.store.add(name, more)


job: Job | None = None  # that this process is in


def current_job() -> Job | None:
    """Return the job that this process is in, if it is in one."""
    return job


@contextlib.contextmanager
def joined() -> Iterator[Job]:
    """Join the job that the environment variables describe."""
    global job  # noqa: PLW0603 -- a process is in one job or in none, as torch.distributed has it too
    job = Job()
    try:
        yield job
        dist.destroy_process_group()  # not where others have ended: it would wait for them
    finally:
        job = None


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Lead the other processes of the job, where there are any; for rank 0.

    Raises RunError where one of them ends, whatever rank 0 is doing then.
    """
    if world_size() == 1:
        yield
        return
    with joined() as led:
        try:
            yield
            led.order({"do": END})
        except LostError as error:
            with contextlib.suppress(RuntimeError):  # the store may be gone too
                if led.store.check([EXPLAINED]):
                    raise SystemExit(EXIT_FAILED) from None
            reason = f" ({error})" if str(error) else ""
            raise RunError(f"another process of the job has ended{reason}: torchrun says below which one") from error


@contextlib.contextmanager
def helping() -> Iterator[Job]:
    """Help rank 0. Where another process has ended, end silently: rank 0 or torchrun says so.

    Any other error is raised as a RunError that names the process.
    """
    with joined() as helped:
        try:
            yield helped
        except LostError:
            raise SystemExit(EXIT_FAILED) from None
        except Exception as error:
            helped.store.set(EXPLAINED, "1")
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            raise RunError(f"process {rank()} on {platform.node()}: {kind}{reason_of(error)}") from error


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Write to stderr what libraries print, whatever they are written in: stdout is for results."""
    sys.stdout.flush()
    before = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Raise LostError where another process does not answer any more."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(words in text for words in LOST):
            raise  # it is about what is computed
        raise LostError("" if any(words in text for words in CUT) else reason_of(error)) from error
