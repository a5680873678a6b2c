"""What a run has finished: all that last.pth holds, in plain types and tensors."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

import torch

from flower_classifier.base.messages import InputError, counted, first_few
from flower_classifier.judging.calibration import calibrate
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.checkpoint import Row, Trust, what_to_do
from flower_classifier.networks.safe_files import Plain
from flower_classifier.photos.grey import GreyRange

FORMAT_VERSION = 10  # of last.pth
READ_VERSIONS = (8, 9, FORMAT_VERSION)  # 8 and 9 tell strangers in other ways, in which finished runs go on
Tensors = dict[str, torch.Tensor]


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
    mirror: bool = False  # whether photos were judged with their mirror images
    fit: str = "crop"  # how a photo becomes a square
    layers: str = "last"
    whitening: float = 0.0  # the shrinkage; 0: features are not whitened
    square_roots: bool = False  # whether square roots were taken of features
    grey_range: GreyRange | None = None  # which grey values of more than 8 bits became 0 to 255
    contents: dict[str, str] = field(default_factory=dict)  # digests of some photos; none of an earlier version's run

    def to_plain(self) -> Plain:
        """Return what last.pth holds of it; of runs without such grey, what it always held."""
        plain = asdict(self)
        if self.grey_range is None:
            del plain["grey_range"]
        return plain

    def check_same(self, now: Identity) -> None:
        """Raise InputError, naming the first difference, if a run would be resumed with another identity."""
        for entry in fields(self):
            before, after = getattr(self, entry.name), getattr(now, entry.name)
            if entry.name != "contents" and before != after:
                phrase = NOT_OPTIONS.get(entry.name)
                change = f"{phrase} changed: put that back" if phrase else f"was {before}, now {after}: put that back"
                raise InputError(f"{change}, or start a new run", None if phrase else entry.name)
        if changed := [photo for photo, digest in self.contents.items() if now.contents.get(photo, digest) != digest]:
            photos = f"{counted(len(changed), 'photo')} ({first_few(changed)})"
            raise InputError(f"cannot resume: what is in {photos} changed: put that back, or start a new run")


# How messages name the parts of an identity that are not options
NOT_OPTIONS = {
    "square_roots": "cannot resume: whether square roots are taken of features (--no_roots)",
    "whitening": "cannot resume: how features are whitened (--shrinkage, --no_whitening)",
    "learns": "cannot resume: what of the network learns",
    "backbone": "cannot resume: what the backbone's weights hold",
    "classes": "cannot resume: the list of classes",
    "train": "cannot resume: the set of training photos, or their labels (or the share held out of it)",
    "valid": "cannot resume: the set of validation photos, or their labels",
}


class LowestLoss(NamedTuple):
    """The epoch whose validation loss is the lowest so far."""

    epoch: int
    losses: torch.Tensor  # of the validation photos, float64 (N,), as comparable_losses gives them


@dataclass(frozen=True)
class Best:
    """The epoch that the checkpoint holds: the last one whose validation loss is as low as the lowest, but for chance.

    Few validation photos cannot tell one epoch from another. The average is the better, the more steps it is of.
    """

    row: Row
    learned: Tensors  # its averaged tensors: of all that learns in the stage that the run is in
    valid: Evaluation | None = None  # its answers to the validation photos; None: an earlier process had them
    learns: str = "head"  # what had learned when it was reached
    results: Plain = field(default_factory=dict)  # what it is worth, by split, once that is known
    measured: Trust | None = None  # what an earlier process, or the end of this run, measured

    @functools.cached_property
    def trust(self) -> Trust:
        """How far its answers can be trusted: as was measured, else as its answers to the validation photos show."""
        if self.measured or not self.valid:
            return self.measured or Trust()
        temperature = calibrate(self.valid)
        return Trust(temperature, self.valid.at(temperature).true_class_scores)


@dataclass(frozen=True)
class Finished:
    """All that is to be kept of a run, as it was after its last finished epoch: what last.pth holds.

    Every epoch replaces it as a whole, and it holds copies. So an epoch that is broken off anywhere spoils nothing, and
    what is saved at any moment is consistent.
    """

    identity: Identity | None = None  # None: the run is not saved anywhere
    settings: Plain = field(default_factory=dict)  # the options that a resumed run keeps
    epoch: int = 0
    began: int | None = None  # how many epochs were finished when fine-tuning began; None: it has not
    unfreeze: str | None = None  # which layers learn since then
    history: list[Row] = field(default_factory=list)
    best: Best | None = None
    lowest: LowestLoss | None = None
    learner: Tensors = field(default_factory=dict)  # the last epoch's
    average: Tensors = field(default_factory=dict)
    optimizer: dict[int, Tensors] = field(default_factory=dict)  # its moments, by the parameter's number
    training: Plain = field(default_factory=dict)  # settings of the last epoch
    category_names: dict[str, str] = field(default_factory=dict)
    resampling: str = "pillow"  # how photos were resampled; there is one way so far
    tuning: list[list[object]] | None = None  # every head that a search before the first epoch tried, header first

    def to_plain(self) -> Plain:
        """Return what last.pth holds: plain types and tensors. There must be an identity, and a best epoch."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        best, lowest = self.best, self.lowest
        assert best and lowest and self.identity  # else there is nothing to go on with
        best_values = {
            "best": best.row,
            "lowest": tuple(lowest),
            "best_learned": best.learned,
            "best_learns": best.learns,
            "results": best.results,
            **best.trust.to_plain(),
        }
        if self.tuning is None:  # what runs without a search always held
            del values["tuning"]
        return {"format_version": FORMAT_VERSION, **values, "identity": self.identity.to_plain(), **best_values}

    @classmethod
    def from_plain(cls, saved: Plain) -> Finished:
        """Make one from what last.pth holds. Raises ValueError, KeyError or TypeError for what makes no sense."""
        version = saved.get("format_version", 2)  # which 1 and 2 did not have
        if version not in READ_VERSIONS:
            remedy = what_to_do(version, FORMAT_VERSION)
            raise InputError(f"run/last.pth has format {version}, this program reads {FORMAT_VERSION}: {remedy}")
        best = Best(
            saved["best"],
            saved["best_learned"],
            learns=saved["best_learns"],
            results=saved["results"],
            measured=Trust.from_plain(saved),
        )
        values = {entry.name: saved[entry.name] for entry in fields(cls) if entry.name != "tuning"}
        rebuilt = {"identity": Identity(**values["identity"]), "best": best, "lowest": LowestLoss(*values["lowest"])}
        return cls(**{**values, **rebuilt}, tuning=saved.get("tuning"))
