"""A student's own script, written with data_utils and model_utils alone, does what train.py and predict.py do."""

import dataclasses
import io
import json
import random
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from support import NAMES, PROJECT, read, run_program, same
from torchvision import models

import data_utils
import model_utils
import predict
from flower_classifier.base.messages import InputError, RunError
from flower_classifier.features.inputs import UnusablePhotosError
from flower_classifier.photos.views import TOLERANCE_LEVELS, TOLERANCE_SHARE

# What a student may write, once they have read the two files' docstrings
SCRIPT = """
import sys
from data_utils import load_data
from model_utils import build_model, evaluate_model, load_checkpoint, predict, save_checkpoint, train_model

folder, names, arch, photo = sys.argv[1:]
data = load_data(folder, names)
model = build_model(arch, data, weights="none")
train_model(model, data, epochs=2, views=2)
print(evaluate_model(model, data))
save_checkpoint(model, "saved/mine.pth")
again = load_checkpoint("saved/mine.pth")
probabilities, classes = predict(photo, again, topk=3)
for probability, name in zip(probabilities, classes):
    print(name, repr(probability))
"""
SETTINGS = ("--weights", "none", "--epochs", 2, "--views", 2, "--no_report", "--category_names", NAMES)


@pytest.fixture(scope="session")
def data(flowers):
    return data_utils.load_data(flowers, NAMES)


@pytest.fixture
def photo(flowers):
    return flowers / "test" / "74" / "drawn_001.jpg"


@pytest.fixture
def figures():
    """Draw without windows, as a notebook does; close what was drawn."""
    from matplotlib import pyplot

    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["cnn", "squeezenet1_1"])
def test_a_students_script_gets_what_the_commands_get_bit_for_bit(arch, flowers, photo, tmp_path, train_into, run):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    for name in ("data_utils.py", "model_utils.py", "flower_classifier"):
        (tmp_path / name).symlink_to(PROJECT / name)
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache")}  # nothing is taken from the other
    mine = run_program(script, flowers, NAMES, arch, photo, cwd=tmp_path, **own)
    assert mine.code == 0, mine.err
    theirs = train_into(tmp_path / "theirs", flowers, "--arch", arch, *SETTINGS)
    ours, last = mine.out.splitlines()[:-3], mine.out.splitlines()[-3:]
    assert ours == [line for line in theirs.out.splitlines() if not line.startswith("checkpoint: ")]
    saved, written = read(tmp_path / "saved" / "mine.pth"), read(tmp_path / "theirs" / "checkpoint.pth")
    del written["training"]["results"]  # of the test photos, which the script looks at after it has trained
    assert same({**saved, "digest": None}, {**written, "digest": None})
    outcome = run(predict, photo, tmp_path / "theirs" / "checkpoint.pth", "--top_k", 3, "--format", "json")
    (record,) = json.loads(outcome.out)
    rows = record["predictions"]
    assert last == [f"{row['class']} {row['probability']!r}" for row in rows]


def test_a_checkpoint_of_train_py_is_loaded_judged_and_asked(trained, data, photo, run, tmp_path):
    model = model_utils.load_checkpoint(trained / "checkpoint.pth")
    assert model.classes == data.classes
    outcome = run(
        predict, data.splits.train.root / "test", trained / "checkpoint.pth", "--evaluate", "--report", tmp_path
    )
    results = model_utils.evaluate_model(model, data)
    assert f"{results}\n" == outcome.out
    probabilities, classes = model_utils.predict(photo, model, topk=100)
    assert sorted(classes) == sorted(data.classes)  # there are no more
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    with Image.open(photo) as picture:
        assert model_utils.predict(picture, model)[1] == classes[:5]


def test_a_second_training_goes_on_from_the_first_and_is_what_the_model_then_answers_by(data, photo):
    model = model_utils.build_model("cnn", data)
    model_utils.train_model(model, data, epochs=1)
    weights = [tensor.clone() for tensor in model.classifier.state_dict().values()]
    before = model_utils.predict(photo, model)
    model_utils.train_model(model, data, epochs=1)
    assert [row["epoch"] for row in model.history] == [1]
    assert not all(map(torch.equal, weights, model.classifier.state_dict().values()))
    assert model_utils.predict(photo, model) != before
    assert model.training["weights"] == "none"


