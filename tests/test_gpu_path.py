"""What is done with a GPU, as far as it can be seen without one: who asks it, and what happens where it fails."""

import copy
import logging
import threading

import numpy as np
import pytest
import torch
from support import QUICK, run_program
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import train
from flower_classifier.base.messages import is_out_of_memory
from flower_classifier.base.process import outcome_of
from flower_classifier.features import extraction
from flower_classifier.features.batches import on_gpu
from flower_classifier.networks import devices
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.source import fold_batch_norms
from flower_classifier.photos.images import ImageError
from flower_classifier.training import loop
from flower_classifier.training.ddp import Alone
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import Average, average_in

CPU = torch.device("cpu")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Watched(nn.Module):
    """A network that knows who asked it for how many photos, and has no memory for more than `room`."""

    def __init__(self, network, room=10**6):
        super().__init__()
        self.network, self.room, self.threads, self.sizes = network, room, set(), []

    def forward(self, images):
        self.threads.add(threading.get_ident())
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise FULL
        return self.network(images)


@pytest.fixture
def frozen():
    part = FrozenBackbone(copy.deepcopy(new_classifier("resnet18", 6, "none", (8,), 0.0)[0]), CPU)
    part.precision, part.network = torch.float32, Watched(part.original)
    return part


def open_drawn(index, views):
    """A photo of noise; number 5 cannot be opened."""
    if index == 5:
        raise ImageError("cannot open 5")
    return np.random.default_rng(index).integers(0, 255, (len(views), 64, 64, 3), dtype=np.uint8)


WORK = [(range(20), [0, 1]), (range(20, 23), [0])]


def test_one_thread_alone_asks_a_gpu_and_gets_the_rows_of_many(frozen):
    """The same rows, photos and errors as where every core takes its own photos, in the same order."""
    expected = list(extraction.on_every_core(frozen, open_drawn, WORK, 2))
    frozen.network.threads.clear()
    found = list(extraction.for_a_gpu(frozen, open_drawn, WORK, 2))
    assert frozen.network.threads == {threading.get_ident()}
    for one, other in zip(found, expected, strict=True):
        assert one.indices == other.indices
        assert one.errors.keys() == other.errors.keys()
        assert one.rows.keys() == other.rows.keys()
        for view in one.rows:
            torch.testing.assert_close(one.rows[view], other.rows[view])


def test_a_micro_batch_without_a_single_photo_is_answered_too(frozen):
    found = list(extraction.for_a_gpu(frozen, open_drawn, [([5], [0]), ([6], [0])], 2))
    assert [(done.indices, list(done.errors)) for done in found] == [([], [5]), ([6], [])]


