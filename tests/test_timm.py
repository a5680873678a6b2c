"""timm's models as backbones: their features, their weights, their checkpoints, and what is refused."""

import argparse
import functools
import http.server
import threading

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support import QUICK, read, run_program

import predict
import train
from flower_classifier.base.messages import InputError, RunError
from flower_classifier.judging.heatmap import find_heatmap
from flower_classifier.networks import timm_models
from flower_classifier.networks.backbones import load_backbone, resolve_arch, source_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.safe_files import write_atomically

LITE = "timm/tf_efficientnet_lite0"
SMALL = "timm/mobilenetv3_small_050"
FAMILIES = (
    "test_resnet",
    "test_convnext",
    "test_vit",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "swin_tiny_patch4_window7_224",
    "regnety_002",
    "levit_128s",
    "maxvit_rmlp_pico_rw_256",
)
LARGE = ("vit_small_patch14_dinov2", "vit_large_patch14_dinov2", "vit_base_patch16_siglip_224", "convnext_base")
LARGE += ("eva02_large_patch14_448", "swin_base_patch4_window7_224", "regnety_160", "maxvit_base_tf_224", "resnet152")
READ_OFFLINE = """
import socket, sys, torch
socket.socket = socket.getaddrinfo = None  # the network is unreachable
from pathlib import Path
from flower_classifier.networks.checkpoint import Checkpoint
folder, *names = sys.argv[1:]
for name in names:
    checkpoint = Checkpoint.load(Path(folder, name + ".pth"))
    side = checkpoint.preprocessing.crop_size
    pixels = torch.load(Path(folder, "pixels"), weights_only=True)[:, :, :side, :side]
    with torch.inference_mode():
        torch.save(checkpoint.classifier(pixels), Path(folder, name + ".logits"))
"""


def stated(arch):
    return source_of(arch).weights(arch, "none", None).preprocessing


def checkpoint_of(classifier):
    classes = tuple(map(str, range(classifier.config.num_classes)))
    return Checkpoint(classifier.config, classifier.preprocessing, classes, classifier.state_dict())


def random_state(arch, **options):
    """A state dict of timm's own, with norms that do something."""
    torch.manual_seed(5)
    model = timm.create_model(arch, **options)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return model.state_dict()


# ---------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("name", LARGE)
def test_features_have_the_stated_width_in_every_family(name):
    """Without memory for their numbers."""
    arch = f"timm/{name}"
    with torch.device("meta"):
        backbone = source_of(arch).build(arch, stated(arch))
        side = backbone.preprocessing.crop_size
        assert backbone.module.eval()(torch.empty(2, 3, side, side)).shape == (2, backbone.width)
    assert side == 224  # also where timm's own is 448 or 518


