"""The state of a training run: what is being trained, and which of its epochs are finished."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flower_classifier.base.messages import InputError, counted, first_few
from flower_classifier.config.allowed import StrangerMeasure
from flower_classifier.judging.calibration import comparable_losses
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import Evaluation, loss_gap
from flower_classifier.networks.checkpoint import Checkpoint, Row
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.feature_bank import FeatureBank
from flower_classifier.networks.safe_files import Plain
from flower_classifier.networks.whitening import Whitening
from flower_classifier.training.recipe import FineTuning, Recipe
from flower_classifier.training.saved_state import Best, Finished, Identity, LowestLoss, Tensors

# How fast the average forgets: the last tenth of the steps makes up 60 % of it. 4 and 16 gave equally good results.
AVERAGE_DECAY = 8


@torch.no_grad()
def average_in(average: list[torch.Tensor], learner: list[torch.Tensor], steps_before: int) -> None:
    """Move the average towards the learner's tensors after a step: the more steps there were before, the less.

    Polynomial-decay averaging: Shamir & Zhang 2013, section 4. It has the effect of a falling learning rate but need
    not know the last epoch, so a run may be resumed for longer than was planned.
    """
    torch._foreach_lerp_(average, learner, (AVERAGE_DECAY + 1) / (AVERAGE_DECAY + 1 + steps_before))


class Average(AveragedModel):
    """An average of a learner over its steps. It counts them on the CPU: asking a GPU would wait at every step."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the learner as it is after a step; buffers are the learner's."""
        steps = int(self.n_averaged)  # it is on the CPU
        average: list[torch.Tensor] = list(self.module.parameters())
        learner: list[torch.Tensor] = list(model.parameters())
        if steps:
            average_in(average, learner, steps)
        else:
            torch._foreach_copy_(average, learner)
        for buffer, latest in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(latest)
        self.n_averaged += 1


def learned(module: nn.Module) -> Tensors:
    """Return a copy of a module's tensors but its frozen parameters: what training may have changed."""
    state = module.state_dict()
    return {name: on_cpu(state[name]) for name in names_of_learned(module)}


def names_of_learned(module: nn.Module) -> list[str]:
    """Return the names of a module's tensors but its frozen parameters."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return [name for name in module.state_dict() if name not in frozen]


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU, where there is more memory than on a GPU, in torch's usual memory format."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def load_learned(module: nn.Module, tensors: Tensors) -> None:
    """Load what `learned` has returned. Raises ValueError or RuntimeError for tensors that are another module's."""
    if tensors.keys() != set(names_of_learned(module)):
        raise ValueError("the tensors are another model's")
    module.load_state_dict(tensors, strict=False)


