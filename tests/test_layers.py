"""A backbone gives, behind its own output, the means of what enters its last blocks.

The independent way is the library's own network, with hooks of the test's own.
"""

import contextlib
import copy
import threading
import warnings

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from flower_classifier.networks.backbones import load_backbone, source_of
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.layers import last_layers
from flower_classifier.networks.source import fill_backbone

CPU = torch.device("cpu")
LAYERS = {  # of the smallest of each family: what the last blocks are, the last one first
    "alexnet": ("features.10", "features.8", "features.6"),
    "convnext_tiny": ("features.7.2", "features.7.1", "features.7.0"),
    "densenet121": ("features.denseblock4", "features.transition3", "features.denseblock3"),
    "efficientnet_b0": ("features.8", "features.7.0", "features.6.3"),
    "googlenet": ("inception5b", "inception5a", "inception4e"),
    "inception_v3": ("Mixed_7c",),  # with the next one there would be more than 4,096 numbers
    "maxvit_t": ("blocks.3", "blocks.2", "blocks.1"),
    "mnasnet0_5": ("layers.14", "layers.13.0", "layers.12.3"),
    "mobilenet_v2": ("features.18", "features.17", "features.16"),
    "mobilenet_v3_small": ("features.12", "features.11", "features.10"),
    "regnet_y_400mf": tuple(f"trunk_output.block4.block4-{number}" for number in (5, 4, 3)),
    "resnet18": ("layer4.1", "layer4.0", "layer3.1"),
    "shufflenet_v2_x0_5": ("conv5", "stage4.3", "stage4.2"),
    "squeezenet1_1": ("features.12", "features.11", "features.10"),
    "swin_t": ("features.7.1", "features.7.0", "features.6"),
    "vgg11": ("features.18", "features.16", "features.13"),
    "vit_b_32": ("encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_10"),  # a third would be too many
}
TIMM_LAYERS = {
    "timm/mobilenetv3_small_050": ("blocks.5", "blocks.4.2", "blocks.4.1"),
    "timm/deit_tiny_distilled_patch16_224": ("blocks.11", "blocks.10", "blocks.9"),  # two tokens before the patches
    "timm/swin_tiny_patch4_window7_224": ("layers.3", "layers.2", "layers.1"),
}
LARGE = ("convnext_tiny", "densenet121", "inception_v3", "maxvit_t", "vgg11", "vit_b_32")
# Where the processor has no instructions for it, bfloat16 takes many times as long
IN_BFLOAT16 = ("mobilenet_v3_small", "squeezenet1_1", "timm/deit_tiny_distilled_patch16_224")


def random_classifier(arch):
    """A classifier whose norms do something: those of a fresh network would fold into nothing."""
    classifier, _ = new_classifier(arch, 3, "none", ())
    torch.manual_seed(0)
    for norm in classifier.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.running_var):
                tensor.uniform_(0.8, 1.2)
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.normal_(std=0.1)
    return classifier


def plain_network(arch, state):
    """The library's own network with a backbone's tensors in it. No number of its own classifier matters."""
    if arch.startswith("timm/"):
        network = timm.create_model(arch.removeprefix("timm/"), num_classes=0)
        network.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
        return network.eval()
    extras = {"aux_logits": False, "transform_input": True} if arch in ("googlenet", "inception_v3") else {}
    large = arch in ("alexnet", "vgg11")  # with classifiers that take seconds to be drawn
    with torch.device("meta") if large else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how googlenet draws its weights
        network = models.get_model(arch, weights=None, **extras)
    expected = network.state_dict()  # which knows the version that mnasnet asks for
    expected.update(state)
    network.load_state_dict(expected, assign=True)
    for name in ("classifier", "fc", "head", "heads"):
        if hasattr(network, name):
            setattr(network, name, nn.Identity())
    return network.eval()


def entering(network, names, images):
    """Return what enters modules of a network while it runs, by name."""
    found = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: found.setdefault(name, inputs[0].detach().clone())
        )
        for name in names
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def mean_of(values, tokens):
    """The mean over positions of a map, either way round, or of the patches, beside the class token."""
    if values.dim() == 4:
        return values.mean(dim=(1, 2) if values.shape[1] == values.shape[2] else (2, 3))
    patches = values[:, tokens:].mean(dim=1)
    return torch.cat([values[:, 0], patches], dim=1) if tokens else patches


def case(arch, precision, large):
    return pytest.param(arch, precision, marks=[pytest.mark.thorough] if arch in large else [])


