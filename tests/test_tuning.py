"""The search among heads: each learns as it would alone, validation chooses, and the winner is a run like any other."""

import csv
import math
import re
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from support import QUICK, TINY, read, run_program, same
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import train
from flower_classifier.judging.evaluation import loss_gap
from flower_classifier.networks.classifier import ModelConfig
from flower_classifier.studies import dry_run
from flower_classifier.training import head_search
from flower_classifier.training.ddp import Alone
from flower_classifier.training.head_search import HIDDEN, LINEAR, OPTIONS, Outcome, Trial, grid
from flower_classifier.training.heads import HeadSettings, HeadStack
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import average_in

CPU = torch.device("cpu")
FROZEN = (*TINY[:-1], "--no_memory")  # with the report, which the table belongs to, but without strangers
RECIPE = Recipe(epochs=20, learning_rate=0.001, batch_size=16, views=4, seed=0)


def recipe(**changes):
    return Recipe(**{"epochs": 2, "learning_rate": 0.01, "batch_size": 8, "views": 1, "seed": 0, **changes})


def table(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("weights", [(), (2.0, 0.5, 0.5)], ids=["equal", "weighted"])
@pytest.mark.parametrize("units", [(), (7,), (9, 5)], ids=str)
def test_heads_in_a_stack_learn_what_each_learns_alone(units, weights):
    """A run's own loop is the independent way."""
    torch.manual_seed(0)
    data = [(torch.randn(8, 6), torch.randint(3, (8,))) for _ in range(12)]
    config = ModelConfig("squeezenet1_1", units, 0.0, 3, "head")
    settings = [
        HeadSettings(
            units,
            0.0,
            recipe(learning_rate=rate, weight_decay=decay, label_smoothing=smoothing, class_weights=weights),
        )
        for rate, decay, smoothing in ((0.01, 0.0, 0.0), (0.1, 1.0, 0.0), (0.003, 0.3, 0.2))
    ]
    stack = HeadStack(config.build_head(6, 0), settings, CPU)
    for inputs, labels in data:
        stack.step(inputs, labels)
    inputs, labels = torch.randn(20, 6), torch.randint(3, (20,))
    losses, hits = stack.losses_and_hits([inputs], labels, [1.0, 0.5])
    for index, one in enumerate(settings):
        head = config.build_head(6, 0)
        average = AveragedModel(head, multi_avg_fn=torch.no_grad()(average_in))
        train_one_epoch(Alone(head), data, one.recipe.optimizer(head), average, one.recipe)
        logits = average.module(inputs).detach()
        for at, temperature in enumerate((1.0, 0.5)):
            expected = F.cross_entropy(logits / temperature, labels, reduction="none")
            torch.testing.assert_close(losses[at, index], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(hits[index], logits.argmax(1) == labels)


def test_heads_that_cannot_share_batches_are_not_stacked():
    config = ModelConfig("squeezenet1_1", (), 0.0, 3, "head")
    settings = [HeadSettings((), 0.0, recipe(batch_size=size)) for size in (8, 16)]
    with pytest.raises(ValueError, match="the same batches"):
        HeadStack(config.build_head(6, 0), settings, CPU)


def test_dropout_differs_from_head_to_head():
    """Half the hidden values of one head are dropped, none of the other's, and the sums keep their size."""
    config = ModelConfig("squeezenet1_1", (40,), 0.0, 2, "head")
    stack = HeadStack(config.build_head(3, 0), [HeadSettings((40,), dropout, recipe()) for dropout in (0.0, 0.5)], CPU)
    inputs = torch.randn(1, 3)
    plain = stack.logits(stack.stacked, inputs).detach()
    torch.manual_seed(0)
    dropped = torch.stack([stack.logits(stack.stacked, inputs, stack.dropout).detach() for _ in range(2000)])
    assert all(torch.equal(draw[0], plain[0]) for draw in dropped)
    assert len(dropped[:, 1].unique(dim=0)) > 1000
    torch.testing.assert_close(dropped[:, 1].mean(dim=0), plain[1], atol=0.03, rtol=0)


def test_the_simplest_head_within_one_standard_error_is_chosen():
    def tried(units, losses):
        return Trial(HeadSettings(units, 0.0, recipe()), 1, torch.tensor(losses), 0.5)

    best, near = tried((512,), [0.1, 0.2, 0.3, 0.4]), tried((), [0.1, 0.5, 0.1, 0.4])  # behind by 0.025, error 0.104
    far = tried((), [0.4, 0.5, 0.6, 0.7])  # behind by 0.3 everywhere
    assert Outcome([best, near, far]).chosen is near
    assert Outcome([best, far]).chosen is best
    difference, error = loss_gap(near.losses, best.losses)
    gaps = torch.tensor([0.0, 0.3, -0.2, 0.0])
    assert (difference, error) == pytest.approx((gaps.mean().item(), gaps.std().item() / 2))


def test_the_grid_has_at_least_48_heads_and_keeps_what_is_given():
    heads = grid(RECIPE, {})
    assert len(heads) == len(set(heads)) >= 48
    assert {one.hidden_units for one in heads} == {(), (512,)}
    assert {*LINEAR, *HIDDEN} <= set(OPTIONS)  # of which the table and the run that follows know
    fixed = grid(RECIPE, {"hidden_units": (64, 32), "views": 3, "learning_rate": 0.5})
    assert {(one.hidden_units, one.recipe.views, one.recipe.learning_rate) for one in fixed} == {((64, 32), 3, 0.5)}


class Answers:
    """A stack of two heads that give the same logits for all photos: one is too sure, the other not sure enough."""

    def __init__(self, logits):
        self.heads = logits

    def losses_and_hits(self, inputs, labels, temperatures):
        losses = [
            torch.stack([F.cross_entropy(head / temperature, labels, reduction="none") for head in self.heads])
            for temperature in temperatures
        ]
        return torch.stack(losses), torch.stack([head.argmax(1) == labels for head in self.heads])


def judged(monkeypatch, wrong, scales, photos=60):
    """Judge heads whose logits for the predicted class are `scales`, with so many wrong answers each."""
    labels = torch.zeros(photos, dtype=torch.int64)
    predicted = torch.where(torch.arange(photos) < wrong, 1, 0)
    logits = [scale * F.one_hot(predicted, 3).float() for scale in scales]
    monkeypatch.setattr(head_search, "whole", lambda *_: [(torch.zeros(photos, 1), labels)])
    members = [Trial(HeadSettings((), 0.0, recipe())) for _ in scales]
    plain = SimpleNamespace(frozen=SimpleNamespace(config=ModelConfig("squeezenet1_1", (), 0.0, 3, "head")))
    head_search.judge(members, Answers(logits), 1, plain)
    return members, logits, labels


def test_a_head_is_judged_at_its_best_temperature_where_the_run_may_keep_one(monkeypatch):
    (timid, bold), _, labels = judged(monkeypatch, 10, (0.5, 40.0))
    share = 50 / 60  # with the right temperature both say so of what they predict
    best = -(share * math.log(share) + (1 - share) * math.log((1 - share) / 2))
    assert timid.loss == pytest.approx(best, rel=0.01)
    assert bold.loss == pytest.approx(best, rel=0.01)
    (timid, bold), logits, labels = judged(monkeypatch, 4, (0.5, 40.0))  # too few mistakes to know
    assert [timid.loss, bold.loss] == pytest.approx([F.cross_entropy(head, labels).item() for head in logits])


def test_a_head_whose_loss_was_not_finite_once_is_not_sound(monkeypatch):
    (one,), *_ = judged(monkeypatch, 10, (math.nan,))
    assert not one.is_sound
    assert one.epoch == 0


def test_one_validation_photo_has_no_standard_error():
    heads = [Trial(HeadSettings((), 0.0, recipe()), 1, torch.tensor([loss])) for loss in (0.1, 0.3)]
    assert loss_gap(heads[1].losses, heads[0].losses) == (pytest.approx(0.2), 0.0)
    assert Outcome(heads).chosen is heads[0]


def test_fewer_views_are_tried_only_where_a_head_would_see_the_others():
    assert {one.recipe.views for one in grid(recipe(views=4, epochs=3), {})} == {2, 4}
    assert {one.recipe.views for one in grid(recipe(views=4, epochs=2), {})} == {4}
    assert {one.recipe.views for one in grid(recipe(views=1, epochs=9), {})} == {1}


@pytest.mark.slow
def test_a_tuned_run_is_the_run_with_the_options_that_it_found(run, train_into, flowers, tmp_path):
    """Byte for byte, and when it is resumed too."""
    own = [*FROZEN, "--epochs", 2, "--views", 2]
    outcome = run(train, flowers, *own, "--tune", "--save_dir", tmp_path / "tuned")
    assert outcome.code == 0, outcome.err
    (chosen,) = [row for row in table(tmp_path / "tuned" / "run" / "tuning.csv") if row["chosen"] == "1"]
    typed = [word for name in OPTIONS for word in (f"--{name}", *chosen[name].split())]
    typed += re.search(r"the choice: (--layers .+) \(by LDA", outcome.err)[1].replace(",", "").split()
    assert "kinds of features tried in " in outcome.err
    assert "heads tried in " in outcome.err
    train_into(tmp_path / "typed", flowers, *own, *typed, "--no_report")
    assert same(read(tmp_path / "tuned" / "checkpoint.pth"), read(tmp_path / "typed" / "checkpoint.pth"))
    tuned, typed = (read(tmp_path / name / "run" / "last.pth") for name in ("tuned", "typed"))
    assert len(tuned.pop("tuning")) == 1 + len(table(tmp_path / "tuned" / "run" / "tuning.csv"))
    assert same({**tuned, "digest": ""}, {**typed, "digest": ""})
    for name, options in (("tuned", ()), ("typed", ("--no_report",))):
        again = ("--resume", "--tune", "--epochs", 3, "--no_memory")
        resumed = train_into(tmp_path / name, flowers, *again, *options)
        assert "--tune searches in a new run, without --resume: this one has its head already" in resumed.err
    assert same(read(tmp_path / "tuned" / "checkpoint.pth"), read(tmp_path / "typed" / "checkpoint.pth"))
    assert table(tmp_path / "tuned" / "run" / "tuning.csv")  # which a resumed run keeps
    assert (tmp_path / "tuned" / "run" / "tuning.png").is_file()


@pytest.mark.slow
def test_the_table_has_every_head_best_first(run, flowers, tmp_path):
    outcome = run(train, flowers, *FROZEN, "--epochs", 1, "--tune", "--hidden_units", 0, "--save_dir", tmp_path)
    assert outcome.code == 0, outcome.err
    rows = table(tmp_path / "run" / "tuning.csv")
    losses = [float(row["valid_loss"]) for row in rows]
    assert losses == sorted(losses)
    assert {row["hidden_units"] for row in rows} == {"0"}
    assert sum(row["chosen"] == "1" for row in rows) == 1


SIGNAL = """
import os, signal, sys, train
from flower_classifier.base import process
from flower_classifier.training import head_search
judge, (number, *arguments) = head_search.judge, sys.argv[1:]
def judged(*given):
    judge(*given)
    if given[2] == 2: os.kill(os.getpid(), int(number))
head_search.judge = judged
process.answer_signals(process.stop)
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
train.main(arguments)
print("answered as before", before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)])
"""


def after_signal(number, flowers, folder, *options):
    """Send a run a signal in the second epoch of its search."""
    own = [flowers, *(options or (*FROZEN, "--epochs", 6, "--tune", "--hidden_units", 0)), "--save_dir", folder]
    return run_program("-c", SIGNAL, int(number), *own)


FEW_HEADS = ("--hidden_units", 0, "--views", 1, "--weight_decay", 0, "--label_smoothing", 0)  # they are given
SEARCHING = (*TINY[:-1], "--epochs", 3, "--tune", *FEW_HEADS)


@pytest.fixture(scope="module")
def two(flowers, tmp_path_factory):
    """Two species of the drawn flowers, and test photos of one: so no report tries strangers, which takes seconds."""
    others = shutil.ignore_patterns("49", "51", "78", "91")
    data = shutil.copytree(flowers, tmp_path_factory.mktemp("two") / "flowers", ignore=others)
    shutil.rmtree(data / "test" / "74")
    return data


@pytest.fixture(scope="module")
def undisturbed(two, tmp_path_factory):
    """The save_dir of a run that searches, and an earlier one, which was there before."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train.main([*map(str, (two, *TINY[:-1], "--epochs", 1, "--no_report")), "--save_dir", str(folder)])
    earlier = shutil.copytree(folder, tmp_path_factory.mktemp("earlier") / "run")
    train.main([*map(str, (two, *SEARCHING)), "--save_dir", str(folder)])
    return folder, earlier


def check_is_as_undisturbed(folder, undisturbed):
    """It has the same run, with all that it tried, and the one that was there before it in run/earlier."""
    whole, earlier = undisturbed
    for file in ("checkpoint.pth", "run/last.pth"):
        assert same(read(folder / file), read(whole / file)), file
        assert same(read(folder / "run" / "earlier" / "1" / file), read(earlier / file)), file
    assert (folder / "run" / "tuning.csv").read_bytes() == (whole / "run" / "tuning.csv").read_bytes()
    assert (folder / "run" / "tuning.png").is_file()
    assert not (folder / "run" / "begun").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_search_starts_again_when_it_is_resumed(train_into, two, tmp_path, undisturbed):
    """And not the finished run that was there before it. With `--resume` alone: its options are known."""
    folder = shutil.copytree(undisturbed[1], tmp_path / "out")
    assert after_signal(signal.SIGKILL, two, folder, *SEARCHING).code == -signal.SIGKILL
    outcome = train_into(folder, two, "--resume")
    said = (
        "the run that began here last had saved nothing: starting it again, with --tune; the run that was here before"
    )
    assert f"{said} is kept in run/earlier\n" in outcome.err
    check_is_as_undisturbed(folder, undisturbed)


CRASH = """
import os, signal, sys, train
from flower_classifier.report import report_files, run_log
from flower_classifier.training import run_folder
(place, *arguments), write, table = sys.argv[1:], run_folder.write_atomically, run_log.write_table
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def write_state(path, contents):
    write(path, contents)
    if place == "after the state": die()
def write_table(path, rows):
    table(path, rows)
    if place == "after the table": die()
run_folder.write_atomically, run_log.write_table = write_state, write_table
train.main(arguments)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["after the state", "after the table"])
def test_a_run_that_is_killed_while_it_saves_first_has_its_search_when_it_is_resumed(
    train_into, two, tmp_path, undisturbed, place
):
    folder = shutil.copytree(undisturbed[1], tmp_path / "out")
    assert run_program("-c", CRASH, place, two, *SEARCHING, "--save_dir", folder).code == -signal.SIGKILL
    train_into(folder, two, "--resume")
    check_is_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_ctrl_c_ends_the_search_and_trains_the_best_so_far(flowers, tmp_path):
    done = after_signal(signal.SIGINT, flowers, tmp_path)
    assert done.code == 0, done.err
    assert done.out.count("epoch ") >= 6
    assert done.out.endswith("answered as before True\n")
    assert max(int(row["epoch"]) for row in table(tmp_path / "run" / "tuning.csv")) <= 2


@pytest.mark.slow
def test_another_signal_ends_the_whole_run(flowers, tmp_path):
    done = after_signal(signal.SIGTERM, flowers, tmp_path)
    assert done.code != 0
    assert done.out == ""
    assert not (tmp_path / "checkpoint.pth").exists()
    assert (tmp_path / "run" / "begun").exists()  # whoever stopped it may mean it to be resumed


def test_what_learns_as_a_whole_has_no_heads_to_search(run, flowers, tmp_path):
    outcome = run(train, flowers, "--arch", "cnn", "--tune", "--save_dir", tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--tune is for pretrained networks; all layers of cnn learn from the start" in outcome.err


# -------------------------------------------------------------------------------------- the options it searches


def test_patience_ends_a_run_and_a_resumed_one_the_same(train_into, flowers, tmp_path):
    own = ["--arch", "cnn", "--epochs", 30, "--patience", 2, "--no_report"]
    outcome = train_into(tmp_path / "whole", flowers, *own)
    stored = read(tmp_path / "whole" / "run" / "last.pth")
    (lowest, _), last = stored["lowest"], stored["epoch"]
    assert last == lowest + 2 < 30
    assert f"the validation loss was lowest in epoch {lowest}: --patience 2 ends it here" in outcome.err
    train_into(tmp_path / "parts", flowers, *own[:2], "--epochs", 1, *own[4:])
    train_into(tmp_path / "parts", flowers, "--resume", "--epochs", 30, "--no_report")
    assert same(read(tmp_path / "parts" / "checkpoint.pth"), read(tmp_path / "whole" / "checkpoint.pth"))


def test_weights_decay_and_biases_do_not():
    """With a learning rate of 0.1 and a decay of 1, a step without gradients leaves nine tenths of the weights."""
    head = torch.nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in head.parameters()]
    optimizer = recipe(learning_rate=0.1, weight_decay=1.0).optimizer(head)
    for parameter in head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(head.weight, 0.9 * before[0])
    assert torch.equal(head.bias, before[1])


def test_without_decay_the_optimizer_is_adam():
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 5), torch.randint(3, (40,))
    found = []
    for optimizer in (recipe().optimizer, lambda head: torch.optim.Adam(head.parameters(), lr=0.01, fused=True)):
        torch.manual_seed(1)
        head = torch.nn.Linear(5, 3)
        steps = optimizer(head)
        for _ in range(20):
            steps.zero_grad()
            F.cross_entropy(head(inputs), labels).backward()
            steps.step()
        found.append(head.weight.detach())
    assert torch.equal(*found)


