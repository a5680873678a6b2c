"""How strangers should be measured with few classes and with many, for docs/strangers.md. Run by hand.

    TORCH_HOME=... python benchmarks/stranger_measures.py flowers --signs signs --shipped pictures
        --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/, `signs` a folder for each of ten classes. Heads learn some of the classes by
the defaults, from features that are computed once. Near strangers are photos of the other classes of the same data; far
ones the drawings of strangers.py, photos of the other data, and the pictures in the folder `shipped`. A cell of the
first table is the AUROC, the mean over draws: a known test photo against a stranger, by the p-value. The second table
says how many of each kind are called strangers at rates of 1, 5 and 10 %, test photos of known classes among them, and
what the run itself foretells of other classes at 5 %. With `--choice` validation photos of the other classes are the
near strangers, and the draws are others: so the weight was chosen. Takes ten minutes on two cores.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from strangers import draw_far
from tuning import BACKBONES, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.config.allowed import StrangerMeasure
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import AllInputs, Inputs, Schedule, prepare_inputs
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.judging.evaluation import evaluate_on, feature_reader
from flower_classifier.judging.strangers import Clusters, auroc
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.feature_bank import remember
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.whitening import enough_to_whiten
from flower_classifier.photos.splits import Split, Splits, load_splits
from flower_classifier.photos.views import USUAL
from flower_classifier.studies.left_out_classes import leave_classes_out
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState, load_learned
from flower_classifier.training.steps import whiten

RATES = (1, 5, 10)  # percent
DRAWS = {2: 6, 5: 6, 9: 3, 10: 3, 30: 2, 80: 2}  # of so many classes
MEASURES = {
    "format 6": StrangerMeasure(),
    "product of ranks": StrangerMeasure(0.9),
    "weight 1": StrangerMeasure(0.9, 1.0),
    "0.8": StrangerMeasure(0.9, 0.8),
    "0.65": StrangerMeasure(0.9, 0.65),
    "0.5": StrangerMeasure(0.9, 0.5),
    "distance alone": StrangerMeasure(0.9, 0.0),
    "plain distance alone": StrangerMeasure(0.0, 0.0),
}


def main() -> None:
    """Print two tables: a row for each network, data, number of classes and kind of strangers."""
    parser = parser_of(__doc__)
    parser.add_argument("--signs", type=Path, required=True)
    parser.add_argument("--choice", action="store_true")
    parser.add_argument("--shipped", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.mkdtemp()))
    options = parser.parse_args()
    print(f"| network | data | classes | strangers | {' | '.join(MEASURES)} |\n|{'---|' * (4 + len(MEASURES))}")
    called = [f"| network | data | classes | photos | {' | '.join(f'{rate} %' for rate in RATES)} | foretold at 5 % |"]
    called.append("|---" * (5 + len(RATES)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        far = Path(folder) / "far"
        draw_far(far)
        data = {"flowers": load_splits(options.flowers), "signs": halved(load_splits(options.signs, 0.4, 0))}
        for arch, weights in zip(BACKBONES, (None, str(options.lite0)), strict=True):
            for name, counts in (("flowers", (2, 5, 10, 30, 80)), ("signs", (2, 5, 9))):
                other = data["signs" if name == "flowers" else "flowers"].test
                assert other
                strangers = {"drawings": unlabelled(far), "other data": other, "shipped": unlabelled(options.shipped)}
                for count in counts:
                    cells: dict[str, dict[str, list[float]]] = {}
                    shares: dict[str, dict[str, list[float]]] = {}
                    for seed in range(DRAWS[count]):
                        drawn = draw(data[name], count, seed + 20 * options.choice, options.choice)
                        judge(arch, weights, options.cache, *drawn, strangers, cells, shares)
                    for kind, by_measure in cells.items():
                        means = " | ".join(f"{statistics.mean(values):.3f}" for values in by_measure.values())
                        print(f"| {arch} | {name} | {count} | {kind} | {means} |", flush=True)
                    for kind, by_rate in shares.items():
                        means = " | ".join(mean_share(by_rate.get(column)) for column in (*map(str, RATES), "foretold"))
                        called.append(f"| {arch} | {name} | {count} | {kind} | {means} |")
                        print(called[-1], file=sys.stderr, flush=True)
    print("\n", *called, sep="\n")


def unlabelled(folder: Path) -> Split:
    """Return all photos below a folder, as if they were of the first class."""
    paths = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")))
    return Split("test", folder, paths, (0,) * len(paths))


def mean_share(values: list[float] | None) -> str:
    """Return the mean and the range of shares in percent; a dash where no draw could tell any."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1%} ({min(values):.0%}-{max(values):.0%})"


