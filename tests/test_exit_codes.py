"""How a command ends: what could not be loaded, and which code says that some photos were not answered."""

import json
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
from PIL import Image
from support import PROJECT

import predict


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the addresses of a process")
@pytest.mark.parametrize(
    "arguments",
    [
        ("train.py", "b"),
        ("predict.py", "a.jpg", "a.pth"),
        ("export.py", "a.pth", "b"),
    ],
)
def test_too_little_memory_to_load_torch_is_one_line(arguments, tmp_path):
    """So little that its largest library has no room; predict.py loads it later than the others do."""
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    arguments = [arguments[0], *(tmp_path / name for name in arguments[1:])]
    command = ["bash", "-c", 'ulimit -v 400000 && exec "$@"', "bash", sys.executable, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{arguments[0]}: too little memory to load libtorch")
    assert done.stderr.endswith(".so: raise the limit (`ulimit -v`), or end other programs\n")
    assert done.stderr.count("\n") == 1


def test_where_nothing_temporary_can_be_written_tmpdir_is_named(run, monkeypatch):
    with monkeypatch.context() as patch:  # without it, what pytest itself keeps would fail too
        patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/no/such/folder"])
        patch.setattr(tempfile, "tempdir", None)
        outcome = run(SimpleNamespace(main=lambda _: tempfile.gettempdir()))
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.endswith(": no folder for temporary files can be written to: set TMPDIR to one that can\n")


def test_some_bad_photos_all_bad_photos_and_a_wrong_command_are_told_apart(run, exported, flowers, tmp_path):
    """By the exit code alone, with --output too; what could be answered is on stdout."""
    good, bad, worse = flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "bad.jpg", tmp_path / "worse.jpg"
    bad.write_text("no photo")
    worse.touch()
    asked_for = (
        ((good, good), 0, 2, ""),
        ((good, bad), 1, 1, "1 of 2 photos answered; 1 could not be opened\n"),
        ((good, bad, good, worse), 1, 2, "2 of 4 photos answered; 2 could not be opened\n"),
        ((bad, worse), 2, 0, "none of 2 photos could be opened\n"),
        ((bad,), 2, 0, f"cannot open {bad}: it is no JPEG"),
        ((good, "--top_k", 0), 2, 0, "--top_k must be at least 1, not 0\n"),
    )
    for number, (asked, code, answered, last) in enumerate(asked_for):
        outcome = run(predict, *asked, exported, "--format", "jsonl")
        records = [json.loads(line) for line in outcome.out.splitlines()]
        assert (outcome.code, sum("predictions" in record for record in records)) == (code, answered)
        assert last in outcome.err
        in_parts = run(predict, *asked, exported, "--format", "jsonl", "--output", tmp_path / f"answers {number}")
        assert in_parts.code == code
