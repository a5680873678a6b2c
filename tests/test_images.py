"""A photo becomes the same upright RGB whatever it is stored as, and then the pixels the weights expect."""

import io
import os
import socket
import struct

import numpy as np
import pytest
from PIL import Image

from flower_classifier.photos.images import ImageError, load_image, upright_size
from flower_classifier.photos.views import Preprocessing, open_views

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def saved(tmp_path):
    """Save a picture under a name and return the path."""

    def save(picture, name, **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def ramp(width=64, height=32):
    """A picture in which no two regions are alike: red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1).astype(np.uint8))


def close(image, reference, levels):
    difference = np.abs(np.asarray(image, dtype=float) - np.asarray(reference, dtype=float))
    return image.mode == "RGB" and image.size == reference.size and difference.max() <= levels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_whatever_exif_says(saved, orientation):
    turned = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip  # what a camera stores, so that the orientation tag undoes it
    stored = ramp()
    for step in turned[orientation]:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert close(load_image(saved(stored, "turned.png", exif=exif)), ramp(), 0)


def test_broken_exif_does_not_cost_the_photo(saved):
    assert close(load_image(saved(ramp(), "a.jpg", exif=b"Exif\0\0broken", quality=95)), ramp(), 30)


@pytest.mark.parametrize(
    ("name", "options", "levels"),
    [
        ("a.jpg", {"quality": 95}, 30),
        ("a.png", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.bmp", {}, 0),
        ("a.tiff", {}, 0),
        ("a.gif", {}, 60),
    ],
)
def test_formats_are_told_by_content(saved, name, options, levels):
    path = saved(ramp(), name, **options)
    misnamed = path.rename(path.with_suffix(".dat"))
    assert close(load_image(misnamed), ramp(), levels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA"])
def test_every_mode_becomes_rgb(saved, mode):
    picture = ramp().convert(mode)
    name, options = ("a.tiff", {"compression": "tiff_lzw"}) if mode in ("CMYK", "YCbCr") else ("a.png", {})
    assert close(load_image(saved(picture, name, **options)), picture.convert("RGB"), 3)


def test_adobes_inverted_cmyk_jpeg_is_not_a_negative(saved):
    """Pillow writes CMYK JPEGs as Adobe does, inverted."""
    picture = Image.new("RGB", (32, 32), RED)
    pixel = load_image(saved(picture.convert("CMYK"), "a.jpg", quality=95)).getpixel((16, 16))
    assert np.allclose(pixel, RED, atol=12)


def test_transparent_pixels_show_white(saved):
    picture = Image.new("RGBA", (4, 1), (*RED, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    image = load_image(saved(picture, "a.png"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [RED, WHITE, (127, 127, 127)]


def test_a_palettes_transparent_colour_shows_white(saved):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    image = load_image(saved(picture, "a.png", transparency=1))
    assert [image.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(saved, name):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = load_image(saved(Image.fromarray(values), name))
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(image), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e6])
def test_float_tiffs_are_scaled_by_their_range(saved, top):
    values = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
    image = load_image(saved(Image.fromarray(values), "a.tiff"))
    assert np.array_equal(np.asarray(image)[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_a_pixel_that_is_no_number_leaves_the_others_as_they_are(saved, odd):
    values = np.full((64, 64), 0.5, dtype=np.float32)
    values[3, 5] = odd
    pixels = np.asarray(load_image(saved(Image.fromarray(values), "a.tiff")))
    assert (np.delete(pixels.reshape(-1, 3), 3 * 64 + 5, axis=0) == 128).all()


def test_an_all_black_float_tiff_is_black(saved):
    assert load_image(saved(Image.fromarray(np.zeros((4, 4), np.float32)), "a.tiff")).getpixel((0, 0)) == (0, 0, 0)


def test_of_an_animation_the_first_frame_counts(saved):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255))]
    path = saved(frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((4, 4)) == RED


def test_what_cannot_be_opened_is_said_with_path_and_reason(tmp_path, flowers):
    photo = next((flowers / "train" / "54").iterdir()).read_bytes()
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    cases = {
        "empty.jpg": (b"", "it is empty"),
        "text.jpg": (b"I am a poem", "it is no JPEG"),
        "cut.jpg": (photo[: len(photo) // 2], "truncated"),
        "drawing.jpg": (postscript, "it is no JPEG"),
    }
    for name, (contents, reason) in cases.items():
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ImageError, match=f"cannot open .*{name}: .*{reason}"):
            load_image(tmp_path / name)
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="it is a folder"):
        load_image(tmp_path)


def test_a_photo_in_memory_is_the_photo_in_its_file(flowers):
    """A path as text, a file's bytes, an open file, Pillow's picture of it and an array of that."""
    path = next((flowers / "test" / "54").iterdir())
    expected = np.asarray(load_image(path))
    with path.open("rb") as file, Image.open(path) as picture:
        for source in (str(path), path.read_bytes(), file, picture, np.asarray(picture)):
            assert np.array_equal(load_image(source), expected)
    for source in (b"", b"no photo", np.zeros((2, 2, 5), np.uint8), np.zeros(3)):
        with pytest.raises(ImageError, match="cannot open the photo: "):
            load_image(source)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    """A PNG header that promises 30,000 x 30,000 pixels, with none of them there."""
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG")
    huge = (30_000).to_bytes(4, "big") * 2
    header = b"IHDR" + huge + small.getvalue()[24:29]
    import zlib

    bomb = small.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small.getvalue()[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageError, match="900,000,000 pixels are too many"):
        load_image(tmp_path / "bomb.png")


def test_a_pipe_and_a_socket_are_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe.jpg", "socket.jpg"):
            with pytest.raises(ImageError, match="no regular file"):
                load_image(tmp_path / name)


def test_a_large_jpeg_may_come_smaller_but_never_too_small(saved):
    """Of 900 x 600 pixels a half is enough for 300, not for 301; and what a view shows of it is much the same."""
    picture = ramp(900, 600)
    path = saved(picture, "a.jpg", quality=95)
    assert load_image(path).size == load_image(path, 301).size == (900, 600)
    assert load_image(path, 300).size == (450, 300)
    assert load_image(saved(picture, "a.png"), 301).size == (900, 600)
    turned = Image.Exif()
    turned[0x0112] = 6
    assert load_image(saved(picture, "turned.jpg", exif=turned), 300).size == (300, 450)
    preprocessing = Preprocessing(36, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")
    draft, whole = (open_views(source, preprocessing).astype(int) for source in (path, load_image(path)))
    assert np.abs(whole - draft).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_a_large_picture_of_any_mode_comes_smaller_and_looks_the_same(saved, mode):
    picture = ramp(640, 480).convert("L")
    if mode in ("I;16", "F"):
        scale, kind = (257, np.uint16) if mode == "I;16" else (1 / 255, np.float32)
        picture = Image.fromarray((np.asarray(picture, dtype=float) * scale).astype(kind))
    else:
        picture = picture.convert("RGB").convert(mode)
    path = saved(picture, "a.tiff")
    whole, small = load_image(path), load_image(path, 100)
    assert small.size == (160, 120)
    assert small.mode == "RGB"
    assert close(small, whole.reduce(4), 2)


@pytest.mark.slow
def test_a_jpeg_of_200_megapixels_is_opened_at_an_eighth(tmp_path):
    """As some phones take them: 3 megapixels are decoded. As a whole it is refused, and where it is progressive."""
    half = Image.new("RGB", (8, 8), "red")
    half.paste("blue", (4, 0, 8, 8))
    huge = half.resize((16_320, 12_240), Image.Resampling.NEAREST)
    huge.save(tmp_path / "huge.jpg", quality=50)
    photo = load_image(tmp_path / "huge.jpg", 224)
    assert min(photo.size) >= 224
    assert np.asarray(photo)[5, 5].argmax() == 0
    assert np.asarray(photo)[5, -5].argmax() == 2
    assert upright_size(tmp_path / "huge.jpg") == (16_320, 12_240)
    assert load_image((tmp_path / "huge.jpg").read_bytes(), 224).size == photo.size
    with pytest.raises(ImageError, match="199,756,800 pixels are too many"):
        load_image(tmp_path / "huge.jpg")
    half.save(tmp_path / "progressive.jpg", progressive=True)
    contents = (tmp_path / "progressive.jpg").read_bytes()
    sides = contents.index(b"\xff\xc2") + 5  # behind the frame's marker, length and precision: height, width
    (tmp_path / "progressive.jpg").write_bytes(
        contents[:sides] + struct.pack(">HH", 12_240, 16_320) + contents[sides + 4 :]
    )
    with pytest.raises(ImageError, match="199,756,800 pixels are too many"):
        load_image(tmp_path / "progressive.jpg", 224)
