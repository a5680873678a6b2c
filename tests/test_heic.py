"""HEIC, in which iPhones write: read like any other photo where pillow-heif is there, and else named, never skipped."""

import shutil
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from support import TINY, read, run_program

import flower_classifier as fc
import predict
import train
from flower_classifier.photos.images import load_image

pillow_heif = pytest.importorskip("pillow_heif")
LYING = 6  # EXIF's orientation of a picture whose top is on the left: a person sees it turned clockwise


@pytest.fixture(scope="session")
def phone(flowers, tmp_path_factory):
    """The drawn flowers, of which every second one is HEIC. Tests must not change it."""
    data = tmp_path_factory.mktemp("phone") / "flowers"
    shutil.copytree(flowers, data)
    pillow_heif.register_heif_opener()
    for photo in sorted(data.glob("*/*/*"))[::2]:
        with Image.open(photo) as picture:
            picture.convert("RGB").save(photo.with_suffix(".HEIC"), "HEIF", quality=95)
        photo.unlink()
    return data


@pytest.fixture(scope="session")
def trained(phone, tmp_path_factory):
    """What a run on them leaves: the process that trains has not read HEIC before."""
    save_dir = tmp_path_factory.mktemp("heic")
    outcome = run_program("train.py", phone, *TINY, "--epochs", 2, "--save_dir", save_dir)
    assert outcome.code == 0, outcome.err
    return save_dir, outcome


def test_its_pixels_are_those_of_the_photo_it_was_made_of(flowers, phone):
    heic = sorted(phone.glob("test/*/*.HEIC"))
    assert len(heic) >= 6
    for photo in heic:
        original = next((flowers / photo.parent.relative_to(phone)).glob(f"{photo.stem}.*"))
        difference = np.asarray(load_image(photo), float) - np.asarray(load_image(original), float)
        assert np.abs(difference).mean() < 4  # it was compressed again


def test_it_is_turned_once(flowers, tmp_path):
    """HEIC says by itself how it is turned, and iPhones repeat that in EXIF: it is not turned again."""
    with Image.open(next((flowers / "test" / "54").iterdir())) as picture:
        upright = picture.convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = LYING
    upright.save(tmp_path / "turned.heic", "HEIF", quality=95, exif=exif)
    seen = load_image(tmp_path / "turned.heic")
    assert seen.size == pillow_heif.read_heif(tmp_path / "turned.heic").size
    assert np.abs(np.asarray(seen, float) - np.asarray(upright, float)).mean() < 4


def test_a_run_learns_from_all_photos(phone, trained):
    save_dir, outcome = trained
    assert "photos: 48 training, 18 validation, 18 test" in outcome.err
    assert "left out" not in outcome.err
    assert read(save_dir / "checkpoint.pth")["training"]["skipped"] == []


def test_it_is_named_by_every_way_to_ask(phone, trained, run):
    checkpoint, photo = trained[0] / "checkpoint.pth", sorted(phone.glob("test/*/*.HEIC"))[0]
    alone = run(predict, photo, checkpoint, "--format", "csv")
    among = run(predict, photo.parent, checkpoint, "--format", "csv")
    assert (alone.code, among.code) == (0, 0)
    ranks, all_ranks = ({line.rsplit(",", 3)[0] for line in asked.out.splitlines()} for asked in (alone, among))
    assert ranks < all_ranks  # paths, ranks and classes
    predictor = fc.load(checkpoint)
    assert predictor(photo) == predictor(photo.read_bytes())
    judged = run(predict, phone / "test", checkpoint, "--evaluate")
    assert "18 test photos" in judged.out


@pytest.mark.thorough
def test_the_doctor_and_tar_files_read_it(phone, run, tmp_path):
    doctor = run(train, phone, *TINY[:-1], "--doctor", "--save_dir", tmp_path / "doctor")
    assert doctor.code == 0
    assert "cannot be opened" not in doctor.out + doctor.err
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for photo in sorted(phone.glob("train/*/*")):
            tar.add(photo, f"{photo.parent.name}/{photo.name}")
    (tmp_path / "train").mkdir()
    (tmp_path / "a.tar").rename(tmp_path / "train" / "a.tar")
    outcome = run(train, tmp_path, *TINY, "--epochs", 1, "--save_dir", tmp_path / "out")
    assert outcome.code == 0
    assert "photos: 36 training, 12 validation" in outcome.err


def test_without_pillow_heif_the_photos_are_bad_ones_and_it_is_said_what_to_install(phone, tmp_path):
    code = "import runpy, sys; sys.modules['pillow_heif'] = None; runpy.run_path('train.py', run_name='__main__')"
    outcome = run_program("-c", code, phone, *TINY, "--epochs", 1, "--save_dir", tmp_path, "--no_cache")
    assert outcome.code == 2
    assert "42 photos cannot be used" in outcome.err
    assert "it is HEIC, as iPhones write: pip install pillow-heif" in outcome.err


def test_it_is_imported_for_such_photos_alone(flowers, tmp_path):
    code = "import sys, train; train.main(sys.argv[1:]); print('pillow_heif' in sys.modules)"
    outcome = run_program("-c", code, flowers, *TINY, "--epochs", 1, "--save_dir", tmp_path)
    assert outcome.out.splitlines()[-1] == "False"
    assert "pillow_heif" in sys.modules  # here it is


def test_a_damaged_one_is_called_damaged(tmp_path):
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(fc.InputError, match="it is damaged"):
        load_image(path)
