"""Resuming: what a run had finished when it ended, however it ended, is what it goes on from."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from support import NAMES, PROJECT, QUICK, TINY, read, run_program, same
from torchvision import models
from waiting import LIMIT, line_with, signalled_at
from warm import WarmPopen

import train
from flower_classifier.config.train_options import RESUMED_OPTIONS, TrainConfig
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.photos.splits import CONTENT_END
from flower_classifier.report.report_files import files_of


def start_and_stop(arguments, how, lines=0):
    """Start training in a process of its own, and end it after some epochs' lines, or once photos are being read."""
    command = [sys.executable, "train.py", *map(str, arguments), "--epochs", "100000"]
    process = WarmPopen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(lines):
        assert process.stdout.readline().startswith("epoch")
    if lines == 0:
        line_with("training its head", process.stderr)
    process.send_signal(how)
    out, errors = process.communicate(timeout=LIMIT)
    return process.returncode, out, errors


CNN = ("--arch", "cnn", "--no_report")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision"),
    [(CNN, "float32"), (TINY, "float32"), (TINY, "bfloat16")],  # cnn knows no other
    ids=["cnn", "frozen", "frozen bfloat16"],
)
def test_two_epochs_and_two_more_equal_four_bit_for_bit(train_into, flowers, tmp_path, monkeypatch, model, precision):
    monkeypatch.setenv("FLOWERS_PRECISION", precision)
    options = (*model, "--views", 3, "--hidden_units", 32, "--dropout", 0.5)
    whole = train_into(tmp_path / "whole", flowers, *options, "--epochs", 4)
    train_into(tmp_path / "parts", flowers, *options, "--epochs", 2)
    rest = train_into(tmp_path / "parts", flowers, *options, "--epochs", 4, "--resume")
    assert rest.out.splitlines()[:3] == whole.out.splitlines()[2:5]
    assert "resuming after epoch 2" in rest.err
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "whole" / file), read(tmp_path / "parts" / file))


def test_resuming_goes_on_with_another_learning_rate(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *TINY, "--epochs", 1)
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 2, "--resume", "--learning_rate", 0.1)
    state = read(tmp_path / "run" / "last.pth")
    assert [row["epoch"] for row in state["history"]] == [1, 2]
    assert "--learning_rate was 0.001, now 0.1 from epoch 2 on" in outcome.err
    assert state["training"]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("step", "what"), [(-3, "an earlier version wrote it; train again"), (1, "update the program")]
)
def test_a_state_of_another_format_is_refused(run, trained, flowers, tmp_path, step, what):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "run" / "last.pth"
    saved = read(last)
    version = saved["format_version"]
    write_atomically(last, {**saved, "format_version": version + step})
    outcome = run(train, flowers, "--resume", "--save_dir", tmp_path)
    assert outcome.code == 2
    assert f"run/last.pth has format {version + step}, this program reads {version}: {what}" in outcome.err


NEWER_OPTIONS = ("labels", "valid_labels", "test_labels", "columns", "groups", "fit", "augment")


def test_a_state_of_the_version_before_goes_on_as_one_of_today(train_into, flowers, tmp_path):
    train_into(tmp_path / "now", flowers, *TINY, "--epochs", 2)
    shutil.copytree(tmp_path / "now", tmp_path / "before")
    last = tmp_path / "before" / "run" / "last.pth"
    state = {key: value for key, value in read(last).items() if key not in ("stranger_measure", "digest")}
    del state["identity"]["fit"], state["training"]["augment"]
    del state["identity"]["contents"]
    state["settings"] = {key: value for key, value in state["settings"].items() if key not in NEWER_OPTIONS}
    write_atomically(last, {**state, "format_version": 8})
    for name in ("now", "before"):
        train_into(tmp_path / name, flowers, "--resume", "--epochs", 4, "--no_report")
    for file in ("checkpoint.pth", "run/last.pth"):
        now, before = (read(tmp_path / name / file) for name in ("now", "before"))
        assert before["history"] == now["history"]
        assert before["format_version"] == now["format_version"]
        assert same(before.get("state_dict"), now.get("state_dict"))
        assert same(before.get("learner"), now.get("learner"))


