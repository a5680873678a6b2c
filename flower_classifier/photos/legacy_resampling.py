"""How checkpoints of formats 1 and 2 saw their photos: resampled by torchvision, whose values are here and there 1 off.

They were trained on that, and predict to the digit what they did. New checkpoints go by the contract in views.py.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from flower_classifier.photos.views import Crop, Cut, Preprocessing, trimmed_size


def torchvision_cutter(image: Image.Image, preprocessing: Preprocessing) -> Cut:
    """Return what cuts views out of an RGB image as torchvision resamples tensors."""
    width, height = trimmed_size(*image.size)
    pixels = F.center_crop(F.pil_to_tensor(image), [height, width])  # (3, H, W)
    mode, size = InterpolationMode(preprocessing.interpolation), [preprocessing.crop_size] * 2

    def cut(crop: Crop | None) -> np.ndarray:
        if crop is None:
            resized = F.resize(pixels, [preprocessing.resize_size], interpolation=mode, antialias=True)
            return as_array(F.center_crop(resized, size))
        return as_array(F.resized_crop(pixels, *crop, size, interpolation=mode, antialias=True))

    return cut


def as_array(view: torch.Tensor) -> np.ndarray:
    """Turn a view (3, S, S) into (S, S, 3), sharing its memory."""
    return view.permute(1, 2, 0).numpy()