def test_an_interrupted_training_leaves_the_best_of_the_finished_epochs(data, monkeypatch):
    class Screen(io.StringIO):
        """Is where a person sees an epoch's line and then presses Ctrl-C."""

        def write(self, text):
            if "epoch 2/3" in text:
                raise KeyboardInterrupt
            return super().write(text)

    model = model_utils.build_model("cnn", data)
    monkeypatch.setattr(sys, "stdout", Screen())
    with pytest.raises(KeyboardInterrupt):
        model_utils.train_model(model, data, epochs=3)
    monkeypatch.undo()
    assert [row["epoch"] for row in model.history] == [1, 2]
    untested = dataclasses.replace(data, splits=dataclasses.replace(data.splits, test=None))
    found = model_utils.evaluate_model(model, untested)  # on the validation photos
    assert found.split == "valid"
    assert found.accuracy == max(row["valid_accuracy"] for row in model.history)


def test_a_training_that_ends_in_its_first_epoch_leaves_the_model_as_it_was(data):
    """Its second batch has a loss that is not finite, after the first has changed the weights."""
    model = model_utils.build_model("squeezenet1_1", data, hidden_units=[50] * 9, weights="none")
    before = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    with pytest.raises(RunError, match="the loss is not finite"):
        model_utils.train_model(model, data, epochs=2, learning_rate=1000, batch_size=8)
    assert model.history == []
    assert same(before, dict(model.classifier.state_dict()))


def test_the_verbs_leave_the_students_own_random_numbers_alone(data):
    def numbers():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def seed():
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)

    seed()
    expected = numbers()
    seed()
    model_utils.train_model(model_utils.build_model("cnn", data), data, epochs=1)
    assert numbers() == expected


@pytest.mark.parametrize("size", [(500, 667), (90, 70)])
def test_a_photo_is_processed_as_torchvisions_preset_does_it(size, tmp_path):
    width, height = size
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    photo = tmp_path / "ramp.png"
    Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=-1).astype(np.uint8)).save(photo)
    processed = data_utils.process_image(photo)
    assert (processed.dtype, processed.shape) == (np.float32, (3, 224, 224))
    with Image.open(photo) as picture:
        expected = models.VGG16_Weights.DEFAULT.transforms()(picture).numpy()
    levels = 255 * np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)  # how many of 256 levels a standard deviation is
    off = np.abs(processed - expected) * levels
    assert off.max() <= TOLERANCE_LEVELS + 1e-3
    assert (off > 1.5).mean() <= TOLERANCE_SHARE


def test_a_photo_is_processed_as_a_model_expects_it(data, photo):
    model = model_utils.build_model("cnn", data, image_size=40)
    processed = data_utils.process_image(photo, model.preprocessing)
    assert processed.shape == (3, 40, 40)
    with torch.inference_mode():
        logits = model.classifier.head(model.classifier.backbone(torch.from_numpy(processed)[None]))
    (expected, *_), (likeliest, *_) = model_utils.predict(photo, model)
    found = logits.softmax(dim=1)[0]
    assert model.classes[found.argmax()] == likeliest
    assert found.max().item() == pytest.approx(expected, abs=1e-5)


