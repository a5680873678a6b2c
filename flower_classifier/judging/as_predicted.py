"""What a learner answers to a split's photos, whatever of the network it is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from flower_classifier.features.inputs import Inputs, whole
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.frozen import FrozenPart


def evaluate_on(learner: nn.Module, inputs: Inputs) -> Evaluation:
    """Return what a learner answers to the photos of a split: the mean over the looks that the classifier takes.

    A head gets their rows. A pretrained network that learns gets the photos themselves, and runs as predict.py will run
    it: fast, and with the same digits. Raises FloatingPointError where the loss is not finite, UnusablePhotosError for
    photos that could be opened before.
    """
    if isinstance(learner, Classifier) and learner.is_pretrained:
        inputs, learner = inputs.through(FrozenPart(learner, inputs.frozen.device)), learner.head
    looks = [evaluate(learner, whole(inputs, view)) for view in inputs.frozen.config.looks]
    return replace(looks[0], logits=torch.stack([look.logits for look in looks]).mean(dim=0))
