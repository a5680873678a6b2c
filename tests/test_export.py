"""export.py: an exported folder is complete, answers as its checkpoint does, and needs no torch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support import NAMES, PROJECT, QUICK, run_program

import export
import flower_classifier as fc
import predict
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.checkpoint import load_checkpoint
from flower_classifier.photos.views import open_views

KINDS = {"trained": "exported", "trained_on_features": "exported_features"}


@pytest.fixture
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))


# --------------------------------------------------------------------------------------------------------- the network


def outputs_of(folder, pixels):
    """What onnxruntime says of uint8 (N, S, S, 3), by the outputs' names."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return dict(zip((one.name for one in session.get_outputs()), session.run(None, {"pixels": pixels}), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_what_plain_torch_does(request, some, kind):
    """Logits and features in float32, and the distance by the formula in float64; for one photo and for all."""
    checkpoint = load_checkpoint(request.getfixturevalue(kind) / "checkpoint.pth")
    pixels = np.concatenate([open_views(photo, checkpoint.preprocessing) for photo in some])
    with torch.inference_mode():
        features = checkpoint.classifier.features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        logits = checkpoint.classifier.head(features)
    distances = Clusters(checkpoint.memory).distances(features)
    folder = request.getfixturevalue(KINDS[kind])
    for chosen in (slice(None), slice(3, 4)):
        found = outputs_of(folder, pixels[chosen])
        np.testing.assert_allclose(found["logits"], logits[chosen], atol=1e-3)
        np.testing.assert_allclose(found["features"], features[chosen], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["distance"], distances[chosen], rtol=1e-3, atol=0.01)


def test_a_mirrored_answer_is_the_mean_over_both_views(train_into, run, flowers, some, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1, "--mirror", "--no_report")
    assert run(export, tmp_path / "checkpoint.pth", tmp_path / "app").code == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pth")
    views = torch.from_numpy(open_views(some[0], checkpoint.preprocessing, (0, 1))).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = checkpoint.classifier(views).mean(dim=0)
    plain = open_views(some[0], checkpoint.preprocessing)
    np.testing.assert_allclose(outputs_of(tmp_path / "app", plain)["logits"][0], expected, atol=1e-3)


def test_a_transformer_of_timm_is_exported(train_into, run, flowers, tmp_path):
    """export.py itself compares onnxruntime with torch; benchmarks/export_families.py goes through all families."""
    arch = "timm/vit_tiny_patch16_224"
    small = ("--image_size", 64, "--epochs", 1, "--views", 1, "--no_report")
    train_into(tmp_path, flowers, "--arch", arch, "--weights", "none", *small)
    outcome = run(export, tmp_path / "checkpoint.pth", tmp_path / "app")
    assert outcome.code == 0, outcome.err
    assert "8 of 8 have the same first class" in outcome.err
    photos = sorted((flowers / "test").glob("*/*.jpg"))
    same = [one[0]["class"] == other[0]["class"] for one, other in answers(photos, tmp_path)]
    assert np.mean(same) > 0.8  # predict.py runs the network in bfloat16 where the processor has it


def answers(photos, save_dir):
    """Pairs of what the folder and the checkpoint answer."""
    return zip(*(fc.load(save_dir / name)(photos) for name in ("app", "checkpoint.pth")), strict=True)


def test_a_fine_tuned_network_is_exported_as_it_has_become(train_into, run, flowers, tmp_path):
    options = ("--hidden_units", 0, "--epochs", 1, "--fine_tune", 3, "--backbone_lr", 0.0001)
    train_into(tmp_path, flowers, *QUICK, *options)
    assert run(export, tmp_path / "checkpoint.pth", tmp_path / "app").code == 0
    photos = sorted((flowers / "test").glob("*/*.jpg"))[:6]
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pth")
    assert checkpoint.model.learns == "last"
    pixels = np.concatenate([open_views(photo, checkpoint.preprocessing) for photo in photos])
    with torch.inference_mode():
        expected = checkpoint.classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(outputs_of(tmp_path / "app", pixels)["logits"], expected, atol=1e-3)


