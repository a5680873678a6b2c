"""train.py, run whole: what it prints, what it leaves, what it refuses."""

import json
import re
import shutil

import pytest
import torch
from support import PROJECT, QUICK, read, run_program, same
from torch import nn
from torchvision.datasets import ImageFolder

import train

LOSSES = r"training loss (\d+\.\d{4})   validation loss (\d+\.\d{4})"
EPOCH = rf"epoch +(\d+)/(\d+)   {LOSSES}   validation accuracy +(\d+\.\d\d)%"
BEST = r"best epoch (\d+)   validation accuracy (\d+\.\d\d)%"
TEST = BEST + r"   test loss (\d+\.\d{4})   test accuracy (\d+\.\d\d)%"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("model", [("--arch", "cnn"), QUICK], ids=["cnn", "frozen"])
def test_the_whole_output_of_a_run(train_into, flowers, tmp_path, model):
    outcome = train_into(tmp_path / "new" / "out", flowers, *model, "--epochs", 2)
    first, second, tested, saved = outcome.out.splitlines()
    assert re.fullmatch(EPOCH, first).groups()[:2] == ("1", "2")
    assert re.fullmatch(EPOCH, second).groups()[:2] == ("2", "2")
    assert re.fullmatch(TEST, tested)
    assert saved == f"checkpoint: {tmp_path}/new/out/checkpoint.pth"
    assert files_in(tmp_path) == ["new/out/checkpoint.pth", "new/out/run/last.pth", "new/out/run/lock"]
    assert "6 classes; photos: 48 train, 18 valid, 18 test" in outcome.err
    assert ("warning: --weights none" in outcome.err) == (model == QUICK)
    assert "it/s" not in outcome.err  # no progress bar where there is no terminal


def test_the_reported_numbers_are_those_of_the_checkpoint(train_into, flowers, tmp_path):
    """Plain torch and ImageFolder, with the checkpoint's tensors put into a network written out here."""
    outcome = train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 4, "--image_size", 24)
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
        logits = network(images)
    loss = nn.functional.nll_loss(logits.log_softmax(dim=1), labels).item()
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    best, _, printed_loss, printed_accuracy = re.search(TEST, outcome.out).groups()
    assert float(printed_loss) == pytest.approx(loss, abs=1e-4)
    assert float(printed_accuracy) == pytest.approx(100 * accuracy, abs=0.005)
    rows = contents["history"]
    assert contents["training"]["epoch"] == int(best)
    assert rows[int(best) - 1] == max(rows, key=lambda row: (row["valid_accuracy"], -row["valid_loss"]))
    for printed, row in zip(re.findall(EPOCH, outcome.out), rows, strict=True):
        expected = (row["epoch"], 4, row["train_loss"], row["valid_loss"], 100 * row["valid_accuracy"])
        assert [float(number) for number in printed] == pytest.approx(expected, abs=0.006)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(train_into, flowers, tmp_path):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        train_into(tmp_path / name, flowers, *QUICK, "--views", 2, "--epochs", 2, "--seed", seed)
    one, again, other = (tmp_path / name / "checkpoint.pth" for name in ("one", "same", "other"))
    assert one.read_bytes() == again.read_bytes()
    assert not same(read(one)["state_dict"], read(other)["state_dict"])


def test_a_frozen_backbone_does_not_move_and_the_cnn_does(train_into, flowers, tmp_path):
    """Batch-norm statistics included: resnet18 has plenty."""
    for name, epochs in (("short", 1), ("long", 3)):
        train_into(tmp_path / name, flowers, "--arch", "resnet18", "--weights", "none", "--epochs", epochs)
        train_into(tmp_path / f"cnn {name}", flowers, "--arch", "cnn", "--epochs", epochs)

    def moved(one, other):
        before, after = (read(tmp_path / name / "run" / "last.pth")["trainee"] for name in (one, other))
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

    assert shapes() == [(512, 512), (6, 512)]
    assert shapes("--hidden_units", 64, 32) == [(64, 512), (32, 64), (6, 32)]
    assert shapes("--hidden_layer1=16") == [(16, 512), (6, 16)]
    assert shapes("--hidden-units", 0) == [(6, 512)]


def test_a_checkpoint_holds_what_the_classic_exercise_asks_for(trained):
    contents = read(trained / "checkpoint.pth")
    assert (contents["arch"], contents["hidden_units"], contents["dropout"]) == ("cnn", [], 0.2)
    assert contents["class_to_idx"] == {"49": 0, "51": 1, "54": 2, "74": 3, "78": 4, "91": 5}
    assert contents["category_names"]["54"] == "sunflower"
    assert contents["training"]["epochs"] == 3
    assert contents["training"]["learning_rate"] == 0.001
    assert contents["preprocessing"]["crop_size"] == 32
    assert len(contents["history"]) == 3
    assert contents["format_version"] == 1


