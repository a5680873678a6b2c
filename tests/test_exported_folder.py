"""An exported folder on the disk: what is damaged or forged is told in a line, and nobody else's files are touched."""

import json
import shutil
from pathlib import Path

import pytest
from support import PROJECT, copy_of, run_program

import export
import flower_classifier as fc
import predict


@pytest.fixture
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


# -------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("option", ["--gpu", "--heatmap", "--neighbours", "--evaluate"])
def test_what_needs_the_checkpoint_is_refused_in_a_line(run, exported, some, flowers, option):
    photos = flowers / "test" if option == "--evaluate" else some[0]
    more = {"--heatmap": ("--plot", "a.png"), "--neighbours": (2,)}.get(option, ())
    outcome = run(predict, photos, exported, option, *more)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert f"{option} needs the checkpoint itself" in outcome.err


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.onnx", "classifier.json"])
@pytest.mark.parametrize("harm", ["flipped", "missing", "cut", "empty"])
def test_a_damaged_folder_is_told_in_a_line(run, exported, some, tmp_path, name, harm):
    path = copy_of(exported, tmp_path) / name
    if harm == "flipped":
        flip_a_byte(path)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 1000 if harm == "cut" else 0])
    outcome = run(predict, some[0], path.parent)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert str(path) in outcome.err
    assert ("is missing" if harm == "missing" else "is damaged") in outcome.err
    assert "export the checkpoint again" in outcome.err


def test_every_flipped_byte_of_the_card_is_found(exported, tmp_path):
    """Wherever it is; a space between two words of the file may be flipped to another that changes nothing."""
    folder = copy_of(exported, tmp_path)
    path = folder / "classifier.json"
    good, whole = path.read_bytes(), fc.load(folder).spec
    for place in range(0, len(good), 97):
        data = bytearray(good)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            assert fc.load(folder).spec == whole
        except fc.InputError as error:
            assert "classifier.json is damaged" in str(error)


def test_another_exports_card_is_told_in_a_line(run, exported, exported_features, some, tmp_path):
    folder = copy_of(exported, tmp_path)
    shutil.copy(exported_features / "classifier.json", folder)
    outcome = run(predict, some[0], folder)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "is damaged, or not the one that classifier.json beside it belongs to" in outcome.err


def test_a_forged_card_is_told_in_a_line(exported, exported_features, tmp_path):
    """One that fits the network's digest and its own, but not what the network takes."""
    from flower_classifier.predicting.exported_predictor import ExportSpec

    folder = copy_of(exported, tmp_path)
    own, other = ExportSpec.read(folder), ExportSpec.read(exported_features)
    forged = {**other.to_plain(), "model": own.to_plain()["model"]}
    (folder / "classifier.json").write_bytes(ExportSpec.from_plain(forged).to_text())
    with pytest.raises(fc.InputError, match="is not a network for the 6 classes"):
        fc.load(folder)


