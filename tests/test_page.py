"""The page of an exported folder, in a real browser: it sees and answers as predict.py does, camera or not."""

import base64
import io
import json
import re
import shutil

import pytest
from browser import (
    CAMERA,
    NEEDS_CHROMIUM,
    SHOWN_FRAME,
    ask,
    browser,
    console,
    hosted,
    made_restless,
    open_page,
    picture,
    set_size,
    text_of,
    wait_for,
    write_video,
)
from PIL import Image
from waiting import LONG_LIMIT, wait_until

import flower_classifier as fc
from flower_classifier.base.files import sha256_of

pytestmark = NEEDS_CHROMIUM

NO_ADAPTER = "No available adapters"  # what Chromium remarks where there is no graphics card
IMITATED_CARD = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.fixture(scope="module")
def some(flowers):
    return sorted((flowers / "test").glob("*/*.jpg"))


# ------------------------------------------------------------------------------------------------------------- answers


def check_same(answered, expected):
    """Compare an answer of the page with a result of the package."""
    first, *_ = answered["predictions"]
    assert first["class"] == expected[0]["class"]
    by_class = {row["class"]: row["probability"] for row in expected}
    for row in answered["predictions"]:
        assert row["probability"] == pytest.approx(by_class[row["class"]], abs=0.02)
    assert answered["known"] == expected.known
    assert answered["p_known"] == pytest.approx(expected.p_known, abs=0.1)  # one of few ranks


def test_it_answers_as_predict_does(page, exported, some):
    for photo, expected in zip(some, fc.load(exported)(some, top_k=6), strict=True):
        check_same(ask(page, photo), expected)
    assert not [line for line in console(page) if NO_ADAPTER not in line]


def test_it_shows_what_it_answers(page, exported, some):
    answered = ask(page, some[0])
    shown = [row.text.split("\n") for row in page.find_elements("css selector", "#bars li")]
    assert [name for name, _ in shown] == [row["name"] for row in answered["predictions"][:3]]
    name, detail = words_for(answered)
    assert text_of(page, "verdict").lower() == name.lower()
    assert text_of(page, "detail") == detail
    assert spoken_on(page) == f"{name}, {detail}"


def words_for(answered):
    """Return what the page says of a photo of its classes: one name, or those that it may be."""
    first = answered["predictions"][0]
    if first["probability"] >= 0.6:
        return first["name"], f"{shown_share(first['probability'])} sure"
    names, together = likeliest(answered)
    return f"{', '.join(names[:-1])} or {names[-1]}", f"{shown_share(together)} sure that it is one of these"


def likeliest(answered):
    """Return the names of the fewest classes that have 90 % together, three at most, and what they have."""
    shares = [row["probability"] for row in answered["predictions"]]
    count = next((count for count in (1, 2) if sum(shares[:count]) >= 0.9), 3)
    return [row["name"] for row in answered["predictions"][:count]], sum(shares[:count])


def shown_share(share):
    return "> 99 %" if share > 0.995 else f"{share:.0%}".replace("%", " %")


def spoken_on(page):
    """Return what a screen reader is told, letter by letter."""
    return page.execute_script("return document.getElementById('spoken').textContent")


def test_the_same_answer_to_another_photo_is_spoken_again(page, some):
    page.execute_script("""
    const [spoken, told] = [document.getElementById("spoken"), (window.told = [])];
    new MutationObserver(() => told.push(spoken.textContent)).observe(spoken, { childList: true });
    """)
    for _ in range(2):
        ask(page, some[0])
    first, between, second = page.execute_script("return window.told")[-3:]
    assert first == second == spoken_on(page)
    assert between == ""


def test_focus_stays_on_a_button_when_the_one_that_had_it_goes(page, some):
    ask(page, some[0])
    page.execute_script("document.getElementById('hold').focus()")
    page.find_element("id", "hold").click()  # back to the camera, which is not there
    wait_for(page, "document.body.dataset.state == 'no-camera'")
    assert page.execute_script("return document.activeElement.id") == "choose"


