"""What a classifier is worth on photos whose classes are known, and how far its probabilities can be believed.

All of it is computed from the logits of a split: `evaluate` collects them, an `Evaluation` answers questions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from features import Batch
from words import counted

BINS = 15  # of confidence, all equally wide: Guo et al. 2017, section 2
TOP = 5
FOLDS = 5
TEMPERATURES = (0.05, 20.0)  # where the temperature is looked for
HALVINGS = 20  # of that range, on a logarithmic scale: to a relative precision of 1e-5


@dataclass(frozen=True)
class Evaluation:
    """A classifier's answers to the photos of a split. What is asked of it goes by logits / temperature."""

    logits: torch.Tensor  # (N, C), on the CPU
    labels: torch.Tensor  # (N,)
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, temperature: float) -> Evaluation:
        """Return the same answers at another temperature."""
        return replace(self, temperature=temperature)

    @functools.cached_property
    def probabilities(self) -> torch.Tensor:
        """Probability of every class for every photo, float64 (N, C)."""
        return (self.logits.double() / self.temperature).softmax(dim=1)

    @property
    def said(self) -> torch.Tensor:
        """The likeliest class of every photo (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def confidence(self) -> torch.Tensor:
        """The probability of the likeliest class (N,)."""
        return self.probabilities.amax(dim=1)

    @property
    def right(self) -> torch.Tensor:
        """Whether the likeliest class is the photo's own, bool (N,)."""
        return self.said == self.labels

    @functools.cached_property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return F.cross_entropy(self.logits.double() / self.temperature, self.labels).item()

    @functools.cached_property
    def accuracy(self) -> float:
        """Share of the photos whose likeliest class is their own, 0 to 1."""
        return self.right.sum().item() / len(self)

    @property
    def top_accuracy(self) -> float:
        """Share of the photos whose own class is among the TOP likeliest."""
        top = self.logits.topk(min(TOP, self.logits.shape[1])).indices  # (N, TOP)
        return (top == self.labels[:, None]).any(dim=1).sum().item() / len(self)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy in a bin, weighted by its photos.

        Naeini et al. 2015; Guo et al. 2017, equation 3.
        """
        counts, confidence, accuracy = self.reliability
        return (counts * (accuracy - confidence).abs()).sum().item() / len(self)

    @property
    def reliability(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Photos, mean confidence and accuracy in each bin of confidence, (BINS,) each; 0 where a bin is empty."""
        bins = (self.confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (N,): (0, 1/15] is the first
        counts, confidence, right = (
            torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values.double())
            for values in (torch.ones(len(self)), self.confidence, self.right)
        )
        photos = counts.clamp(min=1)
        return counts, confidence / photos, right / photos

    @property
    def confusion(self) -> torch.Tensor:
        """Photos by true and said class, (C, C)."""
        number = self.logits.shape[1]
        return torch.bincount(self.labels * number + self.said, minlength=number**2).view(number, number)

    @property
    def confused_pairs(self) -> list[tuple[int, int, int]]:
        """True class, said class and photos of each confusion: most frequent first, then by share of the class."""
        confusion = self.confusion
        share = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
        pairs = [(true, said) for true, said in confusion.nonzero().tolist() if true != said]
        pairs.sort(key=lambda pair: (-confusion[pair].item(), -share[pair].item(), pair))
        return [(*pair, confusion[pair].item()) for pair in pairs]

    @property
    def mistakes(self) -> list[int]:
        """Indices of the photos that were named wrongly, the surest mistake first."""
        by_confidence = self.confidence.argsort(descending=True, stable=True)
        return by_confidence[~self.right[by_confidence]].tolist()


@torch.inference_mode()
def evaluate(trainee: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Collect a trainee's logits over all samples. Raises FloatingPointError for a loss that is not finite."""
    trainee.eval()
    logits, labels = zip(*((trainee(inputs).cpu(), labels.cpu()) for inputs, labels in batches), strict=True)
    evaluation = Evaluation(torch.cat(logits).float(), torch.cat(labels))
    if not math.isfinite(evaluation.loss):
        raise FloatingPointError(evaluation.loss)
    return evaluation


def calibrate(valid: Evaluation) -> float:
    """Return the temperature for the probabilities: 1, unless another one makes held-out photos likelier.

    Temperature scaling: Guo et al. 2017, section 4.2. A head that is well regularised needs none, and fitting noise
    makes it worse. So a temperature has to prove itself in cross-validation, by more than one standard error of what
    it gains (the rule of Breiman et al. 1984, section 3.4.3).
    """
    if len(valid) < 2 * FOLDS or not valid.mistakes:  # where all are right no temperature is cold enough
        return 1.0
    gains = torch.empty(len(valid), dtype=torch.float64)
    folds = torch.arange(len(valid)) % FOLDS  # photos lie class by class: every fold gets its share of each
    for fold in range(FOLDS):
        fitted = best_temperature(valid.logits[folds != fold], valid.labels[folds != fold])
        held_out = valid.logits[folds == fold].double(), valid.labels[folds == fold]
        gains[folds == fold] = losses(*held_out) - losses(held_out[0] / fitted, held_out[1])
    helps = gains.mean() > gains.std() / math.sqrt(len(valid))
    return best_temperature(valid.logits, valid.labels) if helps else 1.0


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every photo (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def best_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T at which the mean cross-entropy of logits / T is least.

    In 1 / T the cross-entropy is convex, and its slope is the mean of what the logits are expected to be, less what
    the true class's is. Where that is 0 is found by halving.
    """
    logits = logits.double()
    true = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)
    low, high = (math.log(limit) for limit in TEMPERATURES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1)  # (N,)
        if (expected - true).mean() > 0:  # too sure of itself
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def summary(split: str, evaluation: Evaluation) -> str:
    """Return, in two lines, what a classifier is worth on a split."""
    results = [f"loss {evaluation.loss:.4f}", f"accuracy {evaluation.accuracy:.2%}"]
    if evaluation.logits.shape[1] > TOP:
        results.append(f"top-{TOP} accuracy {evaluation.top_accuracy:.2%}")
    temperature = f"temperature {evaluation.temperature:.2f}"
    if evaluation.temperature != 1:
        temperature += f" (calibration error without it {evaluation.at(1.0).calibration_error:.2%})"
    believed = [f"calibration error {evaluation.calibration_error:.2%}", temperature]
    return "   ".join([counted(len(evaluation), f"{split} photo".strip()), *results]) + "\n" + "   ".join(believed)