# --------------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_answers_as_the_checkpoint_does(request, some, kind):
    save_dir, folder = request.getfixturevalue(kind), request.getfixturevalue(KINDS[kind])
    of_folder, of_checkpoint = fc.load(folder)(some, top_k=6), fc.load(save_dir / "checkpoint.pth")(some, top_k=6)
    for one, other in zip(of_folder, of_checkpoint, strict=True):
        by_class = {row["class"]: row["probability"] for row in other}
        assert [row["probability"] for row in one] == pytest.approx([by_class[row["class"]] for row in one], abs=0.05)
        assert one.p_known == pytest.approx(other.p_known, abs=0.2)  # bfloat16 moves ranks among 18 photos
        assert (one.set is None, one.known is None) == (other.set is None, other.known is None)


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_its_own_script_and_predict_print_the_same(exported, some, tmp_path, form):
    """Whole output, for good photos and a broken one, of two processes: with the same exit code."""
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    asked = [*some[:3], tmp_path / "broken.jpg", "--format", form, "--sets", 90, "--stranger_rate", 6, "--top_k", 3]
    own = run_program(exported / "predict.py", *asked)
    ours = run_program(PROJECT / "predict.py", *asked[:4], exported, *asked[4:])
    assert own == ours
    assert own.code == 2
    assert own.out


def test_no_torch_is_loaded(exported, some):
    for arguments in ((PROJECT / "predict.py", some[0], exported), (exported / "predict.py", some[0])):
        outcome = run_program("-X", "importtime", *arguments)
        assert outcome.code == 0
        loaded = {line.rpartition("|")[2].strip() for line in outcome.err.splitlines()}
        assert {"onnxruntime", "PIL.Image"} <= loaded
        assert not {"torch", "torchvision", "matplotlib"} & loaded


