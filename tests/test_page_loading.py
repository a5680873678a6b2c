"""How the page of an exported folder loads: over a slow host, one that breaks off, with no room, and with noise."""

import json
import shutil
import threading

import pytest
from browser import NEEDS_CHROMIUM, Host, ask, console, hosted, made_patient, open_page, text_of, wait_for
from waiting import LIMIT

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


class Slow(Host):
    """A host that gives half of the network, and the rest when it may go on; or breaks off there."""

    may_go_on = threading.Event()
    breaks_off = False

    def copyfile(self, source, outputfile):
        if not self.path.endswith(".onnx"):
            return super().copyfile(source, outputfile)
        data = source.read()
        outputfile.write(data[: len(data) // 2])
        outputfile.flush()
        assert type(self).may_go_on.wait(LIMIT)
        if not type(self).breaks_off:
            outputfile.write(data[len(data) // 2 :])
        return None


@pytest.fixture
def slow():
    Slow.asked.clear()
    Slow.may_go_on.clear()
    Slow.breaks_off = False
    yield Slow
    Slow.may_go_on.set()


def test_the_bar_shows_how_much_of_all_has_come_and_the_network_comes_beside_its_runtime(
    visitor, exported, slow, tmp_path
):
    folder = made_patient(shutil.copytree(exported, tmp_path / "app"))
    (runtime,) = folder.glob("vendor/ort-wasm-simd-threaded.wasm.gz")
    model = (folder / "model.onnx").stat().st_size
    total = model + runtime.stat().st_size
    with hosted(folder, host=slow) as address:
        visitor.get(address)
        shown = f"{(total - model + model // 2) / 1e6:.1f} of {total / 1e6:.1f} MB"
        wait_for(visitor, f"document.getElementById('progress-text').textContent == '{shown}'")
        share = (total - model + model // 2) / total
        drawn = visitor.execute_script("return document.getElementById('progress').value")
        assert drawn == pytest.approx(share, abs=1e-3)
        assert text_of(visitor, "loading-text") == "Getting ready. Where it can be kept, this happens once."
        slow.may_go_on.set()
        wait_for(visitor, "document.body.dataset.state == 'no-camera'")
        heavy = [path for path in slow.asked if path.endswith((".onnx", ".gz"))]
        assert len(heavy) == 2
        wait_for(visitor, f"document.getElementById('private').textContent == '{IS_KEPT}'")
        assert kept_by(visitor) >= {"model.onnx", runtime.name}
        visitor.get(address)
        wait_for(visitor, "document.body.dataset.state == 'no-camera'")
        said = visitor.execute_script("return document.getElementById('loading-text').textContent")
        assert said == "Getting ready."


IS_KEPT = "Photos stay here. No network needed."
KEPT = """
const names = caches.keys().then((keys) => Promise.all(keys.map(async (key) => (await caches.open(key)).keys())));
names.then((requests) => arguments[0](requests.flat().map(({ url }) => url.split("/").pop())));
"""


def kept_by(driver):
    """Return the names of the files that the service worker keeps."""
    return set(driver.execute_async_script(KEPT))


def test_a_network_that_breaks_off_is_said_in_words_and_can_be_tried_again(visitor, exported, some, slow, tmp_path):
    folder = made_patient(shutil.copytree(exported, tmp_path / "app"))
    slow.breaks_off = True
    slow.may_go_on.set()
    with hosted(folder, host=slow) as address:
        assert open_page(visitor, address) == "failed"
        assert text_of(visitor, "notice-text") == "The network broke off while the classifier was loading."
        assert text_of(visitor, "again") == "Try again"
        slow.breaks_off = False
        visitor.find_element("id", "again").click()
        wait_for(visitor, "document.body.dataset.state == 'no-camera'")
        assert text_of(visitor, "again") == "Try the camera again"
        assert ask(visitor, some[0])["predictions"]
    console(visitor)


@pytest.mark.parametrize("room", [1_000, 2_000_000])  # for nothing, or for all but the network
def test_where_nothing_can_be_kept_it_works_with_a_network(visitor, exported, some, room, tmp_path):
    """A full phone."""
    folder = made_patient(shutil.copytree(exported, tmp_path / "app"))
    with hosted(folder) as address:
        origin = address.rstrip("/")
        visitor.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": room})
        for _ in range(2):
            assert open_page(visitor, address) == "no-camera"
            assert text_of(visitor, "private") == "Photos stay on this device."
            assert ask(visitor, some[0])["predictions"]
        assert "model.onnx" not in kept_by(visitor)
        visitor.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": origin})


NOISE = """
const { prototype } = OffscreenCanvasRenderingContext2D;
const read = prototype.getImageData;
prototype.getImageData = function (...box) {
  const picture = read.apply(this, box);
  picture.data.forEach((level, at) => (picture.data[at] = at % 4 === 3 ? level : 256 * Math.random()));
  return picture;
};
"""


def test_a_browser_that_puts_noise_into_pictures_is_told_before_it_answers_nonsense(visitor, exported, tmp_path):
    """As Firefox does where it resists being recognised, in Tor Browser and LibreWolf."""
    folder = shutil.copytree(exported, tmp_path / "app")
    script = folder / "worker.js"
    script.write_text(script.read_text(encoding="utf-8") + NOISE, encoding="utf-8")
    with hosted(folder) as address:
        assert open_page(visitor, address) == "failed"
        assert text_of(visitor, "notice-text").startswith("This browser puts noise into pictures")
        assert visitor.find_element("id", "choose").is_enabled() is False


def test_sizes_on_the_page_are_those_of_its_files(exported):
    text = (exported / "index.html").read_text(encoding="utf-8")
    sizes = json.loads(text.split('data-bytes="')[1].split('"')[0].replace("&quot;", '"'))
    assert sizes.keys() >= {"model.onnx", "vendor/ort-wasm-simd-threaded.wasm.gz"}
    assert all((exported / name).stat().st_size == size for name, size in sizes.items())
