"""Evaluating whatever learns on a split: a head on its rows, a network as predict.py would run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from flower_classifier.features.inputs import EVALUATION_BATCH, Inputs, to_learner, whole
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.frozen import FrozenPart


@torch.inference_mode()
def features_on(learner: nn.Module, inputs: Inputs, chosen: Sequence[int]) -> torch.Tensor:
    """Return what the head of a learner sees of the chosen photos of a split, float32 (M, D) on the CPU.

    As in a prediction: the mean over the views that answer, of the network as predict.py would run it. `chosen` are
    places among the photos that are used. Raises UnusablePhotosError for photos that could be opened before.
    """
    learner.eval()
    if isinstance(learner, Classifier) and learner.starts_frozen:
        inputs = inputs.through(FrozenPart(learner, inputs.frozen.device))
    places, device = torch.tensor(chosen), inputs.frozen.device
    by_view = []
    for view in inputs.frozen.config.answer_views:
        rows = inputs.rows(view)
        parts = [to_learner(rows[some], device) for some in places.split(EVALUATION_BATCH)]
        if inputs.frozen.network is None:  # the rows are pixels
            parts = [learner.features(pixels) for pixels in parts]
        by_view.append(torch.cat([part.cpu() for part in parts]))
    return torch.stack(by_view).mean(dim=0)


def evaluate_on(learner: nn.Module, inputs: Inputs) -> Evaluation:
    """Return what a learner answers to the photos of a split: the mean over the views that answer.

    A head gets their rows. A pretrained network that learns gets the photos themselves, and runs as predict.py will run
    it: fast, and with the same digits. Raises FloatingPointError where the loss is not finite, UnusablePhotosError for
    photos that could be opened before.
    """
    if isinstance(learner, Classifier) and learner.starts_frozen:
        learner.train()  # some of timm's networks keep what belongs to earlier weights until then
        inputs, learner = inputs.through(FrozenPart(learner.eval(), inputs.frozen.device)), learner.head
    by_view = [evaluate(learner, whole(inputs, view)) for view in inputs.frozen.config.answer_views]
    return replace(by_view[0], logits=torch.stack([one.logits for one in by_view]).mean(dim=0))
