"""What a run lets its checkpoint remember: the training photos, and how strange photos of their classes may look."""

from __future__ import annotations

from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.as_predicted import looking
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.strangers import stranger_scores
from flower_classifier.networks.memory import Memory, balanced_sample, remember, room_for
from flower_classifier.training.state import TrainState


def keep_memory(state: TrainState, train: Inputs, valid: Inputs, on_valid: Evaluation) -> None:
    """Let the checkpoint remember the training photos, as the best epoch's network sees them, and tell strangers.

    `on_valid`: its answers to the validation photos.
    """
    if state.best.stranger_scores is None:
        memory = state.best.memory or memory_of(state, train)
        features = looking(state.learner, valid, range(len(valid.used)))(range(len(valid.used)))
        state.keep_memory(memory, stranger_scores(memory, features, on_valid.at(state.best.temperature)))


def memory_of(state: TrainState, train: Inputs) -> Memory:
    """Return what there is room to remember of the training photos."""
    photos, labels = [train.split.photos[index] for index in train.used], train.labels.tolist()
    axes, number = room_for(state.classifier.feature_width, photos)
    chosen = balanced_sample(labels, number)
    known = [labels[place] for place in chosen], [photos[place] for place in chosen]
    return remember(looking(state.learner, train, chosen), *known, axes)
