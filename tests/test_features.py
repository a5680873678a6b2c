"""Features are computed once, in the photos' order, and give what the backbone on every batch would give."""

import copy
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageOps
from support import run_program
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from flower_classifier.features import extraction
from flower_classifier.features.batches import batches
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import Inputs, Schedule, prepare_inputs
from flower_classifier.judging.evaluation import evaluate
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos import views
from flower_classifier.photos.images import load_image
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.views import USUAL, Augmentation, open_views
from flower_classifier.training.ddp import Alone
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import AVERAGE_DECAY, average_in

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, learning_rate=0.001, batch_size=7, views=1, seed=0)


@pytest.fixture(scope="module")
def splits(flowers):
    return load_splits(flowers)


@pytest.fixture(scope="module")
def classifier():
    return new_classifier("timm/test_byobnet", 6, "none", (32,), 0.5)[0]  # small, and has batch norms


@pytest.fixture(scope="module")
def frozen(classifier):
    """The frozen part in float32 and as it was built, whatever this machine has instructions for."""
    part = FrozenBackbone(copy.deepcopy(classifier), CPU)
    part.precision, part.network = torch.float32, part.original
    return part


@pytest.fixture
def threads():
    """Give torch's threads back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def extract(frozen, split, view=0, seed=0):
    return Inputs(frozen, split, Augmentation(seed=seed)).rows(view)


def batches_of(inputs, batch_size, order_seed=None):
    return batches(inputs.rows(), inputs.labels, batch_size, CPU, order_seed)


def plain_view(photo, preprocessing):
    """The pixels (3, S, S) of a photo alone."""
    return torch.from_numpy(open_views(photo, preprocessing)[0]).permute(2, 0, 1)


def image_batches(splits, order, batch_size):
    """Yield photos, opened anew for every batch: what training without stored features does."""
    split = splits.train
    for chosen in torch.tensor(order).split(batch_size):
        photos = [load_image(split.root / split.photos[i]) for i in chosen.tolist()]
        yield photos, torch.tensor(split.labels)[chosen]


def test_training_on_stored_features_equals_running_the_backbone_on_every_batch(splits, classifier, frozen):
    """Also against another opinion of what training is: plain Adam, NLL of log-softmax, one photo at a time."""
    stored, plain = copy.deepcopy(classifier), copy.deepcopy(classifier)
    inputs = Inputs(frozen, splits.train)
    torch.manual_seed(1)
    stored_optimizer = torch.optim.Adam(stored.learner.parameters(), lr=0.001)
    average = AveragedModel(stored.learner, multi_avg_fn=average_in)
    batches = batches_of(inputs, 7, order_seed=5)
    stored_loss = train_one_epoch(Alone(stored.learner), batches, stored_optimizer, average, RECIPE)

    labels_in_order = [batch_labels for _, batch_labels in batches_of(inputs, 7, order_seed=5)]
    rows_in_order = torch.cat([rows for rows, _ in batches_of(inputs, 7, order_seed=5)])
    all_rows = inputs.rows(0)
    order = [int((all_rows == row).all(dim=1).nonzero()[0]) for row in rows_in_order]
    assert sorted(order) == list(range(len(splits.train)))

    torch.manual_seed(1)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.001)
    total, path = 0.0, []
    plain.train()
    for (photos, labels), expected_labels in zip(image_batches(splits, order, 7), labels_in_order, strict=True):
        assert torch.equal(labels, expected_labels)
        pixels = torch.stack([plain_view(photo, plain.preprocessing) for photo in photos])
        loss = torch.nn.functional.nll_loss(plain(pixels).log_softmax(dim=1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        path.append(plain.head[0].weight.detach().clone())
    assert stored_loss == pytest.approx(total / len(splits.train), rel=1e-4)
    for (name, one), other in zip(stored.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5, msg=name)
    assert not torch.equal(stored.head[0].weight, classifier.head[0].weight)
    # The recursion in closed form: step t weighs as much as there are ways to choose d = AVERAGE_DECAY of t + d - 1
    weights = np.array([math.comb(t + AVERAGE_DECAY - 1, AVERAGE_DECAY) for t in range(1, len(path) + 1)], dtype=float)
    closed_form = np.tensordot(weights / weights.sum(), torch.stack(path).numpy(), axes=1)
    np.testing.assert_allclose(average.module[0].weight.detach().numpy(), closed_form, rtol=1e-3, atol=2e-5)


def test_evaluation_on_features_and_on_photos_agree(splits, classifier, frozen):
    inputs = Inputs(frozen, splits.valid)
    pixels = torch.stack(
        [plain_view(splits.valid.root / photo, classifier.preprocessing) for photo in splits.valid.photos]
    )
    on_features = evaluate(classifier.learner, batches_of(inputs, 4))
    on_photos = evaluate(classifier, [(pixels, torch.tensor(splits.valid.labels))])
    assert on_features.loss == pytest.approx(on_photos.loss, rel=1e-4)
    assert on_features.accuracy == on_photos.accuracy


def test_metrics_are_sums_over_samples_whatever_the_batches(splits, classifier, frozen):
    inputs = Inputs(frozen, splits.valid)
    results = [evaluate(classifier.learner, batches_of(inputs, size)) for size in (1, 5, 64)]
    assert len({metrics.accuracy for metrics in results}) == 1
    assert [metrics.loss for metrics in results] == pytest.approx([results[0].loss] * 3, rel=1e-5)


def test_the_number_of_threads_changes_no_bit(splits, frozen, threads):
    results = []
    for number in (1, 4):
        torch.set_num_threads(number)
        results.append(extract(frozen, splits.train, view=2))
    assert torch.equal(*results)


def test_more_cores_than_workers_are_shared_among_them(splits, frozen, threads):
    """Two workers of three threads each; the results may differ by rounding."""
    expected = extract(frozen, splits.valid)
    torch.set_num_threads(6)
    with extraction.shared_cores(CPU, 2) as workers:
        assert (workers, torch.get_num_threads()) == (2, 3)
    assert torch.get_num_threads() == 6
    work = [(indices, [0]) for indices in extraction.micro_batches(len(splits.valid), CPU)]
    inputs = Inputs(frozen, splits.valid)
    with tqdm(disable=True) as bar:
        found = list(extraction.extract(frozen, inputs.open_photo, work, bar, most_workers=2))
    assert [list(done.indices) for done in found] == [list(indices) for indices, _ in work]
    torch.testing.assert_close(torch.cat([done.rows[0] for done in found]), expected, rtol=1e-3, atol=1e-4)


def test_with_a_gpu_as_many_workers_open_photos_as_there_are_cores_to_use():
    """Not as many as the machine has, of which a container or taskset may give the process a few. No GPU is asked."""
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}}); import torch; torch.set_num_threads(1)\n"
        "from flower_classifier.features.extraction import shared_cores\n"
        "with shared_cores(torch.device('cuda')) as workers: print(workers)"
    )
    assert run_program("-c", code).out == "1\n"


def test_bfloat16_changes_features_by_its_rounding_alone(splits, classifier, frozen):
    """Eight bits of mantissa; a dozen layers in a row may add up to a few per cent of a feature vector."""
    fast = FrozenBackbone(copy.deepcopy(classifier), CPU)
    fast.precision, fast.network = torch.bfloat16, fast.original
    exact, rounded = (extract(part, splits.valid) for part in (frozen, fast))
    assert ((rounded.float() - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.03
    assert not torch.equal(exact, rounded.float())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1", "swin_t"])
def test_weights_that_are_bfloat16_already_change_no_bit(splits, arch, monkeypatch):
    """Autocast alone is the other way; the classifier, which may go into a checkpoint, keeps its own weights."""
    classifier = new_classifier(arch, 6, "none")[0]
    monkeypatch.setenv("FLOWERS_PRECISION", "float32")
    plain = FrozenBackbone(copy.deepcopy(classifier), CPU)
    monkeypatch.setenv("FLOWERS_PRECISION", "bfloat16")
    part = FrozenBackbone(classifier, CPU)
    assert next(layer for layer in part.network.modules() if isinstance(layer, torch.nn.Conv2d)).weight.dtype == (
        torch.bfloat16
    )
    assert {tensor.dtype for tensor in classifier.state_dict().values() if tensor.is_floating_point()} == {
        torch.float32
    }
    plain.precision = torch.bfloat16
    pixels = extraction.to_pixels([open_views(splits.valid.root / splits.valid.photos[0], part.preprocessing)])[0]
    with torch.inference_mode():
        assert torch.equal(part(pixels), plain(pixels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "dtype"),
    [("resnet18", torch.bfloat16), ("squeezenet1_1", torch.bfloat16), ("timm/xcit_nano_12_p16_224", torch.float32)],
)
def test_features_that_are_bfloat16_numbers_are_kept_as_such_and_no_others(splits, tmp_path, arch, dtype, monkeypatch):
    """In half the bytes, on disk and in memory; what the head is given are the very numbers of the network."""
    monkeypatch.setenv("FLOWERS_PRECISION", "bfloat16")
    part = FrozenBackbone(new_classifier(arch, 6, "none")[0], CPU)
    pixels = extraction.to_pixels([open_views(splits.valid.root / splits.valid.photos[0], part.preprocessing)])[0]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = part.network(((pixels.float() - part.mean) / part.std).to(memory_format=torch.channels_last))
    assert plain.dtype == part.rows.dtype == dtype
    few = replace(splits.valid, photos=splits.valid.photos[:3], labels=splits.valid.labels[:3])
    for cache in (None, FeatureCache(tmp_path, 1e9), FeatureCache(tmp_path, 1e9)):  # in memory, written, read again
        rows = Inputs(part, few, cache=cache).rows()[torch.arange(3)]
        assert rows.dtype == dtype
        ((given, _),) = batches(rows, torch.zeros(3), 3, CPU)
        assert given.dtype == torch.float32
        assert torch.equal(given, rows.float())
    (file,) = tmp_path.glob("*/*/rows.bin")
    assert file.stat().st_size == 3 * plain.shape[1] * dtype.itemsize


def test_a_model_trained_whole_stays_in_float32_and_its_rows_are_pixels():
    classifier = new_classifier("cnn", 2)[0]
    frozen = FrozenBackbone(classifier, CPU)
    assert (frozen.precision, frozen.network, classifier.learner) == (torch.float32, None, classifier)
    assert (frozen.rows.shape, frozen.rows.dtype) == ((3, 32, 32), torch.uint8)


def test_the_cnn_runs_channels_last_and_keeps_its_parameters_as_they_were():
    classifier = new_classifier("cnn", 6)[0]
    convolved = []
    for layer in classifier.backbone:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, outputs: convolved.append(outputs))
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features = classifier.features(pixels)
        assert len(convolved) == 4
        assert all(outputs.is_contiguous(memory_format=torch.channels_last) for outputs in convolved)
        plain = nn.Sequential(*classifier.backbone)((pixels.float() - 127.5) / 127.5)
    torch.testing.assert_close(features, plain, rtol=1e-4, atol=1e-5)
    classifier.train()(pixels).sum().backward()
    assert all(parameter.grad.is_contiguous() for parameter in classifier.parameters())
    assert all(tensor.is_contiguous() for tensor in classifier.state_dict().values())


def test_views_are_a_function_of_seed_view_and_photo(splits, frozen):
    def rows(view, seed=0):
        return extract(frozen, splits.valid, view, seed)

    assert torch.equal(rows(2), rows(2))
    assert not torch.equal(rows(2), rows(3))
    assert not torch.equal(rows(2), rows(2, seed=1))
    for plain in (0, 1):
        assert torch.equal(rows(plain), rows(plain, seed=1))  # the preset and its mirror image know no chance


def test_views_that_share_a_decode_are_what_they_are_alone(splits, classifier, frozen, tmp_path, monkeypatch):
    """The first two views come of one opening of each photo, view 1 being the mirror image; the third comes alone."""
    opened = []
    monkeypatch.setattr(views, "load_image", lambda path, *rest: opened.append(path) or load_image(path, *rest))
    together = Inputs(frozen, splits.valid, USUAL, FeatureCache(tmp_path, 1e9), Schedule(views=3, epochs=3))
    together.rows(0)
    assert list(together.ready) == [0, 1]
    assert len(opened) == len(set(opened)) == len(splits.valid)
    together.rows(2)
    assert list(together.ready) == [0, 1, 2]
    order = torch.arange(len(splits.valid))
    for view in range(3):
        assert torch.equal(together.rows(view)[order], extract(frozen, splits.valid, view))
    photos = [load_image(splits.valid.root / photo) for photo in splits.valid.photos]
    mirrored = torch.stack([plain_view(ImageOps.mirror(image), classifier.preprocessing) for image in photos])
    with torch.inference_mode():
        torch.testing.assert_close(together.rows(1)[order], classifier.features(mirrored), rtol=0.05, atol=0.05)


def test_of_two_views_that_share_a_decode_only_the_missing_one_is_computed(splits, frozen, tmp_path):
    first = Inputs(frozen, splits.valid, USUAL, FeatureCache(tmp_path, 1e9), Schedule(views=1, epochs=2))
    first.rows(0)
    second = Inputs(frozen, splits.valid, USUAL, FeatureCache(tmp_path, 1e9), Schedule(views=2, epochs=2))
    assert [view for view, _, _ in second.compute_missing({0: set(), 1: {3, 17}})] == [1, 1]
    order = torch.arange(len(splits.valid))
    assert torch.equal(second.rows(1)[order], extract(frozen, splits.valid, 1))


def test_a_view_is_extracted_once_and_when_first_needed(splits, frozen):
    inputs = Inputs(frozen, splits.valid)
    assert inputs.ready == {}
    first = inputs.rows(0)
    assert inputs.rows(0) is first
    assert first.shape == (len(splits.valid), 256 + 128 + 64 + 64)  # its own output, and the means of three layers


def test_all_photos_pass_the_backbone_before_the_first_epoch(splits, frozen):
    found = prepare_inputs(frozen, splits, USUAL, None, Schedule(views=1, epochs=1))
    for inputs, split in zip(found, (splits.train, splits.valid, splits.test), strict=True):
        assert inputs.split is split
        assert list(inputs.ready) == [0]
        assert torch.equal(inputs.labels, torch.tensor(split.labels))


def test_torchs_threads_are_given_back(splits, frozen, threads):
    torch.set_num_threads(3)
    extract(frozen, splits.valid)
    assert torch.get_num_threads() == 3


def test_shuffled_batches_hold_every_photo_once(splits, frozen):
    inputs = Inputs(frozen, splits.train)
    orders = {}
    for seed in (1, 1, 2):
        found = list(batches_of(inputs, 10, order_seed=seed))
        assert [len(labels) for _, labels in found] == [10, 10, 10, 10, 8]
        labels = torch.cat([labels for _, labels in found]).tolist()
        assert sorted(labels) == sorted(splits.train.labels)
        assert orders.setdefault(seed, labels) == labels
    assert orders[1] != orders[2]
