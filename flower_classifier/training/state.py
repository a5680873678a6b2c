"""Where a training run stands: what is being trained, and what of it is to be kept."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TypedDict

import torch
from torch.optim.swa_utils import AveragedModel

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import counted, first_few
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import Classifier
from flower_classifier.training.recipe import Recipe

# How fast the average forgets: the last tenth of the steps makes up 60 % of it. 4 and 16 gave equally good results.
DECAY = 8
FORMAT_VERSION = 3  # of last.pth; 2 and 1 gave no version, and called the learner something else
Tensors = dict[str, torch.Tensor]


class Row(TypedDict):
    """One epoch's numbers."""

    epoch: int
    train_loss: float  # of the parameters as they were
    valid_loss: float  # of their average, as is the accuracy
    valid_accuracy: float


@torch.no_grad()
def average_in(average: list[torch.Tensor], learner: list[torch.Tensor], steps_before: torch.Tensor) -> None:
    """Move the average towards the learner's tensors as they are after a step, the less the more steps there were.

    Polynomial-decay averaging: Shamir & Zhang 2013, section 4. It has the effect of a falling learning rate without
    having to know at which epoch to end, so that a run may be resumed for longer than was planned.
    """
    torch._foreach_lerp_(average, learner, (DECAY + 1) / (DECAY + 1 + steps_before.item()))


@dataclass(frozen=True)
class Identity:
    """The model and the data of a run: what must be the same for its numbers to mean anything when it is resumed."""

    arch: str
    learns: str
    weights: str
    hidden_units: list[int]
    dropout: float
    image_size: int
    seed: int
    backbone: str  # digest of the frozen backbone's numbers
    classes: list[str]
    train: str  # digest of the training photos' names, labels and sizes
    valid: str

    def check_same(self, now: Identity) -> None:
        """Raise InputError, naming the first difference, where a run would go on as another."""
        for entry in fields(self):
            before, after = getattr(self, entry.name), getattr(now, entry.name)
            if before != after:
                told = NOT_OPTIONS.get(entry.name)
                change = f"{told} changed: put that back" if told else f"was {before}, now {after}: put that back"
                raise InputError(f"{change}, or start a new run", None if told else entry.name)


# What the parts of an identity that are no options are called
NOT_OPTIONS = {
    "learns": "cannot resume: what of the network learns",
    "backbone": "cannot resume: what the backbone's weights hold",
    "classes": "cannot resume: the list of classes",
    "train": "cannot resume: the set of training photos (or the share held out of it)",
    "valid": "cannot resume: the set of validation photos",
}
# The same in files of format 2
OLD_NAMES = {
    **{name: f"--{name}" for name in ("arch", "weights", "hidden_units", "dropout", "image_size", "seed")},
    "backbone": "what the backbone's weights hold",
    "classes": "the list of classes",
    "train": "the set of training photos (or --valid_split)",
    "valid": "the set of validation photos",
}


@dataclass(frozen=True)
class Finished:
    """All that is to be kept of a run, as it was after its last finished epoch: what last.pth holds.

    It is replaced whole by every epoch and holds copies. So an epoch that is broken off, wherever that happens, spoils
    nothing, and saving at any moment saves something that fits together.
    """

    identity: Identity | None = None  # None: of a run that is kept nowhere
    epoch: int = 0
    history: list[Row] = field(default_factory=list)
    best: Row | None = None  # the best epoch's
    best_learned: Tensors = field(default_factory=dict)  # its averaged tensors
    learner: Tensors = field(default_factory=dict)  # the last epoch's
    average: Tensors = field(default_factory=dict)
    optimizer: dict[int, Tensors] = field(default_factory=dict)  # its moments, by number of the parameter
    scheduler: dict[str, object] = field(default_factory=dict)  # its state, where there is one
    training: dict[str, object] = field(default_factory=dict)  # settings of the last epoch
    category_names: dict[str, str] = field(default_factory=dict)
    resampling: str = "pillow"  # how photos were resampled, which a resumed run goes on with

    def to_plain(self) -> dict[str, object]:
        """Return what last.pth holds: plain types and tensors."""
        parts = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {"format_version": FORMAT_VERSION, **parts, "identity": asdict(self.identity), "best": self.best or {}}

    @classmethod
    def from_plain(cls, saved: Mapping[str, object]) -> Finished:
        """Make one of what last.pth holds, in any format. Raises KeyError or TypeError where a part is missing."""
        version = saved.get("format_version", 2)
        if version > FORMAT_VERSION:
            raise ValueError(f"format {version}, this program reads up to {FORMAT_VERSION}")
        parts = saved if version > 2 else from_format_2(saved)
        parts = {entry.name: parts[entry.name] for entry in fields(cls)}
        return cls(**{**parts, "identity": Identity(**parts["identity"]), "best": parts["best"] or None})


def from_format_2(saved: Mapping[str, object]) -> dict[str, object]:
    """Return what a file of format 2 holds under the names of today."""
    identity = {name: saved["identity"][old] for name, old in OLD_NAMES.items()}
    identity["learns"] = "all" if identity["arch"] == "cnn" else "head"
    renamed = {
        "best_learned": saved["best_trained"],
        "learner": saved["trainee"],
        "scheduler": {},
        "resampling": "torchvision",
    }
    return {**saved, **renamed, "identity": identity}


