"""export.py: an exported folder is complete, answers as its checkpoint does, and needs no torch."""

import json
import shutil

import numpy as np
import pytest
import torch
from support import NAMES, PROJECT, copy_of, run_program

import export
import flower_classifier as fc
import predict
from flower_classifier.export.onnx_model import WholeNetwork
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.views import open_views
from flower_classifier.predicting.exported_predictor import import_onnxruntime

KINDS = {"trained": "exported", "trained_on_features": "exported_features"}


@pytest.fixture
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


# --------------------------------------------------------------------------------------------------------- the network


def outputs_of(folder, pixels):
    """What onnxruntime says of uint8 (N, S, S, 3), by the outputs' names."""
    session = import_onnxruntime().InferenceSession(str(folder / "model.onnx"))
    return dict(zip((one.name for one in session.get_outputs()), session.run(None, {"pixels": pixels}), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_what_plain_torch_does(request, some, kind):
    """Logits and features in float32, and the distance by the formula in float64; for one photo and for all."""
    checkpoint = Checkpoint.load(request.getfixturevalue(kind) / "checkpoint.pth")
    pixels = np.concatenate([open_views(photo, checkpoint.preprocessing) for photo in some])
    with torch.inference_mode():
        features = checkpoint.classifier.features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        logits = checkpoint.classifier.head(features)
    distances = Clusters(checkpoint.trust.feature_bank, checkpoint.trust.stranger_measure).distances(features)
    folder = request.getfixturevalue(KINDS[kind])
    for chosen in (slice(None), slice(3, 4)):
        found = outputs_of(folder, pixels[chosen])
        np.testing.assert_allclose(found["logits"], logits[chosen], atol=1e-3)
        np.testing.assert_allclose(found["features"], features[chosen], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["distance"], distances[chosen], rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_of_the_network_can_have_an_operations_name(request, kind):
    """Which have no dot: with onnxscript 0.5 the file had two values called `mean`, and onnxruntime refused it."""
    network = WholeNetwork(Checkpoint.load(request.getfixturevalue(kind) / "checkpoint.pth"))
    assert [name for name in network.state_dict() if "." not in name] == []


@pytest.mark.slow
def test_a_mirrored_answer_is_the_mean_over_both_views(train_into, run, flowers, some, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1, "--mirror", "--no_report")
    assert run(export, tmp_path / "checkpoint.pth", tmp_path / "app").code == 0
    checkpoint = Checkpoint.load(tmp_path / "checkpoint.pth")
    views = torch.from_numpy(open_views(some[0], checkpoint.preprocessing, (0, 1))).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = checkpoint.classifier(views).mean(dim=0)
    plain = open_views(some[0], checkpoint.preprocessing)
    np.testing.assert_allclose(outputs_of(tmp_path / "app", plain)["logits"][0], expected, atol=1e-3)


@pytest.mark.thorough
def test_a_transformer_of_timm_is_exported(train_into, run, flowers, some, tmp_path, monkeypatch):
    """export.py itself compares onnxruntime with torch; benchmarks/export_families.py goes through all families."""
    small = ("--image_size", 64, "--epochs", 1, "--views", 1, "--no_report")
    train_into(tmp_path, flowers, "--arch", "timm/test_vit", "--weights", "none", *small)
    outcome = run(export, tmp_path / "checkpoint.pth", tmp_path / "app")
    assert outcome.code == 0, outcome.err
    assert "8 of 8 have the same first class" in outcome.err
    for precision, least in (("float32", 0.99), ("bfloat16", 0.8)):  # the folder computes in float32
        monkeypatch.setenv("FLOWERS_PRECISION", precision)
        same = [one[0]["class"] == other[0]["class"] for one, other in answers(some, tmp_path)]
        assert np.mean(same) > least, precision


def answers(photos, save_dir):
    """Pairs of what the folder and the checkpoint answer."""
    return zip(*(fc.load(save_dir / name)(photos) for name in ("app", "checkpoint.pth")), strict=True)


@pytest.mark.slow
def test_a_fine_tuned_network_is_exported_as_it_has_become(run, fine_tuned, some, tmp_path):
    assert run(export, fine_tuned / "checkpoint.pth", tmp_path / "app").code == 0
    checkpoint = Checkpoint.load(fine_tuned / "checkpoint.pth")
    assert checkpoint.model.learns == "last"
    pixels = np.concatenate([open_views(photo, checkpoint.preprocessing) for photo in some[:6]])
    with torch.inference_mode():
        expected = checkpoint.classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(outputs_of(tmp_path / "app", pixels)["logits"], expected, atol=1e-3)


# --------------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_answers_as_the_checkpoint_does(request, some, precision, kind):
    """The folder in float32, the checkpoint in each precision: bfloat16 moves ranks among 18 photos.

    Of random features, which whitening spreads, by up to five.
    """
    digits, ranks = (1e-3, 0.06) if precision == torch.float32 else (0.05, 0.3)
    save_dir, folder = request.getfixturevalue(kind), request.getfixturevalue(KINDS[kind])
    of_folder, of_checkpoint = fc.load(folder)(some, top_k=6), fc.load(save_dir / "checkpoint.pth")(some, top_k=6)
    for one, other in zip(of_folder, of_checkpoint, strict=True):
        by_class = {row["class"]: row["probability"] for row in other}
        assert [row["probability"] for row in one] == pytest.approx([by_class[row["class"]] for row in one], abs=digits)
        assert one.p_known == pytest.approx(other.p_known, abs=ranks)
        assert (one.set is None, one.known is None) == (other.set is None, other.known is None)


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_its_own_script_and_predict_print_the_same(exported, some, tmp_path, form):
    """Whole output, for good photos and a broken one, of two processes: with the same exit code."""
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    asked = [*some[:3], tmp_path / "broken.jpg", "--format", form, "--sets", 90, "--stranger_rate", 6, "--top_k", 3]
    own = run_program(exported / "predict.py", *asked)
    ours = run_program(PROJECT / "predict.py", *asked[:4], exported, *asked[4:])
    assert own == ours
    assert own.code == 1
    assert own.out


def test_no_torch_is_loaded(exported, some):
    for arguments in ((PROJECT / "predict.py", some[0], exported), (exported / "predict.py", some[0])):
        outcome = run_program("-X", "importtime", *arguments, cold=True)
        assert outcome.code == 0
        loaded = {line.rpartition("|")[2].strip() for line in outcome.err.splitlines()}
        assert {"onnxruntime.capi", "PIL.Image"} <= loaded
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
    outcome = run_program("-c", ONLY, folder / "predict.py", *some[:2], "--format", "json", cwd=tmp_path, cold=True)
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


@pytest.mark.slow
@pytest.mark.usefixtures("networks_at_hand")
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


# ---------------------------------------------------------------------------------------------------- how it is made


@pytest.mark.usefixtures("networks_at_hand")
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


@pytest.mark.slow
def test_in_8_bits_it_is_smaller_and_says_what_that_costs(run, trained, exported, flowers, tmp_path):
    checkpoint = trained / "checkpoint.pth"
    outcome = run(export, checkpoint, tmp_path / "app", "--int8", flowers / "train")
    assert outcome.code == 0, outcome.err
    assert "of 24 photos that set no range" in outcome.err
    assert sizes_of_kernels(tmp_path / "app") == {1}
    assert sizes_of_kernels(exported) == {4}
    spec = json.loads((tmp_path / "app" / "classifier.json").read_text())
    judged = sorted((flowers / "train").glob("*/*.jpg"))[1::2]
    right = [
        result[0]["class"] == photo.parent.name
        for result, photo in zip(fc.load(tmp_path / "app")(judged), judged, strict=True)
    ]
    assert spec["provenance"]["accuracy"] == np.mean(right)
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
