"""Flags as people type them, help that documents, errors in a line, exit codes."""

import fcntl
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import PROJECT, PYTHON, TINY, run_program
from waiting import LIMIT, has_mapped, has_received, needs_proc, wait_until

import predict
import train
from flower_classifier.base.messages import counted, first_few, percent, printable
from flower_classifier.config.train_options import TrainConfig


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--learning-rate 0.1 --save_dir a-b", "--learning_rate 0.1 --save_dir a-b"),
        ("--learning-rate=0.1", "--learning_rate=0.1"),
        ("--hidden_units 512 256 flowers", "--hidden_units 512,256 flowers"),
        ("--hidden-layer1 512", "--hidden_layer1 512"),
        ("--hidden_units=512 flowers", "--hidden_units 512 flowers"),
        ("--hidden_units=512 256 flowers", "--hidden_units 512,256 flowers"),
        ("--hidden_units 512, 256 flowers", "--hidden_units 512,256 flowers"),
        ("--hidden_units -512 256 flowers", "--hidden_units=-512,256 flowers"),
        ("--epochs -1 flowers", "--epochs=-1 flowers"),
        ("--learning-rate -.1e-3 flowers", "--learning_rate=-.1e-3 flowers"),
        ("--learning_rate -inf", "--learning_rate=-inf"),
        ("--epochs --gpu -0", "--epochs --gpu -0"),
        ("--gpu gpu flowers", "--gpu flowers"),
        ("--gpu True", "--gpu"),
        ("--gpu=cuda", "--gpu"),
        ("--gpu flowers", "--gpu flowers"),
        ("--gpu False flowers", "flowers"),
        ("-- --gpu gpu", "./--gpu gpu"),
    ],
)
def test_flags_are_taken_as_people_type_them(typed, meant):
    assert TrainConfig.parser("train.py", train.__doc__).normalise(typed.split()) == meant.split()


def test_a_folder_may_follow_any_flag():
    words = "--gpu gpu --hidden-units 8 4 flowers --lr 0.1"
    config = TrainConfig.parse("train.py", train.__doc__, words.split())
    assert (str(config.data_dir), config.hidden_units, config.learning_rate) == ("flowers", (8, 4), 0.1)
    assert config.gpu


