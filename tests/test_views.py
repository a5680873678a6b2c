"""A view is the square of pixels that the contract says, whoever resamples it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from flower_classifier.networks.torchvision_models import Torchvision
from flower_classifier.photos.images import load_image
from flower_classifier.photos.views import (
    CROP_AREA,
    TOLERANCE_LEVELS,
    TOLERANCE_SHARE,
    Augmentation,
    Preprocessing,
    open_views,
    random_crop,
)

SMALL = Preprocessing(36, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")


def ramp(width=64, height=32):
    """A picture in which no two regions are alike: red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1).astype(np.uint8))


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8))


def checkerboard(width, height):
    rows, columns = np.indices((height, width))
    return Image.fromarray(np.repeat(((rows // 5 + columns // 5) % 2 * 255)[:, :, None], 3, axis=2).astype(np.uint8))


PRESETS = {"vgg16": 256, "resnet50": 232, "efficientnet_b3": 320, "inception_v3": 342, "vit_b_16": 256, "swin_t": 232}


@pytest.mark.parametrize("arch", PRESETS)
@pytest.mark.parametrize("size", [(500, 667), (667, 500), (400, 400), (90, 70), (333, 999)])
def test_the_plain_view_is_torchvisions_own_preset_within_the_tolerance(arch, size):
    """torchvision's resizing of uint8 tensors is the independent way to the same numbers.

    The preset itself rounds once, not after rows and after columns, or leaves their order to Pillow: only a smooth
    picture looks the same to all of them.
    """
    weights = models.get_model_weights(arch).DEFAULT
    preprocessing = Torchvision().weights(arch, None, None).preprocessing
    assert preprocessing.resize_size == PRESETS[arch]
    mode, side = InterpolationMode(preprocessing.interpolation), preprocessing.crop_size
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
    for draw in (ramp, noise, checkerboard):
        picture = draw(*size)
        (view,) = torch.from_numpy(open_views(picture, preprocessing)).permute(0, 3, 1, 2).int()
        resized = F.resize(F.pil_to_tensor(picture), [preprocessing.resize_size], interpolation=mode, antialias=True)
        off = (view - F.center_crop(resized, [side, side]).int()).abs()  # (3, S, S), in levels
        assert off.max() <= TOLERANCE_LEVELS
        if draw is not checkerboard:  # where many means lie midway between two levels
            assert (off > 0).double().mean() <= TOLERANCE_SHARE
        if draw is ramp:
            preset = (weights.transforms()(picture) * std + mean) * 255
            assert (view - preset).abs().max() <= TOLERANCE_LEVELS


def test_the_plain_view_of_a_real_jpeg_is_torchvisions_within_the_tolerance(flowers):
    preprocessing = Preprocessing(40, 32, (0.5,) * 3, (0.5,) * 3, "bicubic")
    for path in sorted((flowers / "test").glob("*/*.jpg")):
        picture = load_image(path)
        (view,) = open_views(path, preprocessing).astype(int)
        resized = F.resize(picture, [40], InterpolationMode.BICUBIC)
        expected = np.asarray(F.center_crop(resized, [32, 32])).astype(int)
        assert np.abs(view - expected).max() <= TOLERANCE_LEVELS
        assert (view != expected).mean() <= TOLERANCE_SHARE


@pytest.mark.parametrize(("interpolation", "reach"), [("bilinear", 1), ("bicubic", 2)])
def test_a_view_is_what_the_contract_says_in_numpy(interpolation, reach):
    """Points 2 to 4 of the contract in the plainest way: a weighted mean of the photo's pixels for each value."""

    def weight(distance):
        x = np.abs(distance)
        if interpolation == "bilinear":
            return np.clip(1 - x, 0, None)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def weights(length, begin, end, side):
        scale = (end - begin) / side
        centres = begin + (np.arange(side) + 0.5) * scale
        matrix = weight((np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1))  # (side, length)
        return matrix / matrix.sum(axis=1, keepdims=True)

    preprocessing = Preprocessing(36, 32, (0.5,) * 3, (0.5,) * 3, interpolation)
    for width, height in ((50, 71), (71, 50), (20, 30), (300, 36)):
        pixels = np.asarray(noise(width, height)).astype(float)
        (view,) = open_views(noise(width, height), preprocessing)
        if width > 3 * height:
            pixels = pixels[:, (width - 3 * height) // 2 :][:, : 3 * height]
            width = 3 * height  # noqa: PLW2901
        short = min(width, height)
        resized_width, resized_height = int(36 * width / short), int(36 * height / short)
        left, top = round((resized_width - 32) / 2), round((resized_height - 32) / 2)
        across = weights(width, left * width / resized_width, (left + 32) * width / resized_width, 32)
        down = weights(height, top * height / resized_height, (top + 32) * height / resized_height, 32)
        rows = np.einsum("xw,hwc->hxc", across, pixels).round().clip(0, 255)
        expected = np.einsum("yh,hxc->yxc", down, rows).round().clip(0, 255)
        assert np.abs(view - expected).max() <= 1
        assert (view != expected).mean() <= TOLERANCE_SHARE


def test_a_panorama_costs_no_more_than_its_middle():
    """20,000 x 3 pixels resized to 256 in height would be a picture of 1.7 million pixels in width."""
    preprocessing = Preprocessing(256, 224, (0.5,) * 3, (0.5,) * 3, "bilinear")
    strip = ramp(20_001, 3)
    middle = np.asarray(strip)[:, 9_999:10_002].mean(axis=(0, 1))
    (view,) = open_views(strip, preprocessing)
    assert np.abs(view.mean(axis=(0, 1)) - middle).max() < 3
    for size in ((1, 400), (400, 1), (1, 1)):
        assert open_views(ramp(*size), preprocessing, [0, 1, 2, 3]).shape == (4, 224, 224, 3)


def test_random_views_differ_by_seed_view_and_name_and_by_nothing_else():
    def view(number=2, seed=0, name="a"):
        return open_views(ramp(), SMALL, [number], Augmentation(seed=seed), name)

    assert np.array_equal(view(), view())
    for other in (view(number=3), view(seed=1), view(name="b")):
        assert not np.array_equal(view(), other)


def test_view_1_is_the_mirror_image_of_view_0():
    plain, mirrored = open_views(ramp(), SMALL, [0, 1])
    assert np.array_equal(plain[:, ::-1], mirrored)


def test_half_of_the_random_views_are_mirrored():
    """Red grows to the right in the picture, so in a mirrored view it grows to the left."""
    views = open_views(ramp(), SMALL, range(2, 202)).astype(float)
    assert 70 < sum(view[:, 0, 0].mean() > view[:, -1, 0].mean() for view in views) < 130


def test_preprocessing_that_makes_no_sense_is_refused():
    sensible = {"resize_size": 36, "crop_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    Preprocessing(**sensible)
    for change in (
        {"crop_size": 37},
        {"crop_size": 31.5},
        {"std": (0.5, 0, 0.5)},
        {"mean": (0.5,)},
        {"interpolation": "magic"},
        {"resampling": "magic"},
    ):
        with pytest.raises(ValueError, match="makes no sense"):
            Preprocessing(**{**sensible, **change})


def test_random_crops_lie_inside_and_keep_their_share_of_the_area():
    rng = np.random.default_rng(0)
    shares, tops = [], []
    for _ in range(500):
        top, left, height, width = random_crop(300, 400, rng)
        assert 0 <= top <= 300 - height
        assert 0 <= left <= 400 - width
        shares.append(height * width / (300 * 400))
        tops.append(top)
    assert min(shares) > CROP_AREA[0] - 0.02  # a crop of the widest aspect is clipped to the photo
    assert max(shares) <= 1
    assert np.mean(shares) == pytest.approx(np.mean(CROP_AREA), abs=0.04)
    assert max(tops) > 50
