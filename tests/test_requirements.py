"""Which packages and versions the project needs: each lower bound is written once."""

import importlib.metadata
import re
import shutil

import pytest
from packaging.requirements import Requirement
from support import PROJECT, run_program

FILES = sorted(path.name for path in PROJECT.glob("requirements*.txt"))


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def bounds_in(name):
    """The lines that name packages; other lines are comments, or name another such file."""
    return [line for line in read(name).splitlines() if line and not line.startswith(("#", "-r "))]


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_a_lowest_version(name):
    """`make lowest` turns >= into ==, and pip then has one version of each to choose from."""
    assert [line for line in bounds_in(name) if not re.fullmatch(r"[a-z-]+>=\d+(\.\d+)*", line)] == []


def test_no_package_has_two_bounds():
    """setuptools alone stands in pyproject.toml: a build takes it from there, before it can read any other file."""
    names = [line.partition(">=")[0] for name in FILES for line in bounds_in(name)]
    assert sorted(names) == sorted(set(names))
    assert re.findall(r'"([\w-]+) *[<>=~!]=', read("pyproject.toml")) == ["setuptools"]


def test_the_tests_need_all_that_people_may_install():
    included = re.findall(r"^-r (.+)$", read("requirements-dev.txt"), re.MULTILINE)
    assert sorted([*included, "requirements-dev.txt"]) == FILES


def test_a_built_package_has_the_bounds_of_the_files(tmp_path):
    """Those of requirements.txt always, and of requirements-NAME.txt with the extra NAME: built as pip does it."""
    for name in ("pyproject.toml", *FILES, "flower_classifier/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    code = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    outcome = run_program("-c", code, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("*.dist-info")
    built = importlib.metadata.Distribution.at(folder)
    extras = {name: f"requirements-{name}.txt" for name in built.metadata.get_all("Provides-Extra")}
    assert sorted(["requirements.txt", "requirements-dev.txt", *extras.values()]) == FILES
    expected = bounds_in("requirements.txt")
    expected += [f'{line}; extra == "{name}"' for name, file in extras.items() for line in bounds_in(file)]
    assert {Requirement(line) for line in built.requires} == {Requirement(line) for line in expected}


def test_all_that_name_the_lowest_python_name_the_same_one():
    (lowest,) = re.findall(r'^requires-python = ">=(3\.\d+)"$', read("pyproject.toml"), re.MULTILINE)
    named = [re.findall(r"Python (3\.\d+) or newer", read(name)) for name in ("README.md", "Makefile")]
    assert {version for versions in named for version in versions} == {lowest}
    assert f"\nlowest: PYTHON = python{lowest}\n" in read("Makefile")
    assert f"sys.version_info < ({lowest.replace('.', ', ')})" in read("Makefile")
