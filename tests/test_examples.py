"""The examples that docs/ shows: they are what it shows, and they run."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from support import PROJECT
from waiting import LIMIT, LONG_LIMIT, line_with

import flower_classifier as fc

EXAMPLES = PROJECT / "docs" / "examples"


def start(*arguments, **settings):
    """Start a script as a process of its own, with this project in its path."""
    settings = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", **settings}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=settings, **pipes)


@pytest.mark.parametrize(
    ("name", "page"), [("service.py", "export.md"), ("watch.py", "export.md"), ("many.py", "scale.md")]
)
def test_the_page_shows_the_files_themselves(name, page):
    shown = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert "".join(f"    {line}".rstrip() + "\n" for line in lines) in shown


@pytest.mark.slow
def test_ray_gives_every_photo_the_answer_of_the_package(exported, flowers, tmp_path):
    """And says of a file that is no photo why it has none. Ray is half a gigabyte: this runs where it is installed."""
    pytest.importorskip("ray")
    shutil.copytree(flowers / "test" / "54", tmp_path / "photos")
    (tmp_path / "photos" / "none.jpg").write_bytes(b"no photo")
    with start(
        EXAMPLES / "many.py", exported, tmp_path / "photos", tmp_path / "answers", RAY_DEDUP_LOGS="0"
    ) as process:
        out, _ = process.communicate(timeout=LONG_LIMIT)
    assert process.returncode == 0, out
    rows = [json.loads(line) for path in (tmp_path / "answers").glob("*.json*") for line in path.open()]
    answers = {row["path"]: json.loads(row["answer"]) for row in rows}
    assert answers.pop(str(tmp_path / "photos" / "none.jpg"))["error"].startswith("cannot open the photo")
    predictor = fc.load(exported)
    assert answers == {str(photo): predictor(photo).plain() for photo in (tmp_path / "photos").glob("drawn*")}


def sent(address, field, data):
    """Upload a file as a form does, and return the status and the JSON that comes back."""
    head = f'--cut\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n\r\n'.encode()
    request = urllib.request.Request(address, head + data + b"\r\n--cut--\r\n")
    request.add_header("Content-Type", "multipart/form-data; boundary=cut")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_the_web_service_answers_uploads(exported, trained, flowers, kind):
    classifier = exported if kind == "folder" else trained / "checkpoint.pth"
    photo = min((flowers / "test").glob("*/*.jpg"))
    app = ("-m", "flask", "--app", EXAMPLES / "service.py", "run", "--port", "0")
    with start(*app, CLASSIFIER=str(classifier)) as server:
        try:
            address = re.search(r"http://[\d.:]+", line_with("http://", server.stdout))[0]
            assert sent(address, "photo", photo.read_bytes()) == (200, fc.load(classifier)(photo).plain())
            status, told = sent(address, "photo", b"no photo")
            assert status == 400
            assert told["error"].startswith("cannot open the photo")
            assert sent(address, "other", b"") == (400, {"error": "send a file as the form's field photo"})
        finally:
            server.terminate()


@pytest.mark.slow
def test_the_watcher_answers_each_photo_that_appears(exported, flowers, tmp_path):
    photos = sorted((flowers / "test").glob("*/*.jpg"))[:2]
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    shutil.copy(photos[0], incoming / "a.jpg")
    with start(EXAMPLES / "watch.py", incoming, exported) as watcher:
        try:
            answers = [json.loads(watcher.stdout.readline())]
            (incoming / "b.jpg").write_bytes(b"no photo")
            answers.append(json.loads(watcher.stdout.readline()))
            shutil.copy(photos[1], incoming / "c.jpg")
            answers.append(json.loads(watcher.stdout.readline()))
        finally:
            watcher.terminate()
    predictor = fc.load(exported)
    assert answers[0] == {"path": str(incoming / "a.jpg"), **predictor(photos[0]).plain()}
    assert "cannot open" in answers[1]["error"]
    assert answers[2] == {"path": str(incoming / "c.jpg"), **predictor(photos[1]).plain()}
