"""Photos in tar files: train/*.tar, named as a folder has them or as WebDataset does."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile

import pytest
from download_server import zipped
from support import QUICK, TINY, parse_blocks, read, same

import predict
import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos.folders import photos_in
from flower_classifier.photos.images import load_image
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.tar_files import index_of, read_bytes
from flower_classifier.studies import dry_run

LEARNED = ("state_dict", "history", "set_scores", "stranger_scores")
WHOLE = (
    *TINY,
    "--epochs",
    2,
    "--views",
    2,
)  # random views are drawn by a photo's path, and so are others in tar files


def pack(tar, files):
    """Write a tar file of names and their contents."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as file:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return tar


def packed(flowers, root, per_shard=20):
    """Pack the drawn flowers as their folders have them, so many photos a tar file."""
    for split in ("train", "valid", "test"):
        photos = sorted((flowers / split).glob("*/*.jpg"))
        for number, start in enumerate(range(0, len(photos), per_shard)):
            some = photos[start : start + per_shard]
            files = [(f"./{photo.parent.name}/{photo.name}", photo.read_bytes()) for photo in some]
            pack(root / split / f"flowers-{number:03}.tar", files)
    return root


@pytest.fixture
def shards(flowers, tmp_path):
    return packed(flowers, tmp_path / "shards")


@pytest.mark.slow
def test_a_run_on_tar_files_learns_what_one_on_folders_learns_bit_for_bit(train_into, flowers, shards, tmp_path):
    """Where the photos lie in the same order, and no view is random."""
    folders = train_into(tmp_path / "folders", flowers, *WHOLE, "--no_cache")
    for options in (("--no_cache",), ("--cache_dir", tmp_path / "cache")):
        outcome = train_into(tmp_path / "tars", shards, *WHOLE, *options)
        assert outcome.out == folders.out.replace("folders", "tars")
        one, other = (read(tmp_path / name / "checkpoint.pth") for name in ("folders", "tars"))
        assert [part for part in LEARNED if not same(one[part], other[part])] == []
    again = train_into(tmp_path / "tars", shards, *WHOLE, "--cache_dir", tmp_path / "cache")
    assert "training photos, view 0: 48 of 48 taken from the cache" in again.err


def test_webdatasets_names_say_the_class_and_what_is_no_photo(flowers, tmp_path, capsys, speaking):
    photo = next((flowers / "train" / "54").iterdir()).read_bytes()
    photos = [photo + bytes([number]) for number in range(10)]  # none a copy of another
    pack(
        tmp_path / "train" / "a-000.tar",
        [
            ("000.jpg", photos[0]),
            ("000.cls", b"7\n"),
            ("000.mask.png", photos[1]),
            ("000.json", b"{}"),
            ("b/001.cls", b"wild rose"),
            ("b/001.left.jpg", photos[2]),
            ("b/001.JPEG", photos[3]),
            ("002.jpg", photos[4]),
            ("003.jpg", photos[5]),
            ("003.cls", b"\xff\xfe"),
            ("._000.jpg", b"a Mac's"),
            ("__MACOSX/54/000.jpg", b"a Mac's"),
            ("../54/000.jpg", photos[6]),
            ("/54/several.dots.jpg", photos[7]),
            ("004.image.jpg", photos[9]),
            ("004.cls", b"7"),
        ],
    )
    pack(tmp_path / "train" / "a-001.tar", [("0.jpg", photos[8]), ("0.cls", b"7")])
    pack(tmp_path / "valid" / "a.tar", [("0.jpg", photos[0]), ("0.cls", b"7")])
    splits = load_splits(tmp_path)
    assert splits.classes == ("54", "7", "wild rose")
    found = {name: splits.classes[label] for name, label in zip(splits.train.photos, splits.train.labels, strict=True)}
    assert list(found.items()) == [
        ("train/a-000.tar/000.jpg", "7"),
        ("train/a-000.tar/b/001.JPEG", "wild rose"),
        ("train/a-000.tar/54/several.dots.jpg", "54"),
        ("train/a-000.tar/004.image.jpg", "7"),
        ("train/a-001.tar/0.jpg", "7"),
    ]
    said = capsys.readouterr().err
    left_out = "3 files left out, of no class or not to be read (../54/000.jpg, 002.jpg, 003.jpg)"
    assert f"{tmp_path}/train/a-000.tar: {left_out}" in said
    assert "1 validation photo of 1 is a training photo too (valid/a.tar/0.jpg)" in said


