"""--download against a real web server on this machine, which breaks off, stalls, refuses and lies."""

import signal
import subprocess
import sys
import threading

import pytest
from download_server import contents, zipped
from support import PROJECT, run_program
from waiting import LIMIT, signalled_at, wait_until
from warm import WarmPopen

import train
from flower_classifier.base.errors import InputError
from flower_classifier.photos import download

TRAINING = ("--arch", "cnn", "--epochs", "1")


# ------------------------------------------------------------------------------------------------- when all goes well


@pytest.mark.slow
def test_the_flowers_are_fetched_unpacked_and_trained_on(site, run, tmp_path, photos):
    data = tmp_path / "flowers"
    outcome = run(train, data, "--download", *TRAINING, "--save_dir", tmp_path / "run")
    assert outcome.code == 0
    size = f"{len(site.body) / 1e6:.1f} MB"
    assert outcome.err.startswith(f"downloading {site.url} ({size})\nunpacked 84 photos into {data}\n")
    assert outcome.out.startswith("epoch 1/1 ")  # stdout is for results
    assert contents(data) == photos
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "run"]
    assert (site.asked, site.sent) == ([None], len(site.body))


def test_what_is_there_is_not_downloaded_again(site, fetch):
    fetch()
    assert f"{fetch.data} is there already: nothing to download\n" in fetch().err
    assert len(site.asked) == 1


def test_an_empty_folder_is_filled_and_missing_ones_above_are_made(site, tmp_path, photos):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b" / "new folder"):
        download.download(folder)
        assert contents(folder) == photos


def test_a_link_to_an_empty_folder_stays_a_link(site, tmp_path, photos):
    (tmp_path / "large disk" / "flowers").mkdir(parents=True)
    (tmp_path / "flowers").symlink_to(tmp_path / "large disk" / "flowers")
    download.download(tmp_path / "flowers")
    assert (tmp_path / "flowers").is_symlink()
    assert contents(tmp_path / "large disk" / "flowers") == photos


def test_the_folder_that_holds_train_is_what_counts(site, tmp_path, photos):
    site.body = zipped([("README.txt", "of no use"), *((f"flower_data/{name}", data) for name, data in photos.items())])
    download.download(tmp_path / "flowers")
    assert contents(tmp_path / "flowers") == photos


def test_a_server_that_does_not_say_how_much_it_sends(site, fetch, photos):
    site.says_length = False
    assert "(size unknown)" in fetch().err
    assert contents(fetch.data) == photos


# ---------------------------------------------------------------------------------------------- the network's faults


def test_a_download_that_breaks_off_goes_on_where_it_stood(site, fetch, photos):
    site.cuts = [500_000, 500_001, 900_000, 900_000]  # more often than there are pauses: what brings more is no failure
    outcome = fetch()
    assert site.asked == [None, "bytes=500000-", "bytes=500001-", "bytes=900000-", "bytes=900000-"]
    assert site.sent == len(site.body)  # no byte twice
    assert f"the connection broke off at 0.5 of {len(site.body) / 1e6:.1f} MB; trying again in 0.01 s\n" in outcome.err
    assert f"downloading {site.url} (going on at 0.5 of {len(site.body) / 1e6:.1f} MB)\n" in outcome.err
    assert contents(fetch.data) == photos


def test_a_stalled_connection_is_given_up_and_taken_up_again(site, fetch, photos, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 2)  # seconds; a busy machine, too, answers within them
    site.cuts, site.stalls = [400_000], True
    assert "nothing came for 2 s; trying again" in fetch().err
    assert site.asked == [None, "bytes=400000-"]
    assert contents(fetch.data) == photos


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(site, fetch, photos):
    site.cuts, site.knows_ranges = [500_000], False
    fetch()
    assert (site.asked, site.sent) == ([None, "bytes=500000-"], 500_000 + len(site.body))
    assert contents(fetch.data) == photos


def test_a_part_that_begins_elsewhere_is_not_taken(site, fetch, photos):
    site.cuts, site.misplaced = [500_000], 7
    assert "the server sent another part than it was asked for; trying again" in fetch().err
    assert site.asked == [None, "bytes=500000-", None]
    assert contents(fetch.data) == photos


def test_a_server_that_never_sends_the_rest_is_given_up_and_the_next_run_completes(site, fetch, photos):
    half = 500_000
    site.cuts = [half] * 3
    outcome = fetch(code=1)
    assert f": cannot download {site.url}: the connection broke off at 0.5 of 1.1 MB\n" in outcome.err
    assert outcome.err.endswith(f"\n  {half / 1e6:.1f} MB of it are kept; the same command goes on from there\n")
    assert len(site.asked) == 1 + len(download.PAUSES)
    assert fetch.beside() == [".flowers.zip.part"]
    assert fetch.partial.read_bytes() == site.body[:half]
    fetch()
    assert site.asked[-1] == f"bytes={half}-"
    assert contents(fetch.data) == photos