def test_resuming_in_another_precision_says_so(train_into, flowers, tmp_path, monkeypatch):
    for number, precision in enumerate(("float32", "bfloat16", "bfloat16")):
        monkeypatch.setenv("FLOWERS_PRECISION", precision)
        outcome = train_into(tmp_path, flowers, *TINY, "--epochs", number + 1, "--resume" if number else "--no_cache")
        change = "the network computed in float32 so far, now it does in bfloat16: FLOWERS_PRECISION=float32 would keep"
        assert (change in outcome.err) == (number == 1)
        assert read(tmp_path / "checkpoint.pth")["training"]["precision"] in ("float32", precision)  # of the best epoch
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["machine"]["precision"] == "bfloat16"


@pytest.mark.slow
def test_a_resumed_run_takes_what_a_program_sets(train_into, flowers, tmp_path):
    """Not from a command line, so nothing was typed."""
    own = ("--epochs", 1, "--views", 2, "--batch_size", 7, "--no_report")
    train_into(tmp_path, flowers, "--arch", "cnn", *own)
    train.run(TrainConfig(flowers, save_dir=tmp_path, resume=True, epochs=2, batch_size=9, no_report=True))
    settings = read(tmp_path / "run" / "last.pth")["settings"]
    assert [settings[name] for name in ("arch", "epochs", "views", "batch_size")] == ["cnn", 2, 2, 9]


def test_a_resumed_run_keeps_its_own_options_and_takes_what_is_typed(train_into, flowers, tmp_path):
    """Among them the weights, by a path that another folder would not find, and the epochs that were planned."""
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "own.pth")
    own = ["--arch", "squeezenet1_1", "--weights", tmp_path / "own.pth", "--hidden_units", 16, 8, "--dropout", 0.5]
    own += ["--seed", 3, "--batch_size", 7, "--views", 2, "--lr", 0.01, "--no_report"]
    train_into(tmp_path / "whole", flowers, *own, "--epochs", 4)
    stopped = tmp_path / "stopped"
    train_into(stopped, flowers, *own, "--epochs", 2)
    saved = read(stopped / "run" / "last.pth")
    planned = {**saved, "settings": {**saved["settings"], "epochs": 4}}  # as Ctrl-C after the second of four leaves it
    write_atomically(stopped / "run" / "last.pth", planned)
    rest = train_into(stopped, flowers, "--resume", "--no_report")
    assert re.findall(r"epoch +(\d+)/4 ", rest.out) == ["3", "4"]
    assert "now" not in rest.err
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "whole" / file), read(stopped / file))
    longer = train_into(stopped, flowers, "--resume", "--no_report", "--epochs", 5, "--batch_size", 9)
    assert "--batch_size was 7, now 9 from epoch 5 on\n" in longer.err
    assert read(stopped / "run" / "last.pth")["settings"]["batch_size"] == 9


def test_every_option_is_kept_by_a_resumed_run_or_the_commands_own():
    own = {"data_dir", "summary", "download", "category_names", "gpu", "cache_dir", "cache_limit", "no_cache"}
    own |= {"save_dir", "resume", "tune", "doctor", "no_memory", "no_report", "tensorboard"}
    assert {setting.name for setting in TrainConfig.options()} == own | set(RESUMED_OPTIONS)


def test_resuming_a_finished_run_says_so_tests_again_and_writes_nothing(train_into, flowers, tmp_path):
    options = ["--arch", "cnn", "--epochs", 2]
    first = train_into(tmp_path, flowers, *options)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    again = train_into(tmp_path, flowers, *options, "--resume", "--lr", 0.5)
    assert again.out.splitlines() == first.out.splitlines()[2:]
    assert "2 epochs trained already" in again.err
    del before[tmp_path / "run" / "lock"]
    assert all((path.stat().st_ino, path.stat().st_mtime_ns) == was for path, was in before.items())


def test_resuming_a_finished_run_draws_the_report_that_it_lacks(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1, "--no_report")
    before = (tmp_path / "checkpoint.pth").stat().st_mtime_ns
    train_into(tmp_path, flowers, "--resume")
    assert {path.name for path in (tmp_path / "run").iterdir()} >= set(files_of("history"))
    assert (tmp_path / "checkpoint.pth").stat().st_mtime_ns == before


