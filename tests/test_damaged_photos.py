"""Damaged photos that are whole enough are opened as far as they go, and counted; others are bad photos, as ever."""

import io
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from support import PROJECT, TINY, run_program

import flower_classifier as fc
import predict
import train
from flower_classifier.photos.images import ImageError, load_image, upright_size


def jpeg_of(size=(320, 240), **options):
    """A JPEG that no two regions of are alike, with noise, so that bytes are spread evenly over its rows."""
    rng = np.random.default_rng(0)
    pixels = np.linspace(0, 200, size[0])[None, :, None] + rng.integers(0, 55, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=85, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def whole():
    return jpeg_of()


@pytest.mark.parametrize("share", [0.999, 0.95])
def test_a_jpeg_without_its_last_bytes_shows_what_is_there(whole, share):
    """The rows above the cut are those of the whole picture; below it is grey."""
    cut = np.asarray(load_image(whole[: int(share * len(whole))])).astype(int)
    expected = np.asarray(load_image(whole)).astype(int)
    rows = int((share - 0.03) * len(expected)) // 16 * 16 - 1  # the decoder mends in blocks, and blurs their edges
    assert rows > 190
    assert np.array_equal(cut[:rows], expected[:rows])
    assert share > 0.99 or np.abs(cut[-1, -1] - 127.5).max() <= 0.5


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
@pytest.mark.parametrize("shorter_side", [None, 60])
def test_of_too_little_the_share_is_said(whole, share, shorter_side):
    """Also where it is decoded at a fraction of its size."""
    with pytest.raises(ImageError, match=r"it is truncated: \d+% of the picture is there") as error:
        load_image(whole[: int(share * len(whole))], shorter_side)
    assert abs(int(re.search(r"(\d+)%", str(error.value))[1]) / 100 - share) < 0.08


@pytest.mark.parametrize("orientation", [1, 6])
def test_rows_are_counted_as_they_are_stored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg_of(exif=exif)
    assert load_image(data[: int(0.95 * len(data))]).size == ((320, 240) if orientation == 1 else (240, 320))
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: len(data) // 2])


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_progressive_jpeg_must_have_its_details(subsampling):
    """Its first scans hold outlines alone; the last ones are single bits. A thumbnail's scans are not counted."""
    thumbnail = b"Exif\0\0" + jpeg_of((32, 32), progressive=True)
    data = jpeg_of(progressive=True, subsampling=subsampling, exif=thumbnail)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)][-10:]  # libjpeg's ten
    expected = np.asarray(load_image(data)).astype(float)
    for scan in scans[5:]:
        assert np.abs(np.asarray(load_image(data[: scan + 30])) - expected).mean() < 20
    for scan in scans[1:5]:
        with pytest.raises(ImageError, match="truncated: all but its coarse outlines is missing"):
            load_image(data[: scan + 30])
    with pytest.raises(ImageError, match="cannot open the photo"):
        load_image(data[: scans[0] + 1])


def test_grey_and_cmyk_jpegs_are_cut_likewise():
    for mode in ("L", "CMYK"):
        file = io.BytesIO()
        Image.open(io.BytesIO(jpeg_of())).convert(mode).save(file, "JPEG", quality=90)
        data = file.getvalue()
        assert load_image(data[: int(0.95 * len(data))]).mode == "RGB"
        with pytest.raises(ImageError, match="truncated"):
            load_image(data[: len(data) // 2])


def png_of(chunk, wrong=True, **options):
    """A PNG with a text in front of its pixels, and its contents; the checksum of one of its chunks is wrong."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "taken on a sunny day")
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=text, **options)
    data = bytearray(file.getvalue())
    start = data.index(chunk)
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 + length] ^= wrong
    return bytes(data), pixels


def test_a_png_with_a_wrong_checksum_in_a_text_is_opened(tmp_path):
    data, pixels = png_of(b"tEXt")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), pixels)
    assert upright_size(tmp_path / "a.png") == (50, 40)
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(np.asarray(load_image(file)), pixels)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_png_whose_pixels_or_header_are_damaged_is_not():
    for chunk in (b"IHDR", b"IDAT"):
        data, _ = png_of(chunk)
        if chunk == b"IDAT":
            data = data.replace(b"IDAT", b"IDAX")
        with pytest.raises(ImageError, match="cannot open the photo: "):
            load_image(data)


@pytest.fixture
def damaged(flowers, tmp_path):
    """The drawn flowers, of which two lack their last bytes."""
    data = shutil.copytree(flowers, tmp_path / "damaged")
    cut = [next((data / split / "54").iterdir()) for split in ("train", "valid")]
    for path in cut:
        with Image.open(path) as picture:
            picture.convert("RGB").save(path.with_suffix(".jpg"), "JPEG", quality=95, subsampling=0)
        if path.suffix != ".jpg":
            path.unlink()
        path.with_suffix(".jpg").write_bytes(path.with_suffix(".jpg").read_bytes()[:-4])
    return data


def test_a_run_counts_them_once(run, damaged, tmp_path):
    """Whatever the number of views and epochs, and also where their features come from the cache."""
    options = (*TINY, "--epochs", 4, "--views", 4, "--cache_dir", tmp_path / "cache", "--save_dir", tmp_path)
    for _ in range(2):
        outcome = run(train, damaged, *options)
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("damaged: opened") == 1
        assert "warning: 2 photos are damaged: opened as far as they go (" in outcome.err
        assert "its last bytes are missing" in outcome.err
    assert "taken from the cache" in outcome.err
    outcome = run(train, damaged, "--arch", "cnn", "--summary")
    assert outcome.err.count("2 photos are damaged: opened as far as they go") == 1
    assert re.search(r"bad files +none", outcome.out)


def test_predict_answers_and_says_so(run, damaged, trained, tmp_path, caplog):
    (photo,) = (path for path in (damaged / "train" / "54").iterdir() if not path.read_bytes().endswith(b"\xff\xd9"))
    outcome = run(predict, photo, trained / "checkpoint.pth")
    assert outcome.code == 0
    assert outcome.err.count("1 photo is damaged: opened as far as it goes") == 1
    whole = run(predict, damaged / "test" / "54", trained / "checkpoint.pth")
    assert "damaged" not in whole.err
    evaluated = run(predict, damaged / "valid", trained / "checkpoint.pth", "--evaluate", "--report", tmp_path / "r")
    assert evaluated.code == 0
    assert evaluated.err.count("1 photo is damaged") == 1
    assert (
        run(
            predict, damaged / "train", trained / "checkpoint.pth", "--output", tmp_path / "all", "--format", "jsonl"
        ).code
        == 0
    )
    fc.load(trained / "checkpoint.pth")(photo.read_bytes())
    assert "1 photo is damaged: opened as far as it goes (a photo: its last bytes are missing" in caplog.text


def test_in_a_tar_file_it_is_opened_too(damaged, tmp_path):
    (photo,) = (path for path in (damaged / "train" / "54").iterdir() if not path.read_bytes().endswith(b"\xff\xd9"))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(photo, "54/a.jpg")
    assert np.array_equal(np.asarray(load_image(tmp_path / "all.tar" / "54" / "a.jpg")), np.asarray(load_image(photo)))


@pytest.mark.slow
def test_in_a_job_those_that_helpers_open_count_too(damaged, tmp_path):
    command = ("--nproc_per_node", 2, "train.py", damaged, *TINY, "--epochs", 1, "--no_cache", "--save_dir", tmp_path)
    outcome = run_program(PROJECT / "tests" / "warm_torchrun.py", *command)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("2 photos are damaged: opened as far as they go") == 1
