"""What a network sees that is fine-tuned: every photo cut and coloured anew in every epoch."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from flower_classifier.features.batches import fresh_batches, recoloured
from flower_classifier.features.inputs import Inputs, UnusablePhotosError
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.images import load_image
from flower_classifier.photos.splits import load_splits

CPU = torch.device("cpu")


def test_every_epoch_sees_every_photo_anew_and_the_same_epoch_the_same(flowers):
    splits = load_splits(flowers)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", ())
    inputs = Inputs(FrozenBackbone(classifier, CPU), splits.train)

    def looks(epoch, batch_size):
        found = list(fresh_batches(inputs, batch_size, epoch))
        pixels, labels = (torch.cat(part) for part in zip(*found, strict=True))
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (48, 3, 224, 224)
        assert sorted(labels.tolist()) == sorted(splits.train.labels)
        return pixels, labels

    pixels, labels = looks(1, 7)
    again, same_labels = looks(1, 48)  # however many at a time
    assert torch.equal(pixels, again)
    assert torch.equal(labels, same_labels)
    other, other_labels = looks(2, 7)
    assert not torch.equal(labels, other_labels)
    seen = {photo.numpy().tobytes() for photo in (*pixels, *other)}
    assert len(seen) == 96


def test_colours_change_as_pillow_would_change_them(flowers):
    """Its three enhancers in turn round to whole levels, and cut at the ends, which pale pixels do not reach."""
    photo = load_image(next((flowers / "train").rglob("*.jpg")))
    pixels = (80 + np.asarray(photo.resize((40, 40))) * (90 / 255)).astype(np.uint8)
    for seed in range(5):
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.8, 1.2, 3)
        expected = ImageEnhance.Color(Image.fromarray(pixels)).enhance(saturation)
        expected = ImageEnhance.Brightness(ImageEnhance.Contrast(expected).enhance(contrast)).enhance(brightness)
        found = recoloured(pixels, np.random.default_rng(seed))
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 3
        assert np.abs(found.astype(int) - pixels).max() > 3
    assert recoloured(np.full((4, 4, 3), 250, np.uint8), np.random.default_rng(1)).max() <= 255


def test_a_photo_that_breaks_while_the_network_learns_is_named_and_not_left_out(flowers, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(flowers, data)
    splits = load_splits(data)
    classifier, _ = new_classifier("squeezenet1_1", 6, "none", ())
    inputs = Inputs(FrozenBackbone(classifier, CPU), splits.train)
    inputs.prepare()
    photo = data / "train" / splits.train.photos[7].partition("train/")[2]
    photo.write_bytes(b"no photo any more")
    with pytest.raises(UnusablePhotosError, match=re.escape(photo.name)):
        list(fresh_batches(inputs, 16, 1))
    with pytest.raises(UnusablePhotosError, match=re.escape(photo.name)):
        inputs.through(inputs.frozen)
