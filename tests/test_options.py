"""An option is said once: what the parser takes, what the checks refuse and what docs/options.md lists agree."""

import ast
import math
import re
import runpy
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from support import PROJECT, PYTHON, TINY, run_program

import predict
import train
from flower_classifier.base.messages import InputError
from flower_classifier.base.options import TYPED, Limits, Settings, argument, option
from flower_classifier.config.allowed import MOST_LAYERS
from flower_classifier.config.export_options import ExportConfig
from flower_classifier.config.predict_options import PredictConfig
from flower_classifier.config.train_options import TrainConfig

COMMANDS = {train: TrainConfig, predict: PredictConfig}
NEEDED = {train: {"data_dir": Path("flowers")}, predict: {"images": (Path("a.jpg"),), "checkpoint": Path("c.pth")}}
WORDS = {train: ["flowers"], predict: ["a.jpg", "c.pth"]}
LIMITED = [
    pytest.param(command, setting, id=f"{command.__name__}-{setting.name}")
    for command, settings_class in COMMANDS.items()
    for setting in settings_class.options()
    if setting.limits
]


def ends(limits, whole):
    """Return the numbers just within closed ends, and those just outside any end."""

    def next_to(end, direction):
        return end + direction if whole else math.nextafter(end, direction * math.inf)

    closed = [end for end in (limits.least, limits.most) if end is not None]
    outside = [end for end in (limits.above, limits.below) if end is not None]
    outside += [next_to(limits.least, -1)] if limits.least is not None else []
    outside += [next_to(limits.most, 1)] if limits.most is not None else []
    return closed, outside


# ---------------------------------------------------------------------------------------------------------- the limits


@pytest.mark.parametrize(("command", "setting"), LIMITED)
def test_a_value_just_outside_the_limits_is_refused_in_a_line_that_names_the_flag(run, command, setting):
    _, outside = ends(setting.limits, whole=setting.kind is int)
    assert outside
    for number in outside:
        typed = f"{number},{number}" if setting.several else str(number)
        outcome = run(command, *WORDS[command], f"--{setting.name}={typed}")
        assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
        assert f": --{setting.name} must be {setting.limits}" in outcome.err
        assert str(number) in outcome.err


@pytest.mark.parametrize(("command", "setting"), LIMITED)
def test_values_at_the_closed_ends_are_taken(command, setting):
    closed, _ = ends(setting.limits, whole=setting.kind is int)
    for number in closed:
        value = (number,) if setting.several else number
        settings = COMMANDS[command](**NEEDED[command], **{setting.name: value})
        assert getattr(settings, setting.name) == value


@pytest.mark.parametrize(("command", "setting"), [case for case in LIMITED if case.values[1].kind is float])
def test_what_is_not_a_number_is_within_no_limits(run, command, setting):
    outcome = run(command, *WORDS[command], f"--{setting.name}=nan")
    assert outcome.code == 2
    assert outcome.err.endswith(", not nan\n")


def test_as_many_hidden_layers_as_a_checkpoint_may_have_are_taken_and_no_more(run, flowers, tmp_path):
    """What is trained can be read back; what could not be is refused before the work."""
    options = (*TINY, "--epochs", 1, "--save_dir", tmp_path)
    refused = run(train, flowers, *options, "--hidden_units", *[2] * (MOST_LAYERS + 1))
    assert (refused.code, refused.err.count("--hidden_units must be at most 100 numbers, not 101")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    assert run(train, flowers, *options, "--hidden_units", *[2] * MOST_LAYERS).code == 0
    photo = next((flowers / "test" / "54").iterdir())
    assert run(predict, photo, tmp_path / "checkpoint.pth").code == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(least=1, most=10**5), "from 1 to 100,000"),
        (Limits(above=0, most=1000), "above 0 and at most 1000"),
        (Limits(least=0, below=1), "at least 0 and below 1"),
        (Limits(above=0, below=0.5), "above 0 and below 0.5"),
        (Limits(least=0, below=2**63), "at least 0 and below 2^63"),
        (Limits(least=8, most=1024, unit="pixels"), "from 8 to 1024 pixels"),
        (Limits(least=1), "at least 1"),
    ],
)
def test_limits_say_themselves_in_words(limits, words):
    assert str(limits) == words


# ------------------------------------------------------------------------------------------------ a settings class