@pytest.mark.slow
def test_smoothed_labels_are_learned_and_kept_by_a_resumed_run(train_into, flowers, tmp_path):
    for smoothing in (0, 0.5):
        train_into(tmp_path / str(smoothing), flowers, *TINY, "--epochs", 1, "--label_smoothing", smoothing)
    plain, smoothed = (read(tmp_path / str(smoothing) / "checkpoint.pth") for smoothing in (0, 0.5))
    assert not same(plain["state_dict"], smoothed["state_dict"])
    train_into(tmp_path / "0.5", flowers, "--resume", "--epochs", 2, "--no_report")
    assert read(tmp_path / "0.5" / "checkpoint.pth")["training"]["label_smoothing"] == 0.5


@pytest.mark.slow
def test_the_summary_says_how_long_the_search_would_take(run, flowers, monkeypatch):
    monkeypatch.setattr(dry_run, "BUDGET", 0.02)  # how near the expected time comes is not tested
    outcome = run(train, flowers, *QUICK, "--tune", "--summary", "--hidden_units", 0, "--weight_decay", 0)
    assert outcome.code == 0, outcome.err
    number = len(grid(RECIPE, {"hidden_units": (), "weight_decay": 0.0}, are_whitened=True))
    assert re.search(rf"^search +about \S+ s for {number} heads, before that$", outcome.out, re.MULTILINE)