@pytest.mark.parametrize("stopped", [True, False])
def test_a_checkpoint_keeps_its_temperature_while_no_epoch_is_better(train_into, flowers, tmp_path, stopped):
    """Resumed with steps so large that every further epoch is worse, to its end or until a signal stops it.

    From features as they are: in whitened ones the first such step points from class to class, and is a good one.
    """
    plain = (*QUICK, "--layers", "last", "--no_whitening")
    train_into(tmp_path, flowers, *plain, "--epochs", 8)
    for file in ("checkpoint.pth", "run/last.pth"):
        write_atomically(tmp_path / file, {**read(tmp_path / file), "temperature": 1.5})
    before = read(tmp_path / "checkpoint.pth")
    options = [flowers, *plain, "--resume", "--lr", "3"]
    if stopped:
        code, _, _ = start_and_stop([*options, "--save_dir", tmp_path], signal.SIGINT, lines=2)
        assert code == 130
    else:
        train_into(tmp_path, *options, "--epochs", 10)
    after = read(tmp_path / "checkpoint.pth")
    assert after["training"]["epochs"] > 8
    assert after["training"]["epoch"] == before["training"]["epoch"]
    assert (after["temperature"], same(after["state_dict"], before["state_dict"])) == (1.5, True)


def test_resuming_where_nothing_is_starts_anew_and_says_so(train_into, flowers, tmp_path):
    assert "nothing to resume" in train_into(tmp_path, flowers, *TINY, "--epochs", 1, "--resume").err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--arch", "cnn"), "--arch was squeezenet1_1, now cnn"),
        (("--seed", 1), "--seed was 0, now 1"),
        (("--hidden_units", 8), "--hidden_units was [512], now [8]"),
        (("--dropout", 0.5), "--dropout was 0.2, now 0.5"),
        (("--layers", "last"), "--layers was several, now last"),
    ],
)
def test_another_model_is_not_resumed(train_into, run, flowers, tmp_path, change, said):
    train_into(tmp_path, flowers, *QUICK, "--epochs", 1)
    model = change if change[0] == "--arch" else (*QUICK, *change)
    outcome = run(train, flowers, *model, "--epochs", 2, "--resume", "--save_dir", tmp_path)
    assert outcome.code == 2
    assert said in outcome.err


def test_other_data_is_not_resumed(train_into, run, flowers, tmp_path):
    changed = shutil.copytree(flowers, tmp_path / "flowers")
    train_into(tmp_path / "out", changed, *TINY, "--epochs", 1)
    photos = sorted((changed / "train" / "54").iterdir())
    for change in (lambda: shutil.copy(photos[1], photos[0]), photos[0].unlink):
        change()
        outcome = run(train, changed, *TINY, "--epochs", 2, "--resume", "--save_dir", tmp_path / "out")
        assert (outcome.code, outcome.out) == (2, "")
        assert "the set of training photos, or their labels (or the share held out of it) changed" in outcome.err


def test_photos_that_were_swapped_are_other_data_though_their_names_and_sizes_are_as_before(train_into, run, tmp_path):
    """Uncompressed pictures of one size are the same number of bytes. A copy of the folder is the same data."""
    data = tmp_path / "data"
    for split, count in (("train", 4), ("valid", 2)):
        for number, name in enumerate(("red", "blue")):
            (data / split / name).mkdir(parents=True)
            for shade in range(count):
                colour = (200 - 200 * number, 10 * shade + len(split), 200 * number)
                Image.new("RGB", (64, 64), colour).save(data / split / name / f"{shade}.bmp")
    train_into(tmp_path / "out", data, *TINY, "--epochs", 1)
    copied = shutil.copytree(data, tmp_path / "copied", copy_function=shutil.copyfile)
    train_into(tmp_path / "out", copied, *TINY, "--epochs", 2, "--resume")
    for split, count in (("valid", 4), ("train", 8)):
        for old, new in (("red", "aside"), ("blue", "red"), ("aside", "blue")):
            (copied / split / old).rename(copied / split / new)
        outcome = run(train, copied, *TINY, "--epochs", 3, "--resume", "--save_dir", tmp_path / "out")
        assert (outcome.code, outcome.out) == (2, "")
        assert f"cannot resume: what is in {count} photos ({split}/blue/0.bmp, " in outcome.err
        for old, new in (("red", "aside"), ("blue", "red"), ("aside", "blue")):
            (copied / split / old).rename(copied / split / new)


