"""What a head sees of its backbone, by --layers: in training, in checkpoints, and in damaged ones."""

import pytest
import torch
from support import NAMES, QUICK, parse, read
from torch.nn import functional as F
from torchvision import models

import model_utils
import predict
import train
from data_utils import load_data
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import LEAST_UNDER_ROOT, new_classifier
from flower_classifier.networks.safe_files import write_atomically


@torch.inference_mode()
def squeezenet_rows(state, pixels):
    """What the backbone in a file gives, by torchvision: means of the last map, and of what enters fire modules."""
    network = models.squeezenet1_1(weights=None).features.eval()
    prefix = "backbone.features."
    network.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    maps = [network[:10]((pixels / 255 - mean) / std)]
    for fire in network[10:]:
        maps.append(fire(maps[-1]))
    return [values.mean(dim=(2, 3)) for values in reversed(maps)]


@pytest.mark.parametrize(
    ("options", "square_roots"),
    [
        ((), True),
        (("--layers", "last"), True),
        (("--no_roots",), False),
        (("--no_whitening",), False),
        (("--layers", "last", "--no_whitening"), False),
    ],
    ids=["default", "last", "without roots", "not whitened", "the backbone's own output"],
)
def test_a_checkpoint_answers_as_torchvisions_network_and_its_head_do(
    train_into, flowers, tmp_path, options, square_roots
):
    """Its head is for features, or their square roots, that are not whitened, whatever it has learned from."""
    train_into(tmp_path, flowers, *QUICK, "--epochs", 2, "--views", 1, "--hidden_units", 0, *options)
    contents = read(tmp_path / "checkpoint.pth")
    state = contents["state_dict"]
    pixels = torch.randint(256, (4, 3, 224, 224), dtype=torch.uint8)
    last, *means = squeezenet_rows(state, pixels)
    is_last = "last" in options
    rows = last if is_last else torch.cat([last, *means], dim=1)
    rows = (rows + LEAST_UNDER_ROOT).sqrt() if square_roots else rows
    assert (contents["layers"], contents["square_roots"]) == ("last" if is_last else "several", square_roots)
    names = [] if is_last else ["features.12", "features.11", "features.10"]
    assert [module for module, *_ in contents["means"]] == names
    assert state["head.0.weight"].shape == (6, rows.shape[1])
    with torch.inference_mode():
        logits = Checkpoint.load(tmp_path / "checkpoint.pth").classifier(pixels)
    expected = F.linear(rows, state["head.0.weight"], state["head.0.bias"])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_flat_features_are_for_vgg_and_alexnet_alone(train_into, run, flowers, tmp_path):
    assert new_classifier("vgg11", 3, "none", (), layers="flat")[0].feature_width == 25_088
    own = ("--weights", "none", "--epochs", 1, "--views", 1, "--hidden_units", 0, "--no_report", "--layers", "flat")
    own += ("--category_names", NAMES)
    train_into(tmp_path / "flat", flowers, "--arch", "alexnet", *own)
    contents = read(tmp_path / "flat" / "checkpoint.pth")
    assert (contents["layers"], contents["means"]) == ("flat", [])
    assert contents["state_dict"]["head.0.weight"].shape == (6, 9_216)
    assert contents["training"]["shrinkage"] == 0  # of a covariance of so many numbers
    for arch in ("resnet18", "cnn"):
        outcome = run(train, flowers, "--arch", arch, *own, "--save_dir", tmp_path / arch)
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert "--layers" in outcome.err


def test_heads_on_several_layers_and_on_the_last_share_what_is_kept_of_the_photos(train_into, flowers, tmp_path):
    options = (*QUICK, "--epochs", 1, "--views", 1, "--cache_dir", tmp_path / "cache")
    for number, layers in enumerate(("last", "several", "last")):
        said = train_into(tmp_path / "out", flowers, *options, "--layers", layers).err
        assert ("48 of 48 taken from the cache" in said) == (number > 0)
        assert ("reading" in said) == (number == 0)
    assert len(list((tmp_path / "cache").rglob("rows.bin"))) == 1


def test_a_new_classifier_is_ready_to_answer(flowers):
    """No dropout, and so the same answer every time; the model of the exercise too, before it is trained."""
    classifier, _ = new_classifier("timm/test_byobnet", 3, "none", (64,), 0.5)
    assert not any(module.training for module in classifier.modules())
    model = model_utils.build_model("timm/test_byobnet", load_data(flowers), 64, 0.5, "none")
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    assert model_utils.predict(photo, model) == model_utils.predict(photo, model)


# ------------------------------------------------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def several(flowers, tmp_path_factory):
    """The checkpoint of a linear head on squeezenet's several layers."""
    folder = tmp_path_factory.mktemp("several")
    options = (*QUICK, "--epochs", "1", "--views", "1", "--hidden_units", "0")
    train.main([str(flowers), *options, "--save_dir", str(folder)])
    return folder / "checkpoint.pth"


NEW_IN_FORMAT_6 = ("layers", "means", "is_nonnegative", "square_roots")


