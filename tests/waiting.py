"""Waiting for what happens, and never for a time: a busy machine is given it, and a quiet one goes on at once.

The limits are there so that a test that waits in vain ends: they measure nothing.
"""

import os
import select
import time
from pathlib import Path

import pytest

LIMIT = 120  # seconds
LONG_LIMIT = 3 * LIMIT  # of what takes a quiet machine tens of seconds: several processes that each load torch

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")


def wait_until(condition, what, process=None, limit=LIMIT):
    """Return the first true value of `condition()`. Fail where there is none by the limit, or the process has ended.

    `what` finishes the sentence "it did not happen that ...".
    """
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert process is None or process.poll() is None, f"the process ended before it happened that {what}"
        assert time.monotonic() < deadline, f"for {limit} seconds it did not happen that {what}"
        time.sleep(0.01)
    return value


def line_with(text, stream):
    """Read lines of a stream until one holds the text, and return that one."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"the stream has ended, without a line with {text!r}")


def is_something_in(folder, pattern):
    """Say whether one of the files of such a name has begun to be written."""
    return any(path.stat().st_size for path in folder.glob(pattern))


def has_mapped(process, library):
    """Say whether a process has mapped a library into its memory, which it does to load it."""
    return library in Path(f"/proc/{process.pid}/maps").read_text()


def has_received(process, number):
    """Say whether no signal of this number is on its way to a process any more: it has come, or the process is over."""
    if process.poll() is not None:
        return True
    facts = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return not int(facts["ShdPnd"], 16) >> (number - 1) & 1


def is_output_full(process):
    """Say whether the pipe that a process prints to is full, so that its next word waits for a reader."""
    end = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [end], [], 0)[1]
    finally:
        os.close(end)


SIGNALLED = """
import os, runpy, sys
name, number, times, *sys.argv = sys.argv[1:]
left = int(times)
def look(event, details):
    global left
    if event == "open" and name in str(details[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), int(number))
sys.addaudithook(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def signalled_at(name, number, *command, times=1):
    """Return Python's arguments for a script that gets a signal just before it opens a file of such a name.

    `times`: when it does so for the second or third time. Whoever looks for the file from outside may find that it has
    been written and closed meanwhile.
    """
    return ["-c", SIGNALLED, name, str(int(number)), str(times), *map(str, command)]
