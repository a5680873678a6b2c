"""The checkpoint file: whole or not at all, and never trusted."""

import contextlib
import json
import os
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from support import PROJECT, QUICK, run_program, same
from torch import nn

import predict
from flower_classifier.base.messages import InputError, RunError
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.safe_files import check_digest, read_tensors, to_cpu, write_atomically
from flower_classifier.networks.source import read_weights_file
from flower_classifier.photos.views import Preprocessing


@pytest.fixture
def contents(trained):
    return torch.load(trained / "checkpoint.pth", weights_only=True)


def test_a_checkpoint_comes_back_whole(trained):
    checkpoint = Checkpoint.load(trained / "checkpoint.pth")
    assert checkpoint.classes == ("49", "51", "54", "74", "78", "91")
    assert checkpoint.category_names["74"] == "rose"
    assert checkpoint.classifier.preprocessing == Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")
    assert not checkpoint.classifier.training
    assert [row["epoch"] for row in checkpoint.history] == [1, 2, 3]
    assert not any(tensor.is_meta for tensor in checkpoint.classifier.state_dict().values())


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(run, trained, flowers, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    photo = flowers / "test" / "54" / "drawn_000.jpg"
    torch.save({"format_version": 1, "state_dict": Evil()}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pth", "bare.pth"):
        outcome = run(predict, photo, tmp_path / name)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"{name} is no checkpoint" in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format_version=9), "format 9, this program reads 8: update the program"),
        (
            lambda c: c.update(format_version=4),
            "format 4, this program reads 8: an earlier version wrote it; train again",
        ),
        (lambda c: c.pop("format_version"), "no checkpoint that train.py wrote"),
        (lambda c: c.pop("preprocessing"), "KeyError: 'preprocessing'"),
        (lambda c: c["class_to_idx"].popitem(), "size mismatch"),
        (lambda c: c["state_dict"].popitem(), "Missing key"),
        (lambda c: c.update(arch="vgg61"), "vgg61"),
        (lambda c: c.update(hidden_units=["a"]), "impossible widths"),
        (lambda c: c["class_to_idx"].update({"49": 1}), "does not count from 0"),
        (lambda c: c["preprocessing"].update(interpolation="magic"), "makes no sense"),
        (lambda c: c["preprocessing"].update(resampling="magic"), "makes no sense"),
        (lambda c: c["preprocessing"].update(crop_size=31.5), "makes no sense"),
        (lambda c: c["preprocessing"].update(crop_size=True), "makes no sense"),
        (lambda c: c["preprocessing"].update(resize_size=256.5), "makes no sense"),
        (lambda c: c["preprocessing"].update(std=[5e-324] * 3), "makes no sense"),
        (lambda c: c["preprocessing"].update(crop_size=1, resize_size=1), "cnn takes no pictures of 1 pixels out of 1"),
        (lambda c: c["preprocessing"].update(resize_size=33), "cnn takes no pictures of 32 pixels out of 33"),
        (lambda c: c.update(category_names=3), "TypeError"),
        (lambda c: c["category_names"].update({"49": 5}), "names that are no text"),
        (lambda c: c.update(class_to_idx={}), "does not count from 0"),
        (lambda c: c.update(arch="maskrcnn_resnet50_fpn"), "no architecture"),  # torchvision's, which would download
        (lambda c: c.update(hidden_units=[1] * 10**5), "100000 hidden layers"),
        (lambda c: c.update(hidden_units=[10**7]), "hidden layers of impossible widths"),
        (lambda c: c.update(temperature=0.0), "a temperature of 0"),
        (lambda c: c.update(temperature=5e-324), "a temperature of 5e-324"),
        (lambda c: c.update(dropout=float("nan")), "a dropout of nan"),
        (lambda c: c.update(learns="tail"), "learns is 'tail'"),
        (lambda c: c.update(learns=["head"]), "learns is"),
        (lambda c: c.update(arch=["cnn"]), "no architecture"),
        (lambda c: (c.update(arch="vit_b_16"), c["preprocessing"].update(crop_size=31)), "takes no pictures of 31"),
        (lambda c: c["preprocessing"].update(mean=[10**400] * 3), "more than 64 bits|damaged"),
        (lambda c: c["preprocessing"].update(mean=["a", "b", "c"]), "makes no sense"),
        (lambda c: c["state_dict"].update({"head.0.bias": c["state_dict"]["head.0.bias"].double()}), "float64"),
    ],
)
def test_what_does_not_fit_is_refused(contents, tmp_path, change, said):
    change(contents)
    write_atomically(tmp_path / "changed.pth", contents)
    with pytest.raises(InputError, match=said):
        Checkpoint.load(tmp_path / "changed.pth")


