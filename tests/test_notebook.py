"""The notebook, run as Jupyter's "run all" runs it, but on few drawings and with a folder of its own to write into."""

import ast
import sys

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from support import PROJECT

from model_utils import load_checkpoint

FOLDER = PROJECT / "docs"
NOTEBOOK = FOLDER / "flower_classifier.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook as opened in a folder, by this interpreter and without the user's own settings of Jupyter."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two that wait for each other take 4 times as long on a busy machine
    monkeypatch.delenv("PYTHONPATH", raising=False)  # the notebook finds the project by itself
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))

    def execute_notebook(notebook, folder):
        # Without folders of kernels to look in, "python3" is the ipykernel of this very interpreter.
        kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        NotebookClient(notebook, km=kernel, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()

    return execute_notebook


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def text(cell):
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def with_settings(notebook, settings):
    place = next(place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings, id="test-settings"))
    return notebook


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_cell_to_the_last_and_shows_what_it_says(notebook, execute, tmp_path):
    before, out = sorted(FOLDER.iterdir()), tmp_path / "out"
    # Fewer pictures to train on would be too few steps to learn anything.
    pictures_drawn = 'PICTURES = {"train": 60, "valid": 6, "test": 6}; EPOCHS = 8'
    settings = f"PHOTOS, OUT = Path({str(tmp_path / 'none')!r}), Path({str(out)!r}); {pictures_drawn}"
    execute(with_settings(notebook, settings), FOLDER)  # which raises what a cell raises
    cells = code_cells(notebook)
    shown = {name: pictures(cell) for name, cell in cells.items() if pictures(cell)}
    assert shown.pop("mistakes", 1) == 1  # there may be no mistakes
    assert shown == dict.fromkeys(("look", "input", "curves", "confusion", "reliability", "show"), 1)
    assert all(cell.execution_count for cell in cells.values())
    assert text(cells["data"]).startswith("6 classes: oxeye daisy, petunia, sunflower and 3 more\nphotos: 360 train")
    assert text(cells["train"]).count("epoch") == 8 + 1  # the last line names the best
    assert "36 test photos   loss " in text(cells["test"])
    *_, likeliest_by_hand = lines = text(cells["predict"]).splitlines()
    assert len(lines) == 5 + 1
    assert likeliest_by_hand.startswith("the network itself: ")
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pth", "flowers"]
    assert len(load_checkpoint(out / "checkpoint.pth").history) == 8
    assert sorted(FOLDER.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("folder", [pytest.param(PROJECT, marks=pytest.mark.thorough), FOLDER])
def test_the_notebook_finds_the_project_wherever_of_it_it_is_opened(notebook, execute, folder):
    cells = code_cells(notebook)
    show = "from importlib.util import find_spec\n"
    show += "for name in ('data_utils', 'model_utils'): print(find_spec(name).origin)"
    notebook.cells = [cells["project"], nbformat.v4.new_code_cell(show)]
    execute(notebook, folder)
    assert text(notebook.cells[1]).splitlines() == [str(PROJECT / name) for name in ("data_utils.py", "model_utils.py")]


def test_the_notebook_writes_nothing_where_the_commands_do_and_all_that_it_writes_is_ignored_by_git(notebook):
    assert 'OUT = ROOT / "notebook_out"' in code_cells(notebook)["settings"].source
    assert "/notebook_out/" in (PROJECT / ".gitignore").read_text().splitlines()


def test_the_notebook_uses_the_two_files_of_verbs_and_nothing_else_of_the_project(notebook):
    imported = set()
    for cell in code_cells(notebook).values():
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    assert imported - set(sys.stdlib_module_names) == {"data_utils", "model_utils", "torch"}


def test_the_notebook_is_committed_without_outputs_and_explains_every_cell(notebook):
    nbformat.validate(notebook)
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert before.cell_type == "markdown"
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
