"""A real Chromium, and a plain file host for exported folders."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from waiting import LIMIT, wait_until

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
NEEDS_CHROMIUM = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: `make browser` installs them"
)
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# What the page's own scripts wait for, in milliseconds, before they go on without it
PATIENCE = (("loading.js", "CONTROL_WITHIN", 4000), ("service_worker.js", "PATIENCE", 3000))


class Host(http.server.SimpleHTTPRequestHandler):
    """Python's own file host, silent, which remembers what it was asked for."""

    asked: list[str] = []  # noqa: RUF012 -- of all, in order

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()


@contextlib.contextmanager
def hosted(folder, port=0, host=Host):
    """Serve a folder on 127.0.0.1, at a free port or at this one; give its address, which ends in a slash."""
    handler = functools.partial(host, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def made_patient(folder):
    """Let the page of an exported folder wait as long as tests do, for the service worker and for the host."""
    for name, constant, limit in PATIENCE:
        with_constant(folder / name, constant, limit, 1000 * LIMIT)
    return folder


def made_restless(folder):
    """Let the page of an exported folder take the camera's next picture at once, without a rest between two."""
    with_constant(folder / "app.js", "SHORTEST_FRAME", 100, 1)
    return folder


def with_constant(path, name, before, after):
    """Change a constant of a script, and its digest in the service worker, which keeps no other script."""
    script, worker = path.read_text(encoding="utf-8"), path.with_name("service_worker.js")
    assert script.count(f"{name} = {before}") == 1
    changed = script.replace(f"{name} = {before}", f"{name} = {after}")
    path.write_text(changed, encoding="utf-8")
    old, new = (hashlib.sha256(text.encode()).hexdigest() for text in (script, changed))
    worker.write_text(worker.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@contextlib.contextmanager
def browser(*options, size=(390, 844), dark=False, prefs=None):
    """Give a browser with an empty profile, with a window's inside of this size."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chosen = webdriver.ChromeOptions()
    chosen.binary_location = CHROMIUM
    for option in (*QUIET, *options):
        chosen.add_argument(option)
    if prefs:
        chosen.add_experimental_option("prefs", prefs)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=chosen, service=Service(DRIVER))
    driver.set_script_timeout(LIMIT)
    try:
        set_size(driver, *size, dark)
        yield driver
    finally:
        driver.quit()


def set_size(driver, width, height, dark=False):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if width < 600 else 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait_for(driver, condition, limit=LIMIT):
    """Wait until a JavaScript expression is true, and return its value."""
    return wait_until(lambda: driver.execute_script(f"return {condition}"), f"the page has {condition}", limit=limit)


LISTEN = """
if (!window.answers) {
  window.answers = [];
  addEventListener("answer", ({ detail }) => window.answers.push(detail));
  window.streams = [];
  const getUserMedia = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
  if (getUserMedia) navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await getUserMedia(wanted);
    window.streams.push(stream);
    return stream;
  };
}
"""


def open_page(driver, address):
    """Open the page, listen to its answers, and wait until it is ready: for the camera, or a photo."""
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LISTEN})
    driver.get(address)
    return wait_for(driver, "document.body.dataset.state != 'loading' && document.body.dataset.state")


def ask(driver, photo):
    """Choose a photo, and return what the page answers."""
    driver.execute_script("window.answers.length = 0")
    driver.find_element("id", "file").send_keys(str(photo))
    return wait_for(
        driver,
        "window.answers[0] || (!document.getElementById('notice').hidden && "
        "document.body.dataset.state != 'photo' && document.getElementById('notice-text').textContent)",
    )


def console(driver):
    """Return what went wrong, as the browser's console has it."""
    return [json.dumps(entry) for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


SHOWN_FRAME = """
const video = document.getElementById("video");
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
canvas.getContext("2d").drawImage(video, 0, 0);
return canvas.toDataURL("image/png").split(",")[1];
"""


def planes(image):
    """What a camera gives of an RGB picture: Y, Cb and Cr of BT.601 in its limited range, colours at half the size."""
    y, *colours = image.convert("YCbCr").split()
    yield np.round(16 + np.asarray(y, dtype=float) * 219 / 255).astype(np.uint8)
    for colour in colours:
        yield np.round(128 + (np.asarray(colour.reduce(2), dtype=float) - 128) * 224 / 255).astype(np.uint8)


def write_video(path, pictures, frames):
    """Write pictures as the video of a camera, each for so many frames, 30 a second."""
    width, height = pictures[0].size
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode())
        for image in pictures:
            file.write((b"FRAME\n" + b"".join(plane.tobytes() for plane in planes(image))) * frames)


def picture(width, height, seed=0, **saved):
    """The bytes of a file: edges, slopes and noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x // 7 + y // 5) % 2 * 255], -1)
    pixels = np.clip(slopes + draw.normal(0, 20, slopes.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **({"format": "PNG"} | saved))
    return file.getvalue()


def text_of(driver, name):
    """Return the text of an element by its id."""
    return driver.find_element("id", name).text