ONLY = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "matplotlib", "tqdm", "platformdirs", "filelock", "onnx"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_moved_folder_needs_onnxruntime_numpy_and_pillow_alone(exported, some, tmp_path):
    """It has all of our own code that it needs, and asks for nothing else."""
    folder = copy_of(exported, tmp_path)
    outcome = run_program("-c", ONLY, folder / "predict.py", *some[:2], "--format", "json", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    expected = run_program(PROJECT / "predict.py", *some[:2], exported, "--format", "json").out
    assert json.loads(outcome.out) == json.loads(expected)


def test_a_program_gets_what_predict_prints(exported, some, run):
    loaded = fc.load(str(exported))
    printed = json.loads(run(predict, *some, exported, "--format", "json", "--sets", 95).out)
    for result, record in zip(loaded(some), printed, strict=True):
        assert {**result.plain(), "path": record["path"]} == record
    assert loaded(some[0], top_k=1) == loaded([some[0]], top_k=1)[0]
    assert len(loaded(some[0], top_k=1)) == 1


def test_a_program_may_ask_for_other_promises(exported, trained, some):
    for path in (exported, trained / "checkpoint.pth"):
        loaded = fc.load(path)
        result = loaded(some[0], stranger_rate=0, sets=0)
        assert (result.known, result.p_known, result.set) == (None, None, None)
        sizes = [len(loaded(some[0], sets=level).set) for level in (50, 80, 94)]
        assert sizes == sorted(sizes)
        result = loaded(some[0], stranger_rate=6)
        assert result.known == (result.p_known > 0.06)
        for name in ("stranger_rate", "sets"):
            with pytest.raises(fc.InputError, match=f"{name} must be at least 0 and below 100, not 100"):
                loaded(some[0], **{name: 100})


def test_names_that_people_use_now(run, trained_on_features, exported_features, some, tmp_path):
    """At the export and when it is asked."""
    assert run(predict, some[0], exported_features, "--top_k", 6).out.split()[0].isdecimal()
    named = run(predict, some[0], exported_features, "--top_k", 6, "--category_names", NAMES).out
    assert "sunflower" in named
    checkpoint = trained_on_features / "checkpoint.pth"
    assert run(export, checkpoint, tmp_path / "app", "--category_names", NAMES).code == 0
    assert run(predict, some[0], tmp_path / "app", "--top_k", 6).out == named


def test_an_answer_is_drawn_too(run, exported, some, tmp_path):
    assert run(predict, some[0], exported, "--plot", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000


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
    good, whole = path.read_bytes(), fc.load(folder).card
    for place in range(0, len(good), 97):
        data = bytearray(good)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            assert fc.load(folder).card == whole
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
    from flower_classifier.export.card import Card, card_text, read_card

    folder = copy_of(exported, tmp_path)
    own, other = read_card(folder), read_card(exported_features)
    forged = {**other.to_plain(), "model": own.to_plain()["model"]}
    (folder / "classifier.json").write_bytes(card_text(Card.from_plain(forged)))
    with pytest.raises(fc.InputError, match="is not a network for the 6 classes"):
        fc.load(folder)


def test_a_card_of_a_later_format_asks_for_an_update(exported, tmp_path):
    path = copy_of(exported, tmp_path) / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(fc.InputError, match="has format 99, this program reads up to 1: update it"):
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


def test_the_same_checkpoint_gives_the_same_folder(run, trained, exported, tmp_path):
    """To the byte: so two exports can be compared, and a host sends only what has changed."""
    assert run(export, trained / "checkpoint.pth", tmp_path / "rose_app").code == 0
    for path in exported.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (tmp_path / "rose_app" / path.relative_to(exported)).read_bytes() == path.read_bytes(), path


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


def test_a_folder_that_only_looks_like_an_export_is_left_alone(run, trained, exported, tmp_path):
    """A model.onnx of one's own, or files of one's own among the package's."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "model.onnx").write_bytes(b"mine")
    mixed = copy_of(exported, tmp_path)
    (mixed / "flower_classifier" / "notes.txt").write_text("mine")
    for folder in (own, mixed):
        assert run(export, trained / "checkpoint.pth", folder).code == 2
    assert (own / "model.onnx").read_bytes() == b"mine"
    assert (mixed / "flower_classifier" / "notes.txt").read_text() == "mine"


def test_what_a_link_leads_to_is_replaced(run, trained, exported_features, tmp_path):
    folder, link = copy_of(exported_features, tmp_path), tmp_path / "link"
    link.symlink_to(folder)
    assert run(export, trained / "checkpoint.pth", link).code == 0
    assert link.is_symlink()
    assert json.loads((folder / "classifier.json").read_text())["provenance"]["arch"] == "cnn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "link"]


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
    from flower_classifier.export.card import digest_of

    folder = copy_of(exported, tmp_path)
    card = {**json.loads((folder / "classifier.json").read_text()), key: FORGERIES[key]}
    del card["digest"]
    (folder / "classifier.json").write_text(json.dumps({**card, "digest": digest_of(card)}))
    with pytest.raises(fc.InputError, match=r"classifier\.json is damaged, or was changed"):
        fc.load(folder)


def test_wrong_paths_are_told_in_a_line(run, trained, exported, tmp_path):
    checkpoint = trained / "checkpoint.pth"
    (tmp_path / "file").write_text("mine")
    for arguments, told in (
        ((tmp_path / "none.pth", tmp_path / "app"), "none.pth"),
        ((exported, checkpoint), "is a folder: give the checkpoint first"),
        ((checkpoint, tmp_path / "file"), "file is a file: give a folder to write"),
        ((checkpoint, tmp_path / "app", "--int8", tmp_path / "none"), "--int8"),
    ):
        outcome = run(export, *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome.err
        assert told in outcome.err


def test_a_network_that_answers_otherwise_is_not_written(run, trained, tmp_path, monkeypatch):
    """The comparison is a real one: with a tolerance of nothing it fails, and says by how much."""
    from flower_classifier.export import onnx_model

    monkeypatch.setattr(onnx_model, "TOLERANCE", 0.0)
    outcome = run(export, trained / "checkpoint.pth", tmp_path / "app")
    assert (outcome.code, outcome.out) == (1, "")
    assert "onnxruntime does not answer as torch does (logits differ by" in outcome.err
    assert not (tmp_path / "app").exists()


def sizes_of_kernels(folder):
    """How many bytes a number of a convolution's kernel takes."""
    import onnx

    kernels = [tensor for tensor in onnx.load(folder / "model.onnx").graph.initializer if len(tensor.dims) == 4]
    return {onnx.numpy_helper.to_array(tensor).itemsize for tensor in kernels}


def test_in_8_bits_it_is_smaller_and_says_what_that_costs(run, trained, exported, flowers, tmp_path):
    checkpoint = trained / "checkpoint.pth"
    outcome = run(export, checkpoint, tmp_path / "app", "--int8", flowers / "train")
    assert outcome.code == 0, outcome.err
    assert "of 24 photos that set no range" in outcome.err
    assert sizes_of_kernels(tmp_path / "app") == {1}
    assert sizes_of_kernels(exported) == {4}
    card = json.loads((tmp_path / "app" / "classifier.json").read_text())
    judged = sorted((flowers / "train").glob("*/*.jpg"))[1::2]
    right = [
        result[0]["class"] == photo.parent.name
        for result, photo in zip(fc.load(tmp_path / "app")(judged), judged, strict=True)
    ]
    assert card["provenance"]["accuracy"] == np.mean(right)
    few = tmp_path / "few"
    shutil.copytree(flowers / "test" / "54", few / "54")
    outcome = run(export, checkpoint, tmp_path / "app", "--int8", few)
    assert outcome.code == 2
    assert "--int8 needs at least 20 photos" in outcome.err


def test_the_script_is_a_command_like_the_others(exported):
    outcome = run_program(exported / "predict.py", "--help")
    assert outcome.code == 0
    assert "--top_k" in outcome.out
    assert "--gpu" not in outcome.out
    assert run_program(exported / "predict.py", "none.jpg").code == 2
