"""The answers of predict.py to programs: JSON, JSON lines and CSV; and paths that come on standard input."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from support import PROJECT, parse_blocks
from waiting import is_output_full, needs_proc, wait_until
from warm import WarmPopen

import predict

NAMES = {"49": 'daisy, "oxeye"', "51": "petunia\nof\ttwo lines", "54": "Sonnenblume ☀", "74": "r\rose", "78": "雛菊"}
HEADER = ["path", "rank", "class", "name", "probability", "known", "p_known"]


@pytest.fixture
def names(tmp_path):
    """A file of names that need quoting in one format or another; class 91 keeps the one it has."""
    path = tmp_path / "names.json"
    path.write_text(json.dumps(NAMES), encoding="utf-8")
    return path


@pytest.fixture
def strange(flowers, tmp_path):
    """Photos whose names hold what separates paths and cells, and a byte that is no UTF-8."""
    folder = os.fsencode(tmp_path / "strange")
    os.mkdir(folder)  # noqa: PTH102 -- bytes
    names = [b"a, b.jpg", b'"c".jpg', "größe.jpg".encode(), b"line\nbreak.jpg", b"return\r.jpg", b"\xff.jpg", b"=1.jpg"]
    photos = sorted((flowers / "test").glob("*/*.jpg"))
    return [shutil.copy(os.fsencode(photo), os.path.join(folder, name)) for photo, name in zip(photos, names)]  # noqa: B905, PTH118


@pytest.fixture
def stdin(monkeypatch, tmp_path):
    """Put bytes into a file, and let that be the standard input of the commands run in this process."""

    def redirect(contents):
        (tmp_path / "stdin").write_bytes(contents)
        monkeypatch.setattr(sys, "stdin", (tmp_path / "stdin").open())

    return redirect


def program(*arguments, flags=(), start=WarmPopen, **options):
    """Begin predict.py in a process whose streams are bytes. `flags`: of Python."""
    command = [sys.executable, *flags, "predict.py", *map(str, arguments)]
    pipe = subprocess.PIPE
    return start(command, cwd=PROJECT, stdin=pipe, stdout=pipe, stderr=pipe, **options)


def from_csv(text):
    """Read rows back into the records that JSON has."""
    assert text[0] == "\ufeff"
    header, *rows = csv.reader(io.StringIO(text[1:], newline=""))
    assert header == HEADER
    records = []
    for path, rank, class_name, name, probability, known, p_known in rows:
        if rank == "1":
            strange = {"known": {"true": True, "false": False, "": None}[known], "p_known": float(p_known)}
            records.append({"path": path, **strange, "predictions": []})
        records[-1]["predictions"].append({"class": class_name, "name": name, "probability": float(probability)})
        assert int(rank) == len(records[-1]["predictions"])
    return records


def as_text(records):
    """Write records as the table for people."""
    blocks = []
    for record in records:
        shown = [
            row["name"].replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r") for row in record["predictions"]
        ]
        width = max(map(len, shown))
        rows = [
            f"  {n:{width}}  {row['probability']:>8.2%}\n" for n, row in zip(shown, record["predictions"], strict=True)
        ]
        blocks.append(f"{record['path']}\n" + "".join(rows))
    return "".join(blocks)


def test_every_format_holds_the_very_numbers_of_the_table(run, trained, flowers, names):
    arguments = (flowers / "test", trained / "checkpoint.pth", "--top_k", 6, "--category_names", names, "--format")
    outcomes = {form: run(predict, *arguments, form) for form in ("text", "json", "jsonl", "csv")}
    assert {(outcome.code, outcome.err) for outcome in outcomes.values()} == {(0, "")}
    records = json.loads(outcomes["json"].out)
    assert [json.loads(line) for line in outcomes["jsonl"].out.splitlines()] == records
    assert from_csv(outcomes["csv"].out) == records
    assert as_text(records) == outcomes["text"].out
    assert [record["path"] for record in records] == list(map(str, sorted((flowers / "test").glob("*/*.jpg"))))


def test_the_keys_are_stable_and_the_probabilities_unrounded(run, trained, flowers, names):
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    arguments = (photo, trained / "checkpoint.pth", "--top_k", 6, "--category_names", names)
    (record,) = json.loads(run(predict, *arguments, "--format", "json").out)
    assert list(record) == ["path", "known", "p_known", "predictions"]
    assert {tuple(row) for row in record["predictions"]} == {("class", "name", "probability")}
    assert {row["class"]: row["name"] for row in record["predictions"]} == NAMES | {"91": "hippeastrum"}
    shares = [row["probability"] for row in record["predictions"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    (line,) = run(predict, *arguments, "--format", "jsonl").out.splitlines()
    assert json.loads(line) == record


@pytest.mark.slow
def test_strange_paths_come_in_and_out_in_the_plainest_of_locales(exported, strange, names):
    """No UTF-8 anywhere: Python's own ways of coming by it nevertheless are switched off."""
    plainest = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ("-", "-0", exported, "--top_k", 6, "--category_names", names, "--format")
    with program(*arguments, "csv", start=subprocess.Popen, env=plainest) as process:
        out, err = process.communicate(b"\0".join(strange))
    assert (process.returncode, err) == (0, b"")
    records = from_csv(out.decode(errors="surrogateescape"))
    assert [os.fsencode(record["path"]) for record in records] == strange
    told = [{row["class"]: row["name"] for row in record["predictions"]} for record in records]
    assert told == [NAMES | {"91": "hippeastrum"}] * len(strange)


