"""Several runs into one folder: none is lost, the better one is named, and each report stays with its checkpoint."""

import json
import shutil
import signal

import pytest
import torch
from support import QUICK, TINY, read, run_program, same
from waiting import signalled_at

import predict
import train
from flower_classifier.report.report_files import REPORT_FILES


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_every_earlier_run_is_kept_whole_and_can_be_resumed(train_into, flowers, tmp_path):
    left = []
    for epochs in (1, 2, 3):
        outcome = train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", epochs)
        kept = tmp_path / "run" / "earlier"
        if left:
            place = kept / str(len(left))
            assert f"what an earlier run left here is kept in {place}\n" in outcome.err
            assert files_in(place) == {name: data for name, data in left[-1].items() if name != "run/lock"}
        left.append({name: data for name, data in files_in(tmp_path).items() if "earlier" not in name})
    assert [path.name for path in sorted(kept.iterdir())] == ["1", "2"]
    resumed = train_into(kept / "1", flowers, "--resume", "--epochs", 3)
    assert "resuming after epoch 1" in resumed.err
    assert same(read(kept / "1" / "checkpoint.pth"), read(tmp_path / "checkpoint.pth"))


@pytest.mark.slow
def test_a_run_that_is_worse_than_an_earlier_one_says_so_and_which(train_into, flowers, tmp_path):
    """Three runs: the one before is not the best one."""
    accuracies = []
    for options in (("--epochs", 8), ("--epochs", 1, "--lr", 1e-9), ("--epochs", 1, "--lr", 1e-8)):
        outcome = train_into(tmp_path, flowers, *TINY, *options)
        row = read(tmp_path / "run" / "last.pth")["best"]
        accuracies.append(row["valid_accuracy"])
    assert accuracies[0] > max(accuracies[1:])
    best = tmp_path / "run" / "earlier" / "1" / "checkpoint.pth"
    assert outcome.err.splitlines()[-1] == (
        f"warning: an earlier run was better: validation accuracy {accuracies[0]:.0%}; its {best} is kept"
    )
    outcome = train_into(tmp_path, flowers, *TINY, "--epochs", 9)
    said = f"the best earlier run reached a validation accuracy of {accuracies[0]:.0%}: {best}"
    assert outcome.err.splitlines()[-1] == said


def test_runs_on_other_validation_photos_are_not_called_better(train_into, flowers, tmp_path):
    train_into(tmp_path / "out", flowers, *TINY, "--epochs", 8)
    accuracy = read(tmp_path / "out" / "run" / "last.pth")["best"]["valid_accuracy"]
    best = tmp_path / "out" / "run" / "earlier" / "1" / "checkpoint.pth"
    outcome = train_into(tmp_path / "out", flowers / "train", *TINY, "--epochs", 1, "--lr", 1e-9)
    said = f"an earlier run reached {accuracy:.0%} on other validation photos: {best}"
    assert outcome.err.splitlines()[-1] == said


def test_no_report_of_an_earlier_run_stays_beside_a_newer_checkpoint(train_into, flowers, tmp_path):
    """Killed before it has a report of its own: when it begins to save its third epoch, every one being saved."""
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    script = tmp_path / "save_always.py"
    script.write_text(
        "import sys, train; from flower_classifier.training import run_folder\n"
        "run_folder.SAVE_EVERY = 0\n"
        "train.main(sys.argv[1:])"
    )
    command = (script, flowers, "--arch", "cnn", "--epochs", 9, "--save_dir", tmp_path)
    outcome = run_program(*signalled_at(".last.pth.tmp", signal.SIGKILL, *command, times=3))
    assert outcome.code == -signal.SIGKILL, outcome.err
    assert read(tmp_path / "checkpoint.pth")["training"]["learning_rate"] == 0.001
    here = {path.name for path in (tmp_path / "run").iterdir()}
    assert here & {file.name for file in REPORT_FILES} == {"history.csv"}
    epochs = [row["epoch"] for row in read(tmp_path / "run" / "last.pth")["history"]]
    assert [line.split(",")[0] for line in (tmp_path / "run" / "history.csv").read_text().split()[1:]] == [
        *map(str, epochs)
    ]
    report = {file.name for file in REPORT_FILES if not file.optional}
    assert {path.name for path in (tmp_path / "run" / "earlier" / "1" / "run").iterdir()} >= report


@pytest.mark.thorough
def test_evaluations_of_an_earlier_checkpoint_go_with_it(run, train_into, flowers, tmp_path):
    """Not what a person has put there, nor the evaluation of another checkpoint beside it."""
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    other = shutil.copy(tmp_path / "checkpoint.pth", tmp_path / "other.pth")
    for checkpoint in (tmp_path / "checkpoint.pth", other):
        assert run(predict, flowers / "test", checkpoint, "--evaluate").code == 0
    evaluation = tmp_path / "evaluation"
    (evaluation / "test" / "notes.txt").write_text("mine")
    before = {path.relative_to(tmp_path): path.read_bytes() for path in (evaluation / "test").iterdir()}
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 2)
    assert [path.name for path in (evaluation / "test").iterdir()] == ["notes.txt"]
    assert (evaluation / "test-2" / "evaluation.json").is_file()
    kept = tmp_path / "run" / "earlier" / "1"
    moved = [path for path in before if path.name != "notes.txt"]
    assert moved
    assert all((kept / path).read_bytes() == before[path] for path in moved)
    place = kept / "evaluation" / "test"
    facts = json.loads((place / "evaluation.json").read_text())
    assert (place / facts["checkpoint"]).samefile(kept / "checkpoint.pth")  # which it is of, here too