def test_a_file_of_format_5_answers_with_the_same_digits(train_into, run, flowers, tmp_path):
    train_into(tmp_path, flowers, *QUICK, "--epochs", 2, "--layers", "last", "--no_whitening")
    contents = read(tmp_path / "checkpoint.pth")
    assert contents["format_version"] == 8
    old = {name: value for name, value in contents.items() if name not in NEW_IN_FORMAT_6}
    write_atomically(tmp_path / "old.pth", {**old, "format_version": 5})  # which adds the digest
    photos = sorted((flowers / "test").rglob("*.jpg"))
    new, old = (run(predict, *photos, tmp_path / name, "--format", "json") for name in ("checkpoint.pth", "old.pth"))
    assert (old.code, old.err) == (0, "")
    assert old.out == new.out


def test_a_file_of_format_5_of_alexnet_has_flat_features(tmp_path):
    classifier, _ = new_classifier("alexnet", 3, "none", (), layers="flat")
    contents = Checkpoint(
        classifier.config, classifier.preprocessing, ("a", "b", "c"), classifier.state_dict()
    ).to_plain()
    old = {name: value for name, value in contents.items() if name not in NEW_IN_FORMAT_6}
    write_atomically(tmp_path / "old.pth", {**old, "format_version": 5})
    again = Checkpoint.load(tmp_path / "old.pth").classifier
    pixels = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        assert again.config.layers == "flat"
        assert torch.equal(again(pixels), classifier.eval()(pixels))


def other(**changes):
    """Return a change of what a file says of the last layer: name, form, channels or tokens before the patches."""
    places = ("module", "form", "channels", "prefix")

    def change(means):
        last = [changes.get(name, value) for name, value in zip(places, means[0], strict=False)]
        return [[*last, *means[0][len(places) :]], *means[1:]]

    return change


OTHER = {
    "of a module that the network lacks": other(module="features.99"),
    "of a module that never runs": other(module="classifier.0"),
    "of a name that is no text": other(module=12),
    "of a form that there is not": other(form="circle"),
    "of a form in a list": other(form=["map"]),
    "of tokens": other(form="tokens"),
    "with the channels last": other(form="map, channels last"),
    "of too few channels": other(channels=511),
    "of no channels": other(channels=0),
    "of true channels": other(channels=True),
    "of a million channels": other(channels=10**6),
    "of half a channel": other(channels=512.0),
    "of tokens before the first": other(prefix=-1),
    "of a class token in a map": other(prefix=1),
    "of each other's channels": lambda means: [[means[1][0], *means[0][1:]], [means[0][0], *means[1][1:]], means[2]],
    "one less": lambda means: means[1:],
    "one more": lambda means: [*means, means[0]],
    "numbers": lambda means: [1, 2, 3],
    "a part of a layer": lambda means: [means[0][:3], *means[1:]],
    "more than a layer": lambda means: [[*means[0], 0, 0], *means[1:]],
    "a number": lambda means: 3,
    "a text": lambda means: "features.12",
    "none": lambda means: [],
    "nothing": lambda means: None,
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_other_layers_than_a_head_was_trained_on_are_refused_in_a_line(run, several, flowers, tmp_path, change):
    contents = read(several)
    write_atomically(tmp_path / "odd.pth", {**contents, "means": change(contents["means"])})
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "odd.pth")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1), outcome.err


def test_layers_that_are_not_named_are_refused_in_a_line(run, several, flowers, tmp_path):
    contents = read(several)
    del contents["means"]
    write_atomically(tmp_path / "odd.pth", contents)
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "odd.pth")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1), outcome.err


@pytest.mark.parametrize("change", [{"layers": "flat"}, {"layers": "some"}, {"layers": 3}, {"layers": ["last"]}])
def test_a_file_that_says_another_kind_of_features_is_refused_in_a_line(run, several, flowers, tmp_path, change):
    write_atomically(tmp_path / "odd.pth", {**read(several), **change})
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "odd.pth")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1), outcome.err


@pytest.mark.parametrize("form", ["map", "map, channels last"])
def test_tokens_that_are_said_to_be_a_map_are_refused_in_a_line(run, flowers, tmp_path, form):
    classifier, _ = new_classifier("timm/test_vit", 3, "none", (), layers="several")
    contents = Checkpoint(
        classifier.config, classifier.preprocessing, ("a", "b", "c"), classifier.state_dict()
    ).to_plain()
    first, *others = contents["means"]
    assert Checkpoint.from_plain(contents).classifier.feature_width == 128 + 3 * 128
    odd = [first[0], form, 128, 0, *first[4:]]
    write_atomically(tmp_path / "odd.pth", {**contents, "means": [odd, *others]})
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "odd.pth")
    *notes, refusal = outcome.err.splitlines()  # such a checkpoint has no memory, which is said too
    assert (outcome.code, outcome.out, len(notes)) == (2, "", 1), outcome.err
    assert refusal.endswith("what enters model.blocks.5 is not as the checkpoint says: it is damaged")


def test_the_answers_to_photos_are_those_of_the_file_before_it_was_changed(run, several, flowers, tmp_path):
    """That the files above are refused for what was changed in them, and not for how."""
    write_atomically(tmp_path / "same.pth", read(several))
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    before, after = run(predict, photo, several), run(predict, photo, tmp_path / "same.pth")
    assert parse(after.out) == parse(before.out)


@pytest.mark.parametrize("key", ["layers", "means", "is_nonnegative", "square_roots"])
def test_a_checkpoint_that_does_not_say_what_its_head_sees_is_refused(run, several, flowers, tmp_path, key):
    """Whatever was assumed instead would give wrong answers."""
    contents = read(several)
    del contents[key]
    write_atomically(tmp_path / "odd.pth", contents)
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "odd.pth")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1), outcome.err
