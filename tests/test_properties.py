"""Whatever bytes come from elsewhere: a right result or one clean error, never anything else.

`pytest tests/test_properties.py --hypothesis-profile long` looks for ten minutes or so instead of seconds.
"""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import same

from flower_classifier.base.messages import InputError
from flower_classifier.config.allowed import TEMPERATURE
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.checkpoint import Checkpoint, Trust
from flower_classifier.networks.classifier import Classifier, ModelConfig
from flower_classifier.networks.safe_files import check_digest, read_tensors, write_atomically
from flower_classifier.photos.images import ImageError, load_image, photo_formats

HEADERS = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"RIFF",
)


@st.composite
def mutations(draw, whole):
    """Change a whole file as accidents do: bytes overwritten, cut out, doubled, the end missing."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 64))
        kind = draw(st.sampled_from(("overwrite", "cut", "double", "end")))
        if kind == "overwrite":
            data[start : start + length] = draw(st.binary(max_size=64))
        elif kind == "cut":
            del data[start : start + length]
        elif kind == "double":
            data[start:start] = data[start : start + length]
        else:
            del data[start:]
    return bytes(data)


def pictures():
    """Return one small picture in every format that can be written here."""
    found = []
    for name in photo_formats():
        buffer = io.BytesIO()
        try:
            Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(buffer, name)
        except (OSError, KeyError):  # this Pillow reads it, but does not write it
            continue
        found.append(buffer.getvalue())
    return found


def open_or_refuse(path, data):
    path.write_bytes(data)
    try:
        image = load_image(path)
    except ImageError as error:
        assert str(error).startswith(f"cannot open {path}: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert image.mode == "RGB"
        assert min(image.size) > 0


@given(
    data=st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(HEADERS), st.binary(max_size=300)).map(b"".join))
)
def test_arbitrary_bytes_are_a_photo_or_one_clean_error(tmp_path, data):
    open_or_refuse(tmp_path / "photo", data)


@given(data=st.sampled_from(pictures()).flatmap(mutations))
def test_damaged_photos_are_opened_or_one_clean_error(tmp_path, data):
    open_or_refuse(tmp_path / "photo", data)


@pytest.fixture(scope="module")
def small(tmp_path_factory, trained):
    """A checkpoint with as few tensors as there may be, so that damage hits everything."""
    contents = torch.load(trained / "checkpoint.pth", weights_only=True)
    path = tmp_path_factory.mktemp("small") / "checkpoint.pth"
    write_atomically(path, {**contents, "history": contents["history"][:1]})
    return path.read_bytes(), Checkpoint.load(path).classifier.state_dict()


def load_or_refuse(path, data, state):
    path.write_bytes(data)
    try:
        checkpoint = Checkpoint.load(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert same(dict(checkpoint.classifier.state_dict()), dict(state))


def edges(setting):
    """The least and the greatest value that an option of train.py allows."""
    limits, whole = setting.limits, setting.kind is int
    least = limits.least if limits.above is None else limits.above + 1 if whole else math.nextafter(limits.above, 1)
    most = limits.most if limits.below is None else limits.below - 1 if whole else math.nextafter(limits.below, 0)
    ends = st.sampled_from([setting.kind(least), setting.kind(most)])
    if setting.several:
        return st.lists(ends, max_size=3) | ends.map(lambda number: [number] * setting.most)
    return ends


LIMITED = [setting for setting in TrainConfig.options() if setting.limits]


@pytest.mark.slow
@given(chosen=st.fixed_dictionaries({setting.name: edges(setting) for setting in LIMITED}))
def test_a_checkpoint_of_whatever_the_options_allow_is_read_again(tmp_path, chosen):
    """All of it but the tensors goes through a file; a hundred layers of a million units exist on the meta device."""
    left = 1 - chosen["valid_split"]  # of which the test photos must leave some
    chosen |= {"hidden_units": tuple(chosen["hidden_units"]), "test_split": chosen["test_split"] * left / 4}
    config = TrainConfig(tmp_path, arch="cnn", **chosen)
    preprocessing = source_of("cnn").weights("cnn", None, config.image_size).preprocessing
    model = ModelConfig("cnn", config.hidden_units, config.dropout, 2, "all")
    with torch.device("meta"):
        backbone = source_of("cnn").build("cnn", preprocessing)
        tensors = Classifier(model, backbone, model.build_head(backbone.width)).state_dict()
    training = {name: getattr(config, name) for name in ("seed", "learning_rate", "batch_size", "views", "epochs")}
    for temperature in (TEMPERATURE.least, TEMPERATURE.most):
        written = Checkpoint(model, preprocessing, ("a", "b"), tensors, {}, training, [], Trust(float(temperature)))
        write_atomically(tmp_path / "checkpoint.pth", {**written.to_plain(), "state_dict": {}})
        contents = read_tensors(tmp_path / "checkpoint.pth")
        check_digest(tmp_path / "checkpoint.pth", contents)
        read = Checkpoint.from_plain({**contents, "state_dict": tensors})
        assert read == written
        assert list(read.classifier.state_dict()) == list(tensors)


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(b"PK\x03\x04".__add__)))
def test_arbitrary_bytes_are_no_checkpoint(tmp_path, data):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(data)
    with pytest.raises(InputError):
        Checkpoint.load(path)


@given(data=st.data())
def test_a_damaged_checkpoint_is_what_was_written_or_one_clean_error(tmp_path, small, data):
    whole, state = small
    load_or_refuse(tmp_path / "checkpoint.pth", data.draw(mutations(whole)), state)