COURSE = """
import sys
import torch
from matplotlib import pyplot as plt
from data_utils import imshow, load_data, process_image
from model_utils import load_checkpoint, predict, show_prediction

folder, names, checkpoint = sys.argv[1:]
data = load_data(folder, names)
model = load_checkpoint(checkpoint)
assert model.class_to_idx == data.class_to_idx
idx_to_class = {idx: name for name, idx in model.class_to_idx.items()}

right = agree = count = 0
for index in range(len(data.judged)):
    photo, label = data.judged.path(index), data.judged.labels[index]
    image = process_image(photo, model.preprocessing)
    with torch.no_grad():
        logits = model.classifier(torch.from_numpy(image)[None])
    first = idx_to_class[int(logits.argmax())]
    probs, classes = predict(photo, model, topk=3)
    assert predict(image, model, topk=3) == (probs, classes)
    assert predict(torch.from_numpy(image)[None], model, 3) == (probs, classes)
    right += data.class_to_idx[classes[0]] == label
    agree += first == classes[0]
    count += 1
print(f"{right} right, {agree} of {count} agree")

assert predict(str(photo), checkpoint, topk=3) == (probs, classes)
figure, (above, below) = plt.subplots(2)
imshow(image, ax=above, title=None, preprocessing=model.preprocessing)
imshow(torch.from_numpy(image), below, model.category_names.get(classes[0]), model.preprocessing)
figure, axes = plt.subplots()
show_prediction(photo, model, topk=3, ax=axes)
print(len(figure.axes[0].get_images()))
"""


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("kind", ["trained", pytest.param("trained_on_features", marks=pytest.mark.thorough)])
def test_the_courses_own_steps_give_what_predict_gives(request, kind, data, monkeypatch, capsys):
    """A student's script of the two modules alone: what process_image returns is normalised once, and not twice."""
    checkpoint = request.getfixturevalue(kind) / "checkpoint.pth"
    monkeypatch.setattr(sys, "argv", ["mine.py", str(data.splits.train.root), str(NAMES), str(checkpoint)])
    capsys.readouterr()  # what training has said, where this test was the first to need it
    exec(compile(COURSE, "mine.py", "exec"), {"__name__": "__main__"})
    agreed, images = capsys.readouterr().out.splitlines()
    assert agreed.endswith(" right, 18 of 18 agree")
    assert images == "1"


def test_floats_that_are_no_photo_processed_for_the_model_are_refused(trained, photo):
    model = model_utils.load_checkpoint(trained / "checkpoint.pth")
    side = model.preprocessing.crop_size
    pixels = torch.randint(256, (1, 3, side, side), generator=torch.Generator().manual_seed(0)).float()
    with pytest.raises(InputError, match=r"^floats from 0 to 255 are no normalised photo: give what process_image"):
        model.classifier(pixels)
    with pytest.raises(InputError, match=r"^floats from 0 to 1 are not normalised: give what process_image"):
        model.classifier(pixels / 255)  # as torchvision's ToTensor gives them
    with pytest.raises(InputError, match=r"no photo that was processed for this model: give the photo itself"):
        model_utils.predict(pixels[0] / 255, model)
    with pytest.raises(InputError, match=rf"takes \(3, {side}, {side}\), and not \(3, 224, 224\)"):
        model_utils.predict(data_utils.process_image(photo), model)


def test_arguments_of_predict_that_are_swapped_or_unknown_get_a_sentence(trained, photo):
    model = model_utils.load_checkpoint(trained / "checkpoint.pth")
    for wrong in ((model, photo), (trained / "checkpoint.pth", photo), (str(trained / "checkpoint.pth"), str(photo))):
        with pytest.raises(InputError, match=r"^the photo comes before the model: predict\(photo, model, topk=5\)$"):
            model_utils.predict(*wrong)
    with pytest.raises(InputError, match=r"^predict has no argument top_k: predict\(photo, model, topk=5\)$"):
        model_utils.predict(photo, model, top_k=3)


def test_a_processed_photo_is_shown_as_people_see_it(photo, figures):
    processed = data_utils.process_image(photo)
    axes = data_utils.imshow(processed, title="a rose")
    (shown,) = axes.get_images()
    side = 224 / 256  # of the drawing, which is square
    with Image.open(photo) as picture:
        margin = picture.width * (1 - side) / 2
        box = (margin, margin, picture.width - margin, picture.height - margin)
        expected = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR, box)) / 255
    assert np.abs(np.asarray(shown.get_array()) - expected).max() <= (TOLERANCE_LEVELS + 0.01) / 255
    assert axes.get_title() == "a rose"
    assert data_utils.imshow(torch.from_numpy(processed), ax=axes, title=None) is axes
    assert axes.get_title() == "a rose"
    assert np.array_equal(axes.get_images()[1].get_array(), shown.get_array())


