"""The package: imports point one way, importing it changes nothing, and `load` answers as predict.py does."""

import ast
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import PROJECT, run_program

import flower_classifier as fc
import predict

PACKAGE = PROJECT / "flower_classifier"
# Each room may import from itself and from those before it
ROOMS = ("base", "photos", "config", "networks", "features", "judging", "report", "predicting", "training", "doctor")
ROOMS += ("studies", "export")


def imported_names(path):
    """Every module that a file names in an import, wherever in the file that stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out from the package's name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_rooms_are_those_that_are_known():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    for path in (PACKAGE / room).glob("**/*.py"):
        for name in imported_names(path):
            first, _, rest = name.partition(".")
            assert not (PROJECT / f"{first}.py").exists(), f"{path} imports the script {first}"
            other = rest.split(".")[0]
            if first == "flower_classifier" and other in ROOMS:
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    """Wherever in a file an import stands."""
    paths = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in PACKAGE.glob("*/**/*.py")}
    waiting = {name: {other for other in imported_names(path) if other in paths} for name, path in paths.items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_only_the_commands_set_a_process_up():
    """The scripts, the demo, which is one too, and the script that an exported folder gets."""
    users = {path.name for path in PACKAGE.glob("**/*.py") if "flower_classifier.base.process" in imported_names(path)}
    assert users == {"demo.py", "predict.py"}


MODULES = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in sorted(PACKAGE.glob("*/*.py"))]
ANSWER_WITHOUT_TORCH = ("base_predictor", "answering", "exported_predictor", "conformal", "output_formats")
TORCH_FREE = [
    name
    for name in MODULES
    if name.split(".")[1] in ("base", "photos", "config") or name.split(".")[2] in ANSWER_WITHOUT_TORCH
]


def test_files_words_and_options_load_no_torch():
    heavy = "{'torch', 'torchvision', 'matplotlib', 'onnxruntime'}"
    code = f"import sys, {', '.join(TORCH_FREE)}; print({heavy} & set(sys.modules))"
    assert run_program("-c", code, cold=True).out == "set()\n"
    assert len(TORCH_FREE) > 20


STATE = """
import logging, signal, sys, warnings
import PIL.Image, tqdm
def state():
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    root = logging.getLogger()
    said = [root.level, list(root.handlers), logging.getLogger("flower_classifier").handlers]
    limits = [PIL.Image.MAX_IMAGE_PIXELS, tqdm.tqdm.monitor_interval]
    return [sys.excepthook, list(warnings.filters), limits, signals, said, sys.stdout, sys.stderr]
