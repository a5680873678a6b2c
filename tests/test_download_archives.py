"""--download of archives that are damaged or evil, and onto disks that are full."""

import io
import shutil
import stat
import subprocess
import zipfile

import pytest
from download_server import contents, zipped

from flower_classifier.base.messages import InputError, RunError
from flower_classifier.photos import download


def test_a_flipped_byte_is_found_and_the_next_run_starts_anew(site, fetch, photos):
    good = site.body
    with zipfile.ZipFile(io.BytesIO(good)) as opened:
        where = opened.getinfo("valid/54/drawn_001.jpg").header_offset + 300
    site.body = good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :]
    assert "; it has been removed, and the same command downloads it anew\n" in fetch(code=1).err
    assert fetch.beside() == []
    site.body = good
    fetch()
    assert contents(fetch.data) == photos


def test_damage_anywhere_is_harmless_or_one_clean_error(tmp_path):
    """Each byte of an archive in turn."""
    whole = {f"train/{name}/1.jpg": name.encode() * 20 for name in ("rose", "lily")}
    good = zipped(whole.items())
    damaged = tmp_path / "damaged.zip"
    for where in range(len(good)):
        damaged.write_bytes(good[:where] + bytes([good[where] ^ 0xC1]) + good[where + 1 :])
        try:
            download.unpack(damaged, tmp_path / "unpacking", tmp_path / "flowers")
        except download.BadArchiveError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert contents(tmp_path / "flowers").items() <= whole.items(), where
            shutil.rmtree(tmp_path / "flowers")
        assert list(tmp_path.iterdir()) == [damaged]


def link(name, target):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry, target


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("train/../../evil.jpg", b"evil"), "outside its folder ('train/../../evil.jpg'): refused"),
        (("../evil.jpg", b"evil"), "outside its folder"),
        (("/tmp/evil.jpg", b"evil"), "outside its folder"),
        (("train\\..\\..\\evil.jpg", b"evil"), "outside its folder"),
        (("train/C:/evil.jpg", b"evil"), "outside its folder"),
        (link("train/54/link.jpg", "/etc/passwd"), "outside its folder"),
        (link("valid", ".."), "outside its folder"),
        (("train/54", b"a file where a folder is"), "damaged"),
    ],
)
def test_an_evil_archive_is_refused_whole(site, fetch, photos, entry, said):
    site.body = zipped([*photos.items(), entry])
    assert said in fetch(code=1).err
    assert fetch.beside() == []


def test_an_archive_that_would_fill_the_disk_is_refused_from_its_directory(site, fetch, monkeypatch):
    monkeypatch.setattr(download, "MOST_UNPACKED", 10**8)
    site.body = zipped([("train/1/bomb.jpg", bytes(10**8 + 1))])
    assert len(site.body) < 10**6
    assert "the archive would unpack to more than 100.0 MB: refused" in fetch(code=1).err
    assert fetch.beside() == []


@pytest.mark.parametrize("names", [("photos/1.jpg",), ("train",), ("a/b/train/1/1.jpg",), ("a/train/1", "b/train/1")])
def test_an_archive_without_a_folder_train_is_refused(site, fetch, names):
    site.body = zipped([(name, b"photo") for name in names])
    assert "the archive holds no folder train/" in fetch(code=1).err
    assert fetch.beside() == []


# ------------------------------------------------------------------------------------------- this machine, its people


def test_what_is_no_place_for_a_folder_is_wrong_input(site, fetch, tmp_path, monkeypatch):
    fetch.data.touch()
    assert f"{fetch.data} is a file, and no folder to download into" in fetch(code=2).err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot replace the one you are in"):
        download.download(download.Path())
    with pytest.raises(RunError, match=r"cannot write .*File exists"):
        download.download(fetch.data / "below a file")
    assert site.asked == []


def test_a_full_disk_is_told_and_goes_on_when_there_is_room(site, tmp_path, photos):
    """A real file system, where one may be made: first without room for the archive, then without room for photos."""
    data = tmp_path / "disk" / "flowers"
    data.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=500k", "none", data.parent], check=False).returncode:
        pytest.skip("no file systems may be mounted here")
    try:
        for room in ("500k", f"{len(site.body) // 1024 + 30}k"):
            subprocess.run([*mount, f"remount,size={room}", "none", data.parent], check=True)
            with pytest.raises(RunError, match=r"cannot write .*No space left on device"):
                download.download(data)
            assert [path.name for path in data.parent.iterdir()] == [".flowers.zip.part"]
        subprocess.run([*mount, "remount,size=9M", "none", data.parent], check=True)
        download.download(data)
        assert contents(data) == photos
        assert site.asked[-1] == f"bytes={len(site.body)}-"
    finally:
        subprocess.run(["umount", data.parent], check=True)