@pytest.mark.parametrize(
    ("arch", "precision"),
    [
        *(case(arch, "float32", LARGE) for arch in (*LAYERS, *TIMM_LAYERS)),
        *(case(arch, "bfloat16", ()) for arch in IN_BFLOAT16),
    ],
)
def test_behind_its_own_output_a_backbone_gives_the_means_of_what_enters_its_last_blocks(arch, precision, monkeypatch):
    """As it is built, and as it runs, with its batch norms folded and in its precision."""
    monkeypatch.setenv("FLOWERS_PRECISION", precision)
    classifier = random_classifier(arch)
    module, layers, prefix = classifier.backbone, classifier.config.means, "model." * arch.startswith("timm/")
    names = {**LAYERS, **TIMM_LAYERS}[arch]
    assert tuple(layer.module.removeprefix(prefix) for layer in layers) == names
    own = source_of(arch).build_empty(arch, classifier.preprocessing)  # without means; test_backbones.py looks at these
    fill_backbone(own.module.eval(), module.state_dict(), arch, "test")
    side = classifier.preprocessing.crop_size
    pixels = torch.randint(256, (2, 3, side, side), dtype=torch.uint8)
    images = (pixels.float() - classifier.mean) / classifier.std
    network = plain_network(arch, module.state_dict())
    tokens = {"vit_b_32": 1, "timm/deit_tiny_distilled_patch16_224": 2}.get(arch, 0)
    is_bfloat16 = precision == "bfloat16"
    frozen = FrozenBackbone(copy.deepcopy(classifier), CPU)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            found = entering(network, names, images)
            expected = [own.module(images), *(mean_of(found[name], tokens) for name in names)]
            as_built = module(images)
        for rows in (as_built, frozen(pixels)):
            parts = rows.split([classifier.output_width, *(layer.width for layer in layers)], dim=1)
            for part, wanted in zip(parts, expected, strict=True):
                assert part.shape == wanted.shape
                assert (part.float() - wanted.float()).norm() <= (0.05 if is_bfloat16 else 1e-4) * wanted.float().norm()


@pytest.mark.parametrize("arch", ["resnet18", "timm/test_vit"])
def test_no_layer_is_taken_that_makes_features_too_many_but_the_last_is_while_they_can_be_whitened(arch):
    backbone, _ = load_backbone(arch, "none")
    first, *_ = backbone.layers
    for width, count in ((4096 - sum(layer.width for layer in backbone.layers), 3), (4096, 1), (10**5, 0)):
        assert len(last_layers(backbone.module, backbone.preprocessing.crop_size, width)[0]) == count
    assert last_layers(backbone.module, backbone.preprocessing.crop_size, 4096)[0] == (first,)


def test_a_network_trained_from_scratch_gives_no_means():
    classifier, _ = new_classifier("cnn", 3)
    assert (classifier.config.layers, classifier.config.means, classifier.feature_width) == ("last", (), 64 * 16**2)


# ----------------------------------------------------------------------------------------------- one module, many users


@pytest.fixture
def module():
    torch.manual_seed(0)
    return load_backbone("timm/test_resnet", "none")[0].module.eval()


@torch.inference_mode()
def test_a_deep_copy_gives_its_own_means_even_amid_a_forward_of_the_first(module):
    one, other = torch.randn(2, 2, 3, 64, 64)
    copied = copy.deepcopy(module)
    for parameter in copied.parameters():
        parameter.mul_(1.5)
    alone = copied(other)
    assert not torch.allclose(module(other), alone)
    expected, amid = module(one), []
    module.model.layer3.register_forward_hook(lambda *_: amid.append(copied(other)))
    assert torch.equal(module(one), expected)
    assert torch.equal(amid[0], alone)


def test_threads_that_run_one_backbone_at_once_get_their_own_means(module):
    """All stand in the midst of their forwards at the same time."""
    images = torch.randn(4, 2, 3, 64, 64)
    with torch.inference_mode():
        expected = [module(values) for values in images]
    meeting, found = threading.Barrier(len(images), timeout=60), {}

    def meet(*_):
        meeting.wait()

    module.model.layer4.register_forward_hook(meet)

    def work(number):
        found[number] = module(images[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, rows in enumerate(expected):
        torch.testing.assert_close(found[number], rows)
    assert not torch.allclose(expected[0], expected[1])


@torch.inference_mode()
def test_an_inner_module_can_be_called_alone_and_a_forward_that_fails_leaves_nothing(module):
    images = torch.randn(2, 3, 64, 64)
    expected, before = module(images), module.model.forward_features(images)
    assert before.shape == (2, 96, 2, 2)
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 5, 64, 64))
    assert torch.equal(module.model.forward_features(images), before)
    assert torch.equal(module(images), expected)
