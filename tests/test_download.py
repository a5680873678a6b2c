"""--download against a real web server on this machine, which breaks off, stalls and refuses."""

import re
import signal
import subprocess
import sys
import threading

import pytest
from download_server import Handler, contents, zipped
from support import PROJECT, run_program
from waiting import signalled_at, wait_until

import train
from flower_classifier.base.messages import InputError
from flower_classifier.photos import download

HALF = 500_000  # bytes of the archive, about
SCRIPT = """
import sys
from pathlib import Path
from flower_classifier.photos import download
download.download(Path(sys.argv[1]))
"""


# ------------------------------------------------------------------------------------------------- when all goes well


@pytest.mark.slow
def test_the_flowers_are_fetched_unpacked_and_trained_on(site, run, tmp_path, photos):
    data = tmp_path / "flowers"
    outcome = run(train, data, "--download", "--arch", "cnn", "--epochs", "1", "--save_dir", tmp_path / "run")
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


def test_an_empty_folder_is_filled_a_link_stays_and_missing_folders_above_are_made(site, tmp_path, photos):
    (tmp_path / "empty").mkdir()
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    for folder in (tmp_path / "empty", tmp_path / "link", tmp_path / "a" / "b" / "new folder"):
        download.download(folder)
        assert contents(folder.resolve()) == photos
    assert (tmp_path / "link").is_symlink()


def test_the_folder_that_holds_train_is_what_counts(site, fetch, photos):
    site.body = zipped([("README.txt", "of no use"), *((f"flower_data/{name}", data) for name, data in photos.items())])
    fetch()
    assert contents(fetch.data) == photos


def test_a_server_that_does_not_say_how_much_it_sends(site, fetch, photos):
    site.says_length = False
    assert "(size unknown)" in fetch().err
    assert contents(fetch.data) == photos


# ---------------------------------------------------------------------------------------------- the network's faults


def test_a_download_that_breaks_off_goes_on_where_it_stood(site, fetch, photos):
    site.cuts = [HALF]
    outcome = fetch(code=1)
    assert f": cannot download {site.url}: the connection broke off at 0.5 of 1.1 MB\n" in outcome.err
    assert outcome.err.endswith("\n  0.5 MB of it are kept; the same command goes on from there\n")
    assert fetch.beside() == [".flowers.zip.part"]
    assert fetch.partial.read_bytes() == site.body[:HALF]
    assert f"downloading {site.url} (going on at 0.5 of 1.1 MB)\n" in fetch().err
    assert site.asked == [None, f"bytes={HALF}-"]
    assert site.sent == len(site.body)  # no byte twice
    assert contents(fetch.data) == photos


class TaggingHandler(Handler):
    """Says by an ETag which version of the archive it serves, and sends the rest of no other."""

    def parse_request(self):
        is_valid = super().parse_request()
        if is_valid and self.headers["If-Range"] not in (None, self.server.tag):
            del self.headers["Range"]
        return is_valid

    def end_headers(self):
        self.send_header("ETag", self.server.tag)
        super().end_headers()


def test_an_archive_that_has_changed_is_fetched_from_its_beginning(site, fetch):
    site.RequestHandlerClass, site.tag, site.cuts = TaggingHandler, '"first"', [HALF, HALF + 1]
    fetch(code=1)
    fetch(code=1)
    assert site.asked == [None, f"bytes={HALF}-"]
    site.body, site.tag = zipped([("train/1/new.jpg", b"new")]), '"second"'
    fetch()
    assert site.asked[2:] == [None]
    assert contents(fetch.data) == {"train/1/new.jpg": b"new"}
    assert fetch.beside() == ["flowers"]


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(site, fetch, photos):
    site.knows_ranges = False
    fetch.partial.write_bytes(site.body[:HALF])
    fetch()
    assert (site.asked, site.sent) == ([f"bytes={HALF}-"], len(site.body))
    assert contents(fetch.data) == photos


def test_what_had_come_whole_is_not_fetched_again(site, fetch, photos):
    """The run before was killed while it unpacked, say."""
    fetch.partial.write_bytes(site.body)
    fetch()
    assert (site.asked, site.sent) == ([f"bytes={len(site.body)}-"], 0)
    assert contents(fetch.data) == photos


def test_more_bytes_than_the_archive_has_are_of_another_one(site, fetch, photos):
    fetch.partial.write_bytes(site.body + b"more")
    fetch()
    assert site.asked == [f"bytes={len(site.body) + 4}-", None]
    assert contents(fetch.data) == photos


