"""Make the pictures and outputs of README.md and docs/ anew: `make gallery`.

The pictures come from the demo's drawings. An output block begins with `$ python …`. Each such command is run as it is
written, in the order of PAGES, and what it prints replaces the block. Blocks that need `flowers`, the photos of 102
species, stay as they are where there is no such folder (to use another folder: `make gallery FLOWERS=/where/they/are`).
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

# isort: split
import numpy as np  # noqa: E402 -- after the path to what is ours
from PIL import Image  # noqa: E402 -- after the path to what is ours

from flower_classifier.photos.demo import SPECIES  # noqa: E402 -- after the path to it
from flower_classifier.report.report_files import REPORT_FILES  # noqa: E402 -- after the path to it

PAGES = ("README.md", "docs/predicting.md")  # those with output blocks; later ones use what earlier ones leave
BLOCK = re.compile(r"^    \$ (python .*)\n((?:    .*\n|\n(?=    [^$ ]))*)", re.MULTILINE)
HERO = (7, 54, 1)  # seed of the drawing at the top of README.md: larger than those of the demo, and a sunny day
FIRST_EPOCHS = 1  # of a run that are shown, and the last


def main() -> None:
    """Make everything anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path, help="photos of the 102 species")
    flowers = parser.parse_args().flowers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in [*PROJECT.glob("*.py"), PROJECT / "flower_classifier", PROJECT / "cat_to_name.json"]:
            (folder / file.name).symlink_to(file)
        if flowers.is_dir():
            (folder / "flowers").symlink_to(flowers.resolve())
            (folder / "rose.jpg").symlink_to(min((flowers / "test" / "74").resolve().iterdir()))
        make_pictures(folder)
        take_screenshot(folder)
        for page in PAGES:
            text = (PROJECT / page).read_text(encoding="utf-8")
            (PROJECT / page).write_text(BLOCK.sub(lambda block: made_anew(block, folder), text), encoding="utf-8")


def make_pictures(folder: Path) -> None:
    """Train on the demo's drawings, predict one of them, and keep the pictures that this leaves."""
    out = "--save_dir demo --category_names cat_to_name.json"
    run("python -m flower_classifier.photos.demo demo/flowers", folder)
    run(f"python train.py demo/flowers --arch cnn --image_size 64 {out}", folder)
    SPECIES["54"].draw(np.random.default_rng(HERO), size=480).save(folder / "sunflower.jpg", quality=95)
    run("python predict.py sunflower.jpg demo/checkpoint.pth --plot docs/prediction.png", folder)
    shutil.copy(folder / "docs" / "prediction.png", PROJECT / "docs")
    for file in REPORT_FILES:
        made = folder / "demo" / "run" / file.name
        if file.is_picture and made.exists():
            shutil.copy(made, PROJECT / "docs")


def take_screenshot(folder: Path) -> None:
    """Export the network of the drawings, and show its page a drawing through the camera, on a phone."""
    from browser import CAMERA, browser, hosted, open_page, wait_for, write_video

    run("python export.py demo/checkpoint.pth flower_app --title Flowers", folder)
    with Image.open(folder / "demo" / "flowers" / "test" / "54" / "drawn_000.jpg") as drawing:
        write_video(folder / "camera.y4m", [drawing.convert("RGB").resize((960, 960), Image.Resampling.BICUBIC)], 30)
    camera = (*CAMERA, f"--use-file-for-fake-video-capture={folder / 'camera.y4m'}")
    with hosted(folder / "flower_app") as address, browser(*camera) as driver:
        open_page(driver, address)
        wait_for(driver, "window.answers.length > 9")
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.resize((390, 844), Image.Resampling.LANCZOS).save(PROJECT / "docs" / "page.png", optimize=True)


def made_anew(block: re.Match[str], folder: Path) -> str:
    """Return an output block as its command prints it now; one whose photos are not here stays."""
    command = block[1]
    if "flowers" in command.replace("demo/flowers", "") and not (folder / "flowers").exists():
        print(f"left as it is: {command}", file=sys.stderr)
        return block[0]
    lines = shortened(run(command, folder).splitlines())
    return "".join(f"    {line}".rstrip() + "\n" for line in [f"$ {command}", *lines])


def shortened(lines: list[str]) -> list[str]:
    """Leave out the epochs in the middle of a run, all readings but the first, and warnings."""
    shown: list[str] = []
    for line in lines:
        epoch = re.match(r"epoch +(\d+)/(\d+)", line)
        is_middle = epoch and FIRST_EPOCHS < int(epoch[1]) < int(epoch[2])
        is_reading = line.startswith("reading ") and any(other.startswith("reading ") for other in shown)
        if is_middle or is_reading or line.startswith("warning: "):
            shown += [] if shown[-1:] == ["…"] else ["…"]
        else:
            shown.append(line)
    return shown


def run(command: str, folder: Path) -> str:
    """Run a command line of a page, pipes included; return what it prints, both streams in their order."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    line = re.sub(r"\bpython\b", shlex.quote(sys.executable), command)
    settings = {"PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env={**os.environ, **settings}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 141):
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
