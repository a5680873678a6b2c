"""Evaluating whatever learns on a split: a head on its rows, a network as predict.py would run it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from flower_classifier.features.inputs import Inputs, whole
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.frozen import FrozenPart


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
