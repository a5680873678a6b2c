"""Photos of none of the classes: how they are told, how well, and how many others are taken for them."""

import csv
import io
import json
import shutil

import matplotlib as mpl
import numpy as np
import pytest
import torch
from support import QUICK, TINY, read
from torch.nn import functional as F

import model_utils
import predict
import train
from data_utils import load_data
from flower_classifier.base.console import progress
from flower_classifier.config.allowed import StrangerMeasure
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.strangers import SHRINKAGE, Clusters, auroc, stranger_scores
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.feature_bank import remember
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.safe_files import write_atomically
from flower_classifier.photos.splits import load_splits
from flower_classifier.predicting.predictor import Predictor
from flower_classifier.report.report_files import read_table
from flower_classifier.studies.left_out_classes import estimate, judge
from flower_classifier.training.heads import FoldHeads

WAYS = {
    "frozen": QUICK,
    "cnn": ("--arch", "cnn", "--no_report"),
    "mirrored": (*QUICK, "--mirror"),
}


TODAY = StrangerMeasure.for_classes(5)


@pytest.fixture(scope="module")
def checkpoint(flowers, tmp_path_factory):
    save_dir = tmp_path_factory.mktemp("familiar")
    train.main([str(flowers), *QUICK, "--epochs", "1", "--save_dir", str(save_dir)])
    return save_dir / "checkpoint.pth"


@pytest.fixture(scope="module")
def stranger(flowers, checkpoint):
    """The photo that is least like the validation photos, and its p-value: a network with random weights has its own
    idea of strange."""
    predictor = Predictor(Checkpoint.load(checkpoint), torch.device("cpu"))
    photos = sorted((flowers / "train").rglob("*.jpg"))
    return min((predictor.p_known(answer), answer.photo) for answer in predictor.answers(photos))[::-1]


@pytest.fixture(scope="module")
def familiar(flowers, checkpoint):
    """The photo that is most like the validation photos."""
    predictor = Predictor(Checkpoint.load(checkpoint), torch.device("cpu"))
    photos = sorted((flowers / "train").rglob("*.jpg"))
    return max((predictor.p_known(answer), answer.photo) for answer in predictor.answers(photos))[1]


