"""Evaluating whatever learns on a split: a head on its rows, a network as predict.py would run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from flower_classifier.features.batches import EVALUATION_BATCH, to_learner, whole
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import Classifier
from flower_classifier.networks.frozen import FrozenPart


def looking(learner: nn.Module, inputs: Inputs, chosen: Sequence[int]) -> Callable[[Sequence[int]], torch.Tensor]:
    """Return what takes places among some photos of a split to what a head sees of them: float32 (B, D), on the CPU.

    As in a prediction: the mean over the views that answer, of the network as predict.py would run it. `chosen` are
    those photos' places among the split's that are used. Raises UnusablePhotosError for photos that could be opened
    before.
    """
    seen, learner = as_answering(learner, inputs, chosen)
    learner.eval()
    places = torch.tensor(chosen) if seen is inputs else torch.arange(len(chosen))

    @torch.inference_mode()
    def look(some: Sequence[int]) -> torch.Tensor:
        by_view = []
        for view in seen.frozen.config.answer_views:
            parts = places[some].split(EVALUATION_BATCH)
            rows = [to_learner(seen.rows(view)[part], seen.frozen.device) for part in parts]
            if isinstance(learner, Classifier):  # the rows are pixels
                rows = [learner.features(pixels) for pixels in rows]
            by_view.append(torch.cat(rows).cpu())
        return torch.stack(by_view).mean(dim=0)

    return look


def as_answering(learner: nn.Module, inputs: Inputs, chosen: Sequence[int] | None = None) -> tuple[Inputs, nn.Module]:
    """Return the photos and the learner such that the photos' rows are what the learner takes, as in a prediction.

    A pretrained network that learns is split into a frozen part, which runs fast, and its head. `chosen`: places of
    the photos that are wanted; of others there need be no rows.
    """
    if isinstance(learner, Classifier) and learner.starts_frozen:
        learner.train()  # some of timm's networks keep what belongs to earlier weights until then
        return inputs.through(FrozenPart(learner.eval(), inputs.frozen.device), chosen), learner.head
    return inputs, learner


def evaluate_on(learner: nn.Module, inputs: Inputs) -> Evaluation:
    """Return what a learner answers to the photos of a split: the mean over the views that answer.

    A head gets their rows. A pretrained network that learns gets the photos themselves, and runs as predict.py will run
    it: fast, and with the same digits. Raises FloatingPointError where the loss is not finite, UnusablePhotosError for
    photos that could be opened before.
    """
    inputs, learner = as_answering(learner, inputs)
    by_view = [evaluate(learner, whole(inputs, view)) for view in inputs.frozen.config.answer_views]
    return replace(by_view[0], logits=torch.stack([one.logits for one in by_view]).mean(dim=0))
