"""What programs give a predictor, and from which processes, of a checkpoint and of an exported folder alike."""

import io
import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import flower_classifier as fc
import model_utils


@pytest.fixture(scope="module")
def predictor(trained):
    return fc.load(trained / "checkpoint.pth")


@pytest.fixture(scope="module")
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


class Named:
    """What has a path, as those of other libraries have."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture(scope="module", params=["checkpoint", "folder"])
def either(request, predictor, exported):
    """The checkpoint's predictor, and the exported one of the same."""
    return predictor if request.param == "checkpoint" else fc.load(exported)


def test_a_photo_may_be_whatever_programs_have(either, some):
    expected, beside_another = either(some[0]), either(some[:2])
    data = some[0].read_bytes()
    with some[0].open("rb") as file, Image.open(some[0]) as picture, Image.open(some[0]) as loaded:
        array = np.array(loaded)
        tensor = torch.from_numpy(array).permute(2, 0, 1)  # as torchvision.io.decode_image has it
        in_memory = (data, bytearray(data), memoryview(data), file, picture, loaded, array, tensor)
        for photo in (str(some[0]), Named(some[0]), *in_memory):
            assert either(photo) == expected
            assert either([photo, some[1]]) == beside_another
    grey = array[..., 0]
    assert either(torch.from_numpy(grey.copy())) == either(torch.from_numpy(grey.copy())[None]) == either(grey)


def test_many_photos_may_come_from_anything_that_has_an_order(either, some):
    """With more of them than are taken at a time, and one that asks for another answer in between."""
    many = (some * 5)[:70]
    expected = either(many)
    assert either(photo for i, photo in enumerate(many) if i % 30 or either(some[0])) == expected
    assert either(tuple(many)) == either(iter(many)) == expected
    assert either(iter(())) == []


def test_what_is_no_photo_is_an_error(either, some):
    array = np.array(Image.open(some[0]))
    with some[0].open(encoding="latin-1") as text:
        for photo, said in (
            (None, "it is None: give a path"),
            (io.StringIO(str(some[0])), r"its read\(\) gives no bytes"),
            (text, r"its read\(\) gives no bytes"),
            (7, "it is of type int"),
            (torch.from_numpy(array), r"it is a tensor of torch.uint8 of shape \(48, 48, 3\), and not"),
            (torch.from_numpy(array).permute(2, 0, 1) / 255, "it is a tensor of torch.float32"),
        ):
            for given in (photo, [photo]):
                with pytest.raises(fc.InputError, match=said):
                    either(given)
    for many in ({some[0]}, {some[0]: 1}):
        with pytest.raises(fc.InputError, match="have no order: give a list"):
            either(many)


def test_a_bad_photo_among_many_may_be_an_error_in_its_place(either, some):
    first, *bad, last = either([some[0], None, b"no photo", some[1]], on_error="return")
    assert [first, last] == either(some[:2])
    assert all(isinstance(error, fc.InputError) for error in bad)
    assert "it is no JPEG" in str(bad[1])
    assert isinstance(either(b"", on_error="return"), fc.InputError)
    with pytest.raises(fc.InputError, match="on_error must be raise or return, not ignore"):
        either(some, on_error="ignore")


def test_pictures_that_are_not_read_yet_stay_so(either, some):
    """Else a list of many would have all their pixels in memory at once."""
    pictures = [Image.open(photo) for photo in some[:9]]
    assert either(pictures) == either(some[:9])
    assert all(picture.fp is not None for picture in pictures)  # Pillow drops it when it has read the pixels
    assert pictures[0].getpixel((0, 0)) == Image.open(some[0]).getpixel((0, 0))


# ------------------------------------------------------------------------------------------------------- processes


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")


def in_a_fork(ask):
    """What `ask` returns, or raises, in a forked process, which ends within half a minute."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def answer():
        try:
            writer.send(ask())
        except Exception as error:  # which the test will see
            writer.send(error)

    process = multiprocessing.get_context("fork").Process(target=answer)
    process.start()
    try:
        assert reader.poll(30), "it hangs"
        return reader.recv()
    finally:
        process.kill()
        process.join()


@needs_fork
@pytest.mark.parametrize("kind", ["trained_on_features/checkpoint.pth", "exported"])
def test_a_forked_process_answers(request, some, kind):
    """With the classifier that its parent has loaded, and used: OpenMP's threads are not there any more."""
    fixture, _, name = kind.partition("/")
    loaded = fc.load(request.getfixturevalue(fixture) / name)
    expected = loaded(some)
    forked = in_a_fork(lambda: [(list(result), result.known) for result in loaded(some)])
    for (rows, known), result in zip(forked, expected, strict=True):
        assert known == result.known
        assert [row["class"] for row in rows] == [row["class"] for row in result]
        assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in result], abs=1e-5)


@needs_fork
def test_a_forked_process_loads_and_unpickles_a_classifier_of_its_own(trained_on_features, some):
    """Where its parent has used torch: to check a file and to copy tensors takes threads, too."""
    checkpoint = trained_on_features / "checkpoint.pth"
    loaded = fc.load(checkpoint)
    expected, pickled = loaded(some[0])[0]["class"], pickle.dumps(loaded)
    assert in_a_fork(lambda: fc.load(checkpoint)(some[0])[0]["class"]) == expected
    assert in_a_fork(lambda: pickle.loads(pickled)(some[0])[0]["class"]) == expected
    model = model_utils.load_checkpoint(checkpoint)
    assert in_a_fork(lambda: model_utils.predict(some[0], model, 1)[1]) == [expected]


@needs_fork
def test_a_process_that_was_forked_while_another_thread_was_answered_says_so(either, some):
    class SlowFile(io.BytesIO):
        def read(self, size=-1):
            begun.set()
            go_on.wait(60)
            return super().read(size)

    begun, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=either, args=(SlowFile(some[0].read_bytes()),))
    thread.start()
    assert begun.wait(60)
    try:
        error = in_a_fork(lambda: either(some[0]))
    finally:
        go_on.set()
        thread.join()
    assert isinstance(error, fc.RunError)
    assert str(error).startswith("this process was forked while another thread was answered: start processes by spawn")
    assert either(some[0])


def test_it_can_be_pickled_as_a_process_that_is_spawned_gets_it(either, some):
    assert pickle.loads(pickle.dumps(either))(some) == either(some)


@pytest.mark.thorough
def test_a_pool_of_spawned_processes_answers(predictor, exported, some):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for loaded in (predictor, fc.load(exported)):
            assert pool.map_async(loaded, some[:3]).get(timeout=120) == [loaded(photo) for photo in some[:3]]
