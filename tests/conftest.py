"""Pictures drawn once a session, checkpoints trained on them once, and the commands run as a person runs them."""

import os
import random
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from browser import browser, hosted, open_page
from download_server import Server, contents, zipped
from filelock import FileLock
from hypothesis import HealthCheck, settings
from support import NAMES, TWO_STAGES, Outcome
from warm import started, warm_parent

import export
import train
from flower_classifier.base import console, process
from flower_classifier.networks.devices import PRECISION, PRECISIONS, precision_of
from flower_classifier.photos import demo, download
from flower_classifier.predicting.exported_predictor import ExportSpec

LENIENT = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("default", max_examples=40, **LENIENT)
settings.register_profile("long", max_examples=10_000, **LENIENT)
settings.load_profile("default")

AT_START = os.environ.get(PRECISION, "")
SMALL = {"train": 8, "valid": 3, "test": 3}  # pictures a species


def pytest_sessionstart(session):
    """Say what networks compute in: tests that do not choose it, by the fixture `precision`, run in this one alone."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and not hasattr(session.config, "workerinput"):
        why = "as FLOWERS_PRECISION asks" if AT_START else "the fastest of this processor's"
        reporter.write_line(f"frozen networks compute in {precision_of(torch.device('cpu'))}, {why}")


@pytest.fixture(params=PRECISIONS)
def precision(request, monkeypatch):
    """Let networks compute in each precision, on any processor."""
    monkeypatch.setenv(PRECISION, request.param)
    return PRECISIONS[request.param]


@pytest.fixture(scope="session", autouse=True)
def answered_signals():
    """Let the programs under test heed the signals that a shell in the background, or nohup, told pytest to ignore."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_process_left():
    """End the process that others are forked from, if any test needed it."""
    yield
    warm_parent.stop()


@pytest.fixture(autouse=True)
def no_run_left():
    """End what a failed test has started and not ended: it would slow down the tests that follow."""
    yield
    for run in list(started):
        if run.poll() is None:
            run.kill()
            run.wait()


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Keep the features of the tests out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache_home")
    before, os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME"), str(folder)
    yield folder
    os.environ.pop("XDG_CACHE_HOME")
    os.environ |= {"XDG_CACHE_HOME": before} if before else {}


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """Let whoever needs a folder first build it, of all the processes that the tests are shared among."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def folder_of(name, build):
        folder, done = shared / "shared" / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"), pytest.MonkeyPatch.context() as patch:
            if not done.exists():
                patch.setenv(PRECISION, AT_START)  # whatever the test has chosen that is the first to need it
                build(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def flowers(built_once):
    """A folder with train/, valid/ and test/ of six drawn species. Tests must not change it."""
    return built_once("flowers", lambda folder: demo.draw_dataset(folder, SMALL, size=48))


@pytest.fixture(scope="session")
def trained(flowers, built_once):
    """The save_dir of a short cnn run on the drawn flowers, names included. Tests must not change it."""
    options = ["--arch", "cnn", "--epochs", "3", "--category_names", str(NAMES), "--no_report"]
    return built_once("trained", lambda folder: train.main([str(flowers), *options, "--save_dir", str(folder)]))


@pytest.fixture(scope="session")
def trained_on_features(flowers, built_once):
    """The save_dir of a short run of a head on a small frozen network of timm's. Tests must not change it."""
    options = ["--arch", "timm/test_resnet", "--weights", "none", "--epochs", "2", "--no_report"]
    return built_once(
        "trained_on_features", lambda folder: train.main([str(flowers), *options, "--save_dir", str(folder)])
    )


@pytest.fixture(scope="session")
def fine_tuned(flowers, built_once):
    """The save_dir of a short run of two stages, whose best epoch is of the second. Tests must not change it."""
    options = [str(option) for option in TWO_STAGES]
    return built_once("fine_tuned", lambda folder: train.main([str(flowers), *options, "--save_dir", str(folder)]))


@pytest.fixture(scope="session")
def exported(trained, built_once):
    """The cnn as an exported folder, in a folder of its own. Tests must not change it."""
    return built_once("exported", lambda folder: export_into(folder, trained)) / "rose_app"


@pytest.fixture(scope="session")
def exported_features(trained_on_features, built_once):
    """The network of timm's and its head as an exported folder. Tests must not change it."""
    return built_once("exported_features", lambda folder: export_into(folder, trained_on_features)) / "rose_app"


def export_into(folder, save_dir):
    export.main([str(save_dir / "checkpoint.pth"), str(folder / "rose_app")])


@pytest.fixture
def networks_at_hand(exported, exported_features, monkeypatch):
    """Let export.py take the networks of both exported folders from there, for tests of names and files.

    It compares them with torch's before it writes anything, as ever.
    """
    by_side = {
        ExportSpec.read(app).preprocessing.crop_size: app / "model.onnx" for app in (exported, exported_features)
    }
    monkeypatch.setattr(export, "onnx_of", lambda _, side: by_side[side].read_bytes())


@pytest.fixture(scope="module")
def page_site(exported):
    """The folder that holds the exported one, on a plain file host: so the page is under a sub-path."""
    with hosted(exported.parent) as address:
        yield address + exported.name + "/"


@pytest.fixture(scope="module")
def page(page_site):
    """The page, ready for photos, in a browser without a camera."""
    with browser() as driver:
        assert open_page(driver, page_site) == "no-camera"
        yield driver


@pytest.fixture(scope="module")
def visitor():
    """A browser without a camera, for sites at addresses of their own: nothing that one leaves is another's."""
    with browser() as driver:
        yield driver


@pytest.fixture
def speaking():
    """Show notes and warnings on stderr, as the commands do."""
    with console.speaking():
        yield


@pytest.fixture
def run(capfd):
    """Run a command in this process: `run(train, flowers, "--epochs", 1)` returns its code and whole output."""

    def run_command(command, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            process.run(lambda: command.main([str(argument) for argument in arguments]))
        return Outcome(stop.value.code, *capfd.readouterr())

    return run_command


@pytest.fixture
def train_into(run):
    """Train and expect it to work: `train_into(save_dir, flowers, *QUICK)`."""

    def train_command(save_dir, *arguments):
        outcome = run(train, *arguments, "--save_dir", save_dir)
        assert outcome.code == 0, outcome.err
        return outcome

    return train_command


@pytest.fixture(scope="session")
def photos(flowers):
    return contents(flowers)


@pytest.fixture(scope="session")
def archive(photos):
    """A megabyte of litter (which makes it long enough to be fetched in pieces) and the photos."""
    litter = [("__MACOSX/train/54/._drawn_000.jpg", random.Random(0).randbytes(10**6)), (".DS_Store", b"a Mac's")]
    return zipped([*litter, ("train/", b""), *photos.items()])


@pytest.fixture
def site(archive, monkeypatch):
    server = Server(archive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("FLOWERS_URL", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch(run, tmp_path):
    """Download into data/flowers of tmp_path: by train.py where that ends it with a `code`, else without training."""
    home = tmp_path / "data"
    home.mkdir()
    alone = SimpleNamespace(main=lambda arguments: download.download(Path(arguments[0])))

    def fetch_flowers(code=0):
        command = train if code else alone
        outcome = run(command, home / "flowers", "--download", "--save_dir", tmp_path / "run")
        assert outcome.code == code, outcome.err
        return outcome

    fetch_flowers.data = home / "flowers"
    fetch_flowers.partial = home / ".flowers.zip.part"
    fetch_flowers.beside = lambda: sorted(path.name for path in home.iterdir())
    return fetch_flowers