FRAMES = """
const [first, second] = photos.map((bytes) => new Blob([new Uint8Array(bytes)]));
const done = arguments[0];
const worker = new Worker("worker.js", { type: "module" });
const answers = []; // the probability of the first picture's class
let chosen;
worker.onmessage = ({ data }) => {
  if (data.kind === "ready") worker.postMessage({ kind: "picture", id: 0, picture: first, stream: 1 });
  if (data.kind !== "answer") return;
  chosen ??= data.predictions[0].class;
  answers.push(data.predictions.find((row) => row.class === chosen).probability);
  const [picture, stream] = [[second, 1], [second, 2], [second, null]][data.id] ?? [];
  if (picture) return worker.postMessage({ kind: "picture", id: data.id + 1, picture, stream });
  worker.terminate();
  done(answers);
};
const specSha256 = document.documentElement.dataset.cardSha256;
worker.postMessage({ kind: "load", options: { specSha256, engine: "wasm" } });
"""


def test_a_frame_is_answered_by_the_mean_over_the_frames_before_it(page, some, tmp_path):
    """The last ones of its own stream: so one frame among others changes little. A photo is answered for itself."""
    light = tmp_path / "light.png"
    Image.new("RGB", (96, 96), "white").save(light)
    photos = f"const photos = {[list(path.read_bytes()) for path in (some[0], light)]};"
    of_first, of_mean, of_other, of_photo = page.execute_async_script(photos + FRAMES)
    assert of_other == of_photo
    assert abs(of_mean - of_first) < abs(of_mean - of_other)
    assert of_mean != of_first


@pytest.mark.slow
def test_a_stranger_is_none_of_the_classes(visitor, exported, some, tmp_path):
    """By the checkpoint's own rule: at a rate at which this photo is one."""
    from flower_classifier.predicting.exported_predictor import digest_of

    folder = shutil.copytree(exported, tmp_path / "app")
    results = fc.load(exported)(some)
    strangest = min(range(len(some)), key=lambda place: results[place].p_known)
    spec = json.loads((folder / "classifier.json").read_text())
    spec["stranger_rate"], spec["temperature"] = 100 * results[strangest].p_known, 0.01
    del spec["digest"]
    text = json.dumps({**spec, "digest": digest_of(spec)}).encode()
    repacked(folder, "classifier.json", text)
    with hosted(folder) as address:
        open_page(visitor, address)
        answered = ask(visitor, some[strangest])
        assert answered["known"] is False
        assert text_of(visitor, "verdict") == "None of the 6 classes"
        assert text_of(visitor, "detail") == f"Of those it knows, most like {', '.join(likeliest(answered)[0])}"
        assert visitor.find_elements("css selector", "#bars li") == []
        next(photo for photo in some if ask(visitor, photo)["known"])
        assert text_of(visitor, "detail") == "> 99 % sure"


def repacked(folder, name, data):
    """Replace a file of an exported folder, and its digest on the page and in the service worker."""
    before = sha256_of((folder / name).read_bytes())
    (folder / name).write_bytes(data)
    for script in (folder / "index.html", folder / "service_worker.js"):
        script.write_text(script.read_text().replace(before, sha256_of(data)))


@pytest.mark.thorough
def test_other_engines_give_the_same_answers(page_site, exported, some):
    """Threads, which the service worker's headers allow from the second visit on; and a graphics card, imitated."""
    expected = fc.load(exported)(some[:4], top_k=6)
    with browser(*IMITATED_CARD) as driver:
        open_page(driver, page_site)
        assert driver.execute_script("return document.body.dataset.engine") == "wasm"  # an imitation is no gain
        wait_for(driver, "Boolean(navigator.serviceWorker.controller)")
        driver.get(f"{page_site}?threads=2")
        wait_for(driver, "document.body.dataset.state != 'loading'")
        assert driver.execute_script("return self.crossOriginIsolated")
        for photo, result in zip(some, expected, strict=False):
            check_same(ask(driver, photo), result)
        open_page(driver, f"{page_site}?engine=webgpu")
        assert driver.execute_script("return document.body.dataset.engine") == "webgpu"
        check_same(ask(driver, some[0]), expected[0])


