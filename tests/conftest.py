"""Pictures drawn once a session, checkpoints trained on them once, and the commands run as a person runs them."""

import os

import pytest
from hypothesis import HealthCheck, settings
from support import NAMES, Outcome

import demo
import terminal
import train

LENIENT = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("default", max_examples=60, **LENIENT)
settings.register_profile("long", max_examples=70_000, **LENIENT)
settings.load_profile("default")

SMALL = {"train": 8, "valid": 3, "test": 3}  # pictures a species


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Keep the features of the tests out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache_home")
    before, os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME"), str(folder)
    yield folder
    os.environ.pop("XDG_CACHE_HOME")
    os.environ |= {"XDG_CACHE_HOME": before} if before else {}


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """A folder with train/, valid/ and test/ of six drawn species. Tests must not change it."""
    folder = tmp_path_factory.mktemp("data") / "flowers"
    demo.draw_dataset(folder, SMALL, size=48)
    return folder


@pytest.fixture(scope="session")
def trained(flowers, tmp_path_factory):
    """The save_dir of a short cnn run on the drawn flowers, names included."""
    save_dir = tmp_path_factory.mktemp("trained")
    options = ["--arch", "cnn", "--epochs", "3", "--category_names", str(NAMES)]
    train.main([str(flowers), *options, "--save_dir", str(save_dir)])
    return save_dir


@pytest.fixture(scope="session")
def trained_on_features(flowers, tmp_path_factory):
    """The save_dir of a short run of a head on a frozen resnet18."""
    save_dir = tmp_path_factory.mktemp("trained_on_features")
    options = ["--arch", "resnet18", "--weights", "none", "--epochs", "2"]
    train.main([str(flowers), *options, "--save_dir", str(save_dir)])
    return save_dir


@pytest.fixture
def run(capfd):
    """Run a command in this process: `run(train, flowers, "--epochs", 1)` returns its code and whole output."""

    def run_command(command, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            terminal.run(lambda: command.main([str(argument) for argument in arguments]))
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