def test_a_spec_of_a_later_format_asks_for_an_update(exported, tmp_path):
    path = copy_of(exported, tmp_path) / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(fc.InputError, match="has format 99, this program reads up to 3: update it"):
        fc.load(path.parent)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_asked_for_in_a_line(trained, exported, some, tmp_path, missing):
    forbid = f"import sys; sys.modules[{missing!r}] = None; "
    start = "sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [PROJECT / "export.py", trained / "checkpoint.pth", tmp_path / "app"]
    outcome = run_program("-c", forbid + start, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"export.py: needs {missing}, which this Python lacks: pip install {missing}\n"
    assert not (tmp_path / "app").exists()
    outcome = run_program("-c", forbid + start, PROJECT / "predict.py", some[0], exported)
    assert outcome.code == (1 if missing == "onnxruntime" else 0)


# ----------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_is_complete(exported):
    names = {path.name for path in exported.iterdir()} - {"__pycache__"}
    expected = {"model.onnx", "classifier.json", "predict.py", "README.md", "index.html", "service_worker.js"}
    assert expected | {"manifest.webmanifest", "vendor", "flower_classifier"} <= names
    assert "6 classes" in (exported / "README.md").read_text(encoding="utf-8")
    for path in (exported / "flower_classifier").rglob("*.py"):  # every file is the package's own
        assert path.read_bytes() == (PROJECT / path.relative_to(exported)).read_bytes()


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_folder(run, trained, exported, tmp_path):
    """To the byte: so two exports can be compared, and a host sends only what has changed."""
    assert run(export, trained / "checkpoint.pth", tmp_path / "rose_app").code == 0
    for path in exported.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (tmp_path / "rose_app" / path.relative_to(exported)).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.usefixtures("networks_at_hand")
def test_an_earlier_export_is_replaced_and_other_files_are_not(run, trained, trained_on_features, exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    before = (folder / "model.onnx").read_bytes()
    assert run(export, trained_on_features / "checkpoint.pth", folder).code == 0
    assert (folder / "model.onnx").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    (folder / "notes.txt").write_text("mine")
    outcome = run(export, trained / "checkpoint.pth", folder)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "holds files that are no part of an export (notes.txt)" in outcome.err
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.jpg").write_bytes(b"mine")
    outcome = run(export, trained / "checkpoint.pth", other)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "other holds other files" in outcome.err
    assert [path.name for path in other.iterdir()] == ["photo.jpg"]


def test_a_place_that_cannot_be_written_to_is_named_as_it_was_typed(run, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = run(export, trained / "checkpoint.pth", "file/app")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.endswith(f": file/app cannot be made: {tmp_path}/file cannot be written to: Not a directory\n")


def test_a_folder_that_only_looks_like_an_export_is_left_alone(run, trained, exported, tmp_path):
    """A model.onnx of one's own, or files of one's own among the package's."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "model.onnx").write_bytes(b"mine")
    mixed = copy_of(exported, tmp_path)
    (mixed / "flower_classifier" / "notes.txt").write_text("mine")
    among = copy_of(exported, tmp_path / "flower_classifier")  # a folder of the package's name above proves nothing
    (among / "mine.py").write_text("mine")
    for folder in (own, mixed, among):
        assert run(export, trained / "checkpoint.pth", folder).code == 2
    assert (among / "mine.py").read_text() == "mine"
    assert (own / "model.onnx").read_bytes() == b"mine"
    assert (mixed / "flower_classifier" / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("networks_at_hand")
def test_what_a_link_leads_to_is_replaced(run, trained, exported_features, tmp_path):
    folder, link = copy_of(exported_features, tmp_path), tmp_path / "link"
    link.symlink_to(folder)
    assert run(export, trained / "checkpoint.pth", link).code == 0
    assert link.is_symlink()
    assert json.loads((folder / "classifier.json").read_text())["provenance"]["arch"] == "cnn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "link"]


@pytest.mark.usefixtures("networks_at_hand")
def test_what_cannot_be_put_in_place_leaves_the_earlier_export(trained, exported, tmp_path, monkeypatch, run):
    """Here the second of the two renames fails."""
    folder = copy_of(exported, tmp_path)
    rename = Path.rename

    def fail_for_new(self, target):
        if self.name.startswith(".app-") and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    outcome = run(export, trained / "checkpoint.pth", folder)
    assert (outcome.code, outcome.out) == (1, "")
    assert "app cannot be written" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    assert fc.load(folder).classes


def test_a_mistaken_path_is_told_whichever_copy_of_the_package_is_asked(exported, trained, tmp_path):
    """An exported folder has a copy, which reads such folders alone."""
    with pytest.raises(fc.InputError, match="is a folder that"):
        fc.load(tmp_path)
    for path, told in ((tmp_path, "did not write"), (trained / "checkpoint.pth", "reads such folders alone")):
        code = (
            f"import flower_classifier as fc\ntry: fc.load({str(path)!r})\nexcept fc.InputError as error: print(error)"
        )
        outcome = run_program("-c", code, cwd=exported)
        assert told in outcome.out, outcome.err


FORGERIES = {
    "stranger_scores": [[1e999, 1.0]],
    "temperature": 1000.0,
    "classes": ["a"],
    "set_scores": [2.0],
    "category_names": {"49": 1},
}


@pytest.mark.parametrize("key", FORGERIES)
def test_impossible_numbers_are_told_in_a_line(exported, tmp_path, key):
    from flower_classifier.predicting.exported_predictor import digest_of

    folder = copy_of(exported, tmp_path)
    spec = {**json.loads((folder / "classifier.json").read_text()), key: FORGERIES[key]}
    del spec["digest"]
    (folder / "classifier.json").write_text(json.dumps({**spec, "digest": digest_of(spec)}))
    with pytest.raises(fc.InputError, match=r"classifier\.json is damaged, or was changed"):
        fc.load(folder)


def test_wrong_paths_are_told_in_a_line(run, trained, exported, tmp_path):
    checkpoint = trained / "checkpoint.pth"
    (tmp_path / "file").write_text("mine")
    for arguments, told in (
        ((tmp_path / "none.pth", tmp_path / "app"), "none.pth"),
        ((exported, checkpoint), "is a folder without a checkpoint: give the checkpoint first"),
        ((checkpoint, tmp_path / "file"), "file is a file: give a folder to write"),
        ((checkpoint, tmp_path / "app", "--int8", tmp_path / "none"), "--int8"),
    ):
        outcome = run(export, *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome.err
        assert told in outcome.err
