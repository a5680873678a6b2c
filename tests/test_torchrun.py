"""train.py in a job of several processes, which torchrun starts: what one process leaves, to the last bit.

The jobs are real ones. Only what is fine-tuned may differ, by rounding. Two machines start Python for each process, as
`python -m torch.distributed.run` does; processes of the other jobs are forked (warm_torchrun.py).
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from support import PROJECT, TINY, read, run_program, same
from waiting import LONG_LIMIT, is_something_in, line_with, needs_proc, wait_until
from warm import WarmPopen

import train
from flower_classifier.base.messages import RunError
from flower_classifier.base.torchrun import job_name
from flower_classifier.features.job_extraction import Helper, numerics_key
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.devices import precision_of
from flower_classifier.networks.frozen_backbone import FrozenBackbone

TORCHRUN, WARM_TORCHRUN = ("-m", "torch.distributed.run"), PROJECT / "tests" / "warm_torchrun.py"
# Slow enough to be killed in the midst; where bfloat16 is emulated, that takes fewer pixels
SIDES = {torch.float32: 160, torch.bfloat16: 96}
EPOCHS = ("--epochs", 3, "--skip_bad")


def network():
    """Return the options of a network for the precision that is chosen now."""
    side = SIDES[precision_of(torch.device("cpu"))]
    return "--arch", "timm/test_byobnet", "--image_size", side, "--weights", "none", "--no_report"


@pytest.fixture(scope="module")
def photos(flowers, tmp_path_factory):
    """Drawn flowers, of which one cannot be opened."""
    folder = tmp_path_factory.mktemp("job") / "photos"
    shutil.copytree(flowers, folder)
    min((folder / "train").glob("*/*.jpg")).write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def alone(request, photos, tmp_path_factory):
    """What one process leaves: a checkpoint, and features in a cache; in the precision that is asked for, if any."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        if asked := getattr(request, "param", None):
            patch.setenv("FLOWERS_PRECISION", asked)
        places = ("--save_dir", folder, "--cache_dir", folder / "cache")
        outcome = run_program("train.py", photos, *network(), *EPOCHS, *places)
        assert outcome.code == 0, outcome.err
        yield folder, outcome


in_each_precision = pytest.mark.parametrize("alone", ["float32", "bfloat16"], indirect=True)


def job(processes, *arguments):
    return run_program(WARM_TORCHRUN, "--standalone", "--nproc_per_node", processes, "train.py", *arguments)


def assert_the_same(folder, alone):
    expected = alone[0]
    assert (folder / "checkpoint.pth").read_bytes() == (expected / "checkpoint.pth").read_bytes()
    assert same(read(folder / "run" / "last.pth"), read(expected / "run" / "last.pth"))
    assert (folder / "run" / "bad_photos.txt").read_text() == (expected / "run" / "bad_photos.txt").read_text()
    assert not (folder / "run" / "job").exists()


@pytest.mark.slow
def test_torchrun_with_one_process_is_one_process(photos, alone, tmp_path):
    outcome = job(1, photos, *network(), *EPOCHS, "--save_dir", tmp_path, "--cache_dir", alone[0] / "cache")
    assert outcome.code == 0, outcome.err
    assert outcome.out == alone[1].out.replace(str(alone[0]), str(tmp_path))
    assert "reading" not in outcome.err
    assert_the_same(tmp_path, alone)