# -------------------------------------------------------------------------------------------------------------- camera


@pytest.fixture(scope="module")
def live(exported, some, tmp_path_factory):
    """The page, looking through a camera at one photo after the other, half a second each."""
    app = made_restless(shutil.copytree(exported, tmp_path_factory.mktemp("live") / "app"))
    video = tmp_path_factory.mktemp("video") / "camera.y4m"
    pictures = [Image.open(photo).convert("RGB").resize((640, 480), Image.Resampling.BICUBIC) for photo in some[::3]]
    write_video(video, pictures, 15)
    with hosted(app) as address, browser(*CAMERA, f"--use-file-for-fake-video-capture={video}") as driver:
        assert open_page(driver, address) == "live"
        yield driver


@pytest.mark.slow
def test_what_the_camera_sees_is_named_as_predict_names_it(live, exported):
    """Held, so that the picture can be taken and predict.py be asked about it."""
    predictor, seen = fc.load(exported), []

    def hold_and_compare():
        wait_for(live, "window.answers.length > 3")
        live.find_element("id", "hold").click()
        answered = wait_for(live, "window.answers.findLast((answer) => answer.held)")
        frame = base64.b64decode(live.execute_script(SHOWN_FRAME))
        check_same(answered, predictor(frame, top_k=6))
        seen.append(frame)
        live.find_element("id", "hold").click()
        live.execute_script("window.answers.length = 0")
        return len(seen) >= 6 and len(set(seen)) > 2

    wait_until(hold_and_compare, "the camera showed a third picture")


def test_space_holds_the_picture_and_lets_it_go_on(live):
    from selenium.webdriver.common.keys import Keys

    body, button = live.find_element("tag name", "body"), live.find_element("id", "hold")
    for shown in ("Go on", "Hold"):
        body.send_keys(Keys.SPACE)
        wait_for(live, f"document.getElementById('hold').textContent.trim() == '{shown}'")
        assert button.get_attribute("aria-pressed") is None  # its name says it


def test_the_camera_stops_while_nobody_sees_the_page(live):
    hide = "Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });"
    hide += "document.dispatchEvent(new Event('visibilitychange'));"
    is_on = "window.streams.some((stream) => stream.active)"
    wait_for(live, is_on)
    live.execute_script(hide, True)
    wait_for(live, f"!{is_on}")
    live.execute_script(hide, False)
    wait_for(live, is_on)
    live.execute_script("window.answers.length = 0")
    wait_for(live, "window.answers.length > 1")


def test_the_frame_rate_is_shown_quietly(live):
    assert re.fullmatch(r"\d+(\.\d)? fps", wait_for(live, "document.getElementById('rate').textContent"))
    assert live.find_element("id", "rate").get_attribute("aria-hidden") == "true"


def used_memory(driver):
    """Bytes of JavaScript's heap and of buffers beside it, after the garbage is collected."""
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    usage = driver.execute_cdp_cmd("Runtime.getHeapUsage", {})
    return usage["usedSize"] + usage.get("backingStorageSize", 0)


@pytest.mark.thorough
def test_500_frames_take_no_more_memory_than_50(live):
    wait_for(live, "document.body.dataset.state == 'live'")
    live.execute_script("window.keepOne = () => window.answers.splice(0, window.answers.length - 1)")
    live.execute_script("addEventListener('answer', window.keepOne)")
    number = "window.answers.at(-1)?.id"  # of all pictures so far
    wait_for(live, f"{number} > 50")
    before = used_memory(live)
    wait_for(live, f"{number} > 500", LONG_LIMIT)
    live.execute_script("removeEventListener('answer', window.keepOne)")
    assert used_memory(live) < before + 2_000_000


ALL_SAID = "['verdict', 'detail', 'bars', 'rate', 'spoken'].map((id) => document.getElementById(id).innerText.trim())"


