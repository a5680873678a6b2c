"""Which places speak for a class: against the class activation map by hand, on every kind of architecture."""

import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import predict
from flower_classifier.judging.heatmap import find_heatmap
from flower_classifier.networks.classifier import LEAST_UNDER_ROOT, new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.views import open_views


def untrained(arch, hidden_units=(), layers="several"):
    """A classifier of random weights, the same ones every time."""
    return new_classifier(arch, 6, "none", hidden_units, layers=layers)[0]


def hooks_of(classifier):
    """All hooks of a network's modules: those of the layers whose means are features are there all the time."""
    return [
        (name, list(module._forward_pre_hooks.values()), list(module._forward_hooks.values()))
        for name, module in classifier.named_modules()
    ]


def test_behind_average_pooling_and_a_linear_head_it_is_the_class_activation_map(flowers):
    """Zhou et al. 2016: the last feature map, weighted with the class's row of the head."""
    classifier = untrained("resnet18", layers="last")
    network = models.resnet18(weights=None)
    network.fc = classifier.head[0]
    network.load_state_dict(classifier.backbone.state_dict(), strict=False)
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    image = models.ResNet18_Weights.DEFAULT.transforms()(Image.open(photo))
    with torch.no_grad():
        maps = torch.nn.Sequential(*list(network.eval().children())[:-2])(image[None])[0]  # (512, 7, 7)
        by_class = torch.einsum("kc,chw->khw", network.fc.weight, maps).relu()
    pixels = torch.from_numpy(open_views(photo, classifier.preprocessing)[0]).permute(2, 0, 1)
    assert by_class.any()
    for label, expected in enumerate(by_class):
        values = find_heatmap(classifier, pixels, label, (48, 48)).values
        scale = expected.max().item() or 1
        assert values == pytest.approx((expected / scale).numpy(), abs=1e-3)
        assert values.max() == (1 if expected.any() else 0)


@pytest.mark.parametrize("square_roots", [False, True])
def test_what_the_positions_of_earlier_layers_say_is_added_to_it(flowers, square_roots):
    """By hand: what each position adds to the class's logit, of each layer in its own size, brought to the finest.

    Where the head sees square roots of means, a position's share of a mean counts by the slope of the root.
    """
    classifier = untrained("resnet18")
    classifier.look_at("several", square_roots)
    network = models.resnet18(weights=None).eval()
    network.load_state_dict(classifier.backbone.state_dict(), strict=False)
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    image = models.ResNet18_Weights.DEFAULT.transforms()(Image.open(photo))[None]
    with torch.no_grad():
        until_second = torch.nn.Sequential(*list(network.children())[:6])(image)
        in_third = network.layer3[0](until_second)  # (1, 256, 14, 14): what enters the block behind it
        third = network.layer3[1](in_third)
        in_fourth = network.layer4[0](third)  # (1, 512, 7, 7)
        maps = [network.layer4[1](in_fourth), in_fourth, third, in_third]
        means = torch.cat([values.mean(dim=(2, 3)) for values in maps], dim=1)
        slopes = 1 / (2 * (means[0] + LEAST_UNDER_ROOT).sqrt()) if square_roots else torch.ones_like(means[0])
        logits = ((means + LEAST_UNDER_ROOT).sqrt() if square_roots else means) @ classifier.head[0].weight.T
        pixels = torch.from_numpy(open_views(photo, classifier.preprocessing)[0]).permute(2, 0, 1)
        torch.testing.assert_close(classifier(pixels[None]), logits + classifier.head[0].bias, rtol=1e-3, atol=1e-3)
    for label in range(6):
        expected = np.zeros((14, 14), np.float32)
        weights = (slopes * classifier.head[0].weight[label].detach()).split([values.shape[1] for values in maps])
        for values, weight in zip(maps, weights, strict=True):
            said = (values[0] * weight[:, None, None]).sum(dim=0) / values[0, 0].numel()
            fine = torch.nn.functional.interpolate(said[None, None], (14, 14), mode="bilinear")[0, 0].numpy()
            expected += fine / (196 / said.numel())  # where a position becomes four, each says a quarter
        expected = expected.clip(min=0)
        values = find_heatmap(classifier, pixels, label, (48, 48)).values
        assert values == pytest.approx(expected / (expected.max() or 1), abs=1e-3)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (300, 300), (1000, 200), (90, 900), (40, 30)])
def test_the_box_is_what_the_network_sees_of_the_photo(tmp_path, size):
    """In a photo whose red and green say how far right and down a pixel lies: what the view's own corners say."""
    across, down = (np.arange(length) * 255 / (length - 1) for length in size)
    pixels = np.zeros((size[1], size[0], 3))
    pixels[:, :, 0], pixels[:, :, 1] = across, down[:, None]
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / "photo.png")
    classifier = untrained("squeezenet1_1")
    (view,) = torch.from_numpy(open_views(tmp_path / "photo.png", classifier.preprocessing)).permute(0, 3, 1, 2)
    seen = (view[0, 0, 0], view[1, 0, 0], view[0, -1, -1], view[1, -1, -1])  # of (3, 224, 224)
    box = find_heatmap(classifier, view, 0, size).box
    assert box == pytest.approx([share.item() / 255 for share in seen], abs=0.025)
    assert box[0] + box[2] == pytest.approx(1, abs=0.02)  # the middle, but for whole pixels of the resized photo
    assert box[1] + box[3] == pytest.approx(1, abs=0.02)


