"""Every architecture loses its classifier, keeps the rest, and takes weights from wherever they come."""

import functools
import http.server
import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from flower_classifier.base.messages import InputError, RunError
from flower_classifier.networks import backbones
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.source import fill_backbone, fold_batch_norms
from flower_classifier.networks.torchvision_models import download_weights
from flower_classifier.photos.views import Preprocessing

TORCHVISION_NAMES = models.list_models(module=models)
SMALLEST_OF_A_FAMILY = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32",
    "wide_resnet50_2",
)  # fmt: skip


def default_preprocessing(arch):
    return source_of(arch).weights(arch, None, None).preprocessing


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(name, marks=[] if name in SMALLEST_OF_A_FAMILY else [pytest.mark.thorough])
        for name in TORCHVISION_NAMES
    ],
)
def test_every_model_of_the_registry_becomes_a_backbone_of_its_stated_width(arch):
    preprocessing = default_preprocessing(arch)
    backbone = source_of(arch).build_empty(arch, preprocessing)
    module = backbone.module.eval().to("meta")
    size = preprocessing.crop_size
    features = module(torch.empty(2, 3, size, size, device="meta"))
    assert features.shape == (2, backbone.width)
    assert fold_batch_norms(module)(torch.empty(2, 3, size, size, device="meta")).shape == features.shape


def test_the_classic_widths():
    widths = {"alexnet": 256, "vgg16": 512, "densenet121": 1024, "densenet161": 2208, "squeezenet1_1": 512}
    for arch, width in widths.items():
        assert source_of(arch).build_empty(arch, default_preprocessing(arch)).width == width
    for arch, width in {"alexnet": 9216, "vgg16": 25088}.items():
        assert source_of(arch).build_empty(arch, default_preprocessing(arch), flat=True).width == width


def test_vgg_and_alexnet_alone_hand_their_last_layer_on_flat():
    """Those whose first layer with weights, of their own classifier, takes more numbers than there are channels."""
    flat = {name for name in TORCHVISION_NAMES if name.startswith("vgg")} | {"alexnet"}
    assert {name for name in TORCHVISION_NAMES if source_of(name).has_flat(name)} == flat


@pytest.mark.parametrize("arch", ["alexnet", "vgg11"])
def test_features_of_vgg_and_alexnet_are_their_last_map_averaged_unless_they_are_to_be_flat(arch):
    original = models.get_model(arch, weights=None).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        maps = original.features(images)
        for is_flat, expected in ((False, maps.mean(dim=(2, 3))), (True, original.avgpool(maps).flatten(1))):
            backbone = source_of(arch).build_empty(arch, default_preprocessing(arch), is_flat)
            fill_backbone(backbone.module, original.state_dict(), arch, "test")
            torch.testing.assert_close(backbone.module.eval()(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "classifier"),
    [
        ("alexnet", lambda model: model.classifier),
        ("resnet18", lambda model: model.fc),
        ("densenet121", lambda model: model.classifier),
        ("mobilenet_v3_small", lambda model: model.classifier),
        ("convnext_tiny", lambda model: model.classifier[2]),
        ("vit_b_32", lambda model: model.heads),
        ("swin_t", lambda model: model.head),
        ("googlenet", lambda model: model.fc),
        ("mnasnet0_5", lambda model: model.classifier),
    ],
)
def test_features_given_to_the_original_classifier_are_the_original_logits(arch, classifier):
    """torchvision's own whole model is the independent way to the same answer."""
    extras = {"aux_logits": True, "transform_input": True, "init_weights": False} if arch == "googlenet" else {}
    original = models.get_model(arch, weights=None, **extras).eval()
    backbone = source_of(arch).build_empty(arch, default_preprocessing(arch), source_of(arch).has_flat(arch))
    fill_backbone(backbone.module, original.state_dict(), arch, "test")
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = original(images)
        features = backbone.module.eval()(images)
        torch.testing.assert_close(classifier(original).eval()(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "googlenet", "densenet121", "regnet_y_400mf"]
)
def test_folding_batch_norms_changes_nothing_but_rounding(arch):
    """With statistics as training leaves them: those of a fresh network would fold into nothing."""
    torch.manual_seed(0)
    module = source_of(arch).build(arch, default_preprocessing(arch)).module.eval()
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(std=0.2)
    folded = fold_batch_norms(module)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules()) < len(norms)
    pixels = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), module(pixels), rtol=1e-3, atol=1e-3)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) == len(norms)  # itself is as before