"""


@pytest.mark.slow
def test_importing_all_of_it_changes_nothing(tmp_path):
    """What torch and its like change when they are imported is not ours: they come first."""
    code = (
        STATE + "import torch, torchvision, torch.utils.tensorboard, torch.optim.swa_utils, matplotlib.figure\n"
        "import torch.fx.experimental.optimization, filelock, platformdirs\n"
        f"before = state()\nimport flower_classifier, {', '.join(MODULES)}\nassert state() == before\n"
    )
    outcome = run_program("-c", code)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_importing_it_loads_nothing_heavy():
    code = "import sys, flower_classifier; print({'torch', 'numpy', 'PIL', 'matplotlib', 'tqdm'} & set(sys.modules))"
    assert run_program("-c", code, cold=True).out == "set()\n"


# ------------------------------------------------------------------------------------------------------------ load


@pytest.fixture(scope="module")
def predictor(trained):
    return fc.load(trained / "checkpoint.pth")


@pytest.fixture(scope="module")
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


def printed(run, checkpoint, *photos, top_k=5):
    """What predict.py prints of photos, as JSON."""
    outcome = run(predict, *photos, checkpoint, "--format", "json", "--top_k", top_k)
    return [record["predictions"] for record in json.loads(outcome.out)]


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("kind", ["trained", "trained_on_features"])
def test_it_gives_the_digits_of_predict(request, run, some, kind):
    """For one photo and for several, of a network that learned whole and of a head on a frozen one."""
    checkpoint = request.getfixturevalue(kind) / "checkpoint.pth"
    loaded = fc.load(str(checkpoint))
    assert loaded(some[3]) == printed(run, checkpoint, some[3])[0]
    assert loaded(some, top_k=2) == printed(run, checkpoint, *some, top_k=2)
    assert list(loaded(some[0])[0]) == ["class", "name", "probability"]


def test_one_picture_may_stand_in_a_list_many_times(predictor, some):
    """Several workers get it at once, and Pillow reads a file when it is first asked for pixels."""
    expected = predictor([some[0]] * 24)
    with Image.open(some[0]) as picture:
        assert predictor([picture] * 24) == expected


def test_predicting_leaves_the_number_of_torchs_threads_as_it_was(predictor, some):
    """In this thread, and in those that begin afterwards."""
    before = torch.get_num_threads()
    predictor(some)
    found = []
    thread = threading.Thread(target=lambda: (predictor(some), found.append(torch.get_num_threads())))
    thread.start()
    thread.join(timeout=60)
    assert (torch.get_num_threads(), found) == (before, [before])


def test_threads_that_ask_at_once_get_what_each_asks_for(predictor, some):
    expected = {photo: predictor(photo) for photo in some}
    wrong = []

    def ask(photos):
        wrong.extend(photo for photo in photos * 3 if predictor(photo) != expected[photo])

    threads = [threading.Thread(target=ask, args=(some[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_what_cannot_be_opened_is_an_error_that_names_it(predictor, some, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    for photos in (tmp_path / "a.jpg", [some[0], tmp_path / "a.jpg"]):
        with pytest.raises(fc.InputError, match=r"cannot open .*a\.jpg"):
            predictor(photos)
    with pytest.raises(fc.InputError, match="cannot open the photo"):
        predictor(b"")
    assert predictor([]) == []
    with pytest.raises(fc.InputError, match="top_k must be a whole number of at least 1, not 0"):
        predictor(some[0], top_k=0)


def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    with pytest.raises(fc.InputError, match=r"a\.pth is no checkpoint"):
        fc.load(tmp_path / "a.pth")


@pytest.mark.slow
def test_installed_it_works_from_anywhere_and_brings_the_package_alone(trained, some, tmp_path):
    """Built and installed as pip does it, into a folder of its own, without what it needs, which is here."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    copied = tmp_path / "source"
    copied.mkdir()
    requirements = [path.name for path in PROJECT.glob("requirements*.txt")]
    for name in (
        "pyproject.toml",
        *requirements,
        "README.md",
        "LICENSE",
        "train.py",
        "predict.py",
        "flower_classifier",
    ):
        subprocess.run(["cp", "-r", PROJECT / name, copied], check=True)
    subprocess.run([*install, "--target", tmp_path / "site", copied], check=True, cwd=tmp_path, capture_output=True)
    assert {path.name for path in (tmp_path / "site").iterdir() if path.suffix != ".dist-info"} == {"flower_classifier"}
    licences = [path.relative_to(tmp_path / "site") for path in (tmp_path / "site").glob("*.dist-info/**/LICENSE")]
    assert len(licences) == 2  # the project's, and that of the page's vendored runtime
    kept = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [path for path in kept if not (tmp_path / "site" / "flower_classifier" / path).is_file()] == []
    script = f"import flower_classifier as fc; print(fc.__file__); print(fc.load({str(trained / 'checkpoint.pth')!r})"
    outcome = run_program(
        "-c", f"{script}({str(some[0])!r})[0])", cwd=tmp_path, cold=True, PYTHONPATH=str(tmp_path / "site")
    )
    place, answer = outcome.out.splitlines()
    assert Path(place).is_relative_to(tmp_path / "site")
    assert answer == str(fc.load(trained / "checkpoint.pth")(some[0])[0])
