"""Which packages and versions the project needs: each lower bound is written once."""

import importlib.metadata
import re
import shutil

import pytest
from packaging.requirements import Requirement
from support import PROJECT, run_program

FILES = ("requirements.txt", "requirements-dev.txt", "pyproject.toml")


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def bounds_in(name):
    """Lower bounds: of a list of requirements its lines, of pyproject.toml the strings that `make lowest` finds too."""
    if name == "pyproject.toml":
        return re.findall(r'"([a-z-]+>=[\d.]+)"', read(name))
    return [line for line in read(name).splitlines() if line and not line.startswith(("#", "-r ", "-e "))]


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_lowest_version(name):
    """`make lowest` turns >= into ==, and pip then has one version of each to choose from."""
    assert bounds_in(name)
    assert [line for line in bounds_in(name) if not re.fullmatch(r"[a-z-]+>=\d+(\.\d+)*", line)] == []


def test_no_package_has_two_bounds():
    """setuptools alone stands twice, with the same bound: pip reads what builds a package from pyproject.toml alone."""
    bounds = [line for name in FILES for line in bounds_in(name)]
    (setuptools,) = {line for line in bounds if line.startswith("setuptools")}
    bounds.remove(setuptools)
    names = [line.partition(">=")[0] for line in bounds]
    assert sorted(names) == sorted(set(names))


def test_the_tests_need_all_that_people_may_install(built):
    (extras,) = re.findall(r"^-e \.\[(.+)\]$", read("requirements-dev.txt"), re.MULTILINE)
    assert sorted(extras.split(",")) == sorted(built.metadata.get_all("Provides-Extra"))
    assert "-r requirements.txt\n" in read("requirements-dev.txt")


@pytest.fixture
def built(tmp_path):
    """What a built package says of itself, built as pip does it."""
    for name in ("pyproject.toml", "requirements.txt", "flower_classifier/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    code = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    outcome = run_program("-c", code, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("*.dist-info")
    return importlib.metadata.Distribution.at(folder)


def test_a_built_package_has_the_bounds_of_the_files(built):
    """Those of requirements.txt always, and the others of pyproject.toml with an extra."""
    requirements = [Requirement(line) for line in built.requires]
    assert {str(one) for one in requirements if not one.marker} == set(bounds_in("requirements.txt"))
    optional = {f"{one.name}{one.specifier}" for one in requirements if one.marker}
    assert optional == {line for line in bounds_in("pyproject.toml") if not line.startswith("setuptools")}


def test_all_that_name_the_lowest_python_name_the_same_one():
    (lowest,) = re.findall(r'^requires-python = ">=(3\.\d+)"$', read("pyproject.toml"), re.MULTILINE)
    named = [re.findall(r"Python (3\.\d+) or newer", read(name)) for name in ("README.md", "Makefile")]
    assert {version for versions in named for version in versions} == {lowest}
    assert f"\nlowest: PYTHON = python{lowest}\n" in read("Makefile")
    assert f"sys.version_info < ({lowest.replace('.', ', ')})" in read("Makefile")