ChangeLayer = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class TrainState:
    """What is being trained, and what its `finished` epochs have reached."""

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        classes: Sequence[str] = (),
        category_names: Mapping[str, str] | None = None,
        training: Plain | None = None,
        identity: Identity | None = None,
        settings: Plain | None = None,
    ) -> None:
        self.classifier, self.classes = classifier, tuple(classes)
        self.whitening: Whitening | None = None  # of the features that the head learns from, while it learns alone
        self.start(recipe)
        self.training = dict(training or {})  # what the checkpoint says of the run, whichever stage it is in
        names, resampling = dict(category_names or {}), classifier.preprocessing.resampling
        self.finished = Finished(identity, dict(settings or {}), category_names=names, resampling=resampling)

    def start(self, recipe: Recipe) -> None:
        """Begin to train the classifier's learner, as it is now, by a recipe, with a new optimizer."""
        self.recipe = recipe
        self.learner = self.classifier.learner  # what the optimizer steps
        self.optimizer = recipe.optimizer(self.learner)
        # What is evaluated and kept. Its batch-norm statistics (cnn's) are the learner's latest; averaged ones did no
        # better there.
        self.average = Average(self.learner)

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs."""
        return self.finished.epoch

    @property
    def identity(self) -> Identity:
        """Return the identity of the run. It must be known."""
        if self.finished.identity is None:
            raise ValueError("it does not say what it is the state of")
        return self.finished.identity

    @property
    def metadata(self) -> dict[str, object]:
        """Return what the checkpoint says of the run, from the next epoch on."""
        return {**self.training, **self.recipe.metadata}

    @property
    def best(self) -> Best:
        """Return the best epoch. There must be one."""
        if self.finished.best is None:
            raise ValueError("no epoch is finished")
        return self.finished.best

    @property
    def is_fine_tuning(self) -> bool:
        """Whether the second stage has begun."""
        return isinstance(self.recipe, FineTuning)

    @property
    def has_stalled(self) -> bool:
        """Whether the recipe's patience is used up: in that many epochs of this stage the loss was no lower."""
        lowest, patience = self.finished.lowest, self.recipe.patience
        since = max(lowest.epoch, self.finished.began or 0) if lowest else 0
        return bool(patience and lowest and self.epoch - since >= patience)

    def unfreeze(self, recipe: FineTuning) -> None:
        """Let the layers that a recipe names learn beside the head, in a copy of the classifier.

        The frozen part stays as it is, because its features may be kept in a cache for other runs.
        """
        self.whitening = None
        self.classifier = copy.deepcopy(self.classifier)
        self.classifier.unfreeze(recipe.depths, recipe.unfreeze)
        self.start(recipe)

    def begin_fine_tuning(self, recipe: FineTuning) -> None:
        """Begin the second stage: load the best epoch of the head, and let the backbone learn with it."""
        self.load_best()
        self.unfreeze(recipe)
        before, tensors = self.finished, learned(self.learner)
        self.finished = replace(
            before,
            began=self.epoch,
            unfreeze=recipe.unfreeze,
            best=replace(self.best, learned=tensors),
            learner=tensors,
            average=learned(self.average),
            optimizer={},
        )

    def record(self, train_loss: float, valid: Evaluation) -> Row:
        """Note a finished epoch, and keep its average unless an earlier one's validation loss is clearly lower.

        Clearly: by more than the standard error of the difference, as Breiman et al. 1984 choose a tree (section
        3.4.3). docs/measurements.md compares this rule with others. The head of the first stage is simpler than a
        network that is fine-tuned, so it stays until one epoch of the second stage has had a lower loss. Where the
        recipe judges by class, losses are means over classes.
        """
        before = self.finished
        row = Row(epoch=self.epoch + 1, train_loss=train_loss, valid_loss=valid.loss, valid_accuracy=valid.accuracy)
        by_class = self.recipe.judged_by_class
        if by_class and all("valid_balanced_accuracy" in earlier for earlier in before.history):
            row["valid_balanced_accuracy"] = valid.balanced_accuracy
        weights = balancing_weights(valid.labels) if by_class else torch.ones(len(valid))
        average = learned(self.average)
        averaged = {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
        latest = Best(row, averaged, valid, self.classifier.config.learns)
        losses, lowest = comparable_losses(valid), before.lowest
        if lowest is None or (losses * weights).mean() < (lowest.losses * weights).mean():
            lowest = LowestLoss(row["epoch"], losses)
        gap, standard_error = loss_gap(losses, lowest.losses, weights)
        is_as_low = gap <= standard_error and lowest.epoch > (before.began or 0)
        best = latest if before.best is None or is_as_low else before.best
        self.finished = replace(
            before,
            epoch=row["epoch"],
            history=[*before.history, row],
            best=best,
            lowest=lowest,
            learner=learned(self.learner),
            average=average,
            optimizer={
                index: {name: on_cpu(moment) for name, moment in moments.items()}
                for index, moments in self.optimizer.state_dict()["state"].items()
            },
            training={**self.metadata, "epoch": best.row["epoch"], "epochs": row["epoch"]},
        )
        return row

    def leave_out(self, photos: list[str], tested: Collection[str]) -> None:
        """Record the photos that the run goes without.

        Raises InputError if a resumed run left out others; those that are only `tested` at the end may differ.
        """
        before = self.finished.training.get("skipped", photos)
        if changed := sorted((set(before) ^ set(photos)) - set(tested)):
            raise InputError(
                f"finds {counted(len(changed), 'photo')} that could be opened before and cannot now, or the other way "
                f"round ({first_few(changed)}); put that back, or start a new run",
                "resume",
            )
        self.training["skipped"] = photos

    def restore(self, saved: Finished, second: FineTuning | None = None) -> None:
        """Go on from what an earlier run finished; the optimizer's settings are the recipe's, not the file's.

        `second`: the recipe of the second stage, where that had begun. Raises InputError where the state belongs to
        another model or to other data, ValueError where it is damaged.
        """
        assert saved.identity  # whatever was saved has one
        saved.identity.check_same(self.identity)
        if second:
            self.unfreeze(second)
        moments = copy.deepcopy(saved.optimizer)  # which the optimizer will change in place
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for parameter, state in self.optimizer.state.items():
            if any(moment.shape not in ((), parameter.shape) for moment in state.values()):
                raise ValueError("the optimizer's moments are another model's")
            for name, moment in state.items():
                if moment.dim():  # in the parameter's memory format, without which a fused step would mix numbers up
                    state[name] = torch.empty_like(parameter).copy_(moment)
        load_learned(self.learner, saved.learner)
        load_learned(self.average, saved.average)
        names = self.finished.category_names or saved.category_names
        same = self.finished  # in its settings and identity; those of an earlier version's run may lack something
        self.finished = replace(saved, settings=same.settings, identity=same.identity, category_names=names)

    def load_best(self) -> None:
        """Put the best epoch's tensors into the learner, for features as they are."""
        load_learned(self.learner, self.folded(self.best.learned))

    def folded(self, tensors: Tensors) -> Tensors:
        """Return a learner's tensors for features as they are: those of a head may be for whitened ones."""
        return self.with_first_layer(tensors, self.whitening.folded) if self.whitening else tensors

    def unfolded(self, tensors: Tensors) -> Tensors:
        """Return a head's tensors for whitened features, from those for features as they are."""
        return self.with_first_layer(tensors, self.whitening.unfolded) if self.whitening else tensors

    def with_first_layer(self, tensors: Tensors, change: ChangeLayer) -> Tensors:
        """Return a head's tensors with another first layer: what a function makes of its weight and bias."""
        first = tensors["0.weight"], tensors["0.bias"]
        return {**tensors, **dict(zip(("0.weight", "0.bias"), change(*first), strict=True))}

    def keep_answers(self, valid: Evaluation) -> None:
        """Keep the best epoch's answers to the validation photos, from which its temperature is found."""
        self.finished = replace(self.finished, best=replace(self.best, valid=valid))

    def keep_feature_bank(
        self,
        bank: FeatureBank | None,
        scores: torch.Tensor | None = None,
        measure: StrangerMeasure | None = None,
    ) -> None:
        """Keep the training photos' features in the best epoch's network, and the validation photos' scores."""
        trust = replace(
            self.best.trust, feature_bank=bank, stranger_scores=scores, stranger_measure=measure or StrangerMeasure()
        )
        self.finished = replace(self.finished, best=replace(self.best, measured=trust))

    def keep_results(self, results: Mapping[str, object]) -> None:
        """Keep the best epoch's results, by split."""
        self.finished = replace(self.finished, best=replace(self.best, results=dict(results)))

    def best_checkpoint(self) -> Checkpoint:
        """Return what goes into checkpoint.pth: the best epoch's tensors, and how they came about."""
        classifier, finished = self.classifier, self.finished
        return Checkpoint(
            model=replace(classifier.config, learns=self.best.learns, means=classifier.config.seen_means),
            preprocessing=classifier.preprocessing,
            classes=self.classes,
            tensors=classifier.state_with(self.folded(self.best.learned)),
            category_names=finished.category_names,
            training={**finished.training, **({"results": self.best.results} if self.best.results else {})},
            history=[row.copy() for row in finished.history],
            trust=self.best.trust,
        )