def test_a_network_without_batch_norms_or_that_cannot_be_traced_stays_as_it_is():
    class Untraceable(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    for module in (nn.Sequential(nn.Linear(2, 2)), Untraceable(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))):
        assert fold_batch_norms(module) is module


def test_squeezenet_features_are_its_last_map_averaged():
    original = models.squeezenet1_1(weights=None).eval()
    backbone = source_of("squeezenet1_1").build_empty("squeezenet1_1", default_preprocessing("squeezenet1_1"))
    fill_backbone(backbone.module, original.state_dict(), "squeezenet1_1", "test")
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = original.features(images).mean(dim=(2, 3))
        torch.testing.assert_close(backbone.module.eval()(images), expected)


def test_the_cnn_is_the_classic_stack():
    backbone, weights = backbones.load_backbone("cnn", None, image_size=20)
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    names = [type(layer).__name__ for layer in backbone.module]
    assert names == [*block, *block, "MaxPool2d", *block, *block, "Flatten"]
    assert backbone.module(torch.zeros(2, 3, 20, 20)).shape == (2, backbone.width)
    assert weights.name == "none"


def test_aliases_and_unknown_names():
    assert backbones.resolve_arch("densenet") == "densenet121"
    assert backbones.resolve_arch("vgg") == "vgg16"
    assert backbones.resolve_arch("ResNet") == "resnet50"
    for family, smallest in (("efficientnet", "efficientnet_b0, efficientnet_b1"), ("convnext", "convnext_tiny")):
        with pytest.raises(InputError, match=f"did you mean {smallest}, "):
            backbones.resolve_arch(family)
    with pytest.raises(InputError, match="densenet121"):
        backbones.resolve_arch("densnet121")


def test_preprocessing_and_licence_are_the_chosen_weights_own():
    def weights(arch, name):
        return source_of(arch).weights(arch, name, None)

    assert weights("vit_b_16", "imagenet1k_swag_e2e_v1").preprocessing.crop_size == 384
    assert weights("vgg16", "IMAGENET1K_FEATURES").preprocessing.std == (1 / 255,) * 3
    imagenet = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
    assert weights("vgg16", None).preprocessing == weights("vgg16", "none").preprocessing == imagenet
    assert "LICENSE" in weights("vit_b_16", "IMAGENET1K_SWAG_E2E_V1").licence
    assert weights("vit_b_16", None).licence == ""


def test_a_source_knows_its_own_names_and_no_others():
    """Among torchvision's models are others than classifiers, which a checkpoint must not be able to ask for."""
    for source in backbones.SOURCES:
        for name in source.names():
            assert source_of(name) is source
    others = set(models.list_models()) - set(TORCHVISION_NAMES)
    assert "maskrcnn_resnet50_fpn" in others
    for name in (*others, "", "vgg", "VGG16", "torchvision/vgg16", "../vgg16", 3, None, ["vgg16"]):
        with pytest.raises(ValueError, match="there is no architecture"):
            source_of(name)


def test_a_vit_takes_the_size_of_its_weights():
    """SWAG's end-to-end weights see 384 pixels, 24 x 24 patches and a class token: 577 positions."""
    swag = source_of("vit_b_16").weights("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", None)
    backbone = source_of("vit_b_16").build_empty("vit_b_16", swag.preprocessing)
    assert backbone.module.encoder.pos_embedding.shape == (1, 577, 768)


# ------------------------------------------------------------------------------------------ weights of one's own


def save_weights(path, change=None):
    state = models.squeezenet1_1(weights=None).state_dict()
    torch.save(change(state) if change else state, path)
    return state


@pytest.mark.parametrize(
    "change",
    [
        None,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "epoch": 3},
        lambda state: OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
        lambda state: OrderedDict((name, tensor.double()) for name, tensor in state.items()),
    ],
    ids=["plain", "wrapped", "torchvision's", "data parallel", "float64"],
)
def test_weights_come_from_a_file(tmp_path, change):
    state = save_weights(tmp_path / "own.pth", change)
    backbone, weights = backbones.load_backbone("squeezenet1_1", str(tmp_path / "own.pth"))
    assert weights.name == "own.pth"
    for name, tensor in backbone.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name])


