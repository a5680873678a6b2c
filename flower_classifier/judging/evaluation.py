"""What a classifier is worth on photos whose classes are known, and how far its probabilities can be believed.

All of it is computed from the logits of a split: `evaluate` collects them, an `Evaluation` answers questions.
`evaluate_on` does so for whatever learns: a head on its rows, a network as predict.py would run it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.base.messages import first_few, photos_of, printable
from flower_classifier.config.allowed import MOST_SCORED
from flower_classifier.features.batches import EVALUATION_BATCH, Batch, to_learner, whole
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.class_balance import are_unequal
from flower_classifier.judging.verdict import AccuracyVerdict, share_text
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.devices import threads_for, torch_threads
from flower_classifier.networks.feature_bank import Extract
from flower_classifier.networks.frozen_backbone import FrozenBackbone

BINS = 15  # of confidence, equally wide: Guo et al. 2017, section 2
TOP = 5
FOLDS = 5  # of cross-validation: what is fitted to four of them is judged on the fifth
ABOUT_90 = (0.85, 0.95)  # confidences that people would call so
ENOUGH = 50  # photos of such a confidence, for a share of them with a standard error of about 4 %


@dataclass(frozen=True)
class Evaluation:
    """A classifier's logits for the photos of a split. All probabilities are those of logits / temperature.

    Photos that chose the temperature cannot judge it. They are judged by temperatures that other photos chose.
    """

    logits: torch.Tensor  # (N, C), on the CPU
    labels: torch.Tensor  # (N,)
    temperature: float = 1.0  # the checkpoint's
    # Cross-validated temperatures, float64 (N,): photo i's was fitted without its fold
    others_temperatures: torch.Tensor | None = None
    chose_epoch: int | None = 0  # how many of the photos the epoch was chosen on; None: the checkpoint does not say

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, temperature: float) -> Evaluation:
        """Return the same logits, all at another temperature."""
        return replace(self, temperature=temperature, others_temperatures=None)

    def of(self, mask: torch.Tensor) -> Evaluation:
        """Return the evaluation of the photos of a mask, bool (N,), alone."""
        temperatures = None if self.others_temperatures is None else self.others_temperatures[mask]
        return replace(self, logits=self.logits[mask], labels=self.labels[mask], others_temperatures=temperatures)

    @property
    def is_cross_validated(self) -> bool:
        """Whether each photo has a temperature that was chosen without it."""
        return self.others_temperatures is not None

    @property
    def scaled(self) -> torch.Tensor:
        """Logits / temperature, float64 (N, C)."""
        divisor = self.temperature if self.others_temperatures is None else self.others_temperatures[:, None]
        return self.logits.double() / divisor

    @functools.cached_property
    def probabilities(self) -> torch.Tensor:
        """Probability of every class for every photo, float64 (N, C)."""
        return self.scaled.softmax(dim=1)

    @property
    def predicted(self) -> torch.Tensor:
        """The predicted class of every photo, which is the likeliest, int64 (N,)."""
        return self.logits.argmax(dim=1)

    @property
    def confidence(self) -> torch.Tensor:
        """The probability of the predicted class, float64 (N,)."""
        return self.probabilities.amax(dim=1)

    @property
    def right(self) -> torch.Tensor:
        """Whether the predicted class is the photo's own, bool (N,)."""
        return self.predicted == self.labels

    @property
    def losses(self) -> torch.Tensor:
        """Cross-entropy of every photo, in nats, float64 (N,)."""
        return torch.nn.functional.cross_entropy(self.scaled, self.labels, reduction="none")

    @functools.cached_property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return torch.nn.functional.cross_entropy(self.scaled, self.labels).item()

    @functools.cached_property
    def accuracy(self) -> float:
        """Share of the photos whose predicted class is their own, 0 to 1."""
        return self.right.sum().item() / len(self)

    @property
    def of_each_class(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Precision, recall and F1 of each class, 0 to 1, float64 (C,) each.

        Recall is nan for a class without photos, precision for one that is never predicted, F1 for one that is neither.
        """
        confusion = self.confusion.double()
        right, photos, predicted = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
        return right / predicted, right / photos, 2 * right / (photos + predicted)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the recalls of the classes that there are photos of, 0 to 1: Brodersen et al. 2010."""
        return self.of_each_class[1].nanmean().item()

    @property
    def macro_averages(self) -> tuple[float, float]:
        """Means over the classes that there are photos of: precision, 0 where a class is never predicted, and F1."""
        precision, recall, f1 = self.of_each_class
        present = ~recall.isnan()
        return precision[present].nan_to_num(0).mean().item(), f1[present].mean().item()

    @property
    def verdict(self) -> AccuracyVerdict:
        """How many photos are right, and what guessing reaches on them."""
        return AccuracyVerdict(int(self.right.sum()), len(self), self.labels.bincount().max().item() / len(self))

    @property
    def top_accuracy(self) -> float:
        """Share of the photos whose own class is among the TOP likeliest, 0 to 1."""
        top = self.logits.topk(min(TOP, self.logits.shape[1])).indices  # (N, TOP)
        return (top == self.labels[:, None]).any(dim=1).sum().item() / len(self)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0 to 1: how far confidence and accuracy differ in a bin, averaged over photos.

        Naeini et al. 2015; Guo et al. 2017, equation 3.
        """
        counts, confidence, accuracy = self.reliability
        return (counts * (accuracy - confidence).abs()).sum().item() / len(self)

    @property
    def reliability(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Photos, mean confidence and accuracy of each bin of confidence, (BINS,) each, float64; 0 in empty bins."""
        bins = (self.confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (N,): (0, 1/15] is the first
        counts, confidence, right = (
            torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values.double())
            for values in (torch.ones(len(self)), self.confidence, self.right)
        )
        photos = counts.clamp(min=1)
        return counts, confidence / photos, right / photos

    @property
    def results(self) -> dict[str, float]:
        """What the classifier is worth on these photos, by name, for programs; top accuracy where it says something."""
        top = {f"top_{TOP}_accuracy": self.top_accuracy} if self.logits.shape[1] > TOP else {}
        verdict = self.verdict
        low, high = verdict.interval
        macro_precision, macro_f1 = self.macro_averages
        return {
            "photos": len(self),
            "loss": self.loss,
            "accuracy": self.accuracy,
            **top,
            "calibration_error": self.calibration_error,
            "temperature": self.temperature,
            "right": verdict.right,
            "accuracy_low": low,
            "accuracy_high": high,
            "guessing": verdict.guessing,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_precision": macro_precision,
            "macro_f1": macro_f1,
            **({} if self.chose_epoch is None else {"chose_epoch": self.chose_epoch}),
        }

    @property
    def confusion(self) -> torch.Tensor:
        """Number of photos by true class (row) and predicted class (column), int64 (C, C)."""
        classes = self.logits.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).view(classes, classes)

    @property
    def likeness(self) -> torch.Tensor:
        """How alike two classes look to the classifier, float64 (C, C), symmetric.

        The mean of the probabilities that the photos of each give the other. A class without photos has what others'
        give it.
        """
        given = torch.zeros(self.confusion.shape, dtype=torch.float64).index_add_(0, self.labels, self.probabilities)
        given /= self.labels.bincount(minlength=len(given)).clamp(min=1)[:, None]
        return (given + given.T) / 2

    @property
    def confused_pairs(self) -> list[tuple[int, int, int]]:
        """True class, predicted class and photos of each confusion: most frequent first, then by share of the class."""
        confusion = self.confusion
        share = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
        pairs = [(true, predicted) for true, predicted in confusion.nonzero().tolist() if true != predicted]
        pairs.sort(key=lambda pair: (-confusion[pair].item(), -share[pair].item(), pair))
        return [(true, predicted, int(confusion[true, predicted])) for true, predicted in pairs]

    @property
    def mistakes(self) -> list[int]:
        """Indices of the photos whose predicted class is wrong, the most confident prediction first."""
        by_confidence = self.confidence.argsort(descending=True, stable=True)
        return by_confidence[~self.right[by_confidence]].tolist()

    def chosen_by_others(self, choose: Callable[[Evaluation], float]) -> torch.Tensor:
        """Return for each photo the value that `choose` finds for the photos of the other folds, float64 (N,).

        Photos that chose a value cannot say how good it is.
        """
        folds = folds_of(self.labels)
        values = torch.empty(len(self), dtype=torch.float64)
        for fold in range(FOLDS):
            values[folds == fold] = choose(self.of(folds != fold))
        return values

    def cross_fitted(self, choose: Callable[[Evaluation], float]) -> Evaluation:
        """Return the photos, each at the temperature that `choose` finds for the photos of the other folds."""
        return replace(self, others_temperatures=self.at(1.0).chosen_by_others(choose))

    @property
    def true_class_scores(self) -> list[float]:
        """The probability of each photo's true class, lowest first, of validation photos: what a checkpoint keeps."""
        return thinned(self.probabilities.gather(1, self.labels[:, None])[:, 0].sort().values).tolist()

    def set_coverage(self, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether each photo's set holds its true class, bool (N,), and how many classes it has, int64 (N,).

        `least`: the probability from which on a class is in the set, (N,) or a scalar.
        """
        in_set = self.probabilities >= least.reshape(-1, 1)  # (N, C)
        in_set[torch.arange(len(self)), self.predicted] = True
        return in_set.gather(1, self.labels[:, None])[:, 0], in_set.sum(dim=1)

    def chosen_text(self, split: str) -> str:
        """Say on which of the photos the epoch was chosen, so that they judge it too kindly; empty where on none.

        Where that is not known, photos of the split valid may be them.
        """
        if self.chose_epoch is None:
            return "the epoch may have been chosen on these photos" if split == "valid" else ""
        if not self.chose_epoch:
            return ""
        which = "these photos" if self.chose_epoch == len(self) else f"{self.chose_epoch:,} of these photos"
        return f"the epoch was chosen on {which}"

    def balance_text(self, names: Sequence[str], learned_sizes: Sequence[int] = ()) -> str:
        """Say what an accuracy hides where the classes of the photos are unequal; empty where they are not.

        `names` (C,): what people call the classes. `learned_sizes` (C,): how many photos of each were learned from,
        which may be unequal too; empty: that is not known.
        """
        confusion = self.confusion
        sizes = confusion.sum(dim=1)  # (C,)
        if not (are_unequal(sizes.tolist()) or are_unequal(learned_sizes)):
            return ""
        present = sizes.nonzero()[:, 0]
        ordering = torch.tensor(learned_sizes) if len(learned_sizes) else sizes
        largest, smallest = (int(present[chosen(ordering[present])]) for chosen in (torch.argmax, torch.argmin))
        missing = [printable(names[label]) for label in (sizes == 0).nonzero()[:, 0].tolist()]

        def of_class(label: int) -> str:
            return f"{printable(names[label])}, {confusion[label, label]:,} of {sizes[label]:,} right"

        photos = len(self)
        return (
            f"balanced accuracy {share_text(self.balanced_accuracy, photos)}, the mean over classes (always saying "
            f"{printable(names[largest])}: {share_text(1 / len(present), photos)}, and "
            f"{share_text(sizes[largest].item() / photos, photos)} of the photos); largest class: {of_class(largest)}; "
            f"smallest{' of those with photos here' if missing else ''}: {of_class(smallest)}"
            + (f"; without any here: {first_few(missing)}" if missing else "")
        )

    def result_lines(self, split: str, names: Sequence[str], learned_sizes: Sequence[int] = ()) -> str:
        """Return lines for people: what a classifier is worth on a split, and how far they can believe it.

        The last compares how sure it is with how often it is right: of the answers with a confidence of about 90 %,
        where there are ENOUGH of them, else of all. Where classes are unequal, a line between says what that hides.
        `names` (C,): what people call the classes. `learned_sizes` (C,): as in `balance_text`.
        """
        results = [f"loss {self.loss:.4f}", str(self.verdict)]
        if self.logits.shape[1] > TOP:
            results.append(f"top-{TOP} accuracy {share_text(self.top_accuracy, len(self))}")
        least, below = ABOUT_90
        about_90 = (self.confidence >= least) & (self.confidence < below)  # (N,)
        photos = int(about_90.sum())
        if photos >= ENOUGH:
            right = self.right[about_90].double().mean().item()
            believed = f"answers of about 90% are right {right:.0%} of the time ({photos:,} photos)"
        else:
            sure = self.confidence.mean().item()
            believed = f"{sure:.0%} sure on average, right {self.accuracy:.0%} of the time"
        if self.is_cross_validated:
            believed += "; cross-validated"
        if chosen := self.chosen_text(split):
            believed += f"; {chosen}"
        first = "   ".join([photos_of(split, len(self)), *results])
        return "\n".join(line for line in (first, self.balance_text(names, learned_sizes), believed) if line)


@torch.inference_mode()
def evaluate(learner: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Collect a learner's logits (B, C) over all batches. Raises FloatingPointError where the loss is not finite."""
    learner.eval()
    with torch_threads(threads_for(learner, EVALUATION_BATCH)):
        logits, labels = zip(*((learner(inputs).cpu(), labels.cpu()) for inputs, labels in batches), strict=True)
    evaluation = Evaluation(torch.cat(logits).float(), torch.cat(labels))
    if not math.isfinite(evaluation.loss):
        raise FloatingPointError(evaluation.loss)
    return evaluation


def loss_gap(losses: torch.Tensor, others: torch.Tensor, weights: torch.Tensor | None = None) -> tuple[float, float]:
    """Return how much higher the mean of losses (N,) is than that of others, and the standard error of the difference.

    The losses are of the same photos, so what makes a photo hard does not count. One photo has no standard error: 0.
    `weights`: of the photos, (N,), of mean 1; None: all the same.
    """
    differences = (losses - others).double()
    if weights is not None:
        differences = differences * weights
    standard_error = differences.std().item() / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return differences.mean().item(), standard_error


def folds_of(labels: torch.Tensor) -> torch.Tensor:
    """Return the fold of each photo with these labels, int64 (N,). The folds get a class's photos in turn.

    Those of a folder come class by class, those of a tar file in any order.
    """
    folds = torch.empty_like(labels)
    folds[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    return folds


def thinned(scores: torch.Tensor) -> torch.Tensor:
    """Return those scores (N, …) of validation photos that a checkpoint keeps: at most MOST_SCORED, evenly spread.

    Photos come class by class, or lowest score first. More would change a prediction set by less than one photo in ten
    thousand.
    """
    if len(scores) <= MOST_SCORED:
        return scores
    return scores[torch.linspace(0, len(scores) - 1, MOST_SCORED).long()]


# ------------------------------------------------------------------------------------------------ as predict.py answers


def feature_reader(learner: nn.Module, inputs: Inputs, indices: Sequence[int]) -> Extract:
    """Return a function from positions in `indices` to the features of those photos: float32 (B, D), on the CPU.

    As in a prediction: the mean over the views that answer, of the network as predict.py would run it. `indices`: of
    photos, among those that the split uses. Raises UnusablePhotosError for photos that could be opened before.
    """
    seen, learner = split_for_inference(learner, inputs, indices)
    learner.eval()
    row_indices = torch.tensor(indices) if seen is inputs else torch.arange(len(indices))

    @torch.inference_mode()
    def extract(positions: Sequence[int]) -> torch.Tensor:
        by_view = []
        for view in seen.frozen.config.answer_views:
            batches = row_indices[positions].split(EVALUATION_BATCH)
            rows = [to_learner(seen.features(view)[batch], seen.frozen.device) for batch in batches]
            if isinstance(learner, Classifier):  # the rows are pixels
                rows = [learner.features(pixels) for pixels in rows]
            by_view.append(torch.cat(rows).cpu())
        return torch.stack(by_view).mean(dim=0)

    return extract


def split_for_inference(
    learner: nn.Module, inputs: Inputs, indices: Sequence[int] | None = None
) -> tuple[Inputs, nn.Module]:
    """Split a fine-tuned network into frozen backbone and head, and give the inputs of that backbone.

    Anything else stays as it is. `indices`: of the photos that are needed; the others need no rows.
    """
    if isinstance(learner, Classifier) and learner.starts_frozen:
        learner.train()  # some of timm's networks keep what belongs to earlier weights until then
        return inputs.through(FrozenBackbone(learner.eval(), inputs.frozen.device), indices), learner.head
    return inputs, learner


def evaluate_on(learner: nn.Module, inputs: Inputs) -> Evaluation:
    """Evaluate a learner on the photos of a split: an answer is the mean over the views that answer.

    A head gets the photos' rows. A pretrained network that learns gets the photos themselves, and runs as predict.py
    will run it: fast, and with the same digits. Raises FloatingPointError where the loss is not finite,
    UnusablePhotosError for photos that could be opened before.
    """
    inputs, learner = split_for_inference(learner, inputs)
    by_view = [evaluate(learner, whole(inputs, view)) for view in inputs.frozen.config.answer_views]
    return replace(by_view[0], logits=torch.stack([evaluation.logits for evaluation in by_view]).mean(dim=0))