@pytest.mark.thorough
def test_a_resumed_run_says_which_evaluations_of_its_checkpoint_go(run, train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    run(predict, flowers / "test", tmp_path / "checkpoint.pth", "--evaluate")
    evaluation = tmp_path / "evaluation" / "test"
    (evaluation / "history.csv").write_text("mine")
    outcome = train_into(tmp_path, flowers, "--resume", "--epochs", 2)
    assert f"the checkpoint changes, so what evaluated it goes: {evaluation}" in outcome.err
    assert [path.name for path in evaluation.iterdir()] == ["history.csv"]


def test_a_run_that_finishes_no_epoch_moves_nothing(run, train_into, flowers, tmp_path):
    """Its second batch has a loss that is not finite."""
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    before = files_in(tmp_path)
    outcome = run(train, flowers, *QUICK, "--hidden_units", *[50] * 9, "--lr", 1000, "--save_dir", tmp_path)
    assert (outcome.code, outcome.err.count("the loss is not finite")) == (1, 1)
    assert files_in(tmp_path) == before


@pytest.mark.slow
def test_what_lies_in_run_and_is_no_runs_own_stays(train_into, flowers, tmp_path):
    """The folder may be the person's own, photos and all."""
    photos = shutil.copytree(flowers, tmp_path / "run" / "photos")
    (tmp_path / "run" / "notes.tmp").write_text("mine")
    own = files_in(tmp_path)
    for epochs in (1, 2):
        train_into(tmp_path, photos, "--arch", "cnn", "--epochs", epochs)
        assert own.items() <= files_in(tmp_path).items()
    assert not (tmp_path / "run" / "earlier" / "1" / "run" / "photos").exists()


@pytest.mark.slow
def test_a_resumed_run_leaves_no_report_of_its_earlier_part(train_into, flowers, tmp_path):
    train_into(tmp_path, flowers, "--arch", "cnn", "--epochs", 1)
    train_into(tmp_path, flowers, "--resume", "--epochs", 3, "--no_report")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.pth", "lock", "summary.json"}
    train_into(tmp_path, flowers, "--resume")
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 3


def test_a_checkpoint_that_is_a_link_is_kept_as_what_it_leads_to(train_into, flowers, tmp_path):
    train_into(tmp_path / "out", flowers, *TINY, "--epochs", 1)
    (tmp_path / "store").mkdir()
    (tmp_path / "out" / "checkpoint.pth").rename(tmp_path / "store" / "m.pth")
    (tmp_path / "out" / "checkpoint.pth").symlink_to("../store/m.pth")
    train_into(tmp_path / "out", flowers, *TINY, "--epochs", 2)
    kept = tmp_path / "out" / "run" / "earlier" / "1" / "checkpoint.pth"
    assert kept.read_bytes() == (tmp_path / "store" / "m.pth").read_bytes()


def test_a_save_dir_that_names_a_file_is_the_checkpoint_and_run_lies_beside_it(run, flowers, tmp_path):
    """Twice: the first is kept. What train.py did not write is never replaced."""
    checkpoint, photo = tmp_path / "saved" / "ck.pth", next((flowers / "test" / "54").iterdir())
    for _ in range(2):
        outcome = run(train, flowers, *TINY, "--epochs", 1, "--save_dir", checkpoint)
        assert outcome.out.splitlines()[-1] == f"checkpoint: {checkpoint}"
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["ck.pth", "run"]
    kept = checkpoint.parent / "run" / "earlier" / "1" / "ck.pth"
    assert "the best earlier run reached a validation accuracy of" in outcome.err
    assert str(kept) in outcome.err
    answers = [run(predict, photo, path).out for path in (checkpoint, checkpoint.parent, kept)]
    assert answers[0]
    assert len(set(answers)) == 1
    before, other = checkpoint.read_bytes(), checkpoint.with_name("other.pth")
    assert run(train, flowers, *TINY, "--epochs", 2, "--save_dir", other).code == 0
    assert checkpoint.read_bytes() == before
    outcome = run(train, flowers, *TINY, "--epochs", 3, "--save_dir", checkpoint, "--resume")  # would replace it
    assert (outcome.code, outcome.out, checkpoint.read_bytes()) == (2, "", before)
    assert f"the run beside {checkpoint} is of {other}; --save_dir {other} resumes it" in outcome.err
    theirs = tmp_path / "theirs.pth"
    torch.save({"state_dict": {}}, theirs)
    before = theirs.read_bytes()
    outcome = run(train, flowers, *TINY, "--save_dir", theirs)
    assert (outcome.code, outcome.out, theirs.read_bytes()) == (2, "", before)
    assert outcome.err.endswith(
        "theirs.pth is a file that train.py did not write, and stays: name another one, or remove it\n"
    )
