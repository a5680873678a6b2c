"""A program forked from a process that has torch, beside one that Python starts: nothing differs."""

import os
import signal
import subprocess
import sys

import pytest
from support import PROJECT, TINY, run_program
from warm import WarmPopen, warm_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python is started")
HOWS = (WarmPopen, subprocess.Popen)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
STATE = """
import gc, locale, os, signal, sys, tempfile, threading
print(os.getcwd(), sorted(os.environ.items()), os.getpgid(0), os.getsid(0), os.getppid(), os.umask(0))
print([signal.getsignal(number) for number in range(1, 32)], threading.active_count(), os.listdir("/proc/self/fd"))
for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__):
    print(stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
    print(stream.mode, stream.newlines, stream.fileno(), type(stream.buffer))
print(sys.argv, sys.path, sys.flags, gc.isenabled(), sorted(globals()), __name__, tempfile.gettempdir())
print(locale.getlocale(), os.sched_getaffinity(0), sys.stdin.readlines())
"""


def both(*arguments, **environment):
    """Return what a program leaves behind when it is forked, which is what it leaves when Python is started for it."""
    warm, cold = (run_program(*arguments, cold=cold, **environment) for cold in (False, True))
    assert warm == cold
    return warm


@pytest.mark.thorough
def test_training_and_answers_are_the_same_bytes(flowers, tmp_path):
    """Of a network that is frozen first, and then learns, with views and a report."""
    folder, checkpoint = tmp_path / "out", tmp_path / "out" / "checkpoint.pth"
    options = (*TINY[:-1], "--epochs", 2, "--views", 2, "--fine_tune", 1, "--no_memory", "--no_cache")
    options += ("--save_dir", folder)  # without a memory: so strangers, whose heads take seconds, are left out
    outcomes, files = [], []
    for cold in (False, True):
        outcomes.append(run_program("train.py", flowers, *options, cold=cold))
        assert outcomes[-1].code == 0, outcomes[-1].err
        files.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".pth", ".csv")})
        if not cold:
            folder.rename(tmp_path / "warm")
    assert files[0].keys() == files[1].keys() >= {"checkpoint.pth", "last.pth", "history.csv", "per_class.csv"}
    assert files[0]["checkpoint.pth"] == files[1]["checkpoint.pth"]
    assert outcomes[0].err == outcomes[1].err
    untimed = [[line.split(" in ")[0] for line in outcome.out.splitlines()] for outcome in outcomes]
    assert untimed[0] == untimed[1]
    assert both("predict.py", flowers / "test" / "54", "nothing.jpg", checkpoint, "--format", "csv").code == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("train.py", "--wrong"), 2),
        (("train.py", "--help"), 0),
        (("-m", "flower_classifier.photos.demo", "--help"), 0),
        (("-c", "import sys; print(sys.argv, __name__); sys.exit('in words')", "a", "--b"), 1),
        (("-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"), -signal.SIGTERM),
        (("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), -signal.SIGKILL),
        (("-c", "import atexit; atexit.register(print, 'the end'); print('first')"), 0),
    ],
    ids=str,
)
def test_ends_are_the_same(words, code):
    assert both(*words).code == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_both_alike(number):
    """By what the commands do with signals. Without torch, so that a start takes no seconds."""
    code = """if True:
        import time
        from flower_classifier.base import process
        def work():
            try:
                print("epoch 1", flush=True)
                while True: time.sleep(0.01)
            finally:
                print("saved")
        process.run(work, as_program=True)
    """
    ends = []
    for start in HOWS:
        with start([sys.executable, "-c", code], cwd=PROJECT, **PIPES) as process:
            assert process.stdout.readline() == "epoch 1\n"
            assert process.poll() is None
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert out == "saved\n"
            ends.append((process.returncode, err))
    assert ends[0] == ends[1]
    assert ends[0][0] == 128 + number


@pytest.mark.parametrize(("session", "flags"), [(False, []), (True, ["-u"])])
def test_the_process_is_as_python_starts_it(tmp_path, session, flags):
    """Its folder, environment, streams, signals, open files, and whose child it is."""
    told = []
    for start in HOWS:
        pipes = PIPES | {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = {**os.environ, "TMPDIR": str(tmp_path), "TZ": "Asia/Tokyo"}
        command = [sys.executable, *flags, "-c", STATE, "a", "b"]
        with start(command, cwd=tmp_path, env=environment, start_new_session=session, **pipes) as process:
            out, err = process.communicate("one\ntwo\n", timeout=60)
        assert (process.returncode, err) == (0, None)
        told.append(out.replace(str(process.pid), "PID").replace("unbuffered=1", "unbuffered=0"))  # a flag, and no more
    assert told[0] == told[1]


def test_a_process_that_is_over_leaves_nothing_and_a_signal_to_it_hits_nobody():
    process = WarmPopen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0)
    process.communicate(b"\n")
    assert process.returncode == 0
    process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.slow
def test_the_parent_has_one_thread_and_ends_with_who_started_it():
    """A fork takes along the thread that forks alone: locks that others hold would stay shut for good."""
    code = """if True:
        import os, sys
        from warm import WarmPopen, warm_parent
        assert WarmPopen([sys.executable, "-c", "pass"]).wait() == 0
        print(os.listdir(f"/proc/{warm_parent.process.pid}/task") == [str(warm_parent.process.pid)], flush=True)
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PROJECT / "tests", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.read() == "True\n"  # to the end: the parent, too, has closed it
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (["-S", "train.py"], {}),
        (["train.py"], {"env": {**os.environ, "OMP_NUM_THREADS": "7"}}),
        (["train.py"], {"env": {**os.environ, "LC_ALL": "C"}}),
        (["train.py"], {"preexec_fn": os.getpid}),
    ],
)
def test_what_needs_a_start_of_python_is_refused(command, settings):
    with pytest.raises(ValueError, match=r"-S|while Python starts|needs a start"):
        WarmPopen([sys.executable, *command], **settings)
    assert warm_parent.process is None or warm_parent.process.poll() is None
