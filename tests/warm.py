"""Start Python programs from a process that has loaded torch already, since loading it takes seconds each time.

`WarmPopen([sys.executable, "train.py", ...])` is `subprocess.Popen` in all but that: Python is not started, but forked
from a parent that waits with torch, torchvision, timm, numpy and Pillow loaded. The parent is a clean process, forked
from none that has threads, and starts no thread itself. The program is a child of the process that asks, so that
waiting for it, killing it and its exit code are the system's own.

What looks at the start itself uses `subprocess`, or `run_program(..., cold=True)`: which modules are loaded, options of
Python, a signal while torch loads, variables of the environment that are read while Python or torch starts.
"""

import atexit
import ctypes
import gc
import inspect
import io
import json
import os
import random
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from pathlib import Path

READ_AT_START = (
    "PYTHON",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "MALLOC_",
    "LD_",
    "LANG",
    "LC_",
    "TORCH_LOGS",
    "HF_",
)
BEFORE_TESTS = dict(os.environ)
NOT_WITHOUT_A_START = ("executable", "preexec_fn", "pass_fds", "shell")  # settings of subprocess.Popen
SETTINGS = inspect.signature(subprocess.Popen._execute_child)
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")  # what it calls their ends
LENGTH = struct.Struct("Q")
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl(2)


started = weakref.WeakSet()  # all processes of it that somebody still holds


class WarmPopen(subprocess.Popen):
    """`subprocess.Popen([sys.executable, ...])` of a script, `-c CODE` or `-m MODULE`, without the start of torch."""

    def _execute_child(self, *values):
        asked = SETTINGS.bind(self, *values).arguments
        words = [os.fsdecode(word) for word in asked["args"]]
        unbuffered = words[1] == "-u"
        del words[1 : 1 + unbuffered]
        variables = dict(os.environ if asked["env"] is None else asked["env"])
        if words[0] != sys.executable or (words[1][0] == "-" and words[1] not in {"-c", "-m"}):
            raise ValueError(f"no script, -c or -m of this Python: {words}")
        if refused := [name for name in NOT_WITHOUT_A_START if asked[name]]:
            raise ValueError(f"{refused[0]} needs a start of Python: use subprocess.Popen")
        for name in variables.keys() | BEFORE_TESTS.keys():
            if name.startswith(READ_AT_START) and variables.get(name) != BEFORE_TESTS.get(name):
                raise ValueError(f"{name} is read while Python starts: use subprocess.Popen, or cold=True")
        if sys.platform != "linux":
            return super()._execute_child(*values)
        request = {
            "words": words[1:],
            "unbuffered": unbuffered,
            "cwd": os.fsdecode(asked["cwd"] or Path.cwd()),
            "variables": variables,
            "new_session": asked["start_new_session"],
        }
        streams = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        files = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        try:
            self.pid = warm_parent.fork(json.dumps(request).encode(), files)
            self._child_created = True
            started.add(self)
        finally:
            self._close_pipe_fds(*(asked[name] for name in PIPES))


class WarmParent:
    """The process that has loaded torch; it starts when a program is first asked for."""

    def __init__(self):
        self.process, self.lock = None, threading.Lock()

    def start(self):
        """Start Python, which loads torch."""
        self.connection, other_end = socket.socketpair()
        with other_end:
            end = other_end.fileno()
            self.process = subprocess.Popen([sys.executable, __file__, str(end)], env=BEFORE_TESTS, pass_fds=[end])

    def fork(self, request, files):
        """Return the process id of a new child of this process, which runs what the request says on three files."""
        with self.lock:
            if self.process is None:
                self.start()
            adopt_orphans(True)
            try:
                socket.send_fds(self.connection, [LENGTH.pack(len(request))], files)
                self.connection.sendall(request)
                return LENGTH.unpack(self.connection.recv(LENGTH.size))[0]
            finally:
                adopt_orphans(False)

    def stop(self):
        if self.process is not None:
            self.connection.close()
            self.process.wait()
            self.process = None


warm_parent = WarmParent()


def adopt_orphans(yes):
    """Become the parent of processes further down whose parent ends, or leave that to the system again."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


# ---------------------------------------------------------------------------------------------------- the parent itself


def wait_for_requests(connection):
    """Fork for each request; return it in the new process, and never in this one, which ends with its connection."""
    while True:
        head, files, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
        if not head:
            os._exit(0)
        request = json.loads(connection.makefile("rb").read(*LENGTH.unpack(head)))
        if between := os.fork():  # ends at once: who asks for the program adopts it
            os.waitpid(between, 0)
            for file in files:
                os.close(file)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.0005)
        try:
            become(request, files)
        finally:
            connection.sendall(LENGTH.pack(os.getpid()))
            connection.close()
        return request


def become(request, files):
    """Give this process the streams, folder, environment and signals that Python would have started with."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["variables"])
    time.tzset()
    tempfile.tempdir = None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    open_streams(request["unbuffered"])
    gc.enable()
    random.seed()
    sys.modules["numpy"].random.seed()


def open_streams(unbuffered):
    """Open stdin, stdout and stderr as Python does at its start. `unbuffered`: as `python -u` does."""
    for number, (name, mode) in enumerate({"stdin": "rb", "stdout": "wb", "stderr": "wb"}.items()):
        before = getattr(sys, name)
        unbuffered = unbuffered or before.write_through  # PYTHONUNBUFFERED
        stream = io.TextIOWrapper(
            open(number, mode, buffering=0 if unbuffered and mode == "wb" else -1, closefd=False),  # noqa: SIM115
            before.encoding,
            before.errors,
            newline=None if name == "stdin" else "\n",
            line_buffering=not unbuffered and (name == "stderr" or os.isatty(number)),
            write_through=unbuffered,
        )
        stream.mode = mode[0]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(words):
    """Run what `python WORDS` runs, as the module `__main__`."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__annotations__ = {}
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec", dont_inherit=True), main.__dict__)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        main.__file__ = str(Path.cwd() / words[0])
        exec(compile(Path(words[0]).read_bytes(), main.__file__, "exec", dont_inherit=True), main.__dict__)


def serve(connection):
    """Be the parent until the connection ends, and in each child run what it is asked for; it never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal ends who asks, and with that the connection
    gc.disable()
    import timm  # noqa: F401 -- loads torchvision, torch, numpy and Pillow, too

    gc.freeze()  # what is loaded stays: searching it for garbage would copy its memory into every child
    run(wait_for_requests(connection)["words"])
    threading._shutdown()  # and so on, as Python ends; but it does not take torch apart, which takes a second
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