@pytest.mark.parametrize(("resize", "crop"), [(1, 1), (31, 31), (256, 223), (2048, 2048)])
def test_sizes_that_no_photo_would_pass_the_network_in_are_refused_with_the_file(
    train_into, run, flowers, tmp_path, resize, crop
):
    """All tensors fit, whatever the size: only the first photo would show it, and some sizes not even that."""
    train_into(tmp_path, flowers, *QUICK, "--epochs", 1)
    contents = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    contents["preprocessing"].update(resize_size=resize, crop_size=crop)
    write_atomically(tmp_path / "changed.pth", contents)
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "changed.pth")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"squeezenet1_1 takes no pictures of {crop} pixels out of {resize}" in outcome.err


@pytest.mark.slow
def test_a_small_file_that_names_a_large_network_takes_no_memory(contents, tmp_path):
    """regnet_y_32gf has 145 million parameters, 0.6 GB. A process has its own VmHWM, but its parent's ru_maxrss."""
    contents.update(arch="regnet_y_32gf", state_dict={}, learns="head")
    contents["preprocessing"].update(resize_size=232, crop_size=224)
    write_atomically(tmp_path / "small.pth", contents)
    code = (
        "import re, sys; from pathlib import Path\n"
        "from flower_classifier.base.messages import InputError\n"
        "from flower_classifier.networks.checkpoint import Checkpoint\n"
        "def most(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = most()\n"
        "try: Checkpoint.load(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
        "print(most() - before)"
    )
    refusal, taken = run_program("-c", code, tmp_path / "small.pth").out.splitlines()
    assert "Missing key" in refusal
    assert int(taken) < 100_000  # kB


def test_a_file_from_before_there_were_digests_is_told_from_a_damaged_one(contents, tmp_path):
    del contents["digest"]
    torch.save(contents, tmp_path / "old.pth")
    assert "has no digest: an earlier version wrote it" in outcome(tmp_path / "old.pth")


def outcome(path):
    """Return what loading says of a file: its contents, or the one line of its refusal."""
    try:
        contents = read_tensors(path)
        check_digest(path, contents)
        Checkpoint.load(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return contents


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_harmless(trained, tmp_path):
    """Harmless is a bit of the padding between tensors, for one: then what comes back is what was written."""
    whole = (trained / "checkpoint.pth").read_bytes()
    written, rng, found = read_tensors(trained / "checkpoint.pth"), random.Random(0), 0
    path = tmp_path / "flipped.pth"
    for _ in range(150):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        result = outcome(path)
        found += isinstance(result, str)
        assert isinstance(result, str) or same(result, written)
    assert found > 100


def test_a_file_cut_at_any_length_is_refused(trained, tmp_path):
    whole, rng = (trained / "checkpoint.pth").read_bytes(), random.Random(0)
    for length in [0, 1, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(50))]:
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        assert "is no checkpoint, or a damaged one" in outcome(tmp_path / "cut.pth")


