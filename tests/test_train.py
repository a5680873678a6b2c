"""train.py, run whole: what it prints, what it leaves, what it refuses."""

import json
import re
import shutil

import pytest
import torch
from support import NAMES, PROJECT, QUICK, TINY, read, run_program, same
from torch import nn
from torchvision.datasets import ImageFolder

from flower_classifier.photos import demo
from flower_classifier.report.report_files import files_of

LOSSES = r"training loss (\d+\.\d{4})   validation loss (\d+\.\d{4})"
EPOCH = rf"epoch +(\d+)/(\d+)   {LOSSES}   validation accuracy +(\d+)%"
BEST = r"best epoch (\d+)   validation accuracy (\d+)%"
TEST = r"(\d+) test photos   loss (\d+\.\d{4})   (\d+) of \1 right: \d+% \(.+; guessing: 17%\)   top-5 accuracy (\d+)%"
BELIEF = r"\d+% sure on average, right \d+% of the time"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("model", [("--arch", "cnn"), TINY], ids=["cnn", "frozen"])
def test_the_whole_output_of_a_run(train_into, flowers, tmp_path, model):
    outcome = train_into(tmp_path / "new" / "out", flowers, *model, "--epochs", 2)
    first, second, best, tested, belief, saved = outcome.out.splitlines()
    assert re.fullmatch(EPOCH, first).groups()[:2] == ("1", "2")
    assert re.fullmatch(EPOCH, second).groups()[:2] == ("2", "2")
    assert re.fullmatch(BEST, best)
    assert re.fullmatch(TEST, tested).group(1) == "18"
    assert re.fullmatch(BELIEF, belief)
    assert saved == f"checkpoint: {tmp_path}/new/out/checkpoint.pth"
    report = files_of("history") + files_of("evaluation") if model != TINY else []  # which has --no_report
    made = sorted(["last.pth", "lock", *report, *files_of("summary")])
    assert files_in(tmp_path) == ["new/out/checkpoint.pth", *(f"new/out/run/{name}" for name in made)]
    assert (
        "6 classes (49, 51, 54 and 3 more); photos: 48 training, 18 validation, 18 test; 8 training photos of a class"
        in outcome.err
    )
    assert ("warning: random weights" in outcome.err) == (model == TINY)
    assert "it/s" not in outcome.err  # no progress bar where there is no terminal


def test_a_folder_of_an_evil_name_steers_no_terminal_and_forges_no_result(train_into, flowers, tmp_path):
    outcome = train_into(tmp_path / "a\x1b[2J\nb", flowers, *TINY, "--epochs", 1)
    assert outcome.out.splitlines()[-1] == f"checkpoint: {tmp_path}/a\\x1b[2J\\nb/checkpoint.pth"


def test_without_test_photos_the_validation_photos_are_judged_as_if_others_had_chosen(train_into, tmp_path):
    """They chose the epoch, which is said; and each is judged at a temperature that was chosen without it."""
    demo.draw_dataset(tmp_path / "flowers", {"train": 8, "valid": 15}, size=32)
    outcome = train_into(tmp_path, tmp_path / "flowers", "--arch", "cnn", "--epochs", 2, "--learning_rate", 0.01)
    *_, best, judged, belief, _ = outcome.out.splitlines()
    assert re.fullmatch(TEST.replace("test", "validation"), judged).group(1) == "90"
    assert re.fullmatch(f"{BELIEF}; cross-validated; the epoch was chosen on these photos", belief)
    right = int(re.fullmatch(TEST.replace("test", "validation"), judged).group(3))
    assert re.search(BEST, best).group(2) == f"{100 * right / 90:.0f}"
    assert read(tmp_path / "checkpoint.pth")["temperature"] != 1


def test_class_folders_called_by_the_numbers_of_the_flowers_are_offered_names(train_into, flowers, tmp_path):
    """Once, and only where all do, and nobody has given names."""
    said = "--category_names cat_to_name.json gives their names"
    assert train_into(tmp_path / "out", flowers, *TINY, "--epochs", 1).err.count(said) == 1
    assert said not in train_into(tmp_path / "out", flowers, *TINY, "--epochs", 1, "--category_names", NAMES).err
    data = shutil.copytree(flowers / "train", tmp_path / "data")
    (data / "54").rename(data / "103")
    assert said not in train_into(tmp_path / "out", data, *TINY, "--epochs", 1).err