def cloud(number, classes=5, width=20, seed=0):
    """Draw features around a mean for each class, and their labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    means = np.random.default_rng(99).normal(1, 1, (classes, width))
    return torch.from_numpy(means[labels] + draw.normal(0, 0.5, (number, width))).float(), labels.tolist()


def memory_of(features, labels):
    names = [f"{index}.jpg" for index in range(len(features))]
    return remember(lambda places: features[places], labels, names, features.shape[1])


# -------------------------------------------------------------------------------------------------------- the scores


def test_the_distance_is_mahalanobis_to_the_nearest_class_less_that_to_all():
    features, labels = cloud(200)
    memory = memory_of(features, labels)
    rows, labels = memory.rows.double().numpy(), np.array(labels)

    def squared(points, around, deviations):
        covariance = np.cov(deviations, rowvar=False, bias=True)
        alike = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        inverse = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * alike)
        return np.einsum("nk,kl,nl->n", points - around, inverse, points - around)

    others, _ = cloud(30, seed=1)
    points = ((F.normalize(others, dim=1) - memory.centre) @ memory.axes.float()).double().numpy()
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(5)])
    within = [squared(points, mean, rows - means[labels]) for mean in means]
    expected = np.min(within, axis=0) - squared(points, rows.mean(axis=0), rows - rows.mean(axis=0))
    found = Clusters(memory, StrangerMeasure()).distances(others)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("number", "classes"), [(5, 5), (6, 5), (1, 1), (2, 2)])
def test_few_photos_have_distances_too(number, classes):
    """Of classes with one photo each nobody knows the shape."""
    features, labels = cloud(number, classes)
    distances = Clusters(memory_of(features, labels), StrangerMeasure()).distances(
        torch.cat([features, 5 * torch.rand(40, 20)])
    )
    assert distances.isfinite().all()


def test_photos_that_are_all_the_same_have_distances_too():
    assert (
        Clusters(memory_of(torch.ones(6, 20), [0, 1] * 3), StrangerMeasure())
        .distances(torch.rand(3, 20))
        .isfinite()
        .all()
    )


def test_a_class_without_photos_in_the_memory_is_left_out():
    features, labels = cloud(40, 4)
    sparse = [label if label < 2 else label + 3 for label in labels]
    others = torch.rand(9, 20)
    one, other = (Clusters(memory_of(features, some), StrangerMeasure()).distances(others) for some in (labels, sparse))
    torch.testing.assert_close(one, other)


def brute_p_value(scores, score, weight):
    """Rank all photos, this one among them, by a statistic of their two p-values; count the ones as strange."""
    everyone = np.vstack([scores, score])
    statistics = []
    for one in everyone:
        of_doubt, of_distance = ((everyone[:, kind] >= one[kind]).mean() for kind in range(2))
        fisher = -2 * np.log([of_doubt, of_distance]).sum()
        harmonic_mean = None if weight is None else (weight + 1) / (weight / of_doubt + 1 / of_distance)
        statistics.append(round(fisher if weight is None else -harmonic_mean, 9))
    return np.mean(np.array(statistics) >= statistics[-1])


@pytest.mark.parametrize("number", [1, 2, 19, 200])
@pytest.mark.parametrize("weight", [None, 0.0, 0.5, 0.8])
def test_the_p_value_is_that_of_the_harmonic_mean_among_all_and_once_was_that_of_fishers_statistic(number, weight):
    draw = np.random.default_rng(number)
    scores = draw.integers(0, 12, (number, 2)).astype(float)  # many ties
    stranger_test = StrangerTest(scores, StrangerMeasure(0.9, weight))
    for score in draw.integers(-1, 13, (40, 2)).astype(float):
        assert stranger_test.p_value(score) == pytest.approx(brute_p_value(scores, score, weight))


def test_one_kind_of_evidence_that_no_validation_photo_comes_near_is_enough_at_any_rate_that_can_be_promised():
    """A product of ranks let a photo pass that is farther away than all, if its answer was sure."""
    draw = np.random.default_rng(0)
    scores = draw.normal(0, 1, (200, 2))
    far_and_sure = [scores[:, 0].min() - 1, scores[:, 1].max() + 1]
    assert StrangerTest(scores, TODAY).p_value(far_and_sure) == 1 / 201
    assert StrangerTest(scores, StrangerMeasure()).p_value(far_and_sure) > 0.01


def test_photos_like_the_validation_photos_are_called_strangers_as_often_as_promised():
    """Averaged over draws of both, at most; and where there are no ties, almost exactly."""
    draw, shares = np.random.default_rng(0), []
    for _ in range(300):
        scores = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60)
        stranger_test = StrangerTest(scores[:40], TODAY)
        shares.append(np.mean([stranger_test.p_value(score) <= 0.1 for score in scores[40:]]))
    assert np.mean(shares) == pytest.approx(4 / 41, abs=0.01)  # of 41 places, 4 have a p-value of at most 0.1


def test_either_kind_of_evidence_is_enough():
    features, labels = cloud(400)
    memory, valid = memory_of(features, labels), cloud(100, seed=1)
    spread = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    logits = 8 * F.one_hot(torch.tensor(valid[1]), 5) + spread
    scores = stranger_scores(memory, valid[0], Evaluation(logits, torch.tensor(valid[1])), TODAY)
    stranger_test = StrangerTest(scores, TODAY)

    def p_known(feature, probabilities):
        clusters = Clusters(memory, TODAY)
        return stranger_test.p_value(clusters.strangeness(feature[None], probabilities[None])[0])

    near, far = features[0], torch.linspace(-3, 3, 20)
    sure, undecided = torch.tensor([0.996, 0.001, 0.001, 0.001, 0.001]), torch.full((5,), 0.2)
    assert p_known(near, sure) > 0.1
    assert p_known(near, undecided) < 0.1
    assert p_known(far, sure) < 0.1
    assert p_known(far, undecided) == pytest.approx(1 / 101)


@pytest.mark.parametrize("background", [0.0, 0.9, 1.0])
def test_a_share_of_the_distance_from_all_is_taken_off(background):
    features, labels = cloud(120)
    memory, others = memory_of(features, labels), 5 * torch.rand(40, 20, generator=torch.Generator().manual_seed(0))
    nearest, relative, shared = (
        Clusters(memory, StrangerMeasure(share)).distances(others) for share in (0.0, 1.0, background)
    )
    torch.testing.assert_close(shared, nearest - background * (nearest - relative))


@pytest.mark.parametrize(
    ("version", "says", "measure"),
    [
        (6, {}, StrangerMeasure(background=1.0, doubt_weight=None)),
        (7, {"stranger_measure": {"background": 0.9, "by_probability": True}}, StrangerMeasure(0.9, None)),
        (7, {"stranger_measure": {"background": 0.9, "by_probability": False}}, StrangerMeasure(0.9, 0.0)),
    ],
)
def test_a_checkpoint_of_before_goes_on_telling_strangers_as_it_did(checkpoint, tmp_path, version, says, measure):
    """Format 6 does not say how: by the product of ranks. So did 7, or with few classes by the distance alone."""
    contents = read(checkpoint)
    del contents["stranger_measure"], contents["digest"]
    write_atomically(tmp_path / "old.pth", {**contents, **says, "format_version": version})
    assert Checkpoint.load(tmp_path / "old.pth").trust.stranger_measure == measure
    assert Checkpoint.load(checkpoint).trust.stranger_measure == StrangerMeasure.for_classes(6)


def test_auroc_counts_pairs():
    draw = np.random.default_rng(0)
    known, strangers = draw.integers(0, 9, 40), draw.integers(3, 12, 30)
    pairs = np.sign(strangers[None] - known[:, None]) / 2 + 0.5
    found = auroc(torch.from_numpy(known).double(), torch.from_numpy(strangers).double())
    assert found == pytest.approx(pairs.mean())


# ------------------------------------------------------------------------------------------------------- the program


def check_scores(path, flowers):
    """Compare a checkpoint's scores with those of predictions of the validation photos."""
    saved = Checkpoint.load(path)
    predictor = Predictor(saved, torch.device("cpu"))
    answers = list(predictor.answers(sorted((flowers / "valid").rglob("*.jpg"))))
    features = torch.from_numpy(np.stack([answer.features for answer in answers]))
    doubts = torch.tensor([-predictor.probabilities(answer).max() for answer in answers], dtype=torch.float64)
    expected = torch.stack(
        [doubts, Clusters(saved.trust.feature_bank, saved.trust.stranger_measure).distances(features)], dim=1
    )
    torch.testing.assert_close(
        saved.trust.stranger_scores, expected, rtol=0.02, atol=0.02
    )  # a frozen part may be bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_scores_are_those_of_predictions(train_into, flowers, tmp_path, way):
    """Of the validation photos, by the network as it answers: frozen, cnn, with mirror images."""
    train_into(tmp_path, flowers, *WAYS[way], "--epochs", 2)
    check_scores(tmp_path / "checkpoint.pth", flowers)


