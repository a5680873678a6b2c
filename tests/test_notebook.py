"""The notebook, run as Jupyter's "run all" runs it, but in an empty folder and on few drawings."""

import os

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from support import NAMES, PROJECT

NOTEBOOK = PROJECT / "flower_classifier.ipynb"
SMALL = f"""
PICTURES = {{"train": 60, "valid": 6, "test": 6}}  # fewer to train on would be too few steps to learn anything
EPOCHS = 8
CATEGORY_NAMES = Path({str(NAMES)!r})
"""


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook in an empty folder, by this interpreter and without the user's own settings of Jupyter."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two that wait for each other take 4 times as long on a busy machine
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    work = tmp_path / "work"
    work.mkdir()

    def execute_notebook(notebook):
        # Without folders of kernels to look in, "python3" is the ipykernel of this very interpreter.
        kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        NotebookClient(notebook, km=kernel, timeout=120, resources={"metadata": {"path": str(work)}}).execute()
        return work

    return execute_notebook


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_the_notebook_runs_from_the_first_cell_to_the_last_and_shows_what_it_says(notebook, execute):
    place = next(place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL))
    work = execute(notebook)  # which raises what a cell raises
    cells = code_cells(notebook)
    shown = {name: pictures(cell) for name, cell in cells.items() if pictures(cell)}
    assert shown.pop("diagnosis") >= 2  # there may be no mistakes
    assert shown == dict.fromkeys(("look", "curves", "predict", "sanity"), 1)
    assert all(cell.execution_count for cell in cells.values())
    assert sorted(path.name for path in work.iterdir()) == ["demo", "out"]  # both of which git ignores


def test_the_notebook_is_committed_without_outputs_and_explains_every_cell(notebook):
    nbformat.validate(notebook)
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert before.cell_type == "markdown"
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