def test_the_reported_numbers_are_those_of_the_checkpoint(train_into, flowers, tmp_path):
    """Plain torch and ImageFolder, with the checkpoint's tensors put into a network written out here."""
    outcome = train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 4, "--image_size", 24, "--no_report")
    contents = read(tmp_path / "checkpoint.pth")
    blocks = [
        [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        for inputs, outputs in ((3, 32), (32, 32), (32, 64), (64, 64))
    ]
    layers = [*blocks[0], *blocks[1], nn.MaxPool2d(2), *blocks[2], *blocks[3], nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(64 * 12 * 12, 6)).eval()
    network.load_state_dict(dict(zip(network.state_dict(), contents["state_dict"].values(), strict=True)))

    from torchvision.transforms import v2

    steps = [v2.PILToTensor(), v2.Resize(24), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    photos = ImageFolder(flowers / "test", v2.Compose(steps))
    images, labels = torch.stack([image for image, _ in photos]), torch.tensor(photos.targets)
    with torch.no_grad():
        logits = network(images) / contents["temperature"]
    loss = nn.functional.nll_loss(logits.log_softmax(dim=1), labels).item()
    right = (logits.argmax(dim=1) == labels).sum().item()
    best, _ = re.search(BEST, outcome.out).groups()
    _, printed_loss, printed_right, _ = re.search(TEST, outcome.out).groups()
    assert float(printed_loss) == pytest.approx(loss, abs=1e-4)
    assert int(printed_right) == right
    rows = contents["history"]
    assert contents["training"]["epoch"] == int(best)
    assert f"best epoch {best}   validation accuracy {rows[int(best) - 1]['valid_accuracy']:.0%}" in outcome.out
    for printed, row in zip(re.findall(EPOCH, outcome.out), rows, strict=True):
        expected = (row["epoch"], 4, row["train_loss"], row["valid_loss"], round(100 * row["valid_accuracy"]))
        assert [float(number) for number in printed] == pytest.approx(expected, abs=0.006)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file_and_another_seed_another(train_into, flowers, tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        train_into(tmp_path / name, flowers, *TINY, "--views", 2, "--epochs", 2, "--seed", seed)
    one, again, other = (tmp_path / name / "checkpoint.pth" for name in ("one", "same", "other"))
    assert one.read_bytes() == again.read_bytes()
    assert not same(read(one)["state_dict"], read(other)["state_dict"])


@pytest.mark.slow
def test_a_frozen_backbone_does_not_move_and_the_cnn_does(train_into, flowers, tmp_path):
    """Batch-norm statistics included: this small network has plenty."""
    for name, epochs in (("short", 1), ("long", 3)):
        options = ("--epochs", epochs, "--no_report")
        train_into(tmp_path / name, flowers, "--arch", "timm/test_resnet", "--weights", "none", *options)
        train_into(tmp_path / f"cnn {name}", flowers, "--arch", "cnn", *options)

    def moved(one, other):
        before, after = (read(tmp_path / name / "run" / "last.pth")["learner"] for name in (one, other))
        return {name for name in before if not same(before[name], after[name])}

    def stored(name):
        state = read(tmp_path / name / "checkpoint.pth")["state_dict"]
        return {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}

    assert same(stored("short"), stored("long"))
    assert moved("short", "long") == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert len(moved("cnn short", "cnn long")) == 4 * 6 + 2


def test_the_head_is_what_was_asked_for(train_into, flowers, tmp_path):
    def shapes(*options):
        train_into(tmp_path, flowers, *QUICK, "--epochs", 1, *options)
        state = read(tmp_path / "checkpoint.pth")["state_dict"]
        return [tuple(tensor.shape) for name, tensor in state.items() if re.match(r"head\..*weight", name)]

    width = 512 + 512 + 384 + 384  # the last map's mean, and those of what enters the last three fire modules
    assert shapes() == [(512, width), (6, 512)]
    assert shapes("--hidden_units", 64, 32) == [(64, width), (32, 64), (6, 32)]
    assert shapes("--hidden_layer1=16") == [(16, width), (6, 16)]
    assert shapes("--hidden-units", 0) == [(6, width)]
    assert shapes("--hidden-units", 0, "--layers", "last") == [(6, 512)]


def test_a_checkpoint_holds_what_the_classic_exercise_asks_for(trained):
    contents = read(trained / "checkpoint.pth")
    assert (contents["arch"], contents["hidden_units"], contents["dropout"]) == ("cnn", [], 0.2)
    assert contents["class_to_idx"] == {"49": 0, "51": 1, "54": 2, "74": 3, "78": 4, "91": 5}
    assert contents["category_names"]["54"] == "sunflower"
    assert contents["training"]["epochs"] == 3
    assert contents["training"]["learning_rate"] == 0.001
    assert contents["preprocessing"]["crop_size"] == 32
    assert len(contents["history"]) == 3
    assert contents["format_version"] == 8


@pytest.mark.slow
def test_the_original_classifier_is_not_in_the_file(train_into, flowers, tmp_path):
    """alexnet's own classifier would add 234 MB to the 9 of its convolutions and the 19 of our head."""
    train_into(tmp_path, flowers, "--arch", "alexnet", "--weights", "none", "--epochs", 1, "--views", 1, "--no_report")
    assert (tmp_path / "checkpoint.pth").stat().st_size < 30e6
    assert not any("classifier" in name for name in read(tmp_path / "checkpoint.pth")["state_dict"])


def test_every_epoch_has_its_view(train_into, flowers, tmp_path):
    plain = train_into(tmp_path / "plain", flowers, *TINY, "--epochs", 4, "--views", 1)
    varied = train_into(tmp_path / "varied", flowers, *TINY, "--epochs", 4, "--views", 3, "--no_cache")
    losses = [re.findall(r"training loss (\S+)", outcome.out) for outcome in (plain, varied)]
    assert [one == other for one, other in zip(*losses, strict=True)] == [True, False, False, False]
    assert re.findall(r"reading 48 training photos, views? (\d(?: and \d)?)", varied.err) == ["0 and 1", "2"]
    assert re.findall(r"reading \d+ (?:validation|test) photos, view (\d)", varied.err) == ["0", "0"]


# ------------------------------------------------------------------------------------------------ folders and names


def test_spaces_and_letters_of_any_script_survive_the_whole_way(tmp_path, flowers):
    """Through real processes, from another folder, with relative paths."""
    data = tmp_path / "meine Blumen"
    for source, target in (("54", "Sonnen blume"), ("49", "雛菊")):
        shutil.copytree(flowers / "train" / source, data / target)
    photo = next((data / "雛菊").iterdir())
    photo = photo.rename(photo.with_name("Foto mit Ümläuten 1.jpg"))
    training = run_program(
        PROJECT / "train.py", "meine Blumen", "--arch", "cnn", "--epochs", 6, "--save_dir", "ein Ordner", cwd=tmp_path
    )
    assert training.code == 0, training.err
    assert "held out 4 training photos (20% of each class)" in training.err
    assert training.out.splitlines()[-1] == "checkpoint: ein Ordner/checkpoint.pth"
    relative = photo.relative_to(tmp_path)
    predicted = run_program(PROJECT / "predict.py", relative, "ein Ordner/checkpoint.pth", cwd=tmp_path)
    assert predicted.code == 0, predicted.err
    assert {line.rsplit(maxsplit=1)[0] for line in predicted.out.splitlines()} == {"雛菊", "Sonnen blume"}


def test_a_checkpoint_keeps_the_names_it_was_trained_with(train_into, flowers, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"54": "Sonnenblume", "999": "nobody"}), encoding="utf-8")
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 1, "--category_names", tmp_path / "names.json")
    assert read(tmp_path / "checkpoint.pth")["category_names"] == {"54": "Sonnenblume"}
    assert "names 1 of 6 classes" in outcome.err
