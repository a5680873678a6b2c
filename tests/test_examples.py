"""The examples that docs/ shows: they are what it shows, and they run."""

import io
import json
import os
import re
import runpy
import select
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from support import PROJECT
from waiting import LIMIT, LONG_LIMIT, line_with

import flower_classifier as fc

EXAMPLES = PROJECT / "docs" / "examples"


TOO_LARGE = {"error": "a photo may have 20,000,000 bytes and 50,000,000 pixels at most"}
IN_CLONE = "PYTHONPATH=. "  # which a command says in a clone, and need not where the package is installed


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What somebody has who has just cloned the project: nothing is installed or built."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    folder.mkdir()
    for name in ("flower_classifier", "docs"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(clone, tmp_path_factory):
    """Where pip has put the package, built from such a clone."""
    source, target = tmp_path_factory.mktemp("source") / "clone", tmp_path_factory.mktemp("installed")
    shutil.copytree(clone, source)  # which building writes to
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target)
    done = subprocess.run([*map(str, pip), "."], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def command_in(name):
    """The command that an example's docstring says it is run by."""
    (command,) = re.findall(rf"^PYTHONPATH=.*{name}.*$", (EXAMPLES / name).read_text(encoding="utf-8"), re.MULTILINE)
    return command


def start(command, folder, **settings):
    """Run a command in a shell, in a folder, with this Python, and with nothing in Python's path but what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **settings}
    if "PYTHONPATH" not in settings:
        variables.pop("PYTHONPATH", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["sh", "-c", f"exec env {command}"], cwd=folder, env=variables, **pipes)


@pytest.mark.parametrize(
    ("name", "page"), [("service.py", "export.md"), ("watch.py", "export.md"), ("many.py", "scale.md")]
)
def test_the_page_shows_the_files_themselves(name, page):
    shown = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert "".join(f"    {line}".rstrip() + "\n" for line in lines) in shown


@pytest.mark.slow
def test_ray_gives_every_photo_the_answer_of_the_package(clone, exported, flowers, tmp_path):
    """And says of a file that is no photo why it has none. Ray is half a gigabyte: this runs where it is installed."""
    pytest.importorskip("ray")
    shutil.copytree(flowers / "test" / "54", tmp_path / "photos")
    (tmp_path / "photos" / "none.jpg").write_bytes(b"no photo")
    command = command_in("many.py").replace("rose_app", str(exported))
    command = re.sub(r"(photos|answers)\b", lambda name: str(tmp_path / name[0]), command)
    with start(command, clone, RAY_DEDUP_LOGS="0") as process:
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
def test_the_web_service_answers_uploads(clone, exported, trained, flowers, kind):
    """As it is documented, in a fresh clone; only the port is any that is free."""
    classifier = exported if kind == "folder" else trained / "checkpoint.pth"
    command = command_in("service.py").replace("rose_app", str(classifier))
    with start(command, clone, FLASK_RUN_PORT="0") as server:
        check_service(server, classifier, min((flowers / "test").glob("*/*.jpg")))


def check_service(server, classifier, photo):
    try:
        address = re.search(r"http://[\d.:]+", line_with("http://", server.stdout))[0]
        assert sent(address, "photo", photo.read_bytes()) == (200, fc.load(classifier)(photo).plain())
        status, told = sent(address, "photo", b"no photo")
        assert status == 400
        assert told["error"].startswith("cannot open the photo")
        assert sent(address, "other", b"") == (400, {"error": "send a file as the form's field photo"})
        for kind in ("PNG", "JPEG"):
            assert sent(address, "photo", wide_picture(kind)) == (413, TOO_LARGE)
    finally:
        server.terminate()


@pytest.mark.slow
def test_the_web_service_refuses_an_upload_of_too_many_bytes_in_its_own_words(exported, monkeypatch):
    """In this process: a client may find the connection closed while it still sends."""
    monkeypatch.setenv("CLASSIFIER", str(exported))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the service changes
    app = runpy.run_path(str(EXAMPLES / "service.py"))["app"]
    answer = app.test_client().post("/", data={"photo": (io.BytesIO(bytes(20_000_000)), "a.jpg")})
    assert (answer.status_code, answer.json) == (413, TOO_LARGE)


def wide_picture(kind):
    """The bytes of a small file of more pixels than the service takes: a JPEG's says so, and has few."""
    file = io.BytesIO()
    if kind == "PNG":
        Image.new("1", (7100, 7100)).save(file, "PNG")
        return file.getvalue()
    Image.new("RGB", (80, 80)).save(file, "JPEG")
    return file.getvalue().replace(b"\x08\x00\x50\x00\x50", b"\x08\x4e\x20\x4e\x20", 1)  # 80 x 80, 20,000 x 20,000


@pytest.mark.slow
def test_the_watcher_answers_each_photo_that_appears(clone, exported, flowers, tmp_path):
    """As it is documented, in a fresh clone; the lines that would go into a file are read here."""
    photos = sorted((flowers / "test").glob("*/*.jpg"))[:2]
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    shutil.copy(photos[0], incoming / "a.jpg")
    command, _, file = command_in("watch.py").partition(" >> ")
    assert file == "answers.jsonl"
    with start(command.replace("incoming", str(incoming)).replace("rose_app", str(exported)), clone) as watcher:
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


@pytest.mark.slow
def test_the_watcher_waits_while_a_file_grows_and_answers_anew_what_stood_still(clone, exported, flowers, tmp_path):
    """Though the file keeps a time of long ago, as one that is copied with its times does."""
    whole = min((flowers / "test").glob("*/*.jpg")).read_bytes()
    grows, stalls = (tmp_path / name for name in ("a.jpg", "b.jpg"))
    grows.write_bytes(whole)
    command = command_in("watch.py").partition(" >> ")[0]
    with start(command.replace("incoming", str(tmp_path)).replace("rose_app", str(exported)), clone) as watcher:
        try:
            stalls.write_bytes(whole[:400])
            while not select.select([watcher.stdout], [], [], 0.02)[0]:
                with grows.open("ab") as file:
                    file.write(b"\0")
                os.utime(grows, (1, 1))
            stalled = json.loads(watcher.stdout.readline())
            answer = json.loads(watcher.stdout.readline())
            with stalls.open("ab") as file:
                file.write(whole[400:])
            os.utime(stalls, (1, 1))
            anew = json.loads(watcher.stdout.readline())
        finally:
            watcher.terminate()
    assert (stalled["path"], "error" in stalled) == (str(stalls), True)
    right = fc.load(exported)(whole).plain()
    assert answer == {"path": str(grows), **right}
    assert anew == {"path": str(stalls), **right}


@pytest.mark.slow
def test_where_the_package_is_installed_they_run_from_anywhere(clone, installed, exported, flowers, tmp_path):
    """By the same commands without their first word, far from the clone."""
    photo = min((flowers / "test").glob("*/*.jpg"))
    commands = {}
    for name in ("service.py", "watch.py"):
        shutil.copy(clone / "docs" / "examples" / name, tmp_path)
        assert command_in(name).startswith(IN_CLONE)
        command = command_in(name).removeprefix(IN_CLONE).replace("docs/examples/", "")
        commands[name] = command.replace("rose_app", str(exported)).partition(" >> ")[0]
    with start(commands["service.py"], tmp_path, PYTHONPATH=str(installed), FLASK_RUN_PORT="0") as server:
        check_service(server, exported, photo)
    (tmp_path / "incoming").mkdir()
    shutil.copy(photo, tmp_path / "incoming")
    with start(commands["watch.py"], tmp_path, PYTHONPATH=str(installed)) as watcher:
        try:
            answer = json.loads(watcher.stdout.readline())
        finally:
            watcher.terminate()
    assert answer == {"path": f"incoming/{photo.name}", **fc.load(exported)(photo).plain()}