@dataclass(frozen=True)
class EveryKind(Settings):
    """Every kind of option."""

    files: tuple[Path, ...] = argument("input", "files", metavar="FILE")
    last: Path = argument("input", "the last", metavar="LAST")
    sizes: tuple[int, ...] | None = option(None, "input", "sizes", limits=Limits(least=1), most=2, aliases=("s1",))
    share: float = option(0.5, "other", "50 % of it", metavar="SHARE", limits=Limits(least=0, most=1))
    number: int | None = option(None, "other", "how many", unset="as many as there are")
    form: str = option("a", "other", "which form", choices=("a", "b"))
    loud: bool = option(False, "other", "say more", aliases=("l",))


def parsed(line):
    return EveryKind.parse("x.py", "What.\n\n    python x.py a b\n\nMore.", line.split())


def test_settings_are_read_as_their_annotations_say():
    assert parsed("a b") == EveryKind((Path("a"),), Path("b"))
    all_given = EveryKind((Path("a"), Path("b")), Path("c"), (3, 4), 0.25, 7, "b", True)
    assert parsed("a b --s1 3 4 c --share=0.25 --number 7 --form b -l") == all_given
    assert parsed("a --sizes 0 b").sizes == ()


def test_a_program_is_told_of_the_setting_and_a_person_of_the_flag():
    for wrong, said in (
        ({"sizes": (1, 2, 3)}, "sizes must be at most 2 numbers, not 3"),
        ({"sizes": (1, -2)}, "sizes must be at least 1, or 0 for none, not 1 -2"),
        ({"share": 2.0}, "share must be from 0 to 1, not 2.0"),
        ({"form": "c"}, "form must be one of a, b, not c"),
    ):
        with pytest.raises(InputError) as refused:
            EveryKind((Path("a"),), Path("b"), **wrong)
        assert (str(refused.value), refused.value.at_terminal) == (said, f"--{said}")


