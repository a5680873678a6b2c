"""What a run lets its checkpoint remember of the training photos."""

from __future__ import annotations

from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.as_predicted import looking
from flower_classifier.networks.memory import balanced_sample, remember, room_for
from flower_classifier.training.state import TrainState


def keep_memory(state: TrainState, train: Inputs) -> None:
    """Let the checkpoint remember the training photos, as the best epoch's network sees them."""
    if state.best.memory is not None:
        return
    photos, labels = [train.split.photos[index] for index in train.used], train.labels.tolist()
    axes, number = room_for(state.classifier.feature_width, photos)
    chosen = balanced_sample(labels, number)
    known = [labels[place] for place in chosen], [photos[place] for place in chosen]
    state.keep_memory(remember(looking(state.learner, train, chosen), *known, axes))
