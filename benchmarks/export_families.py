"""Whether a network of every family can be exported, for docs/export.md. Run by hand.

    python benchmarks/export_families.py
    python benchmarks/export_families.py resnet50 timm/vit_small_patch14_dinov2     (these alone)

One architecture of each family of torchvision and of timm, with random weights and a head for 102 classes: exported,
then compared with torch as export.py compares it. Takes a quarter of an hour on two cores.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.messages import RunError
from flower_classifier.export.onnx_model import WholeNetwork, compare, onnx_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import new_classifier

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
TIMM = (
    "resnet18", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224",
    "tf_efficientnet_lite0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "swin_tiny_patch4_window7_224",
    "regnety_002", "levit_128s", "maxvit_rmlp_pico_rw_256", "vit_small_patch14_dinov2", "vit_base_patch16_siglip_224",
)  # fmt: skip


def row(arch: str) -> str:
    """Return what is said of one architecture."""
    classifier, _ = new_classifier(arch, 102, "none")
    classes = tuple(map(str, range(102)))
    tensors = dict(classifier.state_dict())
    checkpoint = Checkpoint(classifier.config, classifier.preprocessing, classes, tensors)
    began = time.perf_counter()
    try:
        network = WholeNetwork(checkpoint)
        model = onnx_of(network, classifier.preprocessing.crop_size)
        found = compare(network, model, classifier.preprocessing)
    except RunError as error:
        return f"| {arch} | {error} | | |"
    said = "the same" if found.holds else "NOT THE SAME"
    size, seconds = len(model) / 1e6, time.perf_counter() - began
    return f"| {arch} | {said} | {found.difference:.0e} of {found.largest:.0e} | {size:.0f} | {seconds:.0f} |"


def main() -> None:
    """Print the table."""
    print("| architecture | answers | largest difference of a logit | size, MB | time, s |\n|---|---|---|---|---|")
    for arch in sys.argv[1:] or [*TORCHVISION, *(f"timm/{name}" for name in TIMM)]:
        print(row(arch), flush=True)


if __name__ == "__main__":
    main()