def test_a_name_that_no_encoding_has_fails_in_no_format(run, trained, flowers, tmp_path):
    (tmp_path / "half.json").write_text('{"54": "half \\ud83c a flower"}')
    arguments = (flowers / "test" / "54", trained / "checkpoint.pth", "--top_k", 6)
    for form in ("text", "json", "jsonl", "csv"):
        outcome = run(predict, *arguments, "--category_names", tmp_path / "half.json", "--format", form)
        assert (outcome.code, outcome.out.count("half \\ud83c a flower")) == (0, 3), outcome.err


# ------------------------------------------------------------------------------------------------------- bad photos


def test_bad_photos_are_named_on_stderr_and_in_their_place_in_json(run, trained, flowers, tmp_path):
    """CSV has no row for them."""
    good = sorted((flowers / "test" / "54").iterdir())
    (tmp_path / "text.jpg").write_text("no photo")
    paths = [tmp_path / "text.jpg", *good, tmp_path / "none.jpg"]
    read = {
        "json": json.loads,
        "jsonl": lambda out: [json.loads(line) for line in out.splitlines()],
        "csv": from_csv,
    }
    for form, parse in read.items():
        outcome = run(predict, *paths, trained / "checkpoint.pth", "--format", form)
        records = parse(outcome.out)
        assert [record["path"] for record in records] == list(map(str, good if form == "csv" else paths))
        if form != "csv":
            first, *others, last = records
            assert [list(record) for record in others] == [["path", "known", "p_known", "predictions"]] * len(good)
            assert first["error"].startswith(f"cannot open {paths[0]}: it is no JPEG")
            assert last == {"path": str(paths[-1]), "error": f"cannot open {paths[-1]}: there is no such file"}
        assert outcome.code == 1
        assert [part in outcome.err for part in ("text.jpg: it is no", "none.jpg: there is no", "3 of 5")] == [True] * 3
    for form, number in (("json", 1), ("jsonl", 1), ("csv", 0)):
        outcome = run(predict, tmp_path / "none.jpg", trained / "checkpoint.pth", "--format", form)
        assert (outcome.code, len(read[form](outcome.out)), len(outcome.err.splitlines())) == (2, number, 1)