@pytest.mark.slow
def test_the_scores_of_a_fine_tuned_network_are_those_of_predictions(flowers, fine_tuned):
    check_scores(fine_tuned / "checkpoint.pth", flowers)


def test_a_stranger_is_named_in_every_format(run, checkpoint, stranger, familiar):
    photo, p_value = stranger
    ask = (familiar, photo, checkpoint, "--stranger_rate", 100 * p_value, "--top_k", 2, "--format")
    known, strange = json.loads(run(predict, *ask, "json").out)
    assert (known["known"], strange["known"]) == (True, False)
    assert strange["p_known"] == p_value
    assert len(strange["predictions"]) == 2  # they stay
    assert list(map(json.loads, run(predict, *ask, "jsonl").out.splitlines())) == [known, strange]
    rows = list(csv.DictReader(io.StringIO(run(predict, *ask, "csv").out.lstrip("\ufeff"))))
    told = [(row["known"], float(row["p_known"])) for row in rows]
    assert told == [("true", known["p_known"])] * 2 + [("false", p_value)] * 2
    lines = run(predict, *ask, "text").out.splitlines()
    assert [line for line in lines if "not one of" in line] == [lines[4]]
    assert lines[4] == f"  not one of the 6 classes it was trained on (stranger score {1 - p_value:.3f})"
    outcome = run(predict, photo, checkpoint, "--stranger_rate", 100 * p_value, "--top_k", 2)
    assert (outcome.code, outcome.out.splitlines()[0]) == (0, lines[4].strip())


@pytest.mark.slow
def test_the_rate_decides_who_is_a_stranger_and_0_asks_nothing(run, flowers, checkpoint):
    ask = (flowers / "test", checkpoint, "--format", "json", "--stranger_rate")
    for rate in (6, 30, 99):
        records = json.loads(run(predict, *ask, rate).out)
        assert [one["known"] for one in records] == [one["p_known"] > rate / 100 for one in records]
        assert len(records) == 18
    assert all(list(record) == ["path", "predictions"] for record in json.loads(run(predict, *ask, 0).out))
    table = run(predict, *ask[:2], "--format", "csv", "--stranger_rate", 0).out
    assert table.splitlines()[0] == "\ufeffpath,rank,class,name,probability"


