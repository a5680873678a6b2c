"""How deep the layers of a backbone lie, found out by running it."""

import pytest
import torch
from torchvision import models

from flower_classifier.networks.classifier import parameter_depths


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "vit_b_32", "swin_t"])
def test_depths_rise_from_the_first_layer_to_the_last(arch):
    """A transformer's tokens come first; attention's projection, which torch does not call, lies with its block."""
    with torch.device("meta"):
        module = models.get_model(arch)
    module = module.to_empty(device="cpu")
    for tensor in module.state_dict().values():
        tensor.zero_()
    depths = parameter_depths(module.eval(), 224)
    assert depths.keys() == dict(module.named_parameters()).keys()
    ends = {
        "resnet18": ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "fc.weight"),
        "mobilenet_v3_small": ("features.0.0.weight", "features.5.block.0.0.weight", "classifier.3.bias"),
        "vit_b_32": (
            "conv_proj.weight",
            "encoder.layers.encoder_layer_0.ln_1.weight",
            "encoder.layers.encoder_layer_0.self_attention.out_proj.weight",
            "encoder.layers.encoder_layer_11.mlp.3.weight",
            "heads.head.weight",
        ),
        "swin_t": (
            "features.0.0.weight",
            "features.1.0.attn.relative_position_bias_table",
            "features.7.1.mlp.3.bias",
            "head.weight",
        ),
    }[arch]
    found = [depths[name] for name in ends]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert (min(depths.values()), depths[ends[-1]]) == (0, 1)