def test_a_folder_without_photos_is_an_empty_answer_and_a_wrong_command_line_is_none(run, trained, flowers, tmp_path):
    (tmp_path / "empty").mkdir()
    header = "\ufeff" + ",".join(HEADER) + "\n"
    for form, nothing in (("text", ""), ("json", "[]\n"), ("jsonl", ""), ("csv", header)):
        outcome = run(predict, tmp_path / "empty", trained / "checkpoint.pth", "--format", form)
        assert (outcome.code, outcome.out) == (2, nothing)
        assert outcome.err.endswith(f"there are no photos below {tmp_path / 'empty'}\n")
        wrong = run(predict, tmp_path / "empty", trained / "checkpoint.pth", "--format", form, "--topic", 3)
        assert (wrong.code, wrong.out) == (2, "")
        assert wrong.err.endswith("(python predict.py --help shows the options)\n")


# --------------------------------------------------------------------------------------------------- when it is sure


def test_programs_are_told_whether_the_likeliest_class_is_probable_enough(run, trained, flowers):
    arguments = (flowers / "test", trained / "checkpoint.pth", "--top_k", 2, "--format")
    plain = json.loads(run(predict, *arguments, "json").out)
    shares = [record["predictions"][0]["probability"] for record in plain]
    least = sorted(shares)[9]  # which is sure itself
    strange = ("path", "known", "p_known")
    expected = [
        {**{key: record[key] for key in strange}, "sure": share >= least, "predictions": record["predictions"]}
        for record, share in zip(plain, shares, strict=True)
    ]
    assert sum(record["sure"] for record in expected) == 9
    limited = (*arguments, "json", "--min_probability", repr(least))
    assert json.loads(run(predict, *limited).out) == expected
    lines = run(predict, *arguments, "jsonl", "--min_probability", repr(least)).out.splitlines()
    assert [json.loads(line) for line in lines] == expected
    table = run(predict, *arguments, "csv", "--min_probability", repr(least)).out
    rows = list(csv.DictReader(io.StringIO(table[1:])))
    assert list(rows[0]) == [*HEADER, "sure"]
    assert [row["sure"] for row in rows] == [str(record["sure"]).lower() for record in expected for _ in range(2)]
    assert run(predict, *arguments, "json", "--min_probability", 0).out == run(predict, *arguments, "json").out


# ------------------------------------------------------------------------------------------------ as streams of bytes


def test_answers_come_while_later_photos_are_still_to_be_opened(trained, flowers, tmp_path):
    """More answers than a pipe holds. The last photo goes when the first answer is read, and so is found missing."""
    photo, last = flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "last.jpg"
    shutil.copy(photo, last)
    with program("-", trained / "checkpoint.pth", "--top_k", 6, "--format", "jsonl") as process:
        process.stdin.write(b"\n".join([*[os.fsencode(photo)] * 400, os.fsencode(last)]))
        process.stdin.close()
        first = process.stdout.readline()
        assert process.poll() is None
        last.unlink()
        rest, err = process.stdout.readlines(), process.stderr.read().decode()
    assert process.returncode == 1
    assert len({str(json.loads(line)) for line in (first, *rest[:-1])}) == 1
    assert len(rest) == 400
    assert json.loads(rest[-1]) == {"path": str(last), "error": f"cannot open {last}: there is no such file"}
    assert f"cannot open {last}: there is no such file" in err


def test_a_reader_that_has_seen_enough_ends_the_program_quietly(trained, flowers):
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    with program("-", trained / "checkpoint.pth", "--top_k", 6, "--format", "jsonl") as process:
        process.stdin.write(b"\n".join([os.fsencode(photo)] * 400))
        process.stdin.close()
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert json.loads(first)["path"] == str(photo)