def start_node(number, port, cache_home, cwd, *arguments):
    """Start torchrun on one of two machines, which both are this one."""
    nodes = ("--nnodes", 2, "--node_rank", number, "--master_addr", "127.0.0.1", "--master_port", port)
    words = [sys.executable, *TORCHRUN, *nodes, "--nproc_per_node", 1, PROJECT / "train.py", *arguments]
    own = {**os.environ, "XDG_CACHE_HOME": str(cache_home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return WarmPopen(list(map(str, words)), cwd=cwd, env=own, **pipes)


def on_two_nodes(tmp_path, folders, *arguments):
    """Run a job on two machines, each in a folder and with a cache of its own; return codes, stdouts and stderrs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [start_node(number, port, tmp_path / f"home{number}", folders[number], *arguments) for number in (0, 1)]
    outputs = [node.communicate(timeout=LONG_LIMIT) for node in nodes]
    return [node.returncode for node in nodes], *zip(*outputs, strict=True)


@pytest.mark.slow
def test_two_machines_with_their_own_caches_leave_what_one_process_leaves(run, photos, alone, tmp_path, monkeypatch):
    """The same bytes; and what rank 0 keeps in its cache, one process need not compute again."""
    codes, out, err = on_two_nodes(tmp_path, [PROJECT] * 2, photos, *network(), *EPOCHS, "--save_dir", tmp_path / "job")
    assert codes == [0, 0], err
    assert out == (alone[1].out.replace(str(alone[0]), str(tmp_path / "job")), "")
    assert "reading" in err[0]
    assert "train.py" not in err[1]
    assert_the_same(tmp_path / "job", alone)
    assert not (tmp_path / "home1").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home0"))
    again = run(train, photos, *network(), *EPOCHS, "--save_dir", tmp_path / "again")
    assert again.code == 0
    assert "reading" not in again.err
    assert_the_same(tmp_path / "again", alone)


@pytest.mark.slow
def test_a_machine_without_the_photos_says_so(tmp_path):
    """It does not take them for photos that cannot be opened."""
    order = {"split": {"name": "train", "root": str(tmp_path / "photos"), "photos": ("1/a.jpg",), "labels": (0,)}}
    with pytest.raises(RunError, match=r"photos is not there: each machine needs the photos, under the same path"):
        Helper(None, torch.device("cpu")).hear(order)


@pytest.mark.slow
def test_a_machine_that_computes_other_digits_says_so(flowers):
    """An older torch, another kind of CPU: its rows must not come among rank 0's."""
    classifier, _ = new_classifier("cnn", 2)
    helper = Helper(None, torch.device("cpu"))
    helper.frozen = FrozenBackbone(classifier, torch.device("cpu"))
    way = numerics_key(helper.frozen)
    with pytest.raises(RunError, match=r"would compute other digits than process 0 \(device: .+, not another\)"):
        helper.check_numerics({**way, "device": "another"})
    with pytest.raises(RunError, match=r"\(micro-batch: \d+, not None\)"):  # as only those say `emulated` who emulate
        helper.check_numerics({name: value for name, value in way.items() if name != "micro-batch"})
    helper.check_numerics(way)


@contextlib.contextmanager
def restarted_job(processes, folder, *arguments):
    """Start a job that torchrun starts once more if a process of it fails; give torchrun, and what kills a rank.

    `folder`: a new one, for the numbers of the processes.
    """
    folder.mkdir()
    words = (WARM_TORCHRUN, "--standalone", "--nproc_per_node", processes, "--max_restarts", 1, "train.py", *arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "NUMBERS": str(folder)}
    with WarmPopen([sys.executable, *map(str, words)], cwd=PROJECT, env=environment, **pipes) as process:
        yield process, lambda rank: os.kill(int((folder / str(rank)).read_text()), signal.SIGKILL)


@pytest.mark.slow
@needs_proc
@in_each_precision
def test_a_killed_process_ends_the_job_and_the_restarted_job_goes_on(photos, alone, tmp_path):
    """torchrun starts it again, without --resume; photos that were computed are not computed again."""
    places = ("--save_dir", tmp_path, "--cache_dir", tmp_path / "cache")
    with restarted_job(3, tmp_path / "numbers", photos, *network(), *EPOCHS, *places) as (process, kill):
        noted = lambda: is_something_in(tmp_path, "cache/*/*/index.txt")  # noqa: E731
        wait_until(noted, "photos were noted in the index", process)
        kill(1)
        out, err = process.communicate(timeout=LONG_LIMIT)
    assert process.returncode == 0, err
    (told,) = (line for line in err.splitlines() if line.startswith("train.py:"))
    assert "another process of the job has ended" in told
    assert int(re.search(r"training photos, view 0: (\d+) of", err)[1]) > 0
    assert out == alone[1].out.replace(str(alone[0]), str(tmp_path))
    assert_the_same(tmp_path, alone)


@pytest.mark.thorough
@needs_proc
@pytest.mark.usefixtures("precision")
def test_fine_tuning_in_three_processes_of_which_one_is_killed_differs_by_rounding_alone(photos, tmp_path):
    """The last batch is of two photos, so one process has none of it; and the job goes on after its last epoch."""
    number = sum(1 for _ in (photos / "train").glob("*/*.jpg")) - 1
    batch_size = next(size for size in range(9, number) if number % size == 2)
    recipe = ("--epochs", 1, "--fine_tune", 2, "--dropout", 0, "--batch_size", batch_size, "--skip_bad")
    recipe += ("--layers", "last", "--no_whitening")  # the head that has learned least has the largest gradients
    asked = (photos, *TINY, *recipe, "--cache_dir", tmp_path / "cache")
    one = run_program("train.py", *asked, "--save_dir", tmp_path / "one")
    with restarted_job(3, tmp_path / "numbers", *asked, "--save_dir", tmp_path / "three") as (process, kill):
        line_with("epoch 2/3", process.stdout)
        kill(2)
        _, err = process.communicate(timeout=LONG_LIMIT)
    assert (one.code, process.returncode) == (0, 0), err
    assert "resuming after epoch 2, in the midst of fine-tuning" in err
    assert not (tmp_path / "three" / "run" / "job").exists()
    expected, found = (read(tmp_path / name / "checkpoint.pth") for name in ("one", "three"))
    assert found["training"] == expected["training"] | {"results": found["training"]["results"]}
    # The precision rounds what the steps change, and float32 the sums of losses
    losses = [row["train_loss"] for row in expected["history"]]
    of_steps, of_sums = (torch.finfo(kind).eps for kind in (precision_of(torch.device("cpu")), torch.float32))
    rounding = of_steps * (max(losses) - min(losses)) + 64 * of_sums * losses[0]
    for row, other in zip(found["history"], expected["history"], strict=True):
        assert row == pytest.approx(other, abs=rounding)
    # Adam's first steps go by the sign of a gradient, however small: a rounding may turn some numbers by a step
    steps = 2 * -(-number // batch_size)
    for name, tensor in expected["state_dict"].items():
        assert (found["state_dict"][name] - tensor).abs().max() < 2 * 3 * 1e-4 * steps, name
        assert (found["state_dict"][name] - tensor).double().square().mean() < 1e-9, name


@pytest.mark.slow
def test_a_restarted_job_does_not_go_on_after_an_earlier_run(run, photos, alone, tmp_path, monkeypatch):
    """Before this job has saved anything, what lies there is not its own, even if an earlier job was killed there."""
    shutil.copytree(alone[0], tmp_path / "out")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a job")
    (tmp_path / "out" / "run" / "job").write_text("another job")
    places = ("--save_dir", tmp_path / "out", "--cache_dir", alone[0] / "cache")
    asked = (photos, *network(), "--epochs", 4, "--skip_bad", *places)
    assert "epoch 1/4" in run(train, *asked).out
    assert not (tmp_path / "out" / "run" / "job").exists()
    (tmp_path / "out" / "run" / "job").write_text(job_name())
    assert "4 epochs trained already" in run(train, *asked).err