def test_what_a_gpu_has_no_room_for_is_halved_until_it_has(frozen, caplog):
    """With the rows of before; the next micro-batch does not try again what has failed."""
    caplog.set_level(logging.INFO, "flower_classifier")
    pixels = torch.randint(0, 255, (20, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = frozen(pixels)
        frozen.device, frozen.most, frozen.network.room = torch.device("cuda"), 64, 6
        frozen.network.sizes.clear()
        torch.testing.assert_close(frozen.in_chunks(pixels), expected)
        assert frozen.network.sizes == [20, 10, 5, 5, 5, 5]
        frozen.in_chunks(pixels)
    assert max(frozen.network.sizes[6:]) == 5
    assert "the GPU has too little memory for more than 5 photos at a time" in caplog.text


def test_a_gpu_that_has_room_for_no_photo_ends_the_run(frozen):
    frozen.device, frozen.network.room = torch.device("cuda"), 0
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        frozen.in_chunks(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    assert frozen.network.sizes[-1] == 1


def test_a_processor_without_memory_is_not_asked_again(frozen):
    frozen.network.room = 1
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        frozen.in_chunks(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    assert frozen.network.sizes == [4]


def test_a_step_that_a_gpu_has_no_room_for_is_taken_in_smaller_parts(monkeypatch, caplog):
    """With the gradient of the whole batch, of none that had begun, and of the photos that follow."""
    caplog.set_level(logging.INFO, "flower_classifier")
    torch.manual_seed(0)
    inputs, labels = torch.randn(10, 4), torch.arange(10) % 3
    network = Watched(nn.Linear(4, 3))
    recipe = Recipe(epochs=1, learning_rate=0.1, batch_size=10, views=1, seed=0)
    expected = loop.add_gradients(Alone(network), inputs, labels, recipe, 10, 10)
    gradient = network.network.weight.grad.clone()
    network.zero_grad()
    network.room = 3
    add_gradients = loop.add_gradients

    def on_a_gpu(learner, given, *others):  # a tensor on the CPU that says it is elsewhere
        return add_gradients(learner, inputs, *others)

    monkeypatch.setattr(loop, "add_gradients", on_a_gpu)

    class Elsewhere:
        device = torch.device("mps")

    loss, most = loop.backward(Alone(network), Elsewhere(), labels, recipe, 10, 10)
    assert most == 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(network.network.weight.grad, gradient)
    assert "too little memory to learn from more than 2 photos at a time" in caplog.text


def test_float16_is_left_where_a_number_does_not_fit(frozen):
    """A feature above 65,504 would be infinite: those photos are computed in float32, and others are not."""
    pixels = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        exact = frozen(pixels)
        frozen.device = CPU  # which has the same context
        frozen.precision = torch.float16
        rounded = frozen(pixels)
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).norm() / exact.norm() < 0.01
        large = nn.Sequential(frozen.network, nn.Linear(exact.shape[1], 3))
        large[1].weight.data.fill_(1e6)
        frozen.network = large
        torch.testing.assert_close(frozen(pixels), large(images_of(frozen, pixels)))
        assert frozen(pixels).isfinite().all()


def images_of(frozen, pixels):
    return (pixels.float() - frozen.mean) / frozen.std


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_that_fails_at_its_first_operation_is_left_for_the_processor(monkeypatch, caplog, kind):
    """Here there is none at all, which is how far the real library gets."""
    caplog.set_level(logging.WARNING, "flower_classifier")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    assert devices.choose_device(gpu=True) == CPU
    assert "the GPU cannot be used (" in caplog.text
    assert "; using the CPU" in caplog.text


def test_without_a_gpu_the_owners_command_goes_on_on_the_processor(run, flowers, tmp_path):
    outcome = run(train, flowers, *QUICK, "--epochs", 1, "--gpu", "--save_dir", tmp_path)
    assert outcome.code == 0
    assert ("no GPU found; using the CPU" in outcome.err) != torch.cuda.is_available()


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 5.00 GB)",
    ],
)
def test_every_way_in_which_a_gpu_says_that_it_is_full_is_known(said, capsys):
    assert is_out_of_memory(RuntimeError(said))
    assert outcome_of(lambda: raise_error(said)) == 1
    assert "the GPU is out of memory" in capsys.readouterr().err
    assert outcome_of(lambda: raise_error("alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")) == 1
    assert ": out of memory: take a smaller" in capsys.readouterr().err


def raise_error(said):
    raise RuntimeError(said)


def test_the_advice_for_a_full_gpu_names_the_flag():
    code = (
        "import torch; from flower_classifier.base import process\n"
        "def fail(): raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "process.run(fail)"
    )
    outcome = run_program("-c", code)
    assert outcome.code == 1
    assert "the GPU is out of memory" in outcome.err
    assert "leave out --gpu" in outcome.err


def test_folding_norms_does_not_hide_that_there_is_no_memory(monkeypatch):
    from torch.fx.experimental import optimization

    def fail(*_, **__):
        raise FULL

    monkeypatch.setattr(optimization, "fuse", fail)
    with pytest.raises(torch.OutOfMemoryError):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def test_the_number_of_threads_is_part_of_a_processors_key_alone(frozen):
    assert "threads" in frozen.about(2)
    frozen.device = torch.device("mps")
    assert "threads" not in frozen.about(2)


def test_the_average_is_torchs_own(frozen):
    """Buffers included, whatever it counts its steps with."""
    learner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    own = Average(learner)
    theirs = AveragedModel(learner, multi_avg_fn=lambda one, other, steps: average_in(one, other, steps.item()))
    for _ in range(5):
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(torch.randn_like(parameter))
        learner(torch.randn(8, 4))
        own.update_parameters(learner)
        theirs.update_parameters(learner)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[name], tensor), name


def test_rows_go_to_a_gpu_in_the_order_of_the_batches():
    rows, order = torch.randn(2500, 3), torch.randperm(2500)
    assert torch.equal(on_gpu(rows, order, CPU), rows[order])


def test_a_loss_that_is_not_finite_is_found_though_not_at_every_step():
    inputs, labels = torch.full((4, 3), torch.inf), torch.tensor([0, 1, 0, 1])
    head = nn.Linear(3, 2)
    recipe = Recipe(epochs=1, learning_rate=0.1, batch_size=4, views=1, seed=0)
    with pytest.raises(FloatingPointError):
        loop.train_one_epoch(Alone(head), [(inputs, labels)] * 3, recipe.optimizer(head), Average(head), recipe)


def test_a_bar_says_what_holds_a_gpu_up(frozen):
    with tqdm(total=23, disable=True) as bar:
        assert sum(len(done.indices) for done in extraction.extract(frozen, open_drawn, WORK, bar)) == 22