def test_a_length_that_is_a_lie_is_not_believed_for_ever(site, fetch):
    site.announced = len(site.body) + 1000
    assert "MB of it are kept" in fetch(code=1).err
    assert fetch.partial.read_bytes() == site.body


@pytest.mark.parametrize("says_length", [True, False])
def test_what_had_come_whole_is_not_fetched_again(site, fetch, photos, says_length):
    """The run before was killed while it unpacked, say. Not every server says how long the archive is."""
    site.says_length = says_length
    fetch.partial.write_bytes(site.body)
    fetch()
    assert (site.asked, site.sent) == ([f"bytes={len(site.body)}-"], 0)
    assert contents(fetch.data) == photos


def test_more_than_there_should_be_is_fetched_anew(site, fetch, photos):
    fetch.partial.write_bytes(site.body + b"more")
    fetch()
    assert site.asked == [f"bytes={len(site.body) + 4}-", None]
    assert contents(fetch.data) == photos


@pytest.mark.parametrize(("status", "said"), [(404, "HTTP 404 Not Found"), (500, "HTTP 500 Internal Server Error")])
def test_a_server_that_refuses_is_quoted(site, fetch, status, said):
    site.status = status
    advice = "try again later, or let FLOWERS_URL name another place"
    assert fetch(code=1).err.endswith(f": cannot download {site.url}: {said}; {advice}\n")
    assert fetch.beside() == []
    fetch.partial.write_bytes(site.body[:100])
    fetch(code=1)
    assert fetch.partial.read_bytes() == site.body[:100]


def test_without_a_network_the_reason_is_told(site, fetch, monkeypatch):
    for url, reason in (("http://127.0.0.1:1/", "Connection refused"), ("http://nowhere.invalid/", "")):
        monkeypatch.setenv("FLOWERS_URL", url)
        outcome = fetch(code=1)
        assert f"cannot download {url}: {reason}" in outcome.err
        assert outcome.err.endswith("\n  is there a network? The same command tries again\n")
        assert fetch.beside() == []


def test_what_is_no_address_is_wrong_input(site, fetch, monkeypatch):
    monkeypatch.setenv("FLOWERS_URL", "flowers.zip")
    assert "FLOWERS_URL: flowers.zip is no address" in fetch(code=2).err


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
def test_a_web_page_is_no_archive(site, fetch, kind):
    body, site.body, site.kind = site.body, b"<html>Welcome to the hotel's network</html>", kind
    assert f"{site.url} sent a web page or the like, not a zip archive" in fetch(code=1).err
    assert fetch.beside() == []
    fetch.partial.write_bytes(body[:10])  # of an archive: that the hotel wants a login does not make it worse
    site.kind = "text/html"
    fetch(code=1)
    assert fetch.partial.read_bytes() == body[:10]


# --------------------------------------------------------------------------------------------------- what people do


@pytest.mark.slow
def test_kill_9_and_then_the_same_command(site, tmp_path, photos):
    data, partial = tmp_path / "flowers", tmp_path / ".flowers.zip.part"
    command = ["train.py", data, "--download", *TRAINING, "--save_dir", tmp_path / "run"]
    half, site.stalls = 500_000, True
    site.cuts = [half]
    with WarmPopen([sys.executable, *map(str, command)], cwd=PROJECT, stderr=subprocess.PIPE) as process:
        assert site.hanging.wait(LIMIT)
        wait_until(lambda: partial.stat().st_size == half, "half of it had come", process)
        with pytest.raises(InputError, match="another run is downloading the same"):
            download.download(data)
        process.kill()
    assert not data.exists()
    assert partial.read_bytes() == site.body[:half]
    (tmp_path / ".flowers.unpacking" / "train").mkdir(parents=True)  # as a run killed later leaves it
    outcome = run_program(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith(f"downloading {site.url} (going on at 0.5 of 1.1 MB)\nunpacked 84 photos into")
    assert site.sent == len(site.body)
    assert contents(data) == photos
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "run"]


def test_an_interrupt_keeps_what_has_come(site, fetch):
    site.cuts, site.stalls = [500_000], True
    interrupted = threading.main_thread().ident

    def interrupt():
        site.hanging.wait(LIMIT)
        wait_until(lambda: fetch.partial.stat().st_size == 500_000, "half of it had come")
        signal.pthread_kill(interrupted, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        download.download(fetch.data)
    assert fetch.partial.read_bytes() == site.body[:500_000]


def test_an_interrupt_while_unpacking_leaves_no_half_of_it(site, fetch, tmp_path):
    site.body = zipped([(f"train/1/{number}.jpg", b"") for number in range(20)])
    script = tmp_path / "fetch.py"
    script.write_text(
        "import sys; from pathlib import Path; from flower_classifier.photos import download\n"
        "download.download(Path(sys.argv[1]))"
    )
    outcome = run_program(*signalled_at(".flowers.unpacking/train/1/9.jpg", signal.SIGINT, script, fetch.data))
    assert (outcome.code, outcome.err.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert fetch.beside() == [".flowers.zip.part"]