@pytest.mark.thorough
def test_other_weights_in_a_file_of_the_same_name_are_not_resumed(run, flowers, tmp_path):
    options = ("--arch", "squeezenet1_1", "--weights", tmp_path / "own.pth", "--save_dir", tmp_path / "out")
    for seed, code in ((0, 0), (1, 2)):
        torch.manual_seed(seed)
        torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "own.pth")
        outcome = run(train, flowers, *options, "--epochs", 1 + seed, "--resume")
        assert outcome.code == code
    assert "what the backbone's weights hold changed" in outcome.err


def test_resuming_a_finished_run_mends_its_checkpoint_and_keeps_what_is_true_of_it(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *TINY, "--epochs", 2, "--category_names", PROJECT / "cat_to_name.json")
    contents = read(tmp_path / "checkpoint.pth")
    (tmp_path / "checkpoint.pth").unlink()
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 2, "--resume", "--lr", 0.5, "--batch_size", 7)
    assert same(read(tmp_path / "checkpoint.pth"), contents)
    assert "now 7" not in outcome.err
    (tmp_path / "names.json").write_text('{"54": "Sonnenblume"}')
    train_into(tmp_path, flowers, *TINY, "--epochs", 2, "--resume", "--category_names", tmp_path / "names.json")
    assert read(tmp_path / "checkpoint.pth")["category_names"] == {"54": "Sonnenblume"}


def test_a_state_that_was_tampered_with_is_damaged(train_into, run, flowers, tmp_path):
    train_into(tmp_path, flowers, *TINY, "--epochs", 1)
    saved = read(tmp_path / "run" / "last.pth")
    other = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    for change in ({"learner": {}}, {"optimizer": {0: other}}, {"optimizer": None}):
        write_atomically(tmp_path / "run" / "last.pth", {**saved, **change})
        outcome = run(train, flowers, *TINY, "--epochs", 2, "--resume", "--save_dir", tmp_path)
        assert (outcome.code, outcome.out) == (2, ""), change
        assert "last.pth is damaged" in outcome.err


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_save_bit_for_bit(train_into, flowers, tmp_path):
    """A real kill -9, with every epoch's save due; the saves must not take the run's own files for another's."""
    options = ["--arch", "cnn", "--views", "2", "--hidden_units", "16", "--no_report"]
    code = (
        "import sys, train\n"
        "from flower_classifier.training import run_folder\n"
        "run_folder.SAVE_EVERY = 0\n"
        "train.main(sys.argv[1:])"
    )
    arguments = [str(flowers), *options, "--epochs", "100000", "--save_dir", str(tmp_path / "parts")]
    process = WarmPopen([sys.executable, "-c", code, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    for _ in range(4):
        assert process.stdout.readline().startswith("epoch")
    process.kill()
    process.communicate(timeout=LIMIT)
    reached = read(tmp_path / "parts" / "run" / "last.pth")["epoch"]
    assert reached >= 3
    assert not (tmp_path / "parts" / "run" / "earlier").exists()
    train_into(tmp_path / "parts", flowers, *options, "--epochs", reached + 2, "--resume")
    train_into(tmp_path / "whole", flowers, *options, "--epochs", reached + 2)
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "whole" / file), read(tmp_path / "parts" / file))


@pytest.mark.usefixtures("precision")
def test_what_a_run_had_finished_when_it_was_stopped_is_resumed_bit_for_bit(train_into, flowers, tmp_path):
    """A real Ctrl-C after the third epoch's line, wherever in the fourth that is, long before the next save is due."""
    options = [*TINY, "--views", "2", "--hidden_units", "64"]
    arguments = [flowers, *options, "--save_dir", tmp_path / "parts"]
    stopped, _, errors = start_and_stop(arguments, signal.SIGINT, lines=3)
    assert stopped == 130
    reached = read(tmp_path / "parts" / "run" / "last.pth")["epoch"]
    assert f"stopped after epoch {reached}; the same command with --resume goes on" in errors
    assert errors.splitlines()[-1] == "train.py: interrupted"
    assert "Traceback" not in errors
    train_into(tmp_path / "parts", flowers, *options, "--epochs", reached + 2, "--resume")
    train_into(tmp_path / "whole", flowers, *options, "--epochs", reached + 2)
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "parts" / file), read(tmp_path / "whole" / file))


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_that_is_resumed_bit_for_bit(train_into, flowers, tmp_path):
    """A real one, the process's own, which takes no more writing: the note goes nowhere, the epochs to the disk."""
    options = [*QUICK, "--views", "2", "--hidden_units", "64"]
    command = [sys.executable, "train.py", flowers, *options, "--epochs", "100000", "--save_dir", tmp_path / "parts"]
    controller, terminal = os.openpty()
    opening = 'exec "$@" 0<>"$0" 1>&0 2>&0'  # by which a session's first process makes a terminal its own
    process = subprocess.Popen(
        ["sh", "-c", opening, os.ttyname(terminal), *map(str, command)], cwd=PROJECT, start_new_session=True
    )
    shown = b""
    while not re.search(rb"epoch +3/100000", shown):
        shown += os.read(controller, 4096)
    os.close(terminal)
    os.close(controller)
    assert process.wait(timeout=LIMIT) == 129
    reached = read(tmp_path / "parts" / "run" / "last.pth")["epoch"]
    assert reached >= 3
    train_into(tmp_path / "parts", flowers, *options, "--epochs", reached + 2, "--resume")
    train_into(tmp_path / "whole", flowers, *options, "--epochs", reached + 2)
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(tmp_path / "parts" / file), read(tmp_path / "whole" / file))