@pytest.mark.slow
def test_a_file_that_unpacks_to_more_than_it_is_takes_no_memory(contents, tmp_path):
    """Two bombs: compressed zeros in the archive, and a tensor that repeats one number ten billion times."""
    write_atomically(tmp_path / "plain.pth", contents)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "zip.pth", "w") as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
        with packed.open("archive/data/999", "w", force_zip64=True) as file:
            packed.filelist[-1].compress_type = zipfile.ZIP_DEFLATED
            file.write(bytes(2**20))
    assert "it is compressed" in outcome(tmp_path / "zip.pth")
    state = {**contents["state_dict"], "head.0.weight": torch.zeros(1).expand(10**5, 10**5)}
    torch.save({**contents, "state_dict": state}, tmp_path / "strides.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "a tensor is larger than what is stored of it" in outcome(tmp_path / "strides.pth")
    torch.save({**contents, "history": bytearray(5)}, tmp_path / "bytearray.pth")
    assert "it holds builtins bytearray" in outcome(tmp_path / "bytearray.pth").replace("__builtin__", "builtins")
    torch.save({**contents, "history": ["x" * 200_000] * 20_000}, tmp_path / "text.pth")
    assert "over and over" in outcome(tmp_path / "text.pth")
    laughs = [0]
    for _ in range(40):
        laughs = [laughs, laughs]
    torch.save({**contents, "history": laughs}, tmp_path / "laughs.pth")
    assert "over and over" in outcome(tmp_path / "laughs.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


NESTED = b"K\0K\0\x86q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"K\0s"
BYTES = b"X\1\0\0\0acbuiltins\nbytearray\nJ" + struct.pack("<i", 2 * 10**9) + b"\x85Rs"
COLLIDING = b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"K\0s" for i in range(100))


def with_pickle(whole, path, data, name="archive/data.pkl"):
    """Copy a checkpoint's archive, with another pickle in it."""
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(path, "w") as changed:
        for entry in before.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            changed.writestr(name if is_pickle else entry.filename, data if is_pickle else before.read(entry))


@pytest.mark.parametrize(
    ("steps", "name", "said"),
    [
        (NESTED, "data.pkl", "keys that are no text"),  # 2^60 tuples to hash, in a pickle of 400 bytes
        (COLLIDING, "data.pkl", "more than 64 bits"),  # keys of one hash
        (BYTES, "data.pkl", "holds builtins bytearray"),
        (BYTES, "DATA.PKL", "holds builtins bytearray"),  # torch's reader takes no notice of case
        (b"c\x1b]0;owned\nx\ns", "data.pkl", "holds .x1b]0;owned x"),
    ],
)
def test_a_pickle_that_would_cost_memory_or_time_is_refused(trained, run, flowers, tmp_path, steps, name, said):
    with_pickle(trained / "checkpoint.pth", tmp_path / "changed.pth", b"\x80\2}" + steps + b".", f"archive/{name}")
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "changed.pth")
    assert outcome.code == 2
    assert re.search(said, outcome.err)
    assert "\x1b" not in outcome.err


def test_an_archive_that_two_readers_would_read_differently_is_refused(trained, tmp_path):
    """Something before the archive, behind it, between its parts; or a second directory."""
    whole = (trained / "checkpoint.pth").read_bytes()
    start = struct.unpack("<L", whole[-6:-2])[0]  # of the directory
    directory, records = whole[start:-98], whole[-98:]
    for data in (
        b"\x80\2}." + whole,
        whole[:-2] + b"\1\0a",  # a comment
        whole[:-98] + bytes(46) + records,
        whole[:start] + directory + whole[start:],
        whole[:-98] + records[:48] + struct.pack("<Q", start - 1) + records[56:],
    ):
        (tmp_path / "two.pth").write_bytes(data)
        assert "is no checkpoint, or a damaged one" in outcome(tmp_path / "two.pth")


def test_a_pipe_is_no_checkpoint_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "no regular file" in outcome(tmp_path / "pipe.pth")


def test_weights_that_are_no_numbers_predict_nothing(run, contents, flowers, tmp_path):
    contents["state_dict"]["head.0.bias"].fill_(float("nan"))
    write_atomically(tmp_path / "nan.pth", contents)
    outcome = run(predict, flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "nan.pth")
    assert (outcome.code, outcome.out) == (2, "")
    assert "answers with nan or infinity" in outcome.err