def halved(splits: Splits) -> Splits:
    """Make a test split of every second validation photo."""
    valid = splits.valid
    odd, even = range(1, len(valid), 2), range(0, len(valid), 2)
    return replace(splits, valid=valid.take(even), test=replace(valid.take(odd), name="test"))


def draw(splits: Splits, count: int, seed: int, choosing: bool) -> tuple[Splits, Split]:
    """Return the photos of some classes alone, and the test photos of the others, or validation photos to choose by."""
    chosen = sorted(random.Random(seed).sample(range(len(splits.classes)), count))
    assert splits.test

    def of(split: Split) -> Split:
        some = split.take([index for index, label in enumerate(split.labels) if label in chosen])
        return replace(some, labels=tuple(chosen.index(label) for label in some.labels))

    judged = splits.valid if choosing else splits.test
    others = judged.take([index for index, label in enumerate(judged.labels) if label not in chosen])
    names = tuple(splits.classes[label] for label in chosen)
    return Splits(names, of(splits.train), of(splits.valid), of(splits.test)), others


def judge(
    arch: str,
    weights: str | None,
    cache: Path,
    splits: Splits,
    near: Split,
    strangers: dict[str, Split],
    cells: dict[str, dict[str, list[float]]],
    shares: dict[str, dict[str, list[float]]],
) -> None:
    """Train a head on some classes; add the AUROC of each kind of strangers by each measure to the cells.

    To the shares it adds how many of them, and of known classes, are called strangers, and what was foretold.
    """
    classifier, _ = new_classifier(arch, len(splits.classes), weights)
    is_whitened = enough_to_whiten(len(splits.train), len(splits.classes))
    classifier.look_at("several" if is_whitened else "last", is_whitened)
    frozen, features = FrozenBackbone(classifier, torch.device("cpu")), FeatureCache(cache, 20e9)
    recipe = Recipe.of(TrainConfig(splits.train.root, views=2))
    inputs = prepare_inputs(frozen, splits, USUAL, features, Schedule(2, 20))
    state = TrainState(classifier, recipe, splits.classes)
    seen = whiten(state, inputs, 0.4 if is_whitened else 0.0)
    fit(state, seen.train, seen.valid, lambda *_: None)
    state.load_best()
    for kind, values, called in measured(state, inputs, features, {"near": near, **strangers}):
        for name, value in values.items():
            cells.setdefault(kind, {}).setdefault(name, []).append(value)
        for who, share_by_rate in called.items():
            for rate, share in share_by_rate.items():
                shares.setdefault(who, {}).setdefault(rate, []).append(share)
    header, *_, means = leave_classes_out(*inputs, Schedule(2, 20))
    foretold = dict(zip(header, means, strict=True))["strangers_found_at_5"]
    if isinstance(foretold, float):
        shares.setdefault("near, foretold", {}).setdefault("foretold", []).append(foretold)


def measured(
    state: TrainState, inputs: AllInputs, cache: FeatureCache, strangers: dict[str, Split]
) -> Iterator[tuple[str, dict[str, float], dict[str, dict[str, float]]]]:
    """Yield each kind of strangers with the AUROC by each measure, and how many photos each calls strangers."""
    learner, train = state.learner, inputs.train
    bank = remember(feature_reader(learner, train, range(len(train.used))), train.labels.tolist())
    load_learned(learner, learner.state_dict())

    def scores(of: Inputs, measure: StrangerMeasure) -> torch.Tensor:
        every = range(len(of.used))
        rows = feature_reader(learner, of, every)(every)
        return Clusters(bank, measure).strangeness(rows, evaluate_on(learner, of).probabilities)

    assert inputs.test
    for kind, split in strangers.items():
        unknown = Inputs(train.frozen, replace(split, labels=(0,) * len(split)), USUAL, cache, announced=False)
        values: dict[str, float] = {}
        called: dict[str, dict[str, float]] = {}
        for name, measure in MEASURES.items():
            test = StrangerTest(scores(inputs.valid, measure), measure)
            p_known = [
                torch.tensor([test.p_value(score) for score in scores(of, measure)]) for of in (inputs.test, unknown)
            ]
            values[name] = auroc(-p_known[0], -p_known[1])
            for rate in filter(test.can_promise, RATES):
                shares = [(p_values <= rate / 100).double().mean().item() for p_values in p_known]
                for who, share in zip(("known", kind), shares, strict=True):
                    called.setdefault(f"{who}, {name}", {})[str(rate)] = share
        yield kind, values, called


if __name__ == "__main__":
    main()
