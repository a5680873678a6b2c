"""Where a training run stands: what is being trained, and what of it is finished."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch.optim.swa_utils import AveragedModel

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import counted, first_few
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import Classifier
from flower_classifier.training.finished import Best, Finished, Identity, Row, rank
from flower_classifier.training.recipe import Recipe

# How fast the average forgets: the last tenth of the steps makes up 60 % of it. 4 and 16 gave equally good results.
DECAY = 8


@torch.no_grad()
def average_in(average: list[torch.Tensor], learner: list[torch.Tensor], steps_before: torch.Tensor) -> None:
    """Move the average towards the learner's tensors as they are after a step, the less the more steps there were.

    Polynomial-decay averaging: Shamir & Zhang 2013, section 4. It has the effect of a falling learning rate without
    having to know at which epoch to end, so that a run may be resumed for longer than was planned.
    """
    torch._foreach_lerp_(average, learner, (DECAY + 1) / (DECAY + 1 + steps_before.item()))


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
        settings: Mapping[str, object] | None = None,
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
        self.finished = Finished(identity, dict(settings or {}), category_names=names, resampling=resampling)

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs."""
        return self.finished.epoch

    @property
    def identity(self) -> Identity:
        """Return what it is the state of. It must be known."""
        if self.finished.identity is None:
            raise ValueError("it does not say what it is the state of")
        return self.finished.identity

    @property
    def best(self) -> Best:
        """Return the best epoch. There must be one."""
        if self.finished.best is None:
            raise ValueError("no epoch is finished")
        return self.finished.best

    @property
    def has_stalled(self) -> bool:
        """Whether the recipe's patience is over: so many epochs were no better than the best one before them."""
        best, patience = self.finished.best, self.recipe.patience
        return bool(patience and best and self.epoch - best.row["epoch"] >= patience)

    def record(self, train_loss: float, valid: Evaluation) -> Row:
        """Note a finished epoch, and keep its average if that is the best by validation accuracy, then loss."""
        before = self.finished
        row = Row(epoch=self.epoch + 1, train_loss=train_loss, valid_loss=valid.loss, valid_accuracy=valid.accuracy)
        average = copy.deepcopy(self.average.state_dict())
        averaged = {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
        is_better = before.best is None or rank(row) > rank(before.best.row)
        best = Best(row, averaged, valid) if is_better else before.best
        self.finished = replace(
            before,
            epoch=row["epoch"],
            history=[*before.history, row],
            best=best,
            learner=copy.deepcopy(self.learner.state_dict()),
            average=average,
            optimizer=copy.deepcopy(self.optimizer.state_dict()["state"]),
            scheduler=copy.deepcopy(self.scheduler.state_dict()) if self.scheduler else {},
            training={**self.training, "epoch": best.row["epoch"], "epochs": row["epoch"]},
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
        saved.identity.check_same(self.identity)
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
        names = self.finished.category_names or saved.category_names
        self.finished = replace(saved, settings=self.finished.settings, category_names=names)

    def load_best(self) -> None:
        """Put the best epoch's tensors into the learner."""
        self.learner.load_state_dict(self.best.learned)

    def keep_answers(self, valid: Evaluation) -> None:
        """Keep the best epoch's answers to the validation photos, from which its temperature is found."""
        self.finished = replace(self.finished, best=replace(self.best, valid=valid))

    def keep_results(self, results: Mapping[str, object]) -> None:
        """Keep what the best epoch is worth: numbers by split."""
        self.finished = replace(self.finished, best=replace(self.best, results=dict(results)))

    def best_checkpoint(self) -> Checkpoint:
        """Return what goes into checkpoint.pth: the best epoch's tensors, and how they came about."""
        classifier, finished = self.classifier, self.finished
        return Checkpoint(
            model=classifier.config,
            preprocessing=classifier.preprocessing,
            classes=self.classes,
            tensors=classifier.state_with(self.best.learned),
            category_names=finished.category_names,
            training={**finished.training, **({"results": self.best.results} if self.best.results else {})},
            history=[dict(row) for row in finished.history],
            temperature=self.best.temperature,
        )
