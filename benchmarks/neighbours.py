"""What other programs on the machine do to the steps of a head, by its number of threads. Run by hand.

    python benchmarks/neighbours.py

Each row is a head and a batch; each cell the milliseconds of a step of train.py's own loop on random features, with
one thread, with two and with all, on a machine where nothing else runs, and beside one and two processes that only
count. "Gets" is how many threads networks/devices.py gives the head. The numbers of threads are measured in turn, in
ROUNDS rounds; the median is printed. WORK_OF_A_THREAD was chosen by this table.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.process import keep_freed_memory
from flower_classifier.networks.classifier import ModelConfig
from flower_classifier.networks.devices import threads_for
from flower_classifier.training import loop
from flower_classifier.training.ddp import Alone
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import Average

CLASSES = 102
HEADS = (  # features, hidden units, photos of a batch
    (512, (512,), 64),  # squeezenet1_1's
    (1_280, (), 64),
    (1_280, (512,), 64),  # tf_efficientnet_lite0's
    (2_048, (512,), 64),  # resnet50's
    (512, (512,), 512),
    (4_096, (512,), 64),
    (9_216, (512,), 64),  # alexnet's
    (25_088, (512,), 64),  # vgg16's
    (25_088, (4_096,), 64),
)
NEIGHBOURS = (0, 1, 2)
ROUNDS, SECONDS = 3, 0.4


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let so many processes count without an end."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Steps:
    """The loop's steps of a head on one batch, over and over."""

    def __init__(self, width: int, hidden_units: tuple[int, ...], batch_size: int) -> None:
        torch.manual_seed(0)
        self.head = ModelConfig("random", hidden_units, 0.2, CLASSES, "head").build_head(width)
        self.batch = torch.randn(batch_size, width), torch.randint(CLASSES, (batch_size,))
        self.recipe = Recipe(epochs=1, learning_rate=0.001, batch_size=batch_size, views=1, seed=0)
        self.optimizer, self.average = self.recipe.optimizer(self.head), Average(self.head)
        self.chosen = threads_for(self.head, batch_size)

    def take(self, steps: int) -> None:
        """Take so many steps, with all of torch's threads: main() replaces the rule."""
        loop.train_one_epoch(Alone(self.head), [self.batch] * steps, self.optimizer, self.average, self.recipe)

    def milliseconds(self) -> float:
        """Return how long a step takes."""
        self.take(2)
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            self.take(3)
            steps += 3
        return 1000 * (time.perf_counter() - began) / steps


def rows_beside(busy: int, threads: list[int]) -> list[list[float]]:
    """Return the milliseconds of a step of every head with each number of threads, beside so many busy processes."""
    rows = []
    with busy_processes(busy):
        for head in HEADS:
            steps, times = Steps(*head), []
            for count in [*threads] * ROUNDS:
                torch.set_num_threads(count)
                times.append(steps.milliseconds())
            rows.append([statistics.median(times[index :: len(threads)]) for index in range(len(threads))])
    return rows


def main() -> None:
    """Print the table."""
    keep_freed_memory()  # as the commands do
    cores = torch.get_num_threads()
    threads = sorted({1, min(2, cores), cores})
    chosen = [Steps(*head).chosen for head in HEADS]
    loop.threads_for = lambda learner, samples: torch.get_num_threads()  # each number in turn, not the chosen one
    columns = [f"{count} thread{'s' * (count > 1)}, beside {busy}" for busy in NEIGHBOURS for count in threads]
    print(f"| head, batch | million multiply-adds | gets | {' | '.join(columns)} |\n{'|---' * (len(columns) + 3)}|")
    measured = [rows_beside(busy, threads) for busy in NEIGHBOURS]
    for index, ((width, units, batch_size), count) in enumerate(zip(HEADS, chosen, strict=True)):
        work = batch_size * sum(layer.weight.numel() for layer in layers_of(width, units)) / 1e6
        cells = [f"{milliseconds:.1f}" for rows in measured for milliseconds in rows[index]]
        shape = " → ".join(f"{size:,}" for size in (width, *units, CLASSES))
        print(f"| {shape}, {batch_size} | {work:,.0f} | {count} | {' | '.join(cells)} |", flush=True)


def layers_of(width: int, units: tuple[int, ...]) -> list[nn.Linear]:
    """Return a head's linear layers."""
    head = ModelConfig("random", units, 0.0, CLASSES, "head").build_head(width)
    return [layer for layer in head if isinstance(layer, nn.Linear)]


if __name__ == "__main__":
    main()