def test_files_of_other_kinds_are_refused(trained, tmp_path):
    whole = (trained / "checkpoint.pth").read_bytes()
    for name, data in {"empty": b"", "text": b"hello", "half": whole[: len(whole) // 2], "cut": whole[:-1]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name} is no checkpoint"):
            Checkpoint.load(tmp_path / name)
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:  # torch's own format, long ago
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match=r"tar\.pth is no checkpoint"):
        Checkpoint.load(tmp_path / "tar.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(InputError, match="holds a Tensor"):
        Checkpoint.load(tmp_path / "tensor.pth")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "others.pth")
    with pytest.raises(InputError, match="no checkpoint that train"):
        Checkpoint.load(tmp_path / "others.pth")


class Net(nn.Module):
    """A network of somebody else's: pickled whole, its file names this class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)


def others_files(folder):
    """Write files that people take for a checkpoint; return what each is, and whether train.py --weights takes it."""
    weights, model = "these are weights; train.py --weights takes such a file", "it is a pickled model; train.py --we"
    others = f"{weights}, its backbone, by the --arch that it has, but not its head, which is trained again"
    state = Net().state_dict()
    safetensors = json.dumps({"layer.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    torch.save(state, folder / "state.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, folder / "training.pth")
    torch.save(dict(state), folder / "plain.pth")
    theirs = {"arch": "vgg16", "class_to_idx": {"1": 0, "2": 1}}  # as most solutions of the exercise save it
    torch.save({**theirs, "state_dict": state}, folder / "course.pth")
    torch.save({**theirs, "state_dict": state, "classifier": Net()}, folder / "course_and_model.pth")
    torch.save({**theirs, "classifier_state_dict": state}, folder / "head.pth")
    torch.save(Net(), folder / "model.pth")
    torch.save(Net(), folder / "legacy_model.pth", _use_new_zipfile_serialization=False)
    (folder / "safe.pth").write_bytes(len(safetensors).to_bytes(8, "little") + safetensors + bytes(4))
    (folder / "page.pth").write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")
    return {
        "state.pth": (weights, True),
        "legacy.pth": (weights, True),
        "training.pth": (others, True),
        "course.pth": (others, True),
        "course_and_model.pth": (model, False),
        "head.pth": ("of tensors it holds classifier_state_dict alone, which train.py cannot take: train anew", False),
        "plain.pth": (weights, True),
        "model.pth": (model, False),
        "legacy_model.pth": (model, False),
        "safe.pth": ("these are weights in the format safetensors", False),
        "page.pth": ("it is a web page, which a download may leave instead of a file", False),
    }


def test_other_programs_files_are_called_what_they_are(run, flowers, tmp_path):
    """What is said of --weights is true, and unpickling, which would run code, is not how it is found out."""
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    for name, (kind, taken) in others_files(tmp_path).items():
        outcome = run(predict, photo, tmp_path / name)
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert f"{tmp_path / name} is no checkpoint that train.py wrote: {kind}" in outcome.err
        with contextlib.nullcontext() if taken else pytest.raises(InputError):
            assert len(read_weights_file(tmp_path / name)) == 2


def test_weights_that_cannot_be_read_safely_are_refused_in_words_of_our_own(tmp_path):
    torch.save(Net(), tmp_path / "model.pth")
    (tmp_path / "text.pth").write_text("no weights at all")
    for name, reason in (("model", "it is a pickled model, or holds one"), ("text", "it is damaged, or no such file")):
        with pytest.raises(InputError, match=rf"{name}\.pth: not a file of tensors .*\({reason}") as refused:
            read_weights_file(tmp_path / f"{name}.pth")
        assert "\x1b" not in str(refused.value)
        assert "weights_only" not in str(refused.value)


def test_a_damaged_checkpoint_is_not_taken_for_weights(trained, tmp_path):
    data = bytearray((trained / "checkpoint.pth").read_bytes())
    data[:4] = b"PK\1\1"
    (tmp_path / "damaged.pth").write_bytes(data)
    assert "damaged.pth is no checkpoint, or a damaged one" in outcome(tmp_path / "damaged.pth")


def test_writing_replaces_the_file_at_once_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "checkpoint.pth"
    for value in (1, 2):
        write_atomically(path, {"value": torch.tensor(value)})
        assert read_tensors(path)["value"] == value
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path):
    """A real refusal by the system: no file of this process may grow beyond a megabyte."""
    path = tmp_path / "checkpoint.pth"
    write_atomically(path, {"value": torch.tensor(1)})
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from flower_classifier.networks.safe_files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "write_atomically(Path(sys.argv[1]), {'value': torch.zeros(2**20)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert f"RunError: cannot write {path} (File too large); what was there" in done.stderr
    assert read_tensors(path)["value"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_a_run_that_failed(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        write_atomically(tmp_path / "gone" / "checkpoint.pth", {})


def test_a_view_is_stored_without_the_rest_of_its_storage():
    part = torch.zeros(1000)[:10]
    assert to_cpu({"part": [part]})["part"][0].untyped_storage().nbytes() == 40