def test_an_unplugged_camera_leaves_no_name_and_no_rate(live):
    """Looked at in the very task in which the camera ends."""
    wait_for(live, "window.answers.length && document.getElementById('rate').textContent")
    ends = "document.getElementById('video').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'));"
    said = live.execute_script(f"{ends} return {ALL_SAID}")
    assert said == ["", "Choose a photo of one of 6 things it knows.", "", "", ""]
    live.find_element("id", "again").click()
    wait_for(live, "document.body.dataset.state == 'live'")


def test_the_camera_comes_back_after_a_photo(live, some):
    ask(live, some[0])
    assert live.find_element("id", "hold").text == "Camera"
    live.find_element("id", "hold").click()
    wait_for(live, "document.body.dataset.state == 'live' && document.getElementById('photo').hidden")


@pytest.mark.slow
def test_however_quickly_cameras_and_photos_are_wished_for_the_last_wish_holds(live, some):
    """And no camera that is not shown stays on."""
    for _ in range(4):
        live.execute_script("for (const _ of '123') document.getElementById('again').click()")
    live.find_element("id", "file").send_keys(str(some[0]))
    wait_for(live, "document.body.dataset.state == 'photo'")
    live.execute_script("for (const _ of '123') document.getElementById('hold').click()")
    wait_for(live, "document.body.dataset.state == 'live'")
    running = "window.streams.filter((stream) => stream.active).length"
    wait_for(live, f"{running} == 1 && document.getElementById('video').srcObject.active")
    assert live.find_element("id", "photo").is_displayed() is False


@pytest.mark.slow
def test_a_denied_camera_is_said_and_photos_still_work(page_site, exported, some):
    denied = {"profile.default_content_setting_values.media_stream_camera": 2}
    with browser("--use-fake-device-for-media-stream", prefs=denied) as driver:
        assert open_page(driver, page_site) == "no-camera"
        assert "The camera is off for this page" in text_of(driver, "notice-text")
        assert driver.find_element("id", "again").is_displayed()
        check_same(ask(driver, some[0]), fc.load(exported)(some[0], top_k=6))


# ----------------------------------------------------------------------------------------------------- photos and files


def test_a_wrong_file_is_said_and_the_next_photo_works(page, some, tmp_path):
    (tmp_path / "notes.jpg").write_bytes(b"no photo")
    assert ask(page, tmp_path / "notes.jpg") == "notes.jpg is not a picture that this browser can open."
    assert ask(page, some[0])["predictions"]


