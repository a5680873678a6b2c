"""The exercise's verbs for photos: load them, look at them, turn them into a network's input.

    data = load_data("flowers", "cat_to_name.json")
    show_photos(data)
    imshow(process_image("flowers/test/74/image_01191.jpg"))

The notebook, and a student's own script, are written with these and with those of model_utils.py. Nothing here loads
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from flower_classifier.base.console import speaking
from flower_classifier.base.messages import printable
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.photos import demo
from flower_classifier.photos.category_names import load_category_names
from flower_classifier.photos.images import load_image
from flower_classifier.photos.splits import Data, load_splits
from flower_classifier.photos.views import Preprocessing, open_views

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

__all__ = ["IMAGENET", "Data", "draw_data", "imshow", "load_data", "process_image", "show_photos"]

# What most of torchvision's networks expect: photos of this size, normalised by ImageNet's mean and deviation
IMAGENET = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
PHOTO_SIDE = 280  # pixels of a photo's shorter side that a grid can show


def load_data(
    data_dir: str | Path,
    category_names: str | Path | None = None,
    valid_split: float = TrainConfig.valid_split,
    seed: int = TrainConfig.seed,
    labels: str | Path | None = None,
    groups: str | None = TrainConfig.groups,
    test_split: float = TrainConfig.test_split,
) -> Data:
    """Find the photos of a folder: train/, valid/ and perhaps test/, each with one folder per class.

    Or `labels` is a table that says each photo's class, or "stem" where their names do, as for train.py.

    Without valid/, a share `valid_split` of each class's training photos, drawn from `seed`, becomes the validation
    photos; `groups` says what stays together then, as --groups does. A share `test_split` becomes the test
    photos where there are none. `category_names` is a JSON file of names for the class folders. Raises InputError for a
    folder or a file that does not fit.
    """
    config = TrainConfig(
        Path(data_dir),
        valid_split=valid_split,
        category_names=Path(category_names) if category_names else None,
        seed=seed,
        labels=Path(labels) if labels else None,
        groups=groups,
        test_split=test_split,
    )  # which refuses what train.py refuses
    with speaking():
        splits = load_splits(config.data_dir, valid_split, seed, config.label_source, groups, test_split=test_split)
        return Data(splits, load_category_names(config.category_names, splits.classes))


def draw_data(data_dir: str | Path, pictures: dict[str, int] | None = None) -> None:
    """Draw pictures of six species of flowers into a folder, to try everything without photos.

    `pictures`: how many of each species per split; without it {"train": 60, "valid": 15, "test": 15}.
    """
    demo.draw_dataset(Path(data_dir), pictures)


def process_image(image: str | Path | Image.Image, preprocessing: Preprocessing = IMAGENET) -> np.ndarray:
    """Scale, crop and normalise a photo for a network. Returns float32 (3, S, S): colour channels first.

    The shorter side is resized to 256 pixels and the centre 224 x 224 pixels are cut out; then each channel becomes
    (value - mean) / std, where values are from 0 to 1. With `preprocessing=model.preprocessing` the sizes and numbers
    are those of that model. Raises ImageError for a photo that cannot be opened.
    """
    (pixels,) = open_views(image, preprocessing)  # (S, S, 3)
    mean, std = (np.array(numbers, np.float32) for numbers in (preprocessing.mean, preprocessing.std))
    return ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)


def imshow(
    image: np.ndarray | torch.Tensor,
    ax: Axes | None = None,
    title: str | None = None,
    preprocessing: Preprocessing = IMAGENET,
) -> Axes:
    """Show what `process_image` returned, (3, S, S), or a tensor of it; return the axes that it is drawn in.

    `preprocessing` must be the one that it was processed with.
    """
    image = image if isinstance(image, np.ndarray) else image.numpy(force=True)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure().add_subplot()
    mean, std = (np.array(numbers) for numbers in (preprocessing.mean, preprocessing.std))
    ax.imshow((image.transpose(1, 2, 0) * std + mean).clip(0, 1))
    if title is not None:
        ax.set_title(printable(title))
    ax.set_axis_off()
    return ax


def show_photos(data: Data, classes: int = 8) -> Image.Image:
    """Return a picture of the first training photo of each of the first few classes, under the class's name."""
    from flower_classifier.report.pictures import draw_grid, image_of

    train = data.splits.train
    shown = []
    for label, name in enumerate(data.names[:classes]):
        photo = train.path(train.labels.index(label))
        shown.append((load_image(photo, PHOTO_SIDE), printable(name)))
    return image_of(draw_grid(shown))