def test_the_original_classifier_is_not_in_the_file(train_into, flowers, tmp_path):
    """alexnet's own classifier would add 234 MB to the 9 of its convolutions and the 19 of our head."""
    train_into(tmp_path, flowers, "--arch", "alexnet", "--weights", "none", "--epochs", 1)
    assert (tmp_path / "checkpoint.pth").stat().st_size < 30e6
    assert not any("classifier" in name for name in read(tmp_path / "checkpoint.pth")["state_dict"])


def test_an_earlier_run_is_put_aside_not_lost(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    earlier = {name: (tmp_path / name).read_bytes() for name in ("checkpoint.pth", "run/last.pth")}
    outcome = train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 2, "--lr", 0.01)
    assert "run/previous.pth" in outcome.err
    assert (tmp_path / "run" / "previous.pth").read_bytes() == earlier["checkpoint.pth"]
    assert (tmp_path / "run" / "previous_last.pth").read_bytes() == earlier["run/last.pth"]
    assert (tmp_path / "checkpoint.pth").read_bytes() != earlier["checkpoint.pth"]


def test_every_epoch_has_its_view(train_into, flowers, tmp_path):
    plain = train_into(tmp_path / "plain", flowers, *QUICK, "--epochs", 4, "--views", 1)
    varied = train_into(tmp_path / "varied", flowers, *QUICK, "--epochs", 4, "--views", 3, "--no_cache")
    losses = [re.findall(r"training loss (\S+)", outcome.out) for outcome in (plain, varied)]
    assert [one == other for one, other in zip(*losses, strict=True)] == [True, False, False, False]
    assert re.findall(r"reading 48 train photos, views? (\d(?: and \d)?)", varied.err) == ["0 and 1", "2"]
    assert re.findall(r"reading \d+ (?:valid|test) photos, view (\d)", varied.err) == ["0", "0"]


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
    outcome = train_into(tmp_path, flowers, *QUICK, "--epochs", 1, "--category_names", tmp_path / "names.json")
    assert read(tmp_path / "checkpoint.pth")["category_names"] == {"54": "Sonnenblume"}
    assert "names 1 of 6 classes" in outcome.err


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_mistake_leaves_no_folders_behind(run, tmp_path):
    assert run(train, tmp_path / "nowhere", "--save_dir", tmp_path / "made" / "by" / "typo").code == 2
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said_with_what_to_lower(run, flowers, tmp_path):
    outcome = run(train, flowers, *QUICK, "--hidden_units", 10**6, 10**6, "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (1, "")
    assert "out of memory: take a smaller --arch (in training also: lower --batch_size" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--epochs", 0), "--epochs must be at least 1, not 0"),
        (("--dropout", 1), "--dropout must be"),
        (("--dropout", "nan"), "--dropout must be"),
        (("--learning_rate", -1), "--learning_rate must be above 0"),
        (("--learning_rate", 1e9), "--learning_rate must be above 0"),
        (("--lr", "inf"), "--learning_rate must be above 0"),
        (("--batch_size", 0), "--batch_size must be"),
        (("--views", 0), "--views must be"),
        (("--seed", -1), "--seed must be"),
        (("--valid_split", 1.5), "--valid_split must be"),
        (("--image_size", 4), "--image_size must be"),
        (("--image_size", 0), "--image_size must be"),
        (("--image_size", 64), "--image_size is for --arch cnn"),
        (("--hidden_units", "0,-3"), "--hidden_units must be"),
        (("--hidden_units", "many"), "'many' should be numbers"),
        (("--arch", "vgg61"), "did you mean"),
        (("--weights", "IMAGENET21K"), "IMAGENET1K_V1"),
        (("--arch", "cnn", "--weights", "DEFAULT"), "cnn is trained from scratch"),
        (("--category_names", "nowhere.json"), "--category_names: cannot read nowhere.json"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_flag(run, flowers, tmp_path, options, said):
    outcome = run(train, flowers, "--save_dir", tmp_path, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert len(outcome.err.splitlines()) <= 2


def test_a_save_dir_that_cannot_be_written_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "file").touch()
    outcome = run(train, tmp_path / "no data either", "--save_dir", tmp_path / "file" / "out")
    assert outcome.code == 2
    assert "--save_dir: cannot write to" in outcome.err


def test_every_bad_photo_of_every_split_is_listed_before_the_first_epoch(run, flowers, tmp_path):
    broken = shutil.copytree(flowers, tmp_path / "flowers")
    for split, number in (("train", 4), ("valid", 1), ("test", 2)):
        for i, photo in enumerate(sorted((broken / split).glob("*/*"))[:: 18 // number][:number]):
            photo.write_bytes(photo.read_bytes()[: 400 if i % 2 else 0])
    outcome = run(train, broken, *QUICK, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    listing = tmp_path / "out" / "run" / "bad_photos.txt"
    assert (
        f"7 photos cannot be used; repair or remove them, or add --skip_bad (all are listed in {listing}):"
        in outcome.err
    )
    assert outcome.err.count("cannot open") == 5
    assert f"cannot open {broken}/valid/49/drawn_000.jpg: it is empty" in outcome.err
    assert "and 2 more" in outcome.err
    assert len(listing.read_text().splitlines()) == 7
    assert [path.name for path in listing.parent.iterdir() if path.name != "lock"] == ["bad_photos.txt"]


@pytest.mark.parametrize("cache", [(), ("--no_cache",)])
def test_a_split_of_which_no_photo_can_be_opened_is_named_with_all_the_others(run, flowers, tmp_path, cache):
    broken = shutil.copytree(flowers, tmp_path / "broken")
    for photo in [*(broken / "valid").glob("*/*"), broken / "train" / "54" / "drawn_000.jpg"]:
        photo.write_bytes(b"")
    outcome = run(train, broken, *QUICK, *cache, "--skip_bad", "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "none of the valid photos can be opened" in outcome.err
    assert len((tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()) == 19


def test_skip_bad_trains_as_if_the_bad_photos_were_not_there(train_into, run, flowers, tmp_path):
    """Also with the cache, and resumed; rounding may differ, since other photos share their micro-batches."""
    broken = shutil.copytree(flowers, tmp_path / "broken")
    bad = [*sorted((broken / "train").glob("*/*"))[5::17], sorted((broken / "valid").glob("*/*"))[7]]
    for photo in bad:
        photo.write_bytes(b"")
    options = (*QUICK, "--epochs", 5, "--views", 3, "--skip_bad", "--cache_dir", tmp_path / "cache")
    first = train_into(tmp_path / "out", broken, *options)
    assert f"going on without {len(bad)} photos" in first.err
    names = [photo.relative_to(broken).as_posix() for photo in bad]
    assert read(tmp_path / "out" / "checkpoint.pth")["training"]["skipped"] == names
    lines = (tmp_path / "out" / "run" / "bad_photos.txt").read_text().splitlines()
    assert [line.startswith(f"cannot open {photo}: it is empty") for line, photo in zip(lines, bad, strict=True)]
    again = train_into(tmp_path / "again", broken, *options[:-2], "--no_cache")
    assert again.out.replace("again", "out") == first.out
    train_into(tmp_path / "parts", broken, *QUICK, "--epochs", 2, "--views", 3, "--skip_bad")
    train_into(tmp_path / "parts", broken, *options, "--resume")
    assert same(
        read(tmp_path / "parts" / "run" / "last.pth")["average"], read(tmp_path / "out" / "run" / "last.pth")["average"]
    )

    removed = shutil.copytree(broken, tmp_path / "removed")
    for name in names:
        (removed / name).unlink()
    clean = train_into(tmp_path / "clean", removed, *options)
    assert "going on without" not in clean.err
    losses = [
        [float(loss) for loss in re.findall(r"loss (\S+)", outcome.out.split("best")[0])] for outcome in (first, clean)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)

    for photo in (broken / "train" / "54").iterdir():
        photo.write_bytes(b"")
    outcome = run(train, broken, *options, "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no training photo can be opened of 54" in outcome.err


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_finished_epochs(train_into, run, flowers, tmp_path):
    deep = (*QUICK, "--hidden_units", *[64] * 12)
    train_into(tmp_path, flowers, *deep, "--epochs", 1)
    kept = {file: read(tmp_path / file) for file in ("checkpoint.pth", "run/last.pth")}
    outcome = run(train, flowers, *deep, "--epochs", 9, "--lr", 1000, "--save_dir", tmp_path, "--resume")
    assert outcome.code == 1
    assert re.search(
        r"the loss is not finite \((nan|inf)\) in epoch 2: lower --learning_rate \(now 1000\)", outcome.err
    )
    assert same({file: read(tmp_path / file) for file in kept}, kept)


def test_without_a_gpu_it_says_so_once_and_goes_on(train_into, flowers, tmp_path):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is a GPU")
    outcome = train_into(tmp_path, flowers, *QUICK, "--epochs", 1, "--gpu", "gpu")
    assert outcome.err.count("going on on the CPU") == 1


def test_without_weights_or_network_it_says_what_to_fetch(flowers, tmp_path):
    """A real process, whose way to the network ends at a closed port of this machine."""
    nowhere = "http://127.0.0.1:9"
    outcome = run_program(
        "train.py", flowers, "--arch", "resnet18", "--save_dir", tmp_path,
        TORCH_HOME=str(tmp_path), https_proxy=nowhere, HTTPS_PROXY=nowhere, no_proxy="", NO_PROXY="",
    )  # fmt: skip
    assert (outcome.code, outcome.out) == (1, "")
    assert "https://download.pytorch.org/models/resnet18" in outcome.err
    assert f"{tmp_path}/hub/checkpoints" in outcome.err
    assert "--arch cnn" in outcome.err
    assert "Traceback" not in outcome.err
