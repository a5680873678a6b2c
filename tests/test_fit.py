"""--fit: how a photo becomes the square that a network takes, and what is said of photos whose ends are cut off."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from support import TINY, parse, read
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

import predict
import train
from flower_classifier.config.allowed import FITS as OPTIONS
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.images import load_image
from flower_classifier.photos.views import FITS, TOLERANCE_LEVELS, Augmentation, Preprocessing, open_views

MEAN = (0.485, 0.456, 0.406)
SIZES = [(97, 131), (400, 90), (90, 700), (64, 64), (20, 33), (3, 40), (141, 128)]


def noise(width, height):
    """A picture that bicubic does not carry beyond black and white, where the order of rows and columns would count."""
    return Image.fromarray(np.random.default_rng(width).integers(60, 190, (height, width, 3), dtype=np.uint8))


def preprocessing(fit, interpolation="bilinear"):
    return Preprocessing(72, 64, MEAN, (0.5,) * 3, interpolation, fit=fit)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_what_torchvision_resizes_and_pads(interpolation):
    mode = InterpolationMode(interpolation)
    bars = [round(255 * value) for value in MEAN]
    for width, height in SIZES:
        photo = noise(width, height)
        image = F.pil_to_tensor(photo)
        squashed = F.resize(image, [64, 64], interpolation=mode, antialias=True)
        scale = 64 / max(width, height)
        columns, rows = (max(1, int(length * scale + 0.5)) for length in (width, height))
        left, top = (64 - columns) // 2, (64 - rows) // 2
        padded = torch.tensor(bars, dtype=torch.uint8)[:, None, None].expand(3, 64, 64).clone()
        inner = F.resize(image, [rows, columns], interpolation=mode, antialias=True)
        padded[:, top : top + rows, left : left + columns] = inner
        for fit, expected in (("squash", squashed), ("pad", padded)):
            (view,) = open_views(photo, preprocessing(fit, interpolation))
            off = np.abs(view.astype(int) - expected.permute(1, 2, 0).numpy().astype(int))
            assert off.max() <= TOLERANCE_LEVELS, (fit, width, height)


def test_random_views_show_crops_of_the_photos_own_shape_and_reach_its_ends():
    """A photo three times as wide as high, black but for a white end: half of the crops and more show some of it."""
    pixels = np.zeros((60, 180, 3), np.uint8)
    pixels[:, 150:] = 255
    views = range(1, 41)
    for fit, least in (("squash", 12), ("pad", 12)):
        cut = open_views(Image.fromarray(pixels), preprocessing(fit), views, Augmentation("crops"), "a.jpg")
        assert sum((view == 255).any() for view in cut) > least
    padded = open_views(Image.fromarray(pixels), preprocessing("pad"), views, Augmentation("crops"), "a.jpg")
    bars = [np.isclose(view, np.round(255 * np.array(MEAN)), atol=1).all(axis=2).mean() for view in padded]
    assert 0.5 < np.mean(bars) < 0.75  # two thirds, as of the plain view


def test_the_options_are_the_ways_that_there_are():
    assert FITS == OPTIONS
    assert "fit" not in preprocessing("crop").to_plain()  # as in files and cache keys of before
    for fit in FITS:
        assert Preprocessing.from_plain(preprocessing(fit).to_plain()) == preprocessing(fit)
    with pytest.raises(ValueError, match="makes no sense"):
        preprocessing("stretch")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (700, 100), (128, 128)])
def test_what_is_shown_of_a_photo_is_where_its_pixels_lie_in_the_view(fit, size):
    """A white spot in the photo appears in the view where `shown` says."""
    width, height = size
    spot = width // 2 + 15, height // 2 - 12
    photo = Image.new("RGB", size)
    ImageDraw.Draw(photo).rectangle((spot[0] - 3, spot[1] - 3, spot[0] + 3, spot[1] + 3), fill="white")
    left, top, right, bottom = preprocessing(fit).shown(*size)
    (view,) = open_views(photo, preprocessing(fit))
    rows, columns = np.nonzero((view.astype(int).sum(axis=2) > 200) & (np.ptp(view, axis=2) == 0))
    expected = 64 * (spot[0] + 0.5 - left) / (right - left), 64 * (spot[1] + 0.5 - top) / (bottom - top)
    assert columns.mean() + 0.5 == pytest.approx(expected[0], abs=0.7)
    assert rows.mean() + 0.5 == pytest.approx(expected[1], abs=0.7)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Photos three times as wide as high; what tells the two classes apart is at one end."""
    folder, rng = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for split, count in (("train", 24), ("valid", 12), ("test", 12)):
        for label, colour in (("dark", (30, 20, 40)), ("light", (250, 240, 220))):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(rng.integers(60, 190, (60, 180, 3), dtype=np.uint8))
                end = 8 if rng.random() < 0.5 else 142
                ImageDraw.Draw(picture).ellipse((end, 15, end + 30, 45), fill=colour)
                picture.save(folder / split / label / f"{number}.png")
    return folder


def test_a_thing_at_the_end_of_a_wide_photo_is_seen_where_photos_are_padded_or_squashed(run, wide, tmp_path):
    """The crop leaves chance; it is warned of. Whoever chooses is not warned."""
    for fit in ("", "pad", "squash"):
        options = (*TINY, "--epochs", 4, *(("--fit", fit) if fit else ()))
        outcome = run(train, wide, *options, "--save_dir", tmp_path / (fit or "default"))
        assert outcome.code == 0, outcome.err
        assert ("only the middle is seen" in outcome.err) == (not fit)
        if not fit:
            assert "of 48 training photos, more than twice as long as short" in outcome.err
        accuracy = read(tmp_path / (fit or "default") / "checkpoint.pth")["training"]["results"]["test"]["accuracy"]
        assert (accuracy > 0.9) == bool(fit), (fit, accuracy)


def test_every_way_to_an_answer_fits_as_the_checkpoint_says(run, train_into, wide, tmp_path):
    """predict.py gives what the network makes of the view, also after a resumed run, which keeps the way."""
    train_into(tmp_path, wide, *TINY, "--epochs", 1, "--fit", "pad")
    train_into(tmp_path, wide, "--resume", "--no_report", "--epochs", 2)
    saved = Checkpoint.load(tmp_path / "checkpoint.pth")
    assert saved.preprocessing.fit == "pad"
    photo = next((wide / "test").rglob("*.png"))
    pixels = torch.from_numpy(open_views(load_image(photo), saved.preprocessing)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        probabilities = (saved.classifier(pixels)[0] / saved.trust.temperature).softmax(0).tolist()
    answer = run(predict, photo, tmp_path / "checkpoint.pth")
    for name, share in parse(answer.out):
        assert share == pytest.approx(dict(zip(saved.classes, probabilities, strict=True))[name], abs=0.01)
    refused = run(train, wide, "--resume", "--fit", "squash", "--epochs", 3, "--save_dir", tmp_path)
    assert refused.code == 2
    assert "--fit was pad, now squash" in refused.err