def test_densenet_files_with_the_names_of_old_are_read(tmp_path):
    """torchvision's published densenet files still say `norm.1` where the model says `norm1`."""
    state = models.densenet121(weights=None).state_dict()
    old = {}
    for name, tensor in state.items():
        if "denselayer" in name:
            for part in ("norm", "conv"):
                name = name.replace(f".{part}1.", f".{part}.1.").replace(f".{part}2.", f".{part}.2.")  # noqa: PLW2901
        if not name.endswith("num_batches_tracked"):  # nor do they count batches
            old[name] = tensor
    torch.save(old, tmp_path / "old.pth")
    backbone, _ = backbones.load_backbone("densenet121", str(tmp_path / "old.pth"))
    name = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(backbone.module.state_dict()[name], state[name])
    assert not any(tensor.is_meta for tensor in backbone.module.state_dict().values())


def test_a_data_parallel_mnasnet_is_read(tmp_path):
    """Its state dict carries version numbers, those of DataParallel in front."""
    torch.save(torch.nn.DataParallel(models.mnasnet0_5(weights=None)).state_dict(), tmp_path / "own.pth")
    assert backbones.load_backbone("mnasnet0_5", str(tmp_path / "own.pth"))[0].width == 1280


def test_a_file_that_does_not_fit_is_refused_by_the_name_of_what_is_wrong(tmp_path):
    save_weights(tmp_path / "own.pth")
    with pytest.raises(InputError, match=r"not vgg16's.*lacks features\.2\.weight"):
        backbones.load_backbone("vgg16", str(tmp_path / "own.pth"))
    save_weights(tmp_path / "short.pth", lambda state: {**state, "features.0.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"other shapes for features\.0\.weight"):
        backbones.load_backbone("squeezenet1_1", str(tmp_path / "short.pth"))
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(InputError, match=r"text\.pth"):
        backbones.load_backbone("squeezenet1_1", str(tmp_path / "text.pth"))


# --------------------------------------------------------------------------------------------------- the download


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server on 127.0.0.1 for the files below tmp_path/web."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def entry_for(url):
    transforms = functools.partial(ImageClassification, crop_size=224)
    return WeightsEnum("Local", {"V1": Weights(url=url, transforms=transforms, meta={})}).V1


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def test_weights_are_downloaded_into_torchs_cache_once(tmp_path, server, hub, capsys):
    state = save_weights(tmp_path / "web" / "net.pth")
    entry = entry_for(f"{server}/net.pth")
    assert torch.equal(download_weights(entry)["features.0.bias"], state["features.0.bias"])
    assert [path.name for path in hub.iterdir()] == ["net.pth"]
    (tmp_path / "web" / "net.pth").unlink()
    download_weights(entry)
    assert capsys.readouterr().out == ""  # stdout is for results


def test_a_download_that_cannot_be_had_says_what_to_fetch_and_where_to_put_it(server, hub):
    url = f"{server}/missing.pth"
    with pytest.raises(RunError) as caught:
        download_weights(entry_for(url))
    message = str(caught.value)
    for part in (url, str(hub), "architecture cnn", "File not found"):
        assert part in message


def test_without_a_network_the_architectures_whose_weights_are_there_are_named(server, hub):
    """By their files' names, as torchvision looks for them; another file of weights must be asked for by its name."""
    hub.mkdir(parents=True)
    for entry in (models.SqueezeNet1_1_Weights.DEFAULT, models.ResNet50_Weights.IMAGENET1K_V1):
        (hub / entry.url.rpartition("/")[2]).touch()
    with pytest.raises(RunError) as caught:
        download_weights(entry_for(f"{server}/missing.pth"))
    there = "or one whose weights are there: resnet50 (IMAGENET1K_V1), squeezenet1_1"
    assert str(caught.value).endswith(f"the architecture cnn, which needs none, {there}")


@pytest.mark.parametrize("damaged", [b"", b"<html>not found</html>", b"PK\x03\x04 half an archive"])
def test_a_damaged_file_in_torchs_cache_is_named(server, hub, damaged):
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(damaged)
    with pytest.raises(RunError, match=r"net\.pth is damaged .* delete it"):
        download_weights(entry_for(f"{server}/net.pth"))


def test_a_download_with_the_wrong_hash_is_refused(tmp_path, server, hub):
    save_weights(tmp_path / "web" / "net-deadbeef.pth")
    with pytest.raises(RunError, match="hash"):
        download_weights(entry_for(f"{server}/net-deadbeef.pth"))
    assert not list(hub.glob("*.pth"))
