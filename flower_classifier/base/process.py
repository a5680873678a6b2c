"""A command as a process: what it sets up, how it ends, and with which exit code.

stdout is for results; everything else goes to stderr. Exit codes: 0 done, 1 a run failed, 2 the input or the command
line is wrong, 130 interrupted (129: hung up, 143: terminated), 141 nobody reads stdout any more. FLOWERS_DEBUG=1 shows
the traceback behind an error.

Only commands import this: the package leaves the process it is imported into as it is.
"""

import atexit
import contextlib
import ctypes
import gc
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from flower_classifier.base import messages
from flower_classifier.base.console import speaking
from flower_classifier.base.options import Config
from flower_classifier.base.signals import Stopped, answer_signals, end_with_a_word, handled_signals, stop
from flower_classifier.base.torchrun import local_world_size, rank

EXIT_NOBODY_READS = 141  # the code that a shell reports for a process ended by SIGPIPE
OUT_OF_MEMORY = "out of memory: take a smaller --arch (in training also: lower --batch_size or --hidden_units)"
GPU_OUT_OF_MEMORY = "the GPU is out of memory: end other programs on it, take a smaller --arch, or leave out --gpu"
NO_ROOM_FOR_LIBRARIES = "too little memory to load {}: raise the limit (`ulimit -v`), or end other programs"
NO_TEMPORARY_FOLDER = "no folder for temporary files can be written to: set TMPDIR to one that can"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


# ------------------------------------------------------------------------------------------------------- the beginning


def begin(settings_class: type[Config], prog: str, doc: str | None) -> Config:
    """Set the process up and return the settings that its command line asks for, before torch is loaded.

    After --help and for a mistake the process ends, as by `run`. Settings may name the packages they need in `needs`;
    the default is all of requirements.txt.
    """
    if rank():  # which prints nothing
        answer_signals(signal.SIG_DFL)
    elif signal.SIGINT in handled_signals():
        signal.signal(signal.SIGINT, end_with_a_word)  # while there is no work yet that could be lost
    gc.disable()  # until `run`: while torch loads, a fifth of the time goes into finding no garbage
    warnings.filterwarnings("ignore", module=r"PIL\.")  # a photo opens, or the error says why not
    if local_world_size() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        # torchrun's, for each of several processes. Each takes its own share of the cores, and rank 0 takes them all
        # while the others wait.
        del os.environ["OMP_NUM_THREADS"]
    keep_freed_memory()
    prepare_streams()
    parsed: list[Config] = []
    with speaking():
        with contextlib.ExitStack() as silenced:
            if rank():  # all of a job's processes read the same, and one says what is wrong
                nowhere = silenced.enter_context(Path(os.devnull).open("w"))
                silenced.enter_context(contextlib.redirect_stdout(nowhere))
                silenced.enter_context(contextlib.redirect_stderr(nowhere))
            code = outcome_of(lambda: parsed.append(settings_class.parse(prog, doc)))
        if parsed:
            code = outcome_of(lambda: messages.check_installed(getattr(parsed[0], "needs", messages.NEEDED)))
    sys.excepthook = end_of_loading
    return parsed[0] if parsed and not code else leave(code)


