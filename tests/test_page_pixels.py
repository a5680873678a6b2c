"""The page makes of a picture the very pixels that predict.py makes: in a real browser, by its own JavaScript."""

import base64
import io

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, picture
from PIL import Image

from flower_classifier.photos.views import TOLERANCE_LEVELS, Preprocessing, open_views

pytestmark = NEEDS_CHROMIUM


VIEW = """
const [folder, numbers, data, type, done] = arguments;
(async () => {
  const { viewer } = await import(folder + "resample.js");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes], { type }), { colorSpaceConversion: "none" });
  const pixels = viewer(numbers)(picture, picture.width, picture.height, type === "image/jpeg");
  let text = "";
  for (const level of pixels) text += String.fromCharCode(level);
  done(btoa(text));
})().catch((error) => done("error: " + error));
"""


def seen_by_the_page(driver, page_site, data, preprocessing, kind="image/png"):
    """The pixels that the page makes of a file, uint8 (S, S, 3)."""
    numbers = preprocessing.to_plain()
    found = driver.execute_async_script(VIEW, page_site, numbers, base64.b64encode(data).decode(), kind)
    assert not found.startswith("error"), found
    side = preprocessing.crop_size
    return np.frombuffer(base64.b64decode(found), np.uint8).reshape(side, side, 3)


STYLES = {
    "bicubic": Preprocessing(72, 64, (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "bilinear": Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3, "bilinear"),
    "uneven": Preprocessing(73, 64, (0.5,) * 3, (0.5,) * 3, "bicubic"),
    "padded": Preprocessing(72, 64, (0.485, 0.456, 0.406), (0.5,) * 3, "bilinear", fit="pad"),
    "squashed": Preprocessing(72, 64, (0.5,) * 3, (0.5,) * 3, "bicubic", fit="squash"),
}
SIZES = [
    (97, 131),
    (131, 97),
    (64, 64),
    (20, 33),
    (1, 1),
    (3, 40),
    (400, 90),
    (90, 700),
    (288, 300),
    (301, 289),
    (1000, 750),
]


@pytest.mark.parametrize("style", STYLES)
def test_the_page_sees_the_very_pixels_that_predict_sees(page, page_site, style):
    """Bit for bit: enlarged, made smaller, averaged in blocks first, trimmed panoramas."""
    for seed, size in enumerate(SIZES):
        data = picture(*size, seed)
        expected = open_views(data, STYLES[style])[0]
        found = seen_by_the_page(page, page_site, data, STYLES[style])
        assert np.array_equal(found, expected), size


def test_a_transparent_picture_is_seen_on_white(page, page_site):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] > 128, 255, 0)
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    found = seen_by_the_page(page, page_site, file.getvalue(), STYLES["bicubic"])
    assert np.array_equal(found, open_views(file.getvalue(), STYLES["bicubic"])[0])


@pytest.mark.parametrize("size", [(120, 90), (640, 480), (1300, 1000)])
def test_a_jpeg_is_seen_within_the_contracts_tolerance(page, page_site, size):
    """Where Pillow lets the decoder make it smaller, the page averages blocks: nearly the same."""
    data = picture(*size, format="JPEG", quality=90)
    found = seen_by_the_page(page, page_site, data, STYLES["bilinear"], "image/jpeg").astype(int)
    off = np.abs(found - open_views(data, STYLES["bilinear"])[0])
    is_drafted = min(size) >= 4 * STYLES["bilinear"].resize_size
    assert np.mean(off) < 1.0
    assert np.percentile(off, 99 if is_drafted else 100) <= (6 if is_drafted else TOLERANCE_LEVELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(page, page_site, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = picture(120, 90, format="JPEG", quality=95, exif=exif)
    found = seen_by_the_page(page, page_site, data, STYLES["bilinear"], "image/jpeg").astype(int)
    assert np.abs(found - open_views(data, STYLES["bilinear"])[0]).max() <= TOLERANCE_LEVELS
