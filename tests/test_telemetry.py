"""onnxruntime reports nothing to its maker: no file of its own in the user's folders, no look-up, no connection."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support import PROJECT, run_program
from waiting import LONG_LIMIT

from flower_classifier.predicting.exported_predictor import NO_TELEMETRY

# Prints the variable as it is when onnxruntime's own library is loaded, and as it is at the end
WATCHED = f"""
import atexit, os, runpy, sys
def watch(event, values):
    if event == "import" and values[0].endswith("onnxruntime_pybind11_state"):
        print("loaded with", os.environ.get({NO_TELEMETRY!r}), file=sys.stderr, flush=True)
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# What a look-up, a connection or a file of telemetry begins with
ELSEWHERE = re.compile(r"resolv\.conf|connect\(.*AF_INET|Microsoft")


def commands(name, exported, checkpoint, photo, folder):
    return {
        "predict.py of the folder": (exported / "predict.py", photo),
        "predict.py": (PROJECT / "predict.py", photo, exported),
        "export.py": (PROJECT / "export.py", checkpoint, folder / "app"),
    }[name]


PROGRAMS = ["predict.py of the folder", "predict.py", pytest.param("export.py", marks=pytest.mark.thorough)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_loaded_without_telemetry_and_neither_asks_anybody_nor_leaves_anything(
    exported, trained, flowers, tmp_path, name
):
    """No file in the user's folders; no look-up and no connection of any thread or child until the program ends."""
    photo, home, calls = min((flowers / "test").glob("*/*.jpg")), tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    command = commands(name, exported, trained / "checkpoint.pth", photo, tmp_path)
    users = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), NO_TELEMETRY: "0"}
    strace = ["strace", "-f", "-qq", "-e", "trace=connect,openat", "-o", str(calls)]
    can_trace = shutil.which("strace") and subprocess.run([*strace, "true"], check=False).returncode == 0
    words = [*(strace if can_trace else ()), sys.executable, "-c", WATCHED, *map(str, command)]
    outcome = subprocess.run(
        words, check=False, capture_output=True, text=True,
        timeout=LONG_LIMIT, cwd=PROJECT, env={**os.environ, **users},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    assert {line for line in outcome.stderr.splitlines() if line.startswith("loaded")} == {"loaded with 1"}
    assert not list(home.rglob("*nnxruntime*")) + list(home.rglob("*icrosoft*"))
    if not can_trace:
        pytest.skip("no strace here, which shows look-ups and connections")
    text = calls.read_text(errors="replace")
    assert "onnxruntime_pybind11_state" in text
    assert not ELSEWHERE.search(text)


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_a_programs_environment_is_what_it_was(exported, before):
    code = f"""
import os, threading, flower_classifier as fc
def ask():
    fc.load({str(exported)!r})
threads = [threading.Thread(target=ask) for _ in range(4)]
before = dict(os.environ)
for thread in threads: thread.start()
for thread in threads: thread.join()
print(dict(os.environ) == before, os.environ.get({NO_TELEMETRY!r}))
"""
    outcome = run_program("-c", code, **({} if before is None else {NO_TELEMETRY: before}))
    assert (outcome.out, outcome.err) == (f"True {before}\n", "")


def test_only_one_line_of_ours_imports_it():
    """All others ask `import_onnxruntime`."""
    importing = re.compile(r"^\s*(import|from) onnxruntime", re.MULTILINE)
    files = [
        path for room in ("flower_classifier", "benchmarks", "docs", "tools") for path in (PROJECT / room).rglob("*.py")
    ]
    found = [
        match[0] for path in [*files, *PROJECT.glob("*.py")] for match in importing.finditer(path.read_text("utf-8"))
    ]
    assert found == ["    import onnxruntime"]  # for types alone