def test_a_tar_file_beside_class_folders_is_left_out_with_a_warning(flowers, tmp_path, capsys, speaking):
    root = shutil.copytree(flowers, tmp_path / "flowers")
    pack(root / "train" / "all.tar", [("54/0.jpg", b"")])
    assert load_splits(root).train.photos == load_splits(flowers).train.photos
    assert f"{root / 'train'}: 1 tar file beside the class folders left out: all.tar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "is damaged after 11 files (unexpected end of data): pack it anew"),
        (lambda data: b"", "is damaged from its beginning (empty file): pack it anew"),
        (lambda data: b"no tar file" * 99, "is damaged from its beginning ("),
        (lambda data: overwritten(data, b"#", member=5), "is damaged after 5 files (what follows is no header): pack"),
        (lambda data: overwritten(data, b"\0", member=5), "is damaged after 5 files (what follows is no header): pack"),
        (lambda data: data + data, "is damaged after 20 files (what follows is no header): pack it anew"),
        (
            lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512),
            "is damaged after 20 files (it has no end mark): pack it anew",
        ),
        (lambda data: data[:-1024] + bytes(2**22), " zeros at its end, as where not all of it has come): pack it anew"),
        (lambda data: with_size(data, -512), "is damaged from its beginning (a header leads back): pack it anew"),
    ],
)
def test_a_damaged_tar_file_is_refused_in_a_line(run, shards, tmp_path, damage, said):
    tar = shards / "train" / "flowers-001.tar"
    tar.write_bytes(damage(tar.read_bytes()))
    outcome = run(train, shards, *QUICK, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{tar} is damaged" in outcome.err
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def overwritten(data, byte, member):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        start = tar.getmembers()[member].offset
    return data[:start] + byte * tarfile.BLOCKSIZE + data[start + tarfile.BLOCKSIZE :]


def with_size(data, size):
    """Give the first file another size: with a negative one tarfile itself would go on for ever."""
    entry = tarfile.TarInfo("54/0.jpg")
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT) + data[tarfile.BLOCKSIZE :]