def test_an_iphones_heic_is_named_where_the_browser_cannot_open_it(page, some, tmp_path):
    """Chromium cannot, Safari can."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.open(some[0]).convert("RGB")).save(tmp_path / "IMG_1.HEIC")
    message = ask(page, tmp_path / "IMG_1.HEIC")
    assert message.startswith("IMG_1.HEIC is HEIC, as iPhones write")
    assert "JPEG" in message
    assert ask(page, some[0])["predictions"]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused_where_predict_refuses_it(page, exported, tmp_path, progressive):
    """One without its last bytes is opened, with a note in a terminal; browsers would show any beginning."""
    predictor, cut = fc.load(exported), tmp_path / "cut.jpg"
    whole = picture(400, 300, format="JPEG", quality=90, progressive=progressive)
    refused = set()
    for share in (0.3, 0.5, 0.8, 0.96):
        cut.write_bytes(whole[: int(share * len(whole))])
        answered = ask(page, cut)
        try:
            expected = predictor(cut, top_k=6)
        except fc.InputError:
            assert answered.startswith("cut.jpg is cut off: ")
            refused.add(share)
        else:
            check_same(answered, expected)
    assert 0.3 in refused
    assert 0.96 not in refused


def drop(page, files):
    """Drop files, by their names and bytes, onto the page."""
    page.execute_script("window.answers.length = 0")
    page.execute_script(
        """
        const transfer = new DataTransfer();
        for (const [name, data] of Object.entries(arguments[0])) {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
        }
        for (const type of ["dragenter", "dragover", "drop"]) {
          document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }
        """,
        {name: base64.b64encode(data).decode() for name, data in files.items()},
    )


def test_a_photo_may_be_dropped(page, some):
    drop(page, {"dropped.jpg": some[1].read_bytes()})
    assert wait_for(page, "window.answers[0]")["predictions"]
    assert page.find_element("id", "photo").get_attribute("alt") == "dropped.jpg"
    assert not page.find_element("id", "next").is_displayed()


def test_of_several_files_all_are_answered_one_after_the_other(page, exported, some):
    """One that is no picture is said, and the next one can be asked for."""
    drop(page, {"a.jpg": some[0].read_bytes(), "b.jpg": b"no photo", "c.jpg": some[7].read_bytes()})
    first, last = fc.load(exported)([some[0], some[7]], top_k=6)
    check_same(wait_for(page, "window.answers[0]"), first)
    following = page.find_element("id", "next")
    assert following.text == "Next photo (2 of 3)"
    following.click()
    wait_for(page, "document.getElementById('notice-text').textContent.startsWith('b.jpg is not a picture')")
    assert following.text == "Next photo (3 of 3)"
    following.click()
    check_same(wait_for(page, "window.answers[1]"), last)
    assert page.find_element("id", "photo").get_attribute("alt") == "c.jpg"
    assert not following.is_displayed()
    assert page.execute_script("return document.activeElement.id") == "hold"  # since the button that had it has gone


def test_no_earlier_answer_stands_beside_another_photo_or_without_a_camera(page, some):
    ask(page, some[0])
    chosen = """
    const transfer = new DataTransfer();
    transfer.items.add(new File(["no photo"], "next.jpg", { type: "image/jpeg" }));
    dispatchEvent(new DragEvent("drop", { cancelable: true, dataTransfer: transfer }));
    """
    assert page.execute_script(f"{chosen} return {ALL_SAID}") == ["Looking…", "", "", "", ""]
    wait_for(page, "document.body.dataset.state == 'no-camera'")
    ask(page, some[0])
    page.find_element("id", "hold").click()  # "Camera": there is none
    wait_for(page, "document.body.dataset.state == 'no-camera'")
    assert page.execute_script(f"return {ALL_SAID}") == ["", "Choose a photo of one of 6 things it knows.", "", "", ""]


@pytest.mark.thorough
def test_a_photo_of_48_megapixels_is_answered(page, exported, tmp_path):
    Image.open(io.BytesIO(picture(160, 120))).resize((8000, 6000)).save(tmp_path / "large.jpg", quality=85)
    check_same(ask(page, tmp_path / "large.jpg"), fc.load(exported)(tmp_path / "large.jpg", top_k=6))


# --------------------------------------------------------------------------------------------------------- for everyone

CONTRAST = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((level) => {
    const share = level / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
return arguments[0].map((name) => {
  const element = document.querySelector(name);
  const [one, other] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
  return (one + 0.05) / (other + 0.05);
});
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(page, some, dark):
    """By at least 4.5 to 1, as WCAG 2.2 asks for (1.4.3)."""
    set_size(page, 390, 844, dark)
    ask(page, some[0])
    names = ["#verdict", "#detail", "#bars .name", "#hold", "#choose", ".private"]
    assert min(page.execute_script(CONTRAST, names)) >= 4.5


@pytest.mark.parametrize("size", [(320, 568), (390, 844), (844, 390), (1280, 800)])
def test_nothing_is_cut_off_on_any_screen(page, some, size):
    set_size(page, *size)
    ask(page, some[0])
    inside = """
    const [width, height] = [innerWidth, innerHeight];
    return [...document.querySelectorAll("#verdict, #bars, #hold, #choose")].every((element) => {
      const box = element.getBoundingClientRect();
      return box.left >= 0 && box.right <= width && box.top >= 0 && (box.bottom <= height || height < 500);
    }) && document.documentElement.scrollWidth <= width;
    """
    assert page.execute_script(inside)
    set_size(page, 390, 844)


def test_every_control_has_a_name_and_a_size_for_a_thumb(page, some):
    ask(page, some[0])
    for button in page.find_elements("css selector", "button"):
        if button.is_displayed():
            assert button.accessible_name
            assert button.size["height"] >= 44
    assert page.find_element("tag name", "html").get_attribute("lang") == "en"
    assert page.find_element("id", "spoken").get_attribute("role") == "status"