def test_a_plain_vision_transformer_gives_its_class_token_and_the_mean_of_its_patches():
    backbone, _ = load_backbone("timm/vit_tiny_patch16_224", "none")
    values = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        features = backbone.module.eval()(values)[:, : backbone.width]  # without the means of layers
        (patches, prefix), *_ = backbone.module.model.forward_intermediates(
            values, 1, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    torch.testing.assert_close(features, torch.cat([prefix[:, 0], patches.mean(1)], 1))


@pytest.mark.parametrize(("arch", "side"), [(LITE, 224), (LITE, 225), (LITE, 90), ("timm/tf_efficientnetv2_b0", 224)])
def test_the_frozen_part_has_neither_norms_nor_padding_and_computes_the_same(arch, side, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERS_PRECISION", "float32")  # the rounding of bfloat16 is more
    name = arch.removeprefix("timm/")
    torch.save(random_state(name), tmp_path / "own.pth")
    classifier, _ = new_classifier(arch, 3, str(tmp_path / "own.pth"), image_size=side)
    frozen = FrozenBackbone(classifier, torch.device("cpu"))
    kinds = {type(layer).__name__ for layer in frozen.network.modules()}
    assert not kinds & {"BatchNormAct2d", "BatchNorm2d", "Conv2dSame"}
    pixels = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    model = timm.create_model(name, num_classes=0)
    model.load_state_dict(random_state(name), strict=False)
    half = torch.tensor(classifier.preprocessing.mean).view(3, 1, 1)
    values = (pixels / 255 - half) / torch.tensor(classifier.preprocessing.std).view(3, 1, 1)
    with torch.inference_mode():
        expected = model.eval()(values)
        torch.testing.assert_close(frozen(pixels), classifier.backbone(values), rtol=1e-3, atol=1e-3)
        own = frozen(pixels)[:, : classifier.output_width]  # without the means of layers
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_heat_maps_are_drawn_where_features_have_places():
    pixels = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
    for name, has_map in (("mobilenetv3_small_050", True), ("vit_tiny_patch16_224", False), ("coat_tiny", False)):
        classifier, _ = new_classifier(f"timm/{name}", 3, "none")
        assert bool(find_heatmap(classifier, pixels, 1, (300, 400))) == has_map


# ------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.thorough
def test_checkpoints_of_every_family_are_read_offline_in_a_fresh_process_with_the_same_digits(tmp_path):
    pixels = torch.randint(256, (2, 3, 256, 256), dtype=torch.uint8)
    torch.save(pixels, tmp_path / "pixels")
    expected = {}
    for name in FAMILIES:
        classifier, _ = new_classifier(f"timm/{name}", 5, "none")
        checkpoint_of(classifier).save(tmp_path / f"{name}.pth")
        side = classifier.preprocessing.crop_size
        with torch.inference_mode():
            expected[name] = classifier(pixels[:, :, :side, :side])
    outcome = run_program("-c", READ_OFFLINE, tmp_path, *FAMILIES)
    assert outcome.code == 0, outcome.err
    for name in FAMILIES:
        assert torch.equal(read(tmp_path / f"{name}.logits"), expected[name]), name


def test_trained_resumed_and_asked_as_any_other(train_into, run, flowers, photo, tmp_path):
    own = ["--arch", SMALL, "--weights", "none", "--image_size", 64, "--no_report"]
    train_into(tmp_path / "whole", flowers, *own, "--epochs", 2)
    train_into(tmp_path / "parts", flowers, *own, "--epochs", 1)
    train_into(tmp_path / "parts", flowers, "--resume", "--no_report", "--epochs", 2)
    states = [read(tmp_path / kind / "checkpoint.pth")["state_dict"] for kind in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    outcome = run(
        predict,
        photo,
        tmp_path / "whole" / "checkpoint.pth",
        "--heatmap",
        "--plot",
        tmp_path / "p.png",
    )
    assert (outcome.code, (tmp_path / "p.png").is_file()) == (0, True)


@pytest.fixture
def photo(flowers):
    return flowers / "test" / "54" / "drawn_000.jpg"


@pytest.mark.parametrize(
    "arch",
    ["timm/hf-hub:timm/resnet18.a1_in1k", "timm/local-dir:/tmp/x", "timm/../x", "timm/no_such", "timm/resnet18.x"],
)
def test_names_that_reach_outside_or_are_unknown_are_refused(arch, run, flowers, photo, tmp_path):
    """On the command line, and in a checkpoint that is otherwise sound."""
    outcome = run(train, flowers, "--arch", arch, "--save_dir", tmp_path)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert f"--arch {arch!r}: there is no such architecture" in outcome.err
    classifier, _ = new_classifier(SMALL, 3, "none")
    write_atomically(tmp_path / "c.pth", {**checkpoint_of(classifier).to_plain(), "arch": arch})
    outcome = run(predict, photo, tmp_path / "c.pth")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert f"there is no architecture {arch!r}" in outcome.err


def test_a_size_that_the_network_cannot_take_is_refused_when_a_checkpoint_is_read(run, photo, tmp_path):
    """And not by the first photo. The file says so of itself, and its digest is right."""
    classifier, _ = new_classifier("timm/levit_128s", 3, "none")
    contents = checkpoint_of(classifier).to_plain()
    sizes = {"resize_size": 225, "crop_size": 225}
    write_atomically(tmp_path / "c.pth", {**contents, "preprocessing": {**contents["preprocessing"], **sizes}})
    outcome = run(predict, photo, tmp_path / "c.pth")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "is damaged or was changed by hand" in outcome.err


# ----------------------------------------------------------------------------------------------------------- weights


def test_weights_come_from_either_kind_of_file_whatever_its_classifier(tmp_path):
    state = random_state("mobilenetv3_small_050")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "a.pth")
    save_file(random_state("mobilenetv3_small_050", num_classes=7), tmp_path / "b.safetensors")
    save_file(random_state("mobilenetv3_small_050", num_classes=0), tmp_path / "c.safetensors")
    for file in ("a.pth", "b.safetensors", "c.safetensors"):
        backbone, weights = load_backbone(SMALL, str(tmp_path / file))
        assert weights.name == file
        stored = read_file(tmp_path / file)
        for name, tensor in backbone.module.state_dict().items():
            assert torch.equal(tensor, stored[name.removeprefix("model.")]), name


def read_file(path):
    if path.suffix != ".pth":
        return load_file(path)
    return {name.removeprefix("module."): tensor for name, tensor in read(path)["state_dict"].items()}


@pytest.mark.slow
def test_a_files_preprocessing_is_timms_and_is_said(run, flowers, tmp_path):
    save_file(random_state("tf_efficientnet_lite0"), tmp_path / "own.safetensors")
    own = ["--arch", LITE, "--weights", tmp_path / "own.safetensors", "--epochs", 1, "--views", 1, "--no_report"]
    outcome = run(train, flowers, *own, "--save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    said = "own.safetensors: taken as timm's tf_efficientnet_lite0.in1k: 224 pixels out of 256, bicubic, "
    assert f"{said}mean 0.5/0.5/0.5, standard deviation 0.5/0.5/0.5" in outcome.err
    stored = read(tmp_path / "checkpoint.pth")["preprocessing"]
    expected = timm.data.resolve_data_config(model=timm.create_model("tf_efficientnet_lite0"))
    assert (stored["crop_size"], stored["mean"], stored["std"], stored["interpolation"]) == (
        expected["input_size"][1],
        list(expected["mean"]),
        list(expected["std"]),
        expected["interpolation"],
    )


def test_position_embeddings_are_resampled_once_for_another_size(tmp_path):
    from timm.layers import resample_abs_pos_embed

    state = random_state("vit_tiny_patch16_384", img_size=384)
    state["pos_embed"] = torch.randn(state["pos_embed"].shape)
    save_file(state, tmp_path / "large.safetensors")
    classifier, _ = new_classifier("timm/vit_tiny_patch16_384", 3, str(tmp_path / "large.safetensors"), image_size=224)
    expected = resample_abs_pos_embed(state["pos_embed"], [14, 14], [24, 24])
    torch.testing.assert_close(classifier.backbone.model.pos_embed.data, expected)
    checkpoint_of(classifier).save(tmp_path / "c.pth")
    again = Checkpoint.load(tmp_path / "c.pth").classifier
    assert torch.equal(again.backbone.model.pos_embed, classifier.backbone.model.pos_embed)


DAMAGES = ["cut short", "no safetensors", "other shapes", "a tensor is missing", "another model's", "a deeper one's"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit_are_refused_in_a_line(damage, run, flowers, tmp_path):
    path, state = tmp_path / "own.safetensors", random_state("mobilenetv3_small_050")
    if damage == "other shapes":
        state["blocks.0.0.conv_pw.weight"] = torch.zeros(3, 3)
    if damage == "a tensor is missing":
        del state["blocks.0.0.bn1.weight"]
    if damage == "a deeper one's":
        state["blocks.4.9.conv_pw.weight"] = torch.zeros(3)
    save_file(random_state("resnet18") if damage == "another model's" else state, path)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    if damage == "no safetensors":
        path.write_bytes(b"<html>not found</html>")
    outcome = run(train, flowers, "--arch", SMALL, "--weights", path, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "own.safetensors" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "out" / "checkpoint.pth").exists()


def test_a_trainings_own_file_is_read_and_its_average_taken(tmp_path):
    """As timm's training program writes it, with its options beside the tensors."""
    state = random_state("mobilenetv3_small_050")
    average = {name: 2 * tensor for name, tensor in state.items()}
    options = argparse.Namespace(lr=0.1)
    torch.save({"args": options, "epoch": 3, "state_dict": state, "state_dict_ema": average}, tmp_path / "last.pth.tar")
    backbone, _ = load_backbone(SMALL, str(tmp_path / "last.pth.tar"))
    assert torch.equal(backbone.module.model.conv_stem.weight, average["conv_stem.weight"])


def test_a_download_that_lacks_tensors_is_refused(monkeypatch):
    """Whatever has cut it: timm itself would leave them random."""
    state = random_state("mobilenetv3_small_050")
    cut = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.3")}
    here = functools.partial(timm.create_model, pretrained_cfg_overlay={"state_dict": cut})
    monkeypatch.setattr(timm_models, "check_reachable", lambda _: None)
    monkeypatch.setattr(timm, "create_model", here)
    with pytest.raises(RunError, match=r"the file lacks blocks\.3"):
        load_backbone(SMALL)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub of timm's weights as a download of one file asks for."""

    file, asked = b"", []

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(200 if self.path.endswith("model.safetensors") else 404)
        for name, value in (("ETag", '"1"'), ("X-Repo-Commit", 40 * "a"), ("Content-Length", str(len(self.file)))):
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if self.path.endswith("model.safetensors"):
            self.wfile.write(self.file)

    def log_message(self, *_):
        """Keep quiet."""


# Trains from what was downloaded before, and again when that is gone
WITHOUT_SERVER = """
import pathlib, sys, train
from flower_classifier.base import process
hub, *arguments = sys.argv[1:]
train.main(arguments)
pathlib.Path(hub).rename(hub + " gone")
process.run(lambda: train.main(arguments), as_program=True)
"""


@pytest.mark.slow
def test_weights_are_downloaded_once_and_their_licence_is_said_and_stored(flowers, tmp_path):
    save_file(random_state("convnextv2_atto", num_classes=0), tmp_path / "sent")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.file, Hub.asked = (tmp_path / "sent").read_bytes(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
    hub["HF_HUB_DISABLE_XET"] = "1"
    own = ["train.py", flowers, "--arch", "timm/convnextv2_atto.fcmae", "--epochs", 1, "--views", 1, "--no_report"]
    own += ["--image_size", 64, "--save_dir", tmp_path / "out"]
    outcome = run_program(*own, cold=True, **hub)  # timm reads where the hub is while it is loaded
    server.shutdown()
    server.server_close()
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("the weights' licence is cc-by-nc-4.0, which may not allow every use") == 1
    assert Hub.asked
    stored = read(tmp_path / "out" / "checkpoint.pth")
    assert stored["training"]["weights"] == "convnextv2_atto.fcmae"
    assert stored["training"]["licence"] == "cc-by-nc-4.0"
    sent = read_file(tmp_path / "sent")["stem.0.weight"]
    assert torch.equal(stored["state_dict"]["backbone.model.stem.0.weight"], sent)
    failed = run_program("-c", WITHOUT_SERVER, tmp_path / "hub", *own[1:], cold=True, **hub)
    assert (failed.out.count("checkpoint: "), failed.code, "Traceback" in failed.err) == (1, 1, False), failed.err
    assert "cannot get the pretrained weights" in failed.err
    assert "--weights" in failed.err.splitlines()[-1]


def test_a_size_that_a_model_cannot_take_is_refused(run, flowers, tmp_path):
    own = ["--arch", "timm/inception_v4", "--weights", "none", "--image_size", 8, "--save_dir", tmp_path]
    outcome = run(train, flowers, *own)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--image_size timm/inception_v4 takes no pictures of 8 pixels (" in outcome.err


# -------------------------------------------------------------------------------------------------- without timm


def test_timm_is_asked_for_in_a_line_where_it_is_missing_and_else_not_loaded(flowers, photo, tmp_path):
    missing = "import sys; sys.modules['timm'] = None; "
    whole = f"{missing}from flower_classifier.base import process; import train; process.run(train.main)"
    outcome = run_program("-c", whole, flowers, "--arch", LITE, "--save_dir", tmp_path)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].endswith(
        "architectures of timm/ need timm, which is not installed: pip install timm"
    )
    both = (
        "import sys, train, predict; data, photo, folder, *own = sys.argv[1:]\n"
        "train.main([data, *own, '--save_dir', folder]); predict.main([photo, folder + '/checkpoint.pth'])\n"
        "print([name for name in sys.modules if name.startswith('timm')])"
    )
    outcome = run_program("-c", both, flowers, photo, tmp_path / "out", *QUICK, "--epochs", 1, cold=True)
    assert outcome.out.splitlines()[-1] == "[]", outcome.err


def test_old_names_that_timm_states_nothing_for_are_unknown():
    for name in ("tf_efficientnet_b0_ns", "vit_base_patch16_224_in21k"):
        with pytest.raises(InputError, match="there is no such architecture"):
            resolve_arch(f"timm/{name}")


def test_mistyped_names_are_pointed_out():
    with pytest.raises(InputError, match="timm/tf_efficientnet_lite0"):
        resolve_arch("timm/tf_eficientnet_lite0")
    assert resolve_arch("timm/TF_EfficientNet_Lite0") == LITE
