"""predict.py, run whole: the checkpoint alone, in, names and probabilities out."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from support import NAMES, PROJECT, parse, parse_blocks, run_program
from torch import nn
from torchvision import models

import predict


@pytest.fixture
def photo(flowers):
    return flowers / "test" / "54" / "drawn_000.jpg"


def test_the_table_is_aligned_and_most_likely_first(run, trained, photo):
    outcome = run(predict, photo, trained / "checkpoint.pth", "--top_k", 4)
    assert (outcome.code, outcome.err) == (0, "")
    assert len({len(line) for line in outcome.out.splitlines()}) == 1
    rows = parse(outcome.out)
    assert len(rows) == 4
    assert [share for _, share in rows] == sorted((share for _, share in rows), reverse=True)
    assert {name for name, _ in rows} <= {"oxeye daisy", "petunia", "sunflower", "rose", "lotus", "hippeastrum"}


def test_top_k_beyond_the_classes_shows_all_and_says_so(run, trained, photo):
    outcome = run(predict, photo, trained / "checkpoint.pth", "--top_k", 99)
    assert len(parse(outcome.out)) == 6
    assert sum(share for _, share in parse(outcome.out)) == pytest.approx(1, abs=5e-4)
    assert outcome.err == "--top_k 99: there are 6 classes, here are all of them\n"


def test_names_given_now_replace_those_given_at_training(run, trained, trained_on_features, photo, tmp_path):
    (tmp_path / "names.json").write_text('{"54": "Sonnenblume"}')
    outcome = run(predict, photo, trained / "checkpoint.pth", "--top_k=6", "--category-names", tmp_path / "names.json")
    names = {"oxeye daisy", "petunia", "Sonnenblume", "rose", "lotus", "hippeastrum"}
    assert ({name for name, _ in parse(outcome.out)}, outcome.err) == (names, "")
    unnamed = run(predict, photo, trained_on_features / "checkpoint.pth", "--top_k", 6)
    assert {name for name, _ in parse(unnamed.out)} == {"49", "51", "54", "74", "78", "91"}
    named = run(predict, photo, trained_on_features / "checkpoint.pth", "--top_k", 1, "--category_names", NAMES)
    assert not parse(named.out)[0][0].isdigit()


@pytest.mark.slow
def test_probabilities_are_those_of_plain_torchvision(train_into, run, flowers, photo, tmp_path):
    """The checkpoint's tensors in torchvision's own resnet18, the photo through its weights' own transforms."""
    few = shutil.copytree(flowers, tmp_path / "few", ignore=shutil.ignore_patterns("drawn_00[2-7].jpg"))
    train_into(tmp_path, few, "--arch", "resnet18", "--weights", "none", "--epochs", 2, "--views", 1, "--no_report")
    contents = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    network = models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 6))
    names = {f"backbone.{name}": name for name in network.state_dict()}
    names |= {f"head.{name.removeprefix('fc.')}": name for name in network.state_dict() if name.startswith("fc.")}
    network.load_state_dict({names[name]: tensor for name, tensor in contents["state_dict"].items()})
    image = models.ResNet18_Weights.DEFAULT.transforms()(Image.open(photo))
    with torch.no_grad():
        expected = (network.eval()(image[None]) / contents["temperature"]).softmax(dim=1)[0]
    printed = dict(parse(run(predict, photo, tmp_path / "checkpoint.pth", "--top_k", 6).out))
    for class_name, index in contents["class_to_idx"].items():
        assert printed[class_name] == pytest.approx(expected[index].item(), abs=0.01)


def test_a_moved_checkpoint_predicts_the_same_digits_without_weights_or_network(trained_on_features, photo, tmp_path):
    """Real processes; the second one in another folder, with nowhere to download from."""
    here = run_program("predict.py", photo, trained_on_features / "checkpoint.pth")
    shutil.copy(trained_on_features / "checkpoint.pth", tmp_path / "moved.pth")
    elsewhere = run_program(
        PROJECT / "predict.py", photo, "moved.pth",
        cwd=tmp_path, TORCH_HOME=str(tmp_path / "empty"), https_proxy="http://127.0.0.1:9",
    )  # fmt: skip
    assert here.code == elsewhere.code == 0
    assert here.out == elsewhere.out
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_the_same_photo_in_another_mode_is_predicted_much_the_same(run, trained, photo, tmp_path, mode):
    picture = Image.open(photo).convert("L").convert("RGB")  # grey, so that every mode can hold it
    picture.save(tmp_path / "rgb.png")
    picture.convert(mode).save(tmp_path / "other.tiff")
    shares = []
    for name in ("rgb.png", "other.tiff"):
        shares.append(dict(parse(run(predict, tmp_path / name, trained / "checkpoint.pth", "--top_k", 6).out)))
    assert shares[0] == pytest.approx(shares[1], abs=0.1 if mode == "P" else 0.03)