class TrainState:
    """What is being trained, and what of it is `finished`."""

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        classes: Sequence[str] = (),
        category_names: Mapping[str, str] | None = None,
        training: Mapping[str, object] | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.classifier, self.recipe, self.classes = classifier, recipe, tuple(classes)
        self.learner = classifier.learner  # what the optimizer steps
        self.optimizer = recipe.optimizer(self.learner)
        self.scheduler = recipe.scheduler(self.optimizer)
        # What is evaluated and kept. Its batch-norm statistics (cnn's) are the learner's latest; averaged ones did no
        # better there.
        self.average = AveragedModel(self.learner, multi_avg_fn=average_in)
        self.training = dict(training or {})  # what the checkpoint says of the run, from the next epoch on
        names, resampling = dict(category_names or {}), classifier.preprocessing.resampling
        self.finished = Finished(identity, category_names=names, resampling=resampling)

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs."""
        return self.finished.epoch

    @property
    def best(self) -> Row:
        """Return the best epoch's row of the history. There must be one."""
        assert self.finished.best
        return self.finished.best

    def record(self, train_loss: float, valid: Evaluation) -> Row:
        """Note a finished epoch, and keep its average if that is the best by validation accuracy, then loss."""
        before = self.finished
        row = Row(epoch=self.epoch + 1, train_loss=train_loss, valid_loss=valid.loss, valid_accuracy=valid.accuracy)
        average = copy.deepcopy(self.average.state_dict())
        averaged = {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
        better = before.best is None or rank(row) > rank(before.best)
        best, best_learned = (row, averaged) if better else (before.best, before.best_learned)
        self.finished = replace(
            before,
            epoch=row["epoch"],
            history=[*before.history, row],
            best=best,
            best_learned=best_learned,
            learner=copy.deepcopy(self.learner.state_dict()),
            average=average,
            optimizer=copy.deepcopy(self.optimizer.state_dict()["state"]),
            scheduler=copy.deepcopy(self.scheduler.state_dict()) if self.scheduler else {},
            training={**self.training, "epoch": best["epoch"], "epochs": row["epoch"]},
        )
        return row

    def leave_out(self, photos: list[str], tested: Collection[str]) -> None:
        """Record the photos that the run goes without.

        Raises InputError where a resumed run had others, but for those that are only `tested` at the end.
        """
        before = self.finished.training.get("skipped", photos)
        if changed := sorted((set(before) ^ set(photos)) - set(tested)):
            raise InputError(
                f"finds {counted(len(changed), 'photo')} that could be opened before and cannot now, or the other way "
                f"round ({first_few(changed)}); put that back, or start a new run",
                "resume",
            )
        self.training["skipped"] = photos

    def restore(self, saved: Finished) -> None:
        """Go on from what an earlier run finished; the optimizer's settings are the recipe's, not the file's.

        Raises InputError where the state belongs to another model or to other data, ValueError where it is damaged.
        """
        if saved.identity is None or self.finished.identity is None:
            raise ValueError("it does not say what it is the state of")
        saved.identity.check_same(self.finished.identity)
        moments = copy.deepcopy(saved.optimizer)  # which the optimizer will change in place
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for parameter, state in self.optimizer.state.items():
            if any(moment.shape not in ((), parameter.shape) for moment in state.values()):
                raise ValueError("the optimizer's moments are another model's")
        if self.scheduler:
            self.scheduler.load_state_dict(saved.scheduler)
        self.classifier.preprocessing = replace(self.classifier.preprocessing, resampling=saved.resampling)
        self.learner.load_state_dict(saved.learner)
        self.average.load_state_dict(saved.average)
        self.finished = replace(saved, category_names=self.finished.category_names or saved.category_names)

    def load_best(self) -> None:
        """Put the best epoch's tensors into the learner."""
        self.learner.load_state_dict(self.finished.best_learned)

    def best_checkpoint(self, temperature: float = 1.0) -> Checkpoint:
        """Return what goes into checkpoint.pth: the best epoch's tensors, and how they came about."""
        classifier, finished = self.classifier, self.finished
        return Checkpoint(
            model=classifier.config,
            preprocessing=classifier.preprocessing,
            classes=self.classes,
            tensors=classifier.state_with(finished.best_learned),
            category_names=finished.category_names,
            training=finished.training,
            history=[dict(row) for row in finished.history],
            temperature=temperature,
        )


def epoch_line(row: Row, epochs: int) -> str:
    """Return an epoch's numbers as a line for people; lines of the same run stand in columns."""
    return (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}   training loss {row['train_loss']:.4f}   "
        f"validation loss {row['valid_loss']:.4f}   validation accuracy {row['valid_accuracy']:6.2%}"
    )


def rank(row: Row) -> tuple[float, float]:
    """Order epochs: by validation accuracy, equal ones by lower validation loss."""
    return row["valid_accuracy"], -row["valid_loss"]