def test_a_part_that_begins_elsewhere_is_not_appended(site, fetch):
    site.misplaced = 1
    fetch.partial.write_bytes(site.body[:HALF])
    assert f"{site.url} sent other bytes than were asked for" in fetch(code=1).err
    assert fetch.partial.read_bytes() == site.body[:HALF]


def test_the_end_of_a_part_is_known_from_its_range(site, fetch, photos):
    """Though the server does not say how much it sends; the connection breaks off again."""
    site.says_length, site.cuts = False, [HALF + 1000]
    fetch.partial.write_bytes(site.body[:HALF])
    assert "the connection broke off at 0.5 of 1.1 MB" in fetch(code=1).err
    fetch()
    assert site.sent == len(site.body) - HALF
    assert contents(fetch.data) == photos


def test_a_stalled_connection_is_given_up(site, fetch, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 1)  # seconds; a busy machine, too, answers within them
    site.cuts, site.stalls = [HALF], True
    assert f": cannot download {site.url}: nothing came for 1 s\n" in fetch(code=1).err
    assert fetch.partial.read_bytes() == site.body[:HALF]


@pytest.mark.parametrize("size", ["-5", "-1", "-ffffffffffffffffffff", "no number"])
def test_a_chunk_of_an_impossible_size_is_a_broken_connection(site, fetch, photos, size):
    """What has come before is kept, and the same command goes on from there."""
    site.cuts, site.next_chunk = [HALF], size
    error = fetch(code=1).err
    assert re.search(rf": cannot download {site.url}: .*\n  0\.5 MB of it are kept; the same command goes on", error)
    assert error.count("\n") == 3
    assert fetch.partial.read_bytes() == site.body[:HALF]
    site.next_chunk = ""
    fetch()
    assert contents(fetch.data) == photos


def test_a_server_that_refuses_is_quoted(site, fetch):
    site.status = 404
    advice = "try again later, or let FLOWERS_URL name another place"
    assert fetch(code=1).err.endswith(f": cannot download {site.url}: HTTP 404 Not Found; {advice}\n")
    assert fetch.beside() == []


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


def test_a_web_page_is_no_archive_and_what_has_come_of_one_stays(site, fetch):
    fetch.partial.write_bytes(site.body[:HALF])
    site.kind = "text/html; charset=utf-8"  # of a hotel's network that wants a login
    assert f"{site.url} sent a web page or the like, not a zip archive" in fetch(code=1).err
    assert fetch.partial.read_bytes() == site.body[:HALF]


def test_what_does_not_begin_as_an_archive_is_not_fetched_to_its_end(site, fetch):
    site.body = b'{"error": "log in"}'
    assert f"{site.url} sent a web page or the like, not a zip archive" in fetch(code=1).err
    assert fetch.beside() == []


# --------------------------------------------------------------------------------------------------- what people do


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def test_kill_9_and_then_the_same_command(site, fetch, photos):
    site.cuts, site.stalls = [HALF], True
    with subprocess.Popen([sys.executable, "-c", SCRIPT, fetch.data], cwd=PROJECT) as process:
        wait_until(lambda: size_of(fetch.partial) == HALF, "half of it had come", process)
        with pytest.raises(InputError, match="another run is downloading the same"):
            download.download(fetch.data)
        process.kill()
    assert not fetch.data.exists()
    assert fetch.partial.read_bytes() == site.body[:HALF]
    (fetch.data.with_name(".flowers.unpacking") / "train").mkdir(parents=True)  # as a run killed later leaves it
    assert fetch().err == f"downloading {site.url} (going on at 0.5 of 1.1 MB)\nunpacked 84 photos into {fetch.data}\n"
    assert site.sent == len(site.body)
    assert contents(fetch.data) == photos
    assert fetch.beside() == ["flowers"]


def test_an_interrupt_keeps_what_has_come(site, fetch):
    site.cuts, site.stalls = [HALF], True
    interrupted = threading.main_thread().ident

    def interrupt():
        wait_until(lambda: size_of(fetch.partial) == HALF, "half of it had come")
        signal.pthread_kill(interrupted, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        download.download(fetch.data)
    assert fetch.partial.read_bytes() == site.body[:HALF]


def test_an_interrupt_while_unpacking_leaves_no_half_of_it(site, fetch, tmp_path):
    site.body = zipped([(f"train/1/{number}.jpg", b"") for number in range(20)])
    script = tmp_path / "fetch.py"
    script.write_text(SCRIPT)
    outcome = run_program(
        *signalled_at(".flowers.unpacking/train/1/9.jpg", signal.SIGINT, script, fetch.data), cold=True
    )
    assert (outcome.code, outcome.err.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert fetch.beside() == [".flowers.zip.part"]