def test_an_array_is_ended_when_the_program_is_interrupted(trained, flowers):
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    with program("-", trained / "checkpoint.pth", "--format", "json") as process:
        process.stdin.write(b"\n".join([os.fsencode(photo)] * 20_000))
        process.stdin.close()
        begun = process.stdout.readline() + process.stdout.readline()
        process.send_signal(signal.SIGINT)
        records = json.loads(begun + process.stdout.read())
        assert process.stderr.read() == b"predict.py: interrupted\n"
    assert process.returncode == 130
    assert 0 < len(records) < 20_000


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_an_array_for_a_slow_reader_is_ended_between_two_objects(trained, flowers, tmp_path, flags):
    """Objects larger than a buffer: the signal comes while one is being written."""
    (tmp_path / "names.json").write_text(json.dumps({name: name * 1000 for name in NAMES}))
    photo, names = flowers / "test" / "54" / "drawn_000.jpg", ("--category_names", tmp_path / "names.json")
    with program("-", trained / "checkpoint.pth", "--format", "json", "--top_k", 6, *names, flags=flags) as process:
        process.stdin.write(b"\n".join([os.fsencode(photo)] * 2000))
        process.stdin.close()
        begun = process.stdout.readline()
        wait_until(lambda: is_output_full(process), "the pipe was full", process)
        process.send_signal(signal.SIGINT)
        records = json.loads(begun + process.stdout.read())
    assert (process.returncode, 0 < len(records) < 2000) == (130, True)


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_without_an_output_nothing_goes_wrong(run, trained, flowers, monkeypatch, form):
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of `>&-`
    outcome = run(predict, flowers / "test" / "54", trained / "checkpoint.pth", "--format", form)
    assert outcome == type(outcome)(0, "", "")


@pytest.mark.slow
def test_a_closed_output_is_no_traceback(exported, flowers):
    command = 'exec "$0" predict.py "$@" --format csv >&-'
    words = [sys.executable, str(flowers / "test"), str(exported)]
    done = subprocess.run(["bash", "-c", command, *words], cwd=PROJECT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# ---------------------------------------------------------------------------------------------------- standard input


def test_paths_on_standard_input_are_predicted_like_those_of_the_command_line(run, trained, flowers, stdin, tmp_path):
    """By line, whether a line ends as on Windows or the last one not at all; folders too; among other paths."""
    one, other = flowers / "test" / "54" / "drawn_000.jpg", tmp_path / "with a space .jpg"
    shutil.copy(one, other)
    checkpoint = trained / "checkpoint.pth"
    expected = run(predict, one, flowers / "test" / "74", other, one, checkpoint)
    assert (expected.code, expected.err) == (0, "")
    stdin(os.fsencode(f"{flowers / 'test' / '74'}\r\n\n{other}"))
    assert run(predict, one, "-", one, checkpoint) == expected


def test_paths_that_end_in_a_nul_may_hold_line_breaks(run, trained, strange, stdin):
    stdin(b"".join(path + b"\0" for path in strange))
    outcome = run(predict, "-", "--null", trained / "checkpoint.pth", "--format", "json", "--top_k", 1)
    assert [os.fsencode(record["path"]) for record in json.loads(outcome.out)] == strange
    assert outcome.code == 0


def test_one_path_on_standard_input_is_one_photo(run, trained, flowers, stdin):
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    stdin(os.fsencode(photo))
    assert run(predict, "-", trained / "checkpoint.pth") == run(predict, photo, trained / "checkpoint.pth")


def test_a_standard_input_that_names_no_photo_is_an_error(run, trained, stdin, monkeypatch):
    for nothing in (b"", b"\n\n"):
        stdin(nothing)
        outcome = run(predict, "-", trained / "checkpoint.pth")
        assert (outcome.code, outcome.out, outcome.err.count("-: standard input names no photo\n")) == (2, "", 1)
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of `<&-`
    outcome = run(predict, "-", trained / "checkpoint.pth")
    assert (outcome.code, outcome.out, outcome.err.count("there is no standard input")) == (2, "", 1)


def test_a_missing_photo_on_standard_input_is_named(run, trained, flowers, stdin, tmp_path):
    photo = flowers / "test" / "54" / "drawn_000.jpg"
    stdin(os.fsencode(f"{tmp_path / 'none.jpg'}\n{photo}\n"))
    outcome = run(predict, "-", trained / "checkpoint.pth")
    assert list(parse_blocks(outcome.out)) == [str(photo)]
    assert (outcome.code, outcome.err.count("none.jpg: there is no such file")) == (1, 1)
