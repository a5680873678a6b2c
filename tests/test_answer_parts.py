"""predict.py --output: answers to many photos in parts, by processes that may be killed, are those of one process."""

import signal

import numpy as np
import pytest
from PIL import Image
from support import PROJECT, run_program
from waiting import signalled_at

import predict
from flower_classifier.predicting import chunked_answers

NUMBER = 150  # photos: three parts, with
SMALL_PARTS = f"""
import runpy, sys
sys.path[0] = {str(PROJECT)!r}
from flower_classifier.predicting import chunked_answers
chunked_answers.PART = 64
sys.argv[0] = "predict.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """predict.py, but that its parts are of few photos."""
    script = tmp_path_factory.mktemp("program") / "predict_in_small_parts.py"
    script.write_text(SMALL_PARTS)
    return script


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of small pictures, one of which is none."""
    folder = tmp_path_factory.mktemp("many")
    draw = np.random.default_rng(0)
    for number in range(NUMBER):
        pixels = draw.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=0)
    (folder / "00100.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def expected(many, trained):
    """What one process prints."""
    asked = ("predict.py", many, trained / "checkpoint.pth", "--format", "jsonl")
    outcome = run_program(*asked)
    assert outcome.code == 1
    assert len(outcome.out.splitlines()) == NUMBER
    return outcome.out


@pytest.mark.slow
def test_killed_twice_it_goes_on_and_the_answers_are_those_of_one_process(program, many, trained, expected, tmp_path):
    """A real kill -9 as soon as the second part begins to be written, and then the third."""
    folder, written = tmp_path / "answers", {}
    command = [program, many, trained / "checkpoint.pth", "--format", "jsonl", "--output", folder]
    for number in (1, 2):
        killed = signalled_at(f".part-{number:05d}.jsonl", signal.SIGKILL, *command)
        assert run_program(*killed).code == -signal.SIGKILL
        assert not (folder / "answers.jsonl").exists()
        before, written = written, {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
        assert sorted(written) == [f"part-{part:05d}.jsonl" for part in range(number)]
        assert before.items() <= written.items()
    outcome = run_program(*command)
    assert outcome.code == 1
    assert outcome.out == f"{folder / 'answers.jsonl'}: {NUMBER:,} photos, of which 1 could not be opened\n"
    assert outcome.err.endswith(
        f": {NUMBER - 1:,} of {NUMBER:,} photos answered; 1 could not be opened: {folder / 'answers.jsonl'} says why\n"
    )
    assert (folder / "answers.jsonl").read_text(encoding="utf-8") == expected
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"answers.jsonl", "answers.sha256", "manifest.json"}


@pytest.mark.slow
def test_torchruns_processes_share_the_parts_and_one_of_them_puts_them_together(
    program, many, trained, expected, tmp_path
):
    """The real one, with three processes: it ends well, and their answers are the bytes of one."""
    folder = tmp_path / "answers"
    words = (PROJECT / "tests" / "warm_torchrun.py", "--nproc_per_node", 3, "--master_port", 0)
    asked = (many, trained / "checkpoint.pth", "--format", "jsonl", "--output", folder)
    outcome = run_program(*words, program, *asked)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{folder / 'answers.jsonl'}: {NUMBER:,} photos, of which 1 could not be opened\n"
    assert (folder / "answers.jsonl").read_text(encoding="utf-8") == expected


def test_answers_that_are_there_are_not_computed_again(run, exported, flowers, tmp_path):
    """And an exported folder answers as well as a checkpoint."""
    photos, folder = flowers / "test", tmp_path / "answers"
    asked = (photos, exported, "--format", "jsonl", "--output", folder)
    assert run(predict, *asked).code == 0
    before = (folder / "answers.jsonl").stat().st_mtime_ns
    again = run(predict, *asked)
    assert (again.code, again.out) == (0, "")
    assert "these answers are there already" in again.err
    assert (folder / "answers.jsonl").stat().st_mtime_ns == before
    assert (folder / "answers.jsonl").read_text() == run(predict, photos, exported, "--format", "jsonl").out


def test_another_question_does_not_go_on_in_the_same_folder(run, exported, trained, flowers, tmp_path):
    photos, folder = flowers / "test", tmp_path / "answers"
    asked = ("--format", "jsonl", "--output", folder)
    assert run(predict, photos, exported, *asked).code == 0
    kept = (folder / "answers.jsonl").read_bytes()
    for other, told in (
        ((photos, exported, *asked, "--top_k", 2), "top_k"),
        ((photos, trained / "checkpoint.pth", *asked), "checkpoint_sha256"),
        ((photos / "54", exported, *asked), "paths_sha256"),
    ):
        outcome = run(predict, *other)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "holds answers to another question" in outcome.err
        assert told in outcome.err
    assert (folder / "answers.jsonl").read_bytes() == kept
    (folder / "manifest.json").write_text("{")
    assert "manifest.json is damaged: give another folder" in run(predict, photos, exported, *asked).err
    (folder / "manifest.json").unlink()
    assert "holds other files of answers" in run(predict, photos, exported, *asked).err


def test_wrong_ways_to_ask_are_told_in_a_line(run, exported, flowers, tmp_path, monkeypatch):
    photo = min((flowers / "test").glob("*/*.jpg"))
    outcome = run(predict, photo, exported, "--output", tmp_path / "answers")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--output is for --format jsonl" in outcome.err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = run(predict, photo, exported)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--output is what torchrun's processes need" in outcome.err


def test_a_job_shares_no_standard_input(run, exported, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = run(predict, "-", exported, "--format", "jsonl", "--output", tmp_path / "answers")
    assert (outcome.code, outcome.out) == (2, "")
    assert "share one standard input" in outcome.err


def test_a_part_that_is_not_whole_is_not_put_together(run, exported, flowers, tmp_path):
    """Somebody else has cut it, or a disk has."""
    folder, photos = tmp_path / "answers", sorted((flowers / "test").glob("*/*.jpg"))
    asked = (flowers / "test", exported, "--format", "jsonl", "--output", folder)
    assert run(predict, *asked).code == 0
    whole = (folder / "answers.jsonl").read_bytes()
    (folder / "answers.jsonl").unlink()
    (folder / "part-00000.jsonl").write_bytes(whole[: len(whole) // 2])
    outcome = run(predict, *asked)
    assert (outcome.code, outcome.out) == (1, "")
    assert "part-00000.jsonl was not whole: give the same command again" in outcome.err
    assert run(predict, *asked).code == 0
    assert (folder / "answers.jsonl").read_bytes() == whole
    assert len(whole.splitlines()) == len(photos)


def test_a_part_of_other_lines_is_not_put_together(run, exported, flowers, tmp_path):
    """As many as there are photos, but empty, or of other photos."""
    folder = tmp_path / "answers"
    asked = (flowers / "test", exported, "--format", "jsonl", "--output", folder)
    assert run(predict, *asked).code == 0
    whole = (folder / "answers.jsonl").read_bytes()
    first, *rest = whole.splitlines(keepends=True)
    for wrong in (b"\n" * whole.count(b"\n"), b"".join([*rest, first])):
        (folder / "answers.jsonl").unlink()
        (folder / "part-00000.jsonl").write_bytes(wrong)
        outcome = run(predict, *asked)
        assert (outcome.code, outcome.out) == (1, "")
        assert "part-00000.jsonl was not whole" in outcome.err
        assert run(predict, *asked).code == 0
        assert (folder / "answers.jsonl").read_bytes() == whole


def test_all_answers_that_were_cut_off_or_changed_are_made_anew(run, exported, flowers, tmp_path):
    """Also those of an earlier version, which kept no digest, where lines are missing."""
    folder = tmp_path / "answers"
    asked = (flowers / "test", exported, "--format", "jsonl", "--output", folder)
    assert run(predict, *asked).code == 0
    whole = (folder / "answers.jsonl").read_bytes()
    for keeps_digest, damaged in ((True, whole[:-1]), (True, whole.replace(b"0.1", b"0.9", 1)), (False, whole[:-9])):
        (folder / "answers.jsonl").write_bytes(damaged)
        if not keeps_digest:
            (folder / "answers.sha256").unlink()
        outcome = run(predict, *asked)
        assert outcome.code == 0
        assert "answers.jsonl is damaged, or was changed: these photos are answered again" in outcome.err
        assert (folder / "answers.jsonl").read_bytes() == whole
    (folder / "answers.sha256").unlink()
    assert "these answers are there already" in run(predict, *asked).err


def test_what_a_kill_left_behind_the_merged_file_goes_with_the_next_call(run, exported, flowers, tmp_path):
    folder = tmp_path / "answers"
    asked = (flowers / "test", exported, "--format", "jsonl", "--output", folder)
    assert run(predict, *asked).code == 0
    (folder / "part-00000.jsonl").write_text("left")
    (folder / ".part-00000.jsonl-host-1.tmp").write_text("half")
    assert run(predict, *asked).code == 0
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"answers.jsonl", "answers.sha256", "manifest.json"}


@pytest.mark.slow
def test_a_last_part_of_few_photos_has_the_digits_of_one_process(run, trained_on_features, many, tmp_path, monkeypatch):
    """How cores are shared goes by all photos, not by those of the part."""
    monkeypatch.setattr(chunked_answers, "PART", 64)
    few = sorted(many.iterdir())[:67]
    asked = (*few, trained_on_features / "checkpoint.pth", "--format", "jsonl")
    assert run(predict, *asked, "--output", tmp_path / "answers").code == 0
    assert (tmp_path / "answers" / "answers.jsonl").read_text() == run(predict, *asked).out


def test_a_part_is_a_multiple_of_every_micro_batch():
    from flower_classifier.networks.devices import MICRO_BATCH
    from flower_classifier.predicting.exported_predictor import BATCH

    assert all(chunked_answers.PART % size == 0 for size in (*MICRO_BATCH.values(), BATCH))
