"""What the helpers of a job do, all processes but rank 0: they follow rank 0's orders until it orders the end."""

import contextlib
import signal
from dataclasses import fields

from flower_classifier.base.messages import RunError
from flower_classifier.base.signals import answer_signals
from flower_classifier.features.inputs import Inputs
from flower_classifier.features.job_extraction import FOUND_ELSEWHERE, Helper
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.job import END, EPOCH, EXTRACT, FINE_TUNE, Message, helping
from flower_classifier.training.ddp import InStep
from flower_classifier.training.loop import learn
from flower_classifier.training.recipe import FineTuning, Recipe
from flower_classifier.training.saved_state import Finished
from flower_classifier.training.state import TrainState


def help_rank_0(gpu: bool) -> None:
    """Be a helper in a job, with `gpu` on a GPU of its own. A helper holds nothing that could be lost.

    Raises RunError for what happens in this process alone: photos that its machine lacks, too little memory.
    """
    answer_signals(signal.SIG_DFL)  # rank 0 alone has something to save, and to say
    with helping() as job:
        helper, tuner = Helper(job, choose_device(gpu)), None
        while (order := job.receive_order())["do"] != END:
            helper.hear(order)
            if order["do"] == EXTRACT:
                helper.extract(order)
            elif order["do"] == FINE_TUNE:
                tuner = FineTuner(helper, order)
            elif order["do"] == EPOCH and tuner:
                tuner.take_epoch(order["epoch"])
            else:
                raise RunError(f"does not know what to do for {order['do']!r}")


class FineTuner:
    """A copy of rank 0's network, which is fine-tuned in step with it."""

    def __init__(self, helper: Helper, order: Message) -> None:
        helper.check_numerics(order["way"])
        finished, second = Finished.from_plain(order["finished"]), FineTuning(**order["recipe"])
        first = Recipe(**{entry.name: getattr(second, entry.name) for entry in fields(Recipe)})
        identity, classifier = finished.identity, helper.frozen.classifier
        assert identity  # rank 0 gives this order only in a run of train.py
        self.state = TrainState(classifier, first, identity.classes, identity=identity)
        self.state.restore(finished, second)
        self.train = Inputs(helper.frozen, helper.split, second.augmentation)
        self.train.set_aside(dict.fromkeys(order["left out"], FOUND_ELSEWHERE))
        self.learner = InStep(self.state, helper.device)

    def take_epoch(self, epoch: int) -> None:
        """Take an epoch's steps. A loss that is not finite stops all processes at the same step, and rank 0 says so."""
        with contextlib.suppress(FloatingPointError):
            learn(self.state, self.learner, self.train, epoch)