def end_of_loading(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the process with a line where the packages that a command imports after `begin` cannot be loaded."""

    def failed() -> NoReturn:
        if isinstance(error, MemoryError):
            raise messages.RunError(NO_ROOM_FOR_LIBRARIES.format("all that is needed")) from error
        raise error

    if not isinstance(error, Exception):
        return sys.__excepthook__(kind, error, trace)
    leave(outcome_of(failed))


def prepare_streams() -> None:
    """Make stdout and stderr safe to print to, even where they are closed or cannot show a letter."""
    if sys.stderr is None:  # closed; print() would turn to stdout, which is for results
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives
    if hasattr(sys.stdout, "reconfigure"):  # not where it is closed, nor in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail


def keep_freed_memory() -> None:
    """Let glibc hand out again what was freed, instead of giving it back to the system and asking for it anew.

    Every layer's output is a large block that lives for a moment; fetching fresh pages for each costs a fifth of
    squeezenet1_1's forward, and half of the backward pass of a wide head. Elsewhere there is nothing to be done.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        # Bytes from which on a block is fetched by itself. glibc takes no more than 2^25 before 2.35; and a trim
        # threshold alone would be worse than none, since it ends the adaptation of the other.
        if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


# ------------------------------------------------------------------------------------------------------------- the end


def run(main: Callable[[], None], as_program: bool = False) -> NoReturn:
    """Run a command and end with the exit code of what happened, never with a bare traceback.

    `as_program`: the process is the command's alone, so it answers signals, and ends at once.
    """
    prepare_streams()
    if as_program:
        gc.freeze()  # what has been loaded stays, and need not be searched
        gc.enable()
        answer_signals(stop)
        from PIL import Image  # here: `--help` needs none

        # Of a damaged file libtiff itself prints up to hundreds of lines; the error says why a photo does not open. The
        # library is looked up through Pillow's own; where Pillow links it in another way (on Windows), its lines stay
        with contextlib.suppress(AttributeError, OSError):
            libtiff = ctypes.CDLL(Image.core.__file__)
            for set_handler in (libtiff.TIFFSetErrorHandler, libtiff.TIFFSetWarningHandler):
                set_handler(None)
    try:
        with speaking():
            code = outcome_of(main)
    except Stopped as stopped:  # by a signal that came while the end was being told
        code = stopped.code
    if as_program:
        leave(code)
    sys.exit(code)


def outcome_of(main: Callable[[], None]) -> int:
    """Run a command; say what went wrong, if anything, and return the exit code for it."""
    code = 0
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except SystemExit as stop:  # --help, or a command line that is wrong
        code = stop.code if isinstance(stop.code, int) else 0
    except messages.InputError as error:
        code = complain(error.at_terminal, messages.EXIT_WRONG_INPUT)
    except messages.RunError as error:
        code = complain(error.at_terminal, messages.EXIT_FAILED)
    except Stopped as stopped:
        code = stopped.code if rank() else complain(stopped.word, stopped.code)
    except BrokenPipeError:  # the reader of our stdout, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_NOBODY_READS
    except OSError as error:  # a full disk behind stdout, a folder that has vanished
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        if message.startswith("No usable temporary directory"):  # Python's tempfile, which many packages ask
            message = NO_TEMPORARY_FOLDER
        code = complain(message, messages.EXIT_FAILED)
    except ImportError as error:
        library = re.search(r"(\S+): (?:failed to map segment|cannot allocate memory)", str(error), re.IGNORECASE)
        reason = NO_ROOM_FOR_LIBRARIES.format(library[1]) if library else f"cannot load: {messages.reason_of(error)}"
        code = complain(reason, messages.EXIT_FAILED)
    except Exception as error:  # the last resort: a bug of ours, or of a library below
        if messages.is_out_of_memory(error):
            is_of_a_gpu = any(word in str(error).lower() for word in messages.OF_A_GPU)
            code = complain(GPU_OUT_OF_MEMORY if is_of_a_gpu else OUT_OF_MEMORY, messages.EXIT_FAILED)
        else:
            reason = f"{type(error).__name__}: {messages.reason_of(error)}"
            code = complain(
                f"unexpected {reason}\n(FLOWERS_DEBUG=1 shows where; please report it)", messages.EXIT_FAILED
            )
    return code


def leave(code: int) -> NoReturn:
    """End the process at once: taking torch apart takes a second, and threads may be in the middle of a forward."""
    answer_signals(signal.SIG_IGN)
    atexit._run_exitfuncs()  # temporary folders of matplotlib's, for one
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or nobody reads it
            stream.flush()
    os._exit(code)


def complain(message: str, code: int) -> int:
    """Print an error, with its traceback where FLOWERS_DEBUG asks for it, and return the exit code."""
    with contextlib.suppress(OSError):  # the terminal is gone
        if os.environ.get("FLOWERS_DEBUG"):
            traceback.print_exc()
        print(f"{Path(sys.argv[0]).name}: {messages.printable_lines(message)}", file=sys.stderr, flush=True)
    return code