ARCHS = ["cnn", "alexnet", "densenet121", "squeezenet1_1", "mobilenet_v3_small", "googlenet", "convnext_tiny", "swin_t"]


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kind_of_network_that_ends_in_places_has_one(flowers, arch):
    classifier = untrained(arch)
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    pixels = torch.from_numpy(open_views(photo, classifier.preprocessing)[0]).permute(2, 0, 1)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    hooks = hooks_of(classifier)
    with torch.inference_mode():
        spoken_for = classifier.features(pixels[None]) @ classifier.head[0].weight.T  # (1, 6): logits without the bias
    found = find_heatmap(classifier, pixels, spoken_for.argmax().item(), (48, 48)).values
    assert (found.ndim, min(found.shape) > 1) == (2, True)
    assert np.isfinite(found).all()
    assert (found.min() >= 0, found.max()) == (True, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    assert hooks_of(classifier) == hooks


def test_what_lies_where_the_map_is_dark_does_not_speak_for_the_class(flowers):
    """The slope of the logit along each place of alexnet's map, whose places have weights of their own."""
    classifier = untrained("alexnet", hidden_units=(8,), layers="flat")
    pixels = torch.from_numpy(
        open_views(flowers / "test" / "54" / "drawn_000.jpg", classifier.preprocessing)[0]
    ).permute(2, 0, 1)
    with torch.no_grad():
        batch = (pixels[None] - classifier.mean) / classifier.std
        maps = classifier.backbone.features(batch)  # (1, 256, 6, 6)

        def logit(maps):
            return classifier.head(torch.flatten(classifier.backbone.avgpool(maps), 1))[0, 1].item()

        slopes = np.empty((6, 6))
        for row, column in np.ndindex(6, 6):
            less = maps.clone()
            less[..., row, column] *= 0.99
            slopes[row, column] = (logit(maps) - logit(less)) / 0.01
    slopes = slopes.clip(min=0)
    found = find_heatmap(classifier, pixels, 1, (48, 48)).values
    assert found == pytest.approx(slopes / slopes.max(), abs=0.05)


@pytest.mark.slow
def test_a_vision_transformer_has_none_and_says_so(run, train_into, flowers, tmp_path):
    assert find_heatmap(untrained("vit_b_32"), torch.zeros(3, 224, 224, dtype=torch.uint8), 0, (48, 48)) is None
    for split in ("train", "valid"):
        for name in ("54", "74"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            (folder / "a.jpg").symlink_to(flowers / split / name / "drawn_000.jpg")
            (folder / "b.jpg").symlink_to(flowers / split / name / "drawn_001.jpg")
    options = ("--arch", "timm/test_vit", "--weights", "none", "--epochs", 1, "--no_report")
    train_into(tmp_path, tmp_path / "data", *options)
    photos = sorted((flowers / "test" / "54").iterdir())[:2]  # it is said once, not for each
    plain = run(predict, *photos, tmp_path / "checkpoint.pth", "--plot", tmp_path / "plain")
    mapped = run(predict, *photos, tmp_path / "checkpoint.pth", "--plot", tmp_path / "mapped", "--heatmap")
    assert (mapped.code, mapped.out) == (plain.code, plain.out)
    assert mapped.err == "--heatmap: timm/test_vit has no last feature map, so there is none to draw\n"
    for photo in photos:
        pictures = [tmp_path / name / f"{photo.name}.png" for name in ("plain", "mapped")]
        assert np.array_equal(*(np.asarray(Image.open(picture)) for picture in pictures))


def test_looking_for_it_leaves_the_probabilities_alone(run, trained, trained_on_features, flowers, tmp_path):
    """Those of the photos behind it too, to the last digit."""
    for save_dir in (trained, trained_on_features):
        arguments = (flowers / "test" / "54", save_dir / "checkpoint.pth", "--format", "json")
        plain = run(predict, *arguments)
        mapped = run(predict, *arguments, "--plot", tmp_path / save_dir.name, "--heatmap")
        assert (mapped.code, mapped.err) == (0, "")
        assert json.loads(mapped.out) == json.loads(plain.out)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "times"), [("squeezenet1_1", 20), ("alexnet", 5), ("convnext_tiny", 5), ("vgg11", 5)])
def test_a_heat_map_is_the_networks_own_while_workers_run_it_for_other_photos(flowers, precision, arch, times):
    """These have no batch norms to fold: in float32 the workers run the very network that is looked into.

    In bfloat16 they run a copy, whose forwards must leave no trace in it either.
    """
    classifier = untrained(arch, hidden_units=(8,))
    frozen = FrozenBackbone(classifier, torch.device("cpu"))
    pixels = torch.from_numpy(open_views(flowers / "test" / "54" / "drawn_000.jpg", classifier.preprocessing)[0])
    pixels = pixels.permute(2, 0, 1)[:, :96, :96]  # of this size, since vgg11 and convnext_tiny take their time
    quiet = find_heatmap(classifier, pixels, 0, (48, 48)).values
    assert (frozen.network is classifier.backbone) == (precision == torch.float32)
    done = threading.Event()

    def work():
        with torch.inference_mode():
            while not done.is_set():
                frozen(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        maps = [find_heatmap(classifier, pixels, 0, (48, 48)).values for _ in range(times)]
    finally:
        done.set()
        for worker in workers:
            worker.join()
    assert all(found == pytest.approx(quiet, abs=1e-3) for found in maps)