def test_links_in_a_tar_file_are_photos_too(flowers, tmp_path, capsys, speaking):
    photo = next((flowers / "train" / "54").iterdir())
    tar = pack(tmp_path / "train" / "a.tar", [("54/1.jpg", photo.read_bytes()), ("7/0.jpg", b"another")])
    with tarfile.open(tar, "a") as file:
        for name, kind, target in (
            ("54/hard.jpg", tarfile.LNKTYPE, "54/1.jpg"),
            ("7/soft.jpg", tarfile.SYMTYPE, "../54/hard.jpg"),
            ("7/lost.jpg", tarfile.SYMTYPE, "/elsewhere.jpg"),
            ("7/round.jpg", tarfile.SYMTYPE, "round.jpg"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            file.addfile(entry)
    train_photos = load_splits(tmp_path, 0.5).train.photos + load_splits(tmp_path, 0.5).valid.photos
    assert {name.partition("a.tar/")[2] for name in train_photos} == {
        "54/1.jpg",
        "54/hard.jpg",
        "7/0.jpg",
        "7/soft.jpg",
    }
    assert "2 files left out, of no class or not to be read (7/lost.jpg, 7/round.jpg)" in capsys.readouterr().err
    paths = [tmp_path / "train" / "a.tar" / name for name in ("54/hard.jpg", "7/soft.jpg")]
    assert all(load_image(path) == load_image(photo) for path in paths)


@pytest.mark.parametrize(
    ("packer", "compress"),
    [
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("xz", lzma.compress),
        ("zip", lambda data: zipped([("a", data)])),
    ],
)
def test_a_compressed_archive_that_is_named_as_a_tar_file_is_told_from_a_damaged_one(shards, packer, compress):
    tar = shards / "train" / "flowers-001.tar"
    tar.write_bytes(compress(tar.read_bytes()))
    refusal = f"^{tar} is compressed by {packer}, so photos cannot be read from it: unpack it$"
    with pytest.raises(InputError, match=refusal):
        load_splits(shards)


def test_a_tar_file_in_capitals_is_one(run, trained, flowers, shards, tmp_path):
    """Its photos are learned from, and answered one by one."""
    upper = tmp_path / "upper"
    for tar in shards.glob("*/*.tar"):
        (upper / tar.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(tar, upper / tar.parent.name / f"{tar.stem}.TAR")
    lower_case, upper_case = load_splits(shards), load_splits(upper)
    assert [name.replace(".TAR/", ".tar/") for name in upper_case.train.photos] == list(lower_case.train.photos)
    photo = upper_case.test.path(0)
    asked = run(predict, photo, photo.parents[1], trained / "checkpoint.pth", "--format", "jsonl")
    alone, *several = map(json.loads, asked.out.splitlines())
    assert (alone["path"], len(several)) == (str(photo), 18)
    assert alone == several[0]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.ZIP"])
def test_compressed_archives_are_named(run, tmp_path, name):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / name).write_bytes(b"")
    outcome = run(train, tmp_path, *QUICK)
    assert outcome.code == 2
    assert f"photos cannot be read from compressed archives ({name}): unpack them" in outcome.err


def test_of_several_files_with_one_name_the_last_counts(tmp_path):
    """As where a tar file is unpacked, and whether it is a link or not."""
    tar = pack(
        tmp_path / "a.tar", [("7/0.jpg", b"first"), ("7/1.jpg", b"one"), ("7/2.jpg", b"two"), ("7/0.jpg", b"last")]
    )
    with tarfile.open(tar, "a") as file:
        link = tarfile.TarInfo("7/1.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "7/2.jpg"
        file.addfile(link)
        file.addfile(tarfile.TarInfo("7/2.jpg"))
    found = {name: read_bytes(tar / name) for name in photos_in(tar)}
    assert found == {"7/0.jpg": b"last", "7/1.jpg": b"two", "7/2.jpg": b""}
    with tarfile.open(tar) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    assert {name: (tmp_path / "unpacked" / name).read_bytes() for name in found} == found
    assert read_bytes(tar / "7/0.jpg", last=3) == b"ast"
    assert read_bytes(tar / "7/0.jpg", last=9) == b"last"


def test_a_tar_file_that_is_replaced_is_read_as_it_is_then(tmp_path):
    names = [f"7/{number}.jpg" for number in range(3)]
    tar = pack(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    assert read_bytes(tar / names[0]) == names[0].encode()
    other = pack(tmp_path / "b.tar", [(name, name.encode()) for name in reversed(names)])
    other.replace(tar)
    assert [read_bytes(tar / name) for name in names] == [name.encode() for name in names]
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(InputError, match="is damaged"):
        read_bytes(tar / names[0])


def test_a_folder_may_be_called_like_a_tar_file(flowers, tmp_path):
    root = tmp_path / "mine.tar" / "photos.tar"
    shutil.copytree(flowers, root)
    assert load_splits(root).train.fingerprint() == load_splits(flowers).train.fingerprint()


@pytest.mark.slow
def test_a_folder_of_tar_files_is_enough(run, flowers, tmp_path, monkeypatch):
    """Its classes are in the tar files, so it is no level too high."""
    monkeypatch.setattr(dry_run, "BUDGET", 0.02)  # how near the expected time comes is not tested
    files = [(f"{photo.parent.name}/{photo.name}", photo.read_bytes()) for photo in (flowers / "train").glob("*/*")]
    pack(tmp_path / "flat" / "a.tar", files)
    outcome = run(train, tmp_path / "flat", *QUICK, "--summary")
    assert outcome.code == 0
    assert "6 classes: 36 training, 12 validation photos" in outcome.out
    assert "a level too high" not in outcome.err


@pytest.mark.slow
def test_a_photo_that_changes_in_a_tar_file_is_read_anew(train_into, flowers, shards, tmp_path):
    """Though its size, its name and its place stay: the tar file has changed."""
    options = (*WHOLE, "--cache_dir", tmp_path / "cache")
    train_into(tmp_path / "before", shards, *options)
    tar = shards / "train" / "flowers-000.tar"
    with tarfile.open(tar) as file:
        entry = file.getmembers()[0]
    data = bytearray(tar.read_bytes())
    middle = entry.offset_data + entry.size // 2
    data[middle : middle + 40] = bytes(40)  # which a JPEG's decoder goes over
    tar.write_bytes(data)
    os.utime(tar, ns=(1, 1))
    train_into(tmp_path / "after", shards, *options)
    train_into(tmp_path / "fresh", shards, *WHOLE, "--no_cache")
    before, after, fresh = (read(tmp_path / name / "checkpoint.pth") for name in ("before", "after", "fresh"))
    assert same(after["memory"], fresh["memory"])
    assert not same(before["memory"], after["memory"])


@pytest.mark.slow
def test_bad_photos_in_tar_files_are_named_and_counted_against_the_limit(run, train_into, shards, tmp_path):
    tar = shards / "train" / "flowers-000.tar"
    with tarfile.open(tar) as file:
        entries = file.getmembers()[2:6]
    with tar.open("r+b") as file:
        for entry in entries:
            file.seek(entry.offset_data)
            file.write(bytes(entry.size))
    bad = [f"{tar}/{entry.name.removeprefix('./')}" for entry in entries]
    options = (shards, *WHOLE, "--no_cache", "--save_dir", tmp_path / "out")
    outcome = run(train, *options)
    assert (outcome.code, "4 photos cannot be used" in outcome.err) == (2, True)
    listed = (tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == [f"cannot open {photo}" for photo in bad]
    assert "going on without 4 photos" in train_into(tmp_path / "out", *options[:-2], "--skip_bad").err
    outcome = run(train, *options, "--skip_bad", "--bad_limit", 0.08)
    assert (outcome.code, outcome.out) == (2, "")
    assert (
        "--bad_limit of 0.08 is exceeded: 4 training photos of 48 cannot be opened. Is the disk at fault?"
        in outcome.err
    )
    assert f"cannot open {bad[-1]}" in outcome.err


def test_predict_answers_photos_in_tar_files_as_on_the_disk(run, trained, flowers, shards):
    checkpoint = trained / "checkpoint.pth"
    tar = shards / "test" / "flowers-000.tar"
    in_tar = parse_blocks(run(predict, tar, checkpoint, "--top_k", 2).out)
    on_disk = parse_blocks(run(predict, flowers / "test", checkpoint, "--top_k", 2).out)
    assert list(in_tar.values()) == list(on_disk.values())
    assert [path.partition(".tar/")[2] for path in in_tar] == [path.partition("test/")[2] for path in on_disk]
    one = next(iter(in_tar))
    assert run(predict, tar.parent, checkpoint, "--top_k", 2).out == run(predict, tar, checkpoint, "--top_k", 2).out
    alone = run(predict, one, checkpoint, "--top_k", 1, "--format", "json")
    assert json.loads(alone.out)[0]["path"] == one
    missing = run(predict, tar / "54" / "none.jpg", checkpoint)
    assert missing.code == 2
    assert f"cannot open {tar}/54/none.jpg: there is no such file" in missing.err


def test_a_tar_file_without_photos_is_no_answer(run, trained, tmp_path):
    tar = pack(tmp_path / "texts.tar", [("a.txt", b"a"), (".b.jpg", b"hidden")])
    outcome = run(predict, tar, trained / "checkpoint.pth")
    assert (outcome.code, f"there are no photos below {tar}" in outcome.err) == (2, True)


@pytest.mark.slow
def test_evaluate_takes_a_tar_file_and_a_folder_of_them(run, trained, flowers, shards, tmp_path):
    asked = (trained / "checkpoint.pth", "--evaluate")
    tar = shutil.copy(shards / "test" / "flowers-000.tar", tmp_path / "Test.TAR")
    with_report = [run(predict, photos, *asked, "--report", tmp_path) for photos in (shards / "test", tar)]
    judged = [run(predict, flowers / "test", *asked), *with_report]
    assert [outcome.code for outcome in judged] == [0, 0, 0]
    assert judged[0].out == judged[1].out
    assert judged[0].out == judged[2].out


def test_a_header_of_more_bytes_than_the_tar_file_has_is_damage(tmp_path):
    """It is said before anybody asks for a terabyte of memory."""
    header = tarfile.TarInfo("54/a.jpg")
    header.size = 10**12
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(10_240))
    with pytest.raises(InputError, match=r"a\.tar is damaged from its beginning \(unexpected end of data\)"):
        index_of(str(tmp_path / "a.tar"))
