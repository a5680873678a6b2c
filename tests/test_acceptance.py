"""What may come into a folder of photos, and what becomes of it: real runs of predict.py and train.py over it all.

Each line of the tables is a file: its name, how to make it and, if it is refused, the reason that is given.
"""

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import PROJECT, TINY, read, run_program


def picture(width=64, height=48):
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1).astype(np.uint8))


def stored(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width, height):
    """A PNG header with a right checksum, and no pixels behind it worth mentioning."""
    small = stored(Image.new("RGB", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PHOTO = stored(picture(), "JPEG")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY16 = Image.fromarray(np.linspace(0, 65535, 64 * 48, dtype=np.uint16).reshape(48, 64))
FLOAT = Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64))
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"

OPENED = {
    "jpeg.jpg": PHOTO,
    "png named.jpg": stored(picture(), "PNG"),
    "webp.webp": stored(picture(), "WEBP"),
    "gif animated.gif": stored(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    "bmp.bmp": stored(picture(), "BMP"),
    "tiff.tiff": stored(picture(), "TIFF"),
    "cmyk.jpg": stored(picture().convert("CMYK"), "JPEG"),
    "one bit.png": stored(picture().convert("1"), "PNG"),
    "palette.png": stored(picture().convert("P"), "PNG", transparency=3),
    "grey alpha.png": stored(picture().convert("LA"), "PNG"),
    "transparent.png": stored(picture().convert("RGBA"), "PNG"),
    "grey 16 bit.png": stored(GREY16, "PNG"),
    "float.tiff": stored(FLOAT, "TIFF"),
    "icc.jpg": stored(picture(), "JPEG", icc_profile=ICC),
    "icc broken.jpg": stored(picture(), "JPEG", icc_profile=b"no profile"),
    "exif broken.jpg": stored(picture(), "JPEG", exif=b"Exif\0\0broken"),
    **{f"exif {turn}.jpg": stored(picture(), "JPEG", exif=turned(turn)) for turn in range(1, 9)},
    "one pixel high.png": stored(picture(300, 1), "PNG"),
    "one pixel.png": stored(picture(1, 1), "PNG"),
    "panorama.png": stored(picture(20_000, 3), "PNG"),
    "Ümläute 雛菊.jpg": PHOTO,
    'Übung\'s "100 %" {x}.jpg': PHOTO,
}
REFUSED = {
    "empty.jpg": (b"", "it is empty"),
    "text.jpg": (b"I am a poem", "it is no JPEG"),
    "truncated.jpg": (PHOTO[: len(PHOTO) // 2], "[Tt]runcated"),
    "cut png.png": (stored(picture(), "PNG")[:60], ""),
    "postscript.jpg": (POSTSCRIPT, "it is no JPEG"),
    "pdf.png": (b"%PDF-1.4\n", "it is no JPEG"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is no JPEG"),
    "bomb.png": (png_that_claims(60_000, 60_000), "3,600,000,000 pixels are too many"),
    "no pixels.png": (png_that_claims(0, 0), ""),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A folder with all of it."""
    folder = tmp_path_factory.mktemp("everything")
    for name, data in {**OPENED, **{name: data for name, (data, _) in REFUSED.items()}}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.slow
def test_predict_names_every_bad_file_and_predicts_every_good_one(everything, trained):
    """In a real process, and in seconds."""
    started = time.monotonic()
    outcome = run_program("predict.py", everything, trained / "checkpoint.pth", "--top_k", 1)
    assert time.monotonic() - started < 60
    assert outcome.code == 1
    headings = [line for line in outcome.out.splitlines() if not line.startswith("  ")]
    assert headings == [str(everything / name) for name in sorted(OPENED)]
    *warnings, last = outcome.err.splitlines()
    both = len(OPENED) + len(REFUSED)
    assert last == f"predict.py: {len(OPENED)} of {both} photos answered; {len(REFUSED)} could not be opened"
    for line, name in zip(warnings, sorted(REFUSED), strict=True):
        assert re.match(rf"warning: cannot open {re.escape(str(everything / name))}: .*{REFUSED[name][1]}", line)


def test_train_stops_for_the_bad_files_or_goes_on_without_them(everything, flowers, run, train_into, tmp_path):
    data = shutil.copytree(flowers, tmp_path / "data")
    for path in everything.iterdir():
        shutil.copy(path, data / "train" / "54")
    os.mkfifo(data / "train" / "54" / "pipe.jpg")  # no photo, by rule
    (data / "train" / "54" / "loop").symlink_to(data / "train" / "54")
    import train

    outcome = run(train, data, *TINY, "--epochs", 1, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{len(REFUSED)} photos cannot be used" in outcome.err
    listed = (tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in listed] == sorted(REFUSED)
    train_into(tmp_path / "out", data, *TINY, "--epochs", 1, "--skip_bad")
    skipped = read(tmp_path / "out" / "checkpoint.pth")["training"]["skipped"]
    assert [name.rpartition("/")[2] for name in skipped] == sorted(REFUSED)


# What matplotlib 3.8 does wrong in the eyes of a newer pyparsing
OF_MATPLOTLIB = [f"ignore::DeprecationWarning:matplotlib.{name}" for name in ("_fontconfig_pattern", "_mathtext")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {
            **{"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "dumb", "COLUMNS": "20", "OMP_NUM_THREADS": "1"},
            "PYTHONWARNINGS": ",".join(("error", *OF_MATPLOTLIB)),
        },
        {"HOME": "/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"},
    ],
    ids=" ".join,
)
def test_it_works_wherever_it_is_run(flowers, tmp_path, environment):
    """From another folder, by relative paths, under names that a C locale cannot show."""
    (tmp_path / "雛菊").symlink_to(flowers)
    program = os.path.relpath("train.py", tmp_path)
    arguments = ("--arch", "cnn", "--epochs", 1, "--save_dir", "Ordner ü")
    how = {"cwd": tmp_path, "cold": "XDG_CACHE_HOME" not in environment}  # which is not read while Python starts
    training = run_program(program, "雛菊", *arguments, **how, **environment)
    assert training.code == 0, training.err
    assert training.err.count("going on without the feature cache") == ("XDG_CACHE_HOME" in environment)
    photo = sorted((flowers / "test" / "54").iterdir())[0]
    checkpoint = tmp_path / "Ordner ü" / "checkpoint.pth"
    predicted = run_program(os.path.relpath("predict.py", tmp_path), photo, checkpoint, **how, **environment)
    assert (predicted.code, predicted.err, len(predicted.out.splitlines())) == (0, "", 5)


NAMELESS = """
import os, pwd, runpy, sys
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
del os.environ["HOME"], os.environ["XDG_CACHE_HOME"]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="users have a folder there")
def test_without_a_home_and_a_name_a_run_goes_on_without_the_cache_and_says_so_once(flowers, tmp_path):
    """As in a container that is given any number as its user."""
    outcome = run_program("-c", NAMELESS, flowers, *TINY, "--epochs", 1, "--save_dir", tmp_path)
    assert (outcome.code, (tmp_path / "checkpoint.pth").exists()) == (0, True), outcome.err
    said = "no home folder is known: going on without the feature cache; --cache_dir DIR is one anywhere\n"
    assert outcome.err.count(said) == 1


def test_a_path_in_the_manner_of_windows_is_taken_by_the_letter(flowers, trained, tmp_path):
    r"""Here a backslash is a letter like any other: it names a file that has it, and no file in a folder."""
    photo = shutil.copy(flowers / "test" / "54" / "drawn_000.jpg", tmp_path / r"C:\photos\rose 1.JPG")
    assert run_program("predict.py", photo, trained / "checkpoint.pth").code == 0
    for program in (("predict.py", r"C:\photos\rose 2.JPG", trained / "checkpoint.pth"), ("train.py", r"C:\photos")):
        outcome = run_program(*program)
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert program[1] in outcome.err


def test_a_full_disk_ends_the_run_with_the_reason(flowers, tmp_path):
    """A real file system of 200 kB, where this may be made."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", tmp_path], check=False).returncode:
        pytest.skip("no file systems may be mounted here")
    try:
        outcome = run_program("train.py", flowers, "--arch", "cnn", "--epochs", 1, "--save_dir", tmp_path)
        assert outcome.code == 1
        assert outcome.err.endswith("last.pth (No space left on device); what was there before is untouched\n")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lock"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.slow
def test_where_no_threads_can_be_had_one_does_it_all(flowers, tmp_path):
    """The system's own limit, which does not hold for the superuser: hence another user, who may read everything."""
    limited = ["bash", "-c", 'ulimit -u 1 && exec "$@"', "bash"]
    if os.geteuid() == 0:
        may = "+dac_override,+dac_read_search"
        limited = ["setpriv", "--reuid=65534", f"--inh-caps={may}", f"--ambient-caps={may}", *limited]
    if not shutil.which(limited[0]):
        pytest.skip(f"no {limited[0]} here")
    arguments = [flowers, *TINY, "--epochs", "1", "--no_cache", "--save_dir"]
    free = run_program("train.py", *arguments, tmp_path / "free")
    assert free.code == 0, free.err
    assert "the system gives no more threads" not in free.err
    done = subprocess.run(
        [*limited, sys.executable, "train.py", *arguments, tmp_path / "limited"],
        cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the system gives no more threads") == 1
    losses = [read(tmp_path / name / "checkpoint.pth")["history"][0]["train_loss"] for name in ("free", "limited")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
