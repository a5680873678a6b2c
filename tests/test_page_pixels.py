"""The page makes of a picture the very pixels that predict.py makes: in a real browser, by its own JavaScript."""

import base64
import io
import struct
import zlib
from dataclasses import replace

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


VIEW_GREY = """
const [folder, numbers, range, data, done] = arguments;
(async () => {
  const { viewer } = await import(folder + "resample.js");
  const { openDeepGrey } = await import(folder + "grey.js");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const picture = await openDeepGrey(new Blob([bytes]), range);
  if (!picture) return done("");
  const pixels = viewer(numbers)(picture, picture.width, picture.height, false);
  let text = "";
  for (const level of pixels) text += String.fromCharCode(level);
  done(btoa(text));
})().catch((error) => done("error: " + error));
"""


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


@pytest.mark.parametrize("size", [(97, 131), (640, 480)])
def test_grey_of_16_bits_is_seen_by_its_range(page, page_site, size):
    """By each of PNG's filters; noise in the band, and values below and above it."""
    style = replace(STYLES["bicubic"], grey_range=(2800.0, 3304.0))
    numbers = {name: getattr(style, name) for name in ("resize_size", "crop_size", "interpolation")}
    rng = np.random.default_rng(sum(size))
    values = np.linspace(2600, 3500, size[0])[None] + rng.integers(-99, 99, size[::-1])
    data = png_of(values.astype(np.uint16))
    found = page.execute_async_script(VIEW_GREY, page_site, numbers, style.grey_range, base64.b64encode(data).decode())
    assert not found.startswith("error"), found
    found = np.frombuffer(base64.b64decode(found), np.uint8).reshape(64, 64, 3)
    assert np.array_equal(found, open_views(data, style)[0])
    eight_bits = base64.b64encode(picture(*size, 0)).decode()
    assert page.execute_async_script(VIEW_GREY, page_site, numbers, style.grey_range, eight_bits) == ""


def png_of(values):
    """A PNG of 16-bit grey (H, W) whose rows take PNG's five filters in turn."""
    raw = values.astype(">u2").view(np.uint8).reshape(len(values), -1).astype(int)
    rows = []
    for y, row in enumerate(raw):
        above = raw[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([[0, 0], line[:-2]]) for line in (row, above))
        estimate = left + above - corner
        nearest = np.abs(np.stack([left, above, corner]) - estimate).argmin(axis=0)
        paeth = np.choose(nearest, [left, above, corner])
        guess = (np.zeros_like(row), left, above, (left + above) // 2, paeth)[y % 5]
        rows.append(bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    body = (
        struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))
        for name, contents in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