def test_a_photo_turned_by_exif_is_predicted_as_if_upright(run, trained, photo, tmp_path):
    picture = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "upright.png")
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    outputs = [run(predict, tmp_path / f"{name}.png", trained / "checkpoint.pth").out for name in ("upright", "turned")]
    assert outputs[0] == outputs[1]


# ------------------------------------------------------------------------------------------------ when it is not sure


def test_an_answer_below_the_least_probability_is_called_not_sure(run, trained, flowers):
    """The likeliest class counts alone; what reaches the limit exactly is sure."""
    arguments = (flowers / "test", trained / "checkpoint.pth", "--top_k", 2)
    plain = run(predict, *arguments)
    shares = {path: rows[0][1] for path, rows in parse_blocks(plain.out).items()}
    least = round(sorted(shares.values())[9], 4) - 0.00005  # what is printed is rounded
    outcome = run(predict, *arguments, "--min_probability", least)
    heading = f"  not sure: no class reaches {100 * least:g}%\n"
    expected = "".join(
        f"{path}\n{'' if shares[path] > least else heading}{rows}"
        for path, rows in re.findall(r"^(\S.*)\n((?:  .*\n)+)", plain.out, re.MULTILINE)
    )
    assert (outcome.code, outcome.err, outcome.out) == (0, "", expected)
    assert 0 < outcome.out.count("not sure") < 18
    photo = max(shares, key=shares.get)
    alone = run(predict, photo, *arguments[1:], "--min_probability", 1)
    assert alone.out == "not sure: no class reaches 100%\n" + run(predict, photo, *arguments[1:]).out


# ----------------------------------------------------------------------------------------------------- many photos


def test_many_photos_in_one_call_are_predicted_as_each_alone(run, trained_on_features, flowers):
    """A folder at any depth, a photo beside it, an option in between; more photos than one forward takes."""
    checkpoint, extra = trained_on_features / "checkpoint.pth", flowers / "valid" / "74" / "drawn_001.jpg"
    outcome = run(predict, extra, flowers / "test", "--top_k", 6, checkpoint)
    assert (outcome.code, outcome.err) == (0, "")
    blocks = parse_blocks(outcome.out)
    assert list(blocks) == [str(extra), *map(str, sorted((flowers / "test").glob("*/*.jpg")))]
    for path in list(blocks)[::5]:
        alone = dict(parse(run(predict, path, checkpoint, "--top_k", 6).out))
        assert dict(blocks[path]) == pytest.approx(alone, abs=0.003)


def test_the_answers_to_many_photos_stand_below_one_another(run, trained, flowers, tmp_path):
    """By the longest name of all classes, be it among the answers or not; but not by one of endless length."""
    for longest, width in (("a name of exactly thirty letters", 32), ("e" * 500, 40)):
        (tmp_path / "names.json").write_text(json.dumps({"49": "a", "51": "b", "54": "c", "74": longest, "78": "d"}))
        arguments = (flowers / "test", trained / "checkpoint.pth", "--category_names", tmp_path / "names.json")
        outcome = run(predict, *arguments, "--top_k", 2)
        rows = [line for line in outcome.out.splitlines() if line.startswith("  ") and "e" * 500 not in line]
        assert len(rows) > 18
        assert {len(row) for row in rows} == {2 + width + 2 + 8}