def test_a_rate_that_the_photos_cannot_promise_calls_nobody_a_stranger_and_says_so(run, checkpoint, stranger):
    outcome = run(predict, stranger[0], checkpoint, "--stranger_rate", 5)
    assert "not one of" not in outcome.out
    assert "--stranger_rate 5: 18 validation photos cannot promise that" in outcome.err
    outcome = run(predict, stranger[0], checkpoint, "--format", "json")
    assert outcome.err == ""
    assert json.loads(outcome.out)[0]["known"] is None  # nobody knows


def test_the_picture_says_it(run, checkpoint, stranger, tmp_path, monkeypatch):
    """In what is written into the picture, which a vector format keeps as text."""
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")  # letters, not outlines
    photo, p_value = stranger
    for rate, said in ((100 * p_value, True), (0, False)):
        ask = (photo, checkpoint, "--stranger_rate", rate, "--plot", tmp_path / "p.svg")
        assert run(predict, *ask).code == 0
        assert ("not one of the 6 classes it was trained on" in (tmp_path / "p.svg").read_text()) == said


def test_a_checkpoint_that_cannot_tell_says_what_it_lacks(run, flowers, checkpoint, familiar, tmp_path):
    write_atomically(tmp_path / "old.pth", {**read(checkpoint), "stranger_scores": None})
    outcome = run(predict, familiar, tmp_path / "old.pth", "--format", "csv")
    assert outcome.code == 0
    assert "the checkpoint cannot tell photos of other things" in outcome.err
    assert [row["p_known"] for row in csv.DictReader(io.StringIO(outcome.out))] == [""] * 5
    assert run(predict, familiar, tmp_path / "old.pth", "--stranger_rate", 0).err == ""
    outcome = run(predict, familiar, tmp_path / "old.pth", "--stranger_rate", 5)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--stranger_rate needs what the checkpoint lacks" in outcome.err


def test_the_notebooks_training_can_tell_too(flowers, checkpoint, tmp_path):
    model = model_utils.load_checkpoint(checkpoint)
    assert torch.equal(model.trained.trust.stranger_scores, read(checkpoint)["stranger_scores"])
    model_utils.train_model(model, load_data(flowers), epochs=1)
    model_utils.save_checkpoint(model, tmp_path / "own.pth")
    assert not torch.equal(model.trained.trust.stranger_scores, read(checkpoint)["stranger_scores"])
    check_scores(tmp_path / "own.pth", flowers)


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents.update(stranger_scores=contents["stranger_scores"].float()),
        lambda contents: contents.update(stranger_scores=contents["stranger_scores"][:, :1]),
        lambda contents: contents.update(stranger_scores=contents["stranger_scores"][:0]),
        lambda contents: contents.update(stranger_scores=contents["stranger_scores"] * float("inf")),
        lambda contents: contents.update(stranger_scores=[[0.1, 0.2]]),
        lambda contents: contents.update(stranger_scores=torch.zeros(1, 1, dtype=torch.float64).expand(10**7, 2)),
        lambda contents: contents.update(memory=None),
        lambda contents: contents.pop("stranger_scores"),
        lambda contents: contents.update(stranger_measure={"background": 2.0}),
        lambda contents: contents.update(stranger_measure={"doubt_weight": True}),
    ],
)
def test_scores_that_make_no_sense_are_refused(run, checkpoint, familiar, tmp_path, change):
    contents = read(checkpoint)
    change(contents)
    write_atomically(tmp_path / "odd.pth", contents)
    outcome = run(predict, familiar, tmp_path / "odd.pth")
    assert outcome.code == 2
    assert "odd.pth is damaged or was changed by hand" in outcome.err


# --------------------------------------------------------------------------------------------------- classes left out


@pytest.fixture(scope="module")
def rows(flowers):
    """The training photos' features, of a network with random weights."""
    classifier, _ = new_classifier("squeezenet1_1", 6, "none")
    return Inputs(FrozenBackbone(classifier, torch.device("cpu")), load_splits(flowers).train)


@pytest.mark.slow
def test_a_head_of_many_learns_what_it_would_learn_alone(rows):
    """From its own photos alone, and of its own classes alone."""
    labels = rows.labels
    classes = torch.ones(3, 6, dtype=torch.bool)
    classes[0, 2] = classes[1, 4] = False
    photos = classes[:, labels]
    photos[2, ::2] = False
    together = learn(rows, photos, classes)
    for one in range(3):
        (alone,) = learn(rows, photos[[one]], classes[[one]])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=0.05)
        assert (together[one][:, ~classes[one]] < -1e6).all()
    assert not torch.allclose(together[0][:, 0], together[1][:, 0], atol=0.1)