@pytest.mark.parametrize("command", [train, predict])
def test_help_is_documentation(command, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    outcome = run(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    name = f"{command.__name__}.py"
    assert outcome.out.count(f"python {name} ") >= 3  # examples one can paste
    assert outcome.out.index("examples:") > outcome.out.index("output:")
    flags = set(re.findall(r"^  (--\w+)", outcome.out, re.MULTILINE))
    usage = outcome.out.split("\n\n")[0]
    assert flags == set(re.findall(r"\[(--\w+)", usage))  # every flag is explained
    assert max(map(len, outcome.out.splitlines())) <= 110


def test_help_shows_the_defaults_that_hold(run):
    out = " ".join(run(train, "--help").out.split())
    for flag in ("valid_split", "dropout", "epochs", "batch_size", "views", "seed", "arch"):
        explained = re.search(rf" --{flag} [A-Z]+ .*?\(default: ([^)]*)\)", out)
        assert explained[1] == str(getattr(TrainConfig, flag))


def test_a_mistyped_flag_gets_the_right_one(run):
    outcome = run(train, "flowers", "--epcohs", 3)
    assert outcome.code == 2
    assert "unknown argument '--epcohs': did you mean --epochs?" in outcome.err
    assert run(train, "flowers", "more").err.startswith("train.py: unknown argument 'more'")


def test_an_empty_path_is_not_the_current_folder(run):
    """As of a shell's variable that is not set."""
    for command, arguments, name in (
        (train, ("",), "DATA_DIR"),
        (train, ("flowers", "--category_names", ""), "--category_names"),
        (predict, ("", "checkpoint.pth"), "IMAGE"),
    ):
        outcome = run(command, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"argument {name}: the path is empty: is a variable of the shell not set?" in outcome.err


def test_control_sequences_and_bytes_that_are_no_text_are_escaped():
    for name in ("rose 雛菊 é", "fire\xa0lily", "バラ\u3000赤", "گل\u200cسرخ"):
        assert printable(name) == name
    assert printable("\x1b[31mred\n\udcff") == "\\x1b[31mred\\n\\udcff"


def test_a_line_break_in_a_name_cannot_forge_a_message(run, tmp_path):
    """Lines of a message after its first are indented."""
    outcome = run(predict, PROJECT / "docs" / "prediction.png", tmp_path / "no\npredict.py: all is well.pth")
    assert outcome.code == 2
    _, *others = outcome.err.splitlines()
    assert others
    assert all(line.startswith("  ") for line in others)


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("library", ["/libtorch_cpu.so", "/torchvision/"])
def test_interrupts_while_torch_loads_are_one_line_however_many_there_are(flowers, tmp_path, library):
    """Three of them, in the midst of a real start and near its end."""
    process = subprocess.Popen(
        [sys.executable, "train.py", flowers, "--save_dir", tmp_path / "made"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: has_mapped(process, library), f"{library} was loaded", process)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        wait_until(lambda: has_received(process, signal.SIGINT), "the signal came")
    out, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (130, "")
    assert errors == "train.py: interrupted\n"
    assert not (tmp_path / "made" / "checkpoint.pth").exists()


# Its work, and what saves it, go on until they are given a line. They do not just read it: a signal that comes right
# before a process is put to sleep in a read is answered after the read alone.
ENDING = (
    "import select; from flower_classifier.base import process\n"
    "def work():\n"
    "    while not select.select([0], [], [], 0.01)[0]: pass\n"
    "    input()\n"
    "def main():\n"
    "    try: print('ready', flush=True); work()\n"
    "    finally: print('saving', flush=True); work(); print('saved', flush=True)\n"
    "process.run(main, as_program=True)"
)


def start_ending(*wrapper, **settings):
    """Start ENDING and wait until it is at work."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*wrapper, sys.executable, "-c", ENDING]
    process = subprocess.Popen(command, cwd=PROJECT, **pipes, text=True, **settings)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("ended_by", [signal.SIGHUP, signal.SIGTERM])
def test_what_a_closing_terminal_sends_in_a_row_cuts_no_saving_short(ended_by):
    """The shell and the system each send a hangup, and the session's manager sends SIGTERM with it."""
    process = start_ending()
    process.send_signal(ended_by)
    assert process.stdout.readline() == "saving\n"
    for number in (signal.SIGHUP, signal.SIGTERM if ended_by == signal.SIGHUP else signal.SIGHUP):
        process.send_signal(number)
    out, errors = process.communicate("\n", timeout=LIMIT)
    assert (process.returncode, out) == (128 + ended_by, "saved\n")
    assert errors == {signal.SIGHUP: "-c: hung up\n", signal.SIGTERM: "-c: terminated\n"}[ended_by]


def test_what_torchrun_passes_on_after_ctrl_c_cuts_no_saving_short():
    """The terminal sends Ctrl-C to torchrun and to its processes, which torchrun then ends; there may be just one."""
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}
    process = start_ending(env=environment)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate("\n", timeout=LIMIT)
    assert (process.returncode, out, errors) == (130, "saved\n", "-c: interrupted\n")


def test_a_hangup_that_nohup_has_the_process_ignore_is_ignored():
    """Ignored, a signal is gone when it has been sent; else it would be the one that ends the process."""
    process = start_ending("nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    assert process.communicate("\n", timeout=LIMIT)[0] == "saved\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_notes_that_nobody_can_read_stop_no_work():
    """stderr is the end of a pipe whose reader has gone; what matters goes to stdout."""
    code = (
        "from flower_classifier.base import messages, process\n"
        "process.run(lambda: [messages.warn('once'), messages.note('again'), print('result')], as_program=True)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=writer, timeout=LIMIT, check=True,
    )  # fmt: skip
    os.close(writer)
    assert done.stdout == b"result\n"


def test_a_python_without_the_packages_is_told_what_to_install(flowers, trained):
    for command in (("train.py", flowers), ("predict.py", "docs/prediction.png", trained / "checkpoint.pth")):
        outcome = run_program("-S", *command, cold=True)  # without site-packages
        assert (outcome.code, outcome.out) == (1, "")
        assert re.fullmatch(rf"{command[0]}: needs torch, .* lacks: pip install -r requirements\.txt\n", outcome.err)
    assert run_program("-S", "train.py", "--help", cold=True).code == 0


@pytest.mark.thorough
def test_both_commands_work_without_docstrings_and_asserts(flowers, tmp_path):
    """`python -OO` drops both; the help is then that of the options alone.

    It does so in this project's files: torch would take it a quarter of a minute, and what is loaded here, too, is
    there as it was compiled.
    """
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
    own = [PROJECT / name for name in ("__pycache__", "flower_classifier", "tests")]
    for path in {Path(spec.cached) for spec in specs if spec.cached}:
        if path.is_file() and not any(path.is_relative_to(folder) for folder in own):
            link = tmp_path / "compiled" / path.parent.parent.relative_to("/") / f"{path.stem}.opt-2.pyc"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    own = ("--arch", "cnn", "--epochs", 1, "--save_dir", tmp_path)
    training = run_program("-OO", "train.py", flowers, *own, cold=True, **compiled)
    assert training.code == 0, training.err
    photo = next((flowers / "test" / "54").iterdir())
    asked = (photo, tmp_path / "checkpoint.pth", "--plot", tmp_path / "plot.png")
    predicted = run_program("-OO", "predict.py", *asked, cold=True, **compiled)
    assert (predicted.code, predicted.err, len(predicted.out.splitlines())) == (0, "", 5)
    helped = run_program("-OO", "train.py", "--help", cold=True, **compiled)
    assert (helped.code, helped.err) == (0, "")
    assert "--learning_rate RATE" in helped.out


def test_what_libtiff_itself_says_of_a_damaged_file_stays_off_stderr(flowers, trained, tmp_path):
    path = tmp_path / "damaged.tif"
    noise = np.random.default_rng(0).integers(256, size=(200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    data[2000:-2000:50] = bytes(len(data[2000:-2000:50]))
    path.write_bytes(data)
    outcome = run_program("predict.py", path, trained / "checkpoint.pth")
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith(f"predict.py: cannot open {path}: ")


def test_a_second_interrupt_leaves_at_once():
    """While what the first one asked for takes its time."""
    process = start_ending()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LIMIT) == 130
    assert process.stdout.read() == ""


def test_an_unexpected_error_is_a_line_and_with_debug_a_traceback():
    code = "import sys; from flower_classifier.base import process; sys.argv = ['x.py']; process.run(lambda: 1 / 0)"
    plain, debug = (run_program("-c", code, FLOWERS_DEBUG=debug) for debug in ("", "1"))
    assert (plain.code, debug.code) == (1, 1)
    assert plain.err.startswith("x.py: unexpected ZeroDivisionError: division by zero\n")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err


@pytest.mark.slow
def test_a_reader_that_leaves_early_gets_no_traceback(flowers, exported):
    photo = next((flowers / "test" / "54").iterdir())
    shell = f"{PYTHON} predict.py {photo} {exported} --top_k 6 | head -1"
    done = subprocess.run(["sh", "-c", shell], cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.slow
def test_training_says_where_it_stopped_when_nobody_reads_on(flowers, tmp_path):
    shell = f"{PYTHON} train.py {flowers} --arch cnn --epochs 100000 --save_dir {tmp_path} | head -1"
    command = ["bash", "-c", f"{shell}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 141
    assert done.stdout.startswith("epoch      1/100000")
    assert re.search(r"stopped after epoch \d+; the same command with --resume goes on from there\n$", done.stderr)
    assert (tmp_path / "checkpoint.pth").exists()


def at_a_terminal(command, rows=24, columns=80, **streams):
    """Run a command whose stderr, and whatever else is `terminal`, is a real pseudo-terminal; return what it shows."""
    controller, terminal_end = os.openpty()
    fcntl.ioctl(terminal_end, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    streams = {name: terminal_end if stream == "terminal" else stream for name, stream in streams.items()}
    process = subprocess.Popen(command, cwd=PROJECT, stderr=terminal_end, **streams)
    os.close(terminal_end)
    shown = b""
    while select.select([controller], [], [], LIMIT)[0]:
        try:
            shown += os.read(controller, 4096)
        except OSError:  # the other end is closed
            break
    os.close(controller)
    assert process.wait(timeout=LIMIT) == 0
    return shown.decode()


def lines_on(shown):
    """The lines that a person sees of what a terminal was sent: a carriage return goes back, and letters replace."""
    lines = []
    for sent in shown.replace("\r\n", "\n").split("\n"):
        line = ""
        for part in sent.split("\r"):
            line = part + line[len(part) :]
        lines.append(line.rstrip())
    return lines


BAR = (
    "import itertools; from flower_classifier.base import console, messages\n"
    "with console.speaking(), console.progress(10**9, 'photos', 'photo') as bar:\n"
    "    for number in itertools.takewhile(lambda _: not bar.drawn, itertools.count()): bar.update()\n"
    "    messages.note('noted'); bar.update()"
)


@pytest.mark.parametrize("size", [(24, 80), (0, 0)], ids=str)
def test_a_progress_bar_shows_on_a_terminal_and_makes_way_for_notes(size):
    """Also on one that does not know its size, as those of containers and editors."""
    shown = at_a_terminal([sys.executable, "-c", BAR], *size)
    assert re.search(r"photos: +\d+%.*\d+/1000000000 .* photos/s.*noted.*\d+/1000000000 ", shown, re.DOTALL)
    assert lines_on(shown) == ["noted", ""]


@pytest.mark.slow
def test_bars_and_results_that_come_through_a_pipe_to_the_same_terminal_share_it(trained, flowers, tmp_path):
    """`predict.py … | tee answers.txt`, for some seconds. The bar is seen, and what stays is what `tee` wrote.

    But for a few lines on a busy machine, where `tee` is now and then slower than the bar waits for it.
    """
    photos = [str(path) for path in sorted((flowers / "test").glob("*/*.jpg"))] * 60
    (tmp_path / "photos.txt").write_text("\n".join(photos))
    words = f"{PYTHON} predict.py - {trained}/checkpoint.pth --top_k 1 | tee {tmp_path}/answers.txt"
    with (tmp_path / "photos.txt").open() as names:
        shown = at_a_terminal(["sh", "-c", words], 24, 200, stdin=names, stdout="terminal")
    assert re.search(r"photos: +\d+%.*\d+/1080 ", shown)
    answers = (tmp_path / "answers.txt").read_text().splitlines()
    assert len(answers) == 2 * len(photos)
    lines = lines_on(shown)
    assert len(lines) == len(answers) + 1
    marred = sum(line != answer for line, answer in zip(lines, [*answers, ""], strict=True))
    assert marred <= max(5, shown.count("photos:") // 5)  # of the times that the bar was drawn


@pytest.mark.slow
def test_a_closed_stderr_does_not_send_notes_to_stdout(exported, flowers):
    photo = next((flowers / "test" / "54").iterdir())
    shell = f"{PYTHON} predict.py {photo} {exported} --top_k 99 2>&-"
    done = subprocess.run(["sh", "-c", shell], cwd=PROJECT, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert len(done.stdout.splitlines()) == 6


def test_no_probability_is_shown_as_certain():
    shown = [percent(value, digits=2) for value in (1.0, 0.99995, 0.5, 0.0001, 0.00001, 0.0)]
    assert shown == ["> 99.99%", "> 99.99%", "50.00%", "0.01%", "< 0.01%", "< 0.01%"]


def test_words_for_numbers_and_lists():
    assert [counted(1, "photo"), counted(2039, "photo"), counted(2, "class", "classes")] == [
        "1 photo",
        "2,039 photos",
        "2 classes",
    ]
    assert first_few("abc") == "a, b, c"
    assert first_few(range(10)) == "0, 1, 2 and 7 more"


def test_of_one_photo_nothing_speaks_as_of_several(run, train_into, tmp_path):
    """One to learn from in a class, one to choose by, and one of the test photos has been learned from."""
    data = tmp_path / "data"
    for number, name in enumerate(("train/red/a", "train/red/b", "train/blue/a", "valid/red/a", "test/red/a")):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 30 + 20 * number).save(data / f"{name}.png")
    (data / "test" / "blue").mkdir()
    shutil.copy(data / "train" / "blue" / "a.png", data / "test" / "blue")
    options = (data, *TINY, "--no_cache", "--save_dir", tmp_path)
    summary = run(train, *options, "--summary")
    said = summary.out + summary.err + train_into(tmp_path, *options[:-2], "--epochs", 1).err
    for phrase in ("3 training, 1 validation, 2 test photos", "reading 1 validation photo, view 0"):
        assert phrase in said
    assert re.findall(r"(?<![\d,.])1 (?:\w+ )?(?:photos|classes|files|pairs|views|epochs)\b", said) == []


def test_a_message_is_said_once_even_where_the_root_logger_speaks_too(trained, flowers):
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "import predict; from flower_classifier.base import process\n"
        "process.run(lambda: predict.main(sys.argv[1:]))"
    )
    outcome = run_program(
        "-c", code, next((flowers / "test" / "54").iterdir()), trained / "checkpoint.pth", "--top_k", 9
    )
    assert outcome.err.count("there are 6 classes") == 1