def test_a_file_name_steers_no_terminal_and_forges_no_answer(run, trained, photo, tmp_path):
    evil = shutil.copy(photo, tmp_path / "a\x1b[2J\n  rose        99.99%\n\x9b.jpg")
    (tmp_path / "b\n.jpg").write_text("no photo")
    outcome = run(predict, tmp_path, trained / "checkpoint.pth", "--top_k", 1)
    shown = str(evil).replace("\x1b", "\\x1b").replace("\n", "\\n").replace("\x9b", "\\x9b")
    heading, row = outcome.out.splitlines()
    assert (heading, row[:2], row.count("%")) == (shown, "  ", 1)
    assert len(outcome.err.splitlines()) == 2
    assert outcome.err.startswith(f"warning: cannot open {tmp_path}/b\\n.jpg: it is no JPEG")


def test_of_many_photos_the_bad_ones_are_named_and_the_good_ones_predicted(run, trained, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    paths = [tmp_path / "text.jpg", photo, tmp_path / "none.jpg", *[photo] * 10]
    outcome = run(predict, *paths, trained / "checkpoint.pth", "--top_k", 1)
    assert outcome.code == 1
    assert outcome.out.splitlines()[::2] == [str(photo)] * 11
    assert re.fullmatch(
        r"warning: .*text.jpg: it is no JPEG.*\nwarning: .*none.jpg: there is no such file\n"
        r".*: 11 of 13 photos answered; 2 could not be opened\n",
        outcome.err,
    )


def test_a_folder_without_photos_is_refused(run, trained, tmp_path):
    outcome = run(predict, tmp_path, trained / "checkpoint.pth")
    assert (outcome.code, outcome.out, outcome.err.count("no photos below")) == (2, "", 1)


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show_are_escaped(exported, photo, tmp_path):
    (tmp_path / "names.json").write_text('{"54": "雛菊"}', encoding="utf-8")
    arguments = (photo, exported, "--top_k", 6, "--category_names", tmp_path / "names.json")
    outcome = run_program("predict.py", *arguments, cold=True, PYTHONIOENCODING="ascii")
    assert outcome.code == 0
    assert "\\u96db\\u83ca" in outcome.out


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_precision_that_does_not_exist_is_refused(run, trained, photo, monkeypatch):
    """Also for a network that has no frozen layers."""
    monkeypatch.setenv("FLOWERS_PRECISION", "float16")
    outcome = run(predict, photo, trained / "checkpoint.pth")
    assert (outcome.code, outcome.out) == (2, "")
    assert "FLOWERS_PRECISION is 'float16': set it to float32 or bfloat16, or unset it" in outcome.err


def test_what_is_wrong_is_said_in_a_line(run, trained, photo, tmp_path):
    checkpoint, last = trained / "checkpoint.pth", trained / "run" / "last.pth"
    (tmp_path / "text.jpg").write_text("no photo")
    cases = [
        ((tmp_path / "none.jpg", checkpoint), "none.jpg: there is no such file"),
        ((tmp_path / "text.jpg", checkpoint), "text.jpg: it is no JPEG"),
        ((photo, tmp_path / "none.pth"), "cannot read"),
        ((checkpoint, tmp_path), "is a folder without a checkpoint: give the checkpoint last, after the photos"),
        ((photo, photo), "looks like a photo"),
        ((photo, last), f"it is the state of a run, for train.py --resume; give {checkpoint}"),
        ((photo, checkpoint, "--category_names", photo), "is not JSON"),
    ]
    for arguments, said in cases:
        outcome = run(predict, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert said in outcome.err
        assert len(outcome.err.splitlines()) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("arch", ["vgg11", "densenet121", "mnasnet0_5", "convnext_tiny", "googlenet", "vit_b_32"])
def test_architectures_of_every_kind_train_and_predict(run, train_into, flowers, tmp_path, arch):
    data = tmp_path / "data"
    for split in ("train", "valid"):
        for name in ("54", "74"):
            (data / split / name).mkdir(parents=True)
            for photo in sorted((flowers / split / name).iterdir())[:2]:
                shutil.copy(photo, data / split / name)
    options = ("--weights", "none", "--epochs", 1, "--hidden_units", 8, "--no_report")
    train_into(tmp_path / "out", data, "--arch", arch, *options)
    outcome = run(predict, photo, tmp_path / "out" / "checkpoint.pth")
    assert outcome.code == 0, outcome.err
    assert {name for name, _ in parse(outcome.out)} == {"54", "74"}