def learn(rows, photos, classes):
    """Let heads learn for a few epochs; return their logits for all photos."""
    heads = FoldHeads(rows, Schedule(1, 3), photos, classes)
    with progress(heads.work, "heads", "photo") as bar:
        heads.learn(bar)
    return torch.stack([heads.logits_by(torch.full((len(rows.used),), one), rows) for one in range(len(photos))])


def test_a_run_says_how_well_it_tells_strangers(train_into, flowers, tmp_path):
    outcome = train_into(tmp_path, flowers, *TINY[:-1], "--epochs", 1)
    table = read_table(tmp_path / "run" / "strangers.csv")
    assert [row["round"] for row in table] == ["1", "2", "3", "4", "5", "mean"]
    *rounds, mean = table
    assert [int(row["classes_left_out"]) for row in rounds] == [2, 1, 1, 1, 1]
    assert [int(row["known_photos"]) for row in rounds] == [12, 15, 15, 15, 15]  # test photos
    assert [int(row["strangers"]) for row in rounds] == [12, 6, 6, 6, 6]  # validation and test photos
    for column in ("auroc", "auroc_of_probability", "false_alarms_at_5"):
        values = [float(row[column]) for row in rounds]
        assert all(0 <= value <= 1 for value in values)
        assert float(mean[column]) == pytest.approx(np.mean(values), abs=1e-4)
    assert mean["strangers_found_at_5"] == ""  # 18 validation photos, of which the rounds leave 15 or less
    assert "would be noticed cannot be told from so few validation photos" in outcome.err


@pytest.mark.parametrize("count", [30, 8])
def test_what_is_noticed_of_other_classes_is_said_where_there_are_enough_photos_to_tell(count):
    features, labels = cloud(3 * count, 5)
    memory = memory_of(features, labels)
    others, classes = cloud(count, 5, seed=1)
    logits = 8 * F.one_hot(torch.tensor(classes), 5).float()
    known = torch.arange(count) % 5 != 4
    cells = judge(memory, [(others, Evaluation(logits, torch.tensor(classes)), known)], TODAY)
    header = ["round", "classes_left_out", "known_photos", "strangers", "auroc", "p", "strangers_found_at_5", "alarms"]
    table = [header, ["mean", 1.0, *("" if np.isnan(cell) else cell for cell in cells)]]
    sentence = estimate(table)
    assert (f"about {cells[4]:.0%} would be noticed" in sentence) == (count == 30)
    assert ("cannot be told" in sentence) == (count == 8)


@pytest.mark.parametrize("options", [("--arch", "cnn"), (*TINY[:-1], "--no_memory")], ids=["cnn", "without memory"])
def test_what_cannot_be_found_out_is_not_claimed(train_into, flowers, tmp_path, options):
    """A network that learns from all classes has seen the ones that would be left out."""
    train_into(tmp_path, flowers, *options, "--epochs", 1)
    assert (tmp_path / "run" / "per_class.csv").exists()
    assert not (tmp_path / "run" / "strangers.csv").exists()


def test_of_two_classes_either_is_left_out_and_of_an_unjudged_one_nothing_is_claimed(train_into, flowers, tmp_path):
    few, (one, other, *_) = tmp_path / "few", sorted(path.name for path in (flowers / "train").iterdir())
    for split in ("train", "valid", "test"):
        for name in (one, other):
            shutil.copytree(flowers / split / name, few / split / name)
    outcome = train_into(tmp_path, few, *TINY[:-1], "--epochs", 1)
    *rounds, mean = read_table(tmp_path / "run" / "strangers.csv")
    assert [row["classes_left_out"] for row in rounds] == ["1", "1"]
    assert [row["known_photos"] for row in rounds] == ["3", "3"]  # test photos of the other class
    assert float(mean["auroc"]) > 0.5
    assert "cannot be told from so few validation photos" in outcome.err
    shutil.move(few / "test", tmp_path / "test")
    for photo in (few / "valid" / other).iterdir():
        photo.rename(few / "train" / other / f"more_{photo.name}")
    outcome = train_into(tmp_path, few, *TINY[:-1], "--epochs", 1)
    assert "other classes would be noticed is not known: some classes lack photos to judge by" in outcome.err
    assert not (tmp_path / "run" / "strangers.csv").exists()