def test_the_pictures_come_as_images_with_something_on_them(trained, data, photo, tmp_path):
    model = model_utils.load_checkpoint(trained / "checkpoint.pth")
    results = model_utils.evaluate_model(model, data)
    assert results.accuracy < 1  # after three epochs on 48 pictures
    pictures = [
        data_utils.show_photos(data),
        model_utils.show_training(model),
        model_utils.show_confusion(results),
        model_utils.show_reliability(results),
        model_utils.show_mistakes(results),
        model_utils.show_prediction(photo, model),
        model_utils.show_prediction(photo, model, topk=2, heatmap=True),
    ]
    for picture in pictures:
        assert (type(picture), picture.mode) == (Image.Image, "RGB")
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert np.asarray(picture).std() > 5
    more, fewer = data_utils.show_photos(data), data_utils.show_photos(data, classes=2)
    assert more.height > fewer.height  # two rows, one row


def test_the_data_is_told_in_three_lines_however_many_classes_there_are(data, tmp_path, flowers):
    assert str(data).splitlines() == [
        "6 classes: oxeye daisy, petunia, sunflower and 3 more",
        "photos: 48 training, 18 validation, 18 test",
        "training photos of a class: fewest of oxeye daisy (8), most of hippeastrum (8)",
    ]
    for number in range(102):
        shutil.copytree(flowers / "train" / "49", tmp_path / f"{number:03}")
    (tmp_path / "017" / "drawn_000.jpg").unlink()
    many = str(data_utils.load_data(tmp_path, valid_split=0.1)).splitlines()
    assert len(many) == 3
    assert "fewest of 017 (6)" in many[2]


def test_what_cannot_work_is_refused_in_words(data, flowers, tmp_path):
    with pytest.raises(InputError, match=r"^dropout must be at least 0 and below 1, not 2$"):
        model_utils.build_model("cnn", data, dropout=2)
    with pytest.raises(InputError, match=r"^hidden_units must be from 1 to 1,000,000, or 0 for none, not -4$"):
        model_utils.build_model("cnn", data, hidden_units=-4)
    with pytest.raises(InputError, match=r"^valid_split must be "):
        data_utils.load_data(flowers, valid_split=1.5)
    model = model_utils.build_model("cnn", data, hidden_units=16)
    assert model.classifier.config.hidden_units == (16,)
    assert model_utils.build_model("cnn", data, hidden_units=0).classifier.config.hidden_units == ()
    with pytest.raises(InputError, match=r"^epochs must be "):
        model_utils.train_model(model, data, epochs=0)
    with pytest.raises(InputError, match="not trained yet"):
        model_utils.show_training(model)
    with pytest.raises(InputError, match=r"^topk must be at least 1, not 0$"):
        model_utils.predict(flowers / "test" / "74" / "drawn_001.jpg", model, topk=0)
    shutil.copytree(flowers, tmp_path / "other")
    for split in ("train", "valid", "test"):
        shutil.rmtree(tmp_path / "other" / split / "49")
    with pytest.raises(InputError, match="other classes"):
        model_utils.train_model(model, data_utils.load_data(tmp_path / "other"))


def test_photos_that_cannot_be_opened_end_the_training_before_it_begins(flowers, tmp_path):
    shutil.copytree(flowers, tmp_path / "flowers")
    (tmp_path / "flowers" / "train" / "49" / "broken.jpg").write_bytes(b"no photo")
    data = data_utils.load_data(tmp_path / "flowers")
    model = model_utils.build_model("cnn", data)
    with pytest.raises(UnusablePhotosError, match=r"1 photo cannot be used.*\n.*broken\.jpg"):
        model_utils.train_model(model, data)
    assert model.history == []


def test_the_verbs_for_photos_load_no_torch(flowers):
    code = (
        "import sys, data_utils\n"
        f"data = data_utils.load_data({str(flowers)!r})\n"
        "data_utils.show_photos(data)\n"
        "data_utils.process_image(data.judged.root / data.judged.photos[0])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