def test_a_signal_while_files_are_written_waits_until_they_are(flowers, tmp_path):
    """A real one, when the first temporary file is opened; torch's threads are alive, and could take it."""
    command = ["train.py", flowers, "--arch", "cnn", "--epochs", 1, "--no_report", "--save_dir", tmp_path]
    outcome = run_program(*signalled_at(".last.pth.tmp", signal.SIGTERM, *command))
    assert outcome.code == 143
    assert outcome.err.splitlines()[-1] == "train.py: terminated"
    assert read(tmp_path / "run" / "last.pth")["epoch"] == 1
    assert read(tmp_path / "checkpoint.pth")["training"]["epoch"] == 1


@pytest.mark.slow
def test_resuming_with_other_photos_left_out_is_refused(train_into, run, flowers, tmp_path):
    """The photo is damaged at the same size, so that the folder looks the same from outside."""
    data = shutil.copytree(flowers, tmp_path / "flowers")
    photo = data / "valid" / "54" / "drawn_001.jpg"
    whole = photo.read_bytes() + bytes(CONTENT_END)  # so that its end, which is compared, tells nothing
    photo.write_bytes(bytes(len(whole)))
    options = (data, *TINY, "--skip_bad", "--no_cache")
    train_into(tmp_path / "out", *options, "--epochs", 1)
    train_into(tmp_path / "out", *options, "--epochs", 2, "--resume")
    photo.write_bytes(whole)
    outcome = run(train, *options, "--epochs", 3, "--resume", "--save_dir", tmp_path / "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert (
        "1 photo that could be opened before and cannot now, or the other way round (valid/54/drawn_001.jpg)"
        in outcome.err
    )


@pytest.mark.slow
def test_a_photo_that_turns_bad_between_views_stops_the_run_resumably(data_of, run, train_into, tmp_path):
    data, photo = data_of
    code = (
        "import sys, train; from flower_classifier.training import steps\n"
        "from pathlib import Path; photo = Path(sys.argv.pop())\n"
        "line, size = steps.epoch_line, photo.stat().st_size\n"
        "steps.epoch_line = lambda *what: (photo.write_bytes(bytes(size)), line(*what))[1]\n"
        "train.process.run(lambda: train.main(sys.argv[1:]))"
    )
    options = [*TINY, "--epochs", 4, "--no_cache", "--save_dir", tmp_path / "out"]
    whole = photo.read_bytes()
    outcome = run_program("-c", code, data, *options, photo)
    assert (outcome.code, len(outcome.out.splitlines())) == (2, 2)
    assert "1 photo cannot be used; repair them, and resume" in outcome.err
    photo.write_bytes(whole)
    train_into(tmp_path / "out", data, *options[:-2], "--resume")
    train_into(tmp_path / "undisturbed", data, *options[:-2])
    assert same(*(read(tmp_path / name / "checkpoint.pth")["state_dict"] for name in ("out", "undisturbed")))