def test_what_an_error_names_as_an_option_is_one():
    """Not an argument, which nobody types a flag for: the first word of such a message would be `--folder`."""
    settings = [setting for kind in (*COMMANDS.values(), ExportConfig) for setting in kind.options()]
    options = {setting.name for setting in settings if not setting.positional}
    takes = {"InputError": 1, "RunError": 1, "check_writable": 1, "check_there": 1, "input_file": 1}
    named = set()
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("flower_classifier/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in takes:
                given = node.args[takes[node.func.id] :]
                named |= {(value.value, path.name) for value in given if isinstance(value, ast.Constant)}
    of_functions = {("topk", "model_utils.py"), ("on_error", "base_predictor.py")}  # which no command passes on
    wrong = [(name, file) for name, file in named - of_functions if name not in options]
    assert len(named) > 50
    assert wrong == []


def test_help_shows_groups_in_order_and_defaults():
    text = " ".join(EveryKind.parser("x.py", "What.\n\n    python x.py a b\n\nMore.").format_help().split())
    places = [text.index(words) for words in ("What. More.", "input:", "other:", "examples: python x.py a b")]
    assert places == sorted(places)
    for words in (
        "50 % of it (default: 0.5)",
        "how many (default: as many as there are)",
        "--form {a,b}",
        "--loud, -l",
    ):
        assert words in text


# ------------------------------------------------------------------------------------------------------ documentation


def test_the_page_of_options_is_what_its_script_writes():
    page = runpy.run_path(str(PROJECT / "docs" / "options.py"))["page"]()
    assert (PROJECT / "docs" / "options.md").read_text(encoding="utf-8") == page, "run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_lists_every_flag_with_its_default(command):
    text = (PROJECT / "docs" / "options.md").read_text(encoding="utf-8")
    section = text[text.index(f"## {command.__name__}.py") :].split("\n## ")[0]
    listed = {}
    for row in re.findall(r"^\| (`-.*)", section, re.MULTILINE):
        names, default = row.split(" | ")[:2]
        listed |= dict.fromkeys(re.findall(r"`(--?\w+)", names), default)
    actions = COMMANDS[command].parser(f"{command.__name__}.py", command.__doc__)._option_string_actions
    assert set(listed) == set(actions) - {"-h", "--help"}
    for flag, default in listed.items():
        if actions[flag].default is not None:  # else it is said in words
            assert default == ("off" if actions[flag].default is False else f"`{actions[flag].default}`"), flag


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_an_option_that_says_what_it_does(command):
    names = [known.name for known in fields(COMMANDS[command]) if known.name != TYPED]
    assert [setting.name for setting in COMMANDS[command].options()] == names
    for setting in COMMANDS[command].options():
        assert setting.help
        assert not setting.help.endswith(".")


# ------------------------------------------------------------------------------------------ nothing heavy is loaded

RUNNER = """
import atexit, runpy, sys
heavy = {"torch", "torchvision", "numpy", "PIL", "matplotlib"}
atexit.register(lambda: print("loaded:", *sorted(heavy & set(sys.modules)), file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("train.py --help", 0, ""),
        ("train.py", 2, "the following arguments are required: DATA_DIR"),
        ("train.py flowers --epcohs 3", 2, "unknown argument '--epcohs'"),
        ("train.py flowers --epochs many", 2, "argument --epochs: invalid int value: 'many'"),
        ("train.py flowers --hidden_units many", 2, "'many' should be numbers"),
        ("train.py flowers --epochs 0", 2, "--epochs must be from 1 to 100,000, not 0"),
        ("train.py flowers --dropout nan", 2, "--dropout must be"),
        ("train.py flowers --tensorboard --no_report", 2, "--tensorboard cannot be used together with --no_report"),
        ("predict.py --help", 0, ""),
        ("train.py flowers --epochs -1", 2, "--epochs must be from 1 to 100,000, not -1"),
        ("train.py flowers --learning_rate -1e-3", 2, "--learning_rate must be above 0 and at most 1000, not -0.001"),
        (
            "train.py flowers --hidden_units 8 -5",
            2,
            "--hidden_units must be from 1 to 1,000,000, or 0 for none, not 8 -5",
        ),
        ("predict.py a.jpg", 2, "the following arguments are required: CHECKPOINT"),
        ("predict.py out/c.pth", 2, "the following arguments are required: IMAGE, before out/c.pth"),
        ("predict.py out/c.pth --gpu", 2, "the following arguments are required: IMAGE, before out/c.pth"),
        ("predict.py - c.pth --top_k -1", 2, "--top_k must be at least 1, not -1"),
        ("predict.py -0 --top-k -1.5 - c.pth", 2, "argument --top_k: invalid int value: '-1.5'"),
        ("predict.py - c.pth --min_probability -.5", 2, "--min_probability must be from 0 to 1, not -0.5"),
        ("predict.py a.jpg c.pth --topk 0", 2, "--top_k must be at least 1, not 0"),
        ("predict.py - c.pth", 2, "cannot read c.pth: No such file or directory"),
        ("predict.py nowhere.jpg LICENSE", 2, "cannot open nowhere.jpg: there is no such file"),
        ("predict.py docs/predicton.png LICENSE", 2, "no such file; did you mean docs/prediction.png?"),
        ("predict.py - LICENSE --category_names cat_To_name.json", 2, "; did you mean cat_to_name.json?"),
        ("train.py flowers --category_names cat_names.json", 2, "cannot read cat_names.json: No such file"),
        ("train.py flowers --weights w.pth", 2, "--weights cannot read w.pth: No such file or directory"),
        ("predict.py a.jpg c.pth --top_k few", 2, "argument --top_k: invalid int value: 'few'"),
        ("predict.py - c.pth --top_k 0", 2, "--top_k must be at least 1, not 0"),
        ("predict.py a.jpg c.pth --format xml", 2, "invalid choice: 'xml'"),
        ("predict.py a.jpg c.pth --heatmap", 2, "--heatmap is drawn on the photo: it needs --plot"),
        ("predict.py a.jpg c.pth --report here", 2, "--report works only together with --evaluate"),
        ("predict.py tests c.pth --evaluate --top_k 3", 2, "--evaluate judges all answers"),
        ("predict.py nowhere c.pth --evaluate", 2, "--evaluate takes one folder"),
        ("predict.py tests c.pth --evaluate --format csv", 2, "--format is text or json with --evaluate, not csv"),
    ],
)
def test_help_and_mistakes_on_the_command_line_load_nothing_heavy(line, code, said):
    outcome = run_program("-c", RUNNER, *line.split(), cold=True)
    *lines, loaded = outcome.err.splitlines()
    assert loaded == "loaded:"
    assert outcome.code == code
    assert said in outcome.err
    assert bool(outcome.out) == (code == 0)
    assert all(line.startswith(("train.py: ", "predict.py: ", "(python ")) for line in lines)
    assert len(lines) <= 2


def test_help_is_shown_where_the_terminal_lacks_its_letters_and_mistakes_are_not_results(tmp_path):
    plain = run_program("train.py", "--help", cold=True, PYTHONIOENCODING="ascii")
    assert (plain.code, plain.err, plain.out.count("\\u2026")) == (0, "", 1)
    shell = f"{PYTHON} train.py {tmp_path} --epochs 0 2>&-"
    done = subprocess.run(["sh", "-c", shell], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