@pytest.mark.slow
def test_a_photo_that_is_replaced_between_views_is_named(data_of, tmp_path):
    """The views before show the old one, those after the new one; a photo that is only touched by a backup is not."""
    data, photo = data_of
    code = (
        "import os, sys, train; from flower_classifier.training import steps\n"
        "from pathlib import Path; photo = Path(sys.argv.pop())\n"
        "line, others = steps.epoch_line, sorted(photo.parent.iterdir())\n"
        "def replaced(row, *others_of_it):\n"
        "    if row['epoch'] == 2: photo.write_bytes(others[-1].read_bytes()); others[2].chmod(0o600)\n"
        "    return line(row, *others_of_it)\n"
        "steps.epoch_line = replaced\n"
        "train.process.run(lambda: train.main(sys.argv[1:]))"
    )
    for number, cache in enumerate((["--no_cache"], ["--cache_dir", tmp_path / "cache"])):
        options = [*TINY, "--views", 6, "--epochs", 6, *cache, "--save_dir", tmp_path / f"{number}"]
        before = photo.read_bytes()
        outcome = run_program("-c", code, data, *options, photo)
        assert outcome.code == 0, outcome.err
        said = "1 photo changed during the run (train/54/drawn_001.jpg): earlier views show what was there before"
        assert outcome.err.count(f"warning: {said}\n") == outcome.err.count("changed during the run") == 1
        photo.write_bytes(before)


@pytest.fixture
def data_of(flowers, tmp_path):
    """A copy of the drawn flowers that a test may change, and one of its training photos."""
    data = shutil.copytree(flowers, tmp_path / "flowers")
    return data, data / "train" / "54" / "drawn_001.jpg"


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_lives(run, train_into, flowers, tmp_path):
    command = [sys.executable, "train.py", flowers, *QUICK, "--epochs", "100000", "--save_dir", tmp_path]
    first = WarmPopen(list(map(str, command)), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert first.stdout.readline().startswith(b"epoch")
    second = run(train, flowers, *QUICK, "--epochs", 1, "--save_dir", tmp_path)
    assert (second.code, second.out) == (2, "")
    assert second.err.endswith(f"--save_dir {tmp_path}: another run is training into it; give this one its own\n")
    first.kill()
    first.communicate(timeout=LIMIT)
    train_into(tmp_path, flowers, *QUICK, "--epochs", 1)


def test_a_run_stopped_before_its_first_epoch_leaves_the_earlier_one_to_be_resumed(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *QUICK, "--epochs", 1)
    before = {name: (tmp_path / name).read_bytes() for name in ("checkpoint.pth", "run/last.pth")}
    code, _, errors = start_and_stop([flowers, *QUICK, "--save_dir", tmp_path], signal.SIGINT)
    assert code == 130
    assert errors.splitlines()[-1] == "train.py: interrupted"
    assert "--resume" not in errors
    assert not (tmp_path / "run" / "begun").exists()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert "resuming after epoch 1" in train_into(tmp_path, flowers, *QUICK, "--epochs", 2, "--resume").err


def test_a_run_that_was_killed_before_it_saved_anything_starts_again_with_its_options(train_into, flowers, tmp_path):
    """Also where no run was there before; what is typed now counts."""
    code = "import os, sys, train; train.steps.read_photos = lambda *_: os._exit(9); train.main(sys.argv[1:])"
    begun = ("--arch", "cnn", "--epochs", 3, "--seed", 5, "--category_names", NAMES)
    outcome = run_program("-c", code, flowers, *begun, "--save_dir", tmp_path)
    assert (outcome.code, (tmp_path / "run" / "begun").exists()) == (9, True)
    again = train_into(tmp_path, flowers, "--resume", "--epochs", 1, "--no_report")
    assert "the run that began here last had saved nothing: starting it again\n" in again.err
    checkpoint = read(tmp_path / "checkpoint.pth")
    assert (checkpoint["training"]["seed"], len(checkpoint["history"])) == (5, 1)
    assert checkpoint["category_names"]["54"] == "sunflower"
    assert not (tmp_path / "run" / "begun").exists()
    assert "1 epoch trained already" in train_into(tmp_path, flowers, "--resume", "--no_report").err


def test_word_of_a_begun_run_that_makes_no_sense_is_passed_over(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, *CNN, "--epochs", 1)
    for text in ("", "[]", "{}", '{"before": null, "options": {}}', "\0"):
        (tmp_path / "run" / "begun").write_text(text)
        assert "1 epoch trained already" in train_into(tmp_path, flowers, *CNN, "--epochs", 1, "--resume").err
