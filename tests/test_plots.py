"""predict.py --plot: one picture of one photo, or a folder of them; and the heatmap on the photo."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from support import read, run_program

import predict
from flower_classifier.judging.heatmap import Heatmap
from flower_classifier.report.pictures import draw_grid, draw_prediction, save_figure


@pytest.fixture
def photo(flowers):
    return flowers / "test" / "54" / "drawn_000.jpg"


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (8, 8), (3000, 60), (1, 500)])
def test_the_plot_shows_photo_and_bars(run, trained, tmp_path, size):
    blue = (20, 40, 200)
    Image.new("RGB", size, blue).save(tmp_path / "blue.png")
    outcome = run(predict, tmp_path / "blue.png", trained / "checkpoint.pth", "--plot", tmp_path / "new" / "plot.png")
    assert outcome.code == 0, outcome.err
    plot = np.asarray(Image.open(tmp_path / "new" / "plot.png").convert("RGB")).astype(int)
    assert 800 < plot.shape[1] < 1700
    photo = (np.abs(plot - blue) < 8).all(axis=-1)
    columns, rows = photo.any(axis=0).nonzero()[0], photo.any(axis=1).nonzero()[0]
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1, abs=0.02)
    assert columns[-1] < plot.shape[1] * 0.6
    bar = (np.abs(plot - (0x86, 0xCB, 0x98)) < 8).all(axis=-1)  # the likeliest class's colour
    assert bar.any(axis=0).nonzero()[0][0] > columns[-1]
    edges = (plot[[0, -1]] == 255).all() and (plot[:, [0, -1]] == 255).all()
    assert edges  # nothing runs over the picture's edge


@pytest.mark.slow
def test_long_names_stay_on_their_bars(run, trained, tmp_path, photo):
    """The same classes under names of 200 letters: the plot keeps its size, and its right margin stays white."""
    names = {name: ("extraordinarily long $name_ " * 8) + name for name in ("49", "51", "54", "74", "78", "91")}
    (tmp_path / "names.json").write_text(json.dumps(names))
    plots = []
    for extra in ((), ("--category_names", tmp_path / "names.json")):
        outcome = run(predict, photo, trained / "checkpoint.pth", "--plot", tmp_path / "plot.png", *extra)
        assert (outcome.code, outcome.err) == (0, "")
        plots.append(np.asarray(Image.open(tmp_path / "plot.png").convert("L")).astype(int))
    assert plots[0].shape == plots[1].shape
    number_column = slice(-140, None)
    assert np.array_equal(plots[0][:, number_column], plots[1][:, number_column])


def test_a_plots_ending_is_checked_before_the_work(run, trained, photo, tmp_path):
    outcome = run(predict, photo, trained / "checkpoint.pth", "--plot", tmp_path / "plot.docx")
    assert (outcome.code, outcome.out) == (2, "")
    assert "should end in .png, .jpg" in outcome.err
    (tmp_path / "file").touch()
    for arguments in ((photo, "--plot", tmp_path / "file" / "plot.png"), (photo, photo, "--plot", "/proc/plots")):
        outcome = run(predict, *arguments, trained / "checkpoint.pth")
        assert (outcome.code, outcome.out, outcome.err.count(" cannot be written to: ")) == (2, "", 1)


def test_a_plot_never_overwrites_what_it_is_drawn_from(run, trained, photo, tmp_path):
    mine = shutil.copy(photo, tmp_path / "mine.jpg")
    outcome = run(predict, mine, trained / "checkpoint.pth", "--plot", mine)
    assert (outcome.code, outcome.out) == (2, "")
    assert "would overwrite" in outcome.err
    assert mine.read_bytes() == photo.read_bytes()


def test_a_picture_says_that_the_answer_is_not_sure(run, trained, photo, tmp_path):
    """In the title, above the photo, and nowhere else."""
    pictures = []
    for least in (0, 1):
        arguments = (photo, trained / "checkpoint.pth", "--plot", tmp_path / "plot.png", "--min_probability", least)
        assert run(predict, *arguments).code == 0
        pictures.append(np.asarray(Image.open(tmp_path / "plot.png").convert("L")))
    rows = (pictures[0] != pictures[1]).any(axis=1).nonzero()[0]
    assert len(rows) > 0
    assert rows.max() < 48  # pixels: 0.4 inches at 120 dots


def test_a_plot_of_many_classes_is_cut_and_cheap(tmp_path, capsys, speaking):
    names = [(f"class {i}", 1 / 300) for i in range(300)]
    save_figure(draw_prediction(Image.new("RGB", (60, 40)), "photo", names), tmp_path / "plot.png")
    assert "shows the first 50 of 300 classes" in capsys.readouterr().err
    assert Image.open(tmp_path / "plot.png").height < 4000


def test_matplotlib_is_imported_for_a_plot_alone(trained, photo):
    code = "import sys, predict; predict.main(sys.argv[1:]); print('matplotlib' in sys.modules)"
    assert run_program("-c", code, photo, trained / "checkpoint.pth").out.splitlines()[-1] == "False"


# ---------------------------------------------------------------------------------------------------- of many photos


def below(folder):
    """Paths of the files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_of_several_photos_each_gets_a_picture_under_its_own_path(run, trained, flowers, tmp_path):
    shutil.copytree(flowers / "test" / "54", tmp_path / "photos" / "a" / "deep")
    shutil.copytree(flowers / "test" / "54", tmp_path / "photos" / "b.c")
    plots = tmp_path / "new" / "plots.d"
    plain = run(predict, tmp_path / "photos", trained / "checkpoint.pth")
    outcome = run(predict, tmp_path / "photos", trained / "checkpoint.pth", "--plot", plots)
    assert outcome == plain
    names = [f"drawn_{number:03d}.jpg.png" for number in range(3)]
    assert below(plots) == [f"{folder}/{name}" for folder in ("a/deep", "b.c") for name in names]
    pictures = []
    for path in below(plots):
        with Image.open(plots / path) as picture:
            assert (picture.format, picture.width >= 1000) == ("PNG", True)
            pictures.append(np.asarray(picture.convert("RGB")))
    assert all(np.array_equal(one, other) for one, other in zip(pictures[:3], pictures[3:], strict=True))
    assert not np.array_equal(pictures[0], pictures[1])
    run(
        predict, tmp_path / "photos" / "b.c" / "drawn_001.jpg", trained / "checkpoint.pth", "--plot", tmp_path / "1.png"
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "1.png").convert("RGB")), pictures[1])


def test_a_bad_photo_has_no_picture_and_moves_no_other_ones(run, trained, flowers, tmp_path):
    folder = shutil.copytree(flowers / "test" / "54", tmp_path / "photos")
    (folder / "drawn_001.jpg").write_text("no photo")
    assert run(predict, folder, trained / "checkpoint.pth", "--plot", tmp_path / "plots").code == 1
    assert below(tmp_path / "plots") == ["drawn_000.jpg.png", "drawn_002.jpg.png"]
    run(predict, folder / "drawn_002.jpg", trained / "checkpoint.pth", "--plot", tmp_path / "alone.png")
    assert (tmp_path / "plots" / "drawn_002.jpg.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_a_picture_that_cannot_be_written_costs_no_other_answer(run, trained, flowers, tmp_path):
    """A folder lies in the place of one picture of three; the last photo is none."""
    folder = shutil.copytree(flowers / "test" / "54", tmp_path / "photos")
    (folder / "text.jpg").write_text("no photo")
    (tmp_path / "plots" / "drawn_000.jpg.png").mkdir(parents=True)
    arguments = (folder, trained / "checkpoint.pth", "--plot", tmp_path / "plots", "--format", "json")
    outcome = run(predict, *arguments)
    assert (outcome.code, below(tmp_path / "plots")) == (1, ["drawn_001.jpg.png", "drawn_002.jpg.png"])
    assert ["predictions" in record for record in json.loads(outcome.out)] == [True, True, True, False]
    opened, drawn, last = outcome.err.splitlines()
    assert opened.startswith(f"warning: cannot open {folder / 'text.jpg'}: it is no JPEG")
    assert drawn.startswith(f"warning: no picture of {folder / 'drawn_000.jpg'}: cannot write {tmp_path / 'plots'}")
    assert last.endswith(": 3 of 4 photos answered; 1 could not be opened, 1 of 4 pictures could not be drawn")
    alone = run(predict, folder / "drawn_000.jpg", *arguments[1:])
    assert (alone.code, len(json.loads(alone.out)), len(alone.err.splitlines())) == (1, 1, 1)


@pytest.mark.slow
def test_a_full_disk_costs_pictures_and_no_answer(trained, flowers, tmp_path):
    """A real file system of 100 kB, where this may be made."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", tmp_path], check=False).returncode:
        pytest.skip("no file systems may be mounted here")
    try:
        arguments = (flowers / "test", trained / "checkpoint.pth", "--plot", tmp_path, "--format", "json")
        outcome = run_program("predict.py", *arguments)
        assert (outcome.code, len(json.loads(outcome.out))) == (1, 18)
        assert outcome.err.count("(No space left on device)") + outcome.err.count(": No space left on device") > 10
        assert re.search(r"predict\.py: \d+ of 18 pictures could not be drawn\n$", outcome.err)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_one_photo_goes_into_a_folder_too_be_it_this_one(run, trained, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "plots"):
        outcome = run(predict, photo, trained / "checkpoint.pth", "--plot", folder)
        assert (outcome.code, outcome.err) == (0, "")
    assert below(tmp_path) == ["drawn_000.jpg.png", "plots/drawn_000.jpg.png"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(run, trained, photo, tmp_path):
    (tmp_path / "plot.png").write_text("mine")
    outcome = run(predict, photo, photo, trained / "checkpoint.pth", "--plot", tmp_path / "plot.png")
    assert (outcome.code, outcome.out, outcome.err.count("is a file; for several photos name a folder")) == (2, "", 1)
    assert (tmp_path / "plot.png").read_text() == "mine"


def test_pictures_of_several_never_overwrite_a_photo_among_them(run, trained, photo, tmp_path):
    for name in ("a.jpg", "a.jpg.png"):
        shutil.copy(photo, tmp_path / name)
    outcome = run(predict, tmp_path, trained / "checkpoint.pth", "--plot", tmp_path)
    assert (outcome.code, outcome.out, outcome.err.count("would overwrite")) == (2, "", 1)
    assert below(tmp_path) == ["a.jpg", "a.jpg.png"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {photo.read_bytes()}


# ------------------------------------------------------------------------------------------------------- the heatmap


def test_the_heatmap_lies_on_what_the_network_sees_of_the_photo_alone(run, trained_on_features, tmp_path):
    """All that changes beside it are the lines of small print below the photo."""
    blue = (20, 40, 200)
    Image.new("RGB", (400, 300), blue).save(tmp_path / "blue.png")
    pictures = []
    for extra in ((), ("--heatmap",)):
        arguments = (tmp_path / "blue.png", trained_on_features / "checkpoint.pth", "--plot", tmp_path / "plot.png")
        assert run(predict, *arguments, *extra).code == 0
        pictures.append(np.asarray(Image.open(tmp_path / "plot.png").convert("RGB")).astype(int))
    photo = (np.abs(pictures[0] - blue) < 8).all(axis=-1)
    (top, *_, bottom), (left, *_, right) = photo.any(axis=1).nonzero()[0], photo.any(axis=0).nonzero()[0]
    changed = (pictures[0] != pictures[1]).any(axis=-1)
    assert not changed[:top].any()
    assert not changed[:, :left].any()
    assert not changed[:, right + 1 :].any()
    assert changed[bottom + 4 :].any()  # the small print
    sizes = read(trained_on_features / "checkpoint.pth")["preprocessing"]
    side = sizes["crop_size"] / sizes["resize_size"] * (bottom + 1 - top)  # of the centre crop
    middle = (left + right) / 2
    columns = changed[top + 4 : bottom - 3].any(axis=0).nonzero()[0]
    # Half of the frame's line is 2 pixels; the crop begins at a whole pixel, and a pixel of the photo is 2 of the plot
    assert (columns[0], columns[-1]) == (
        pytest.approx(middle - side / 2, abs=4),
        pytest.approx(middle + side / 2, abs=4),
    )
    inside = changed[top + 4 : bottom - 3, columns[0] : columns[-1] + 1]
    assert inside.mean() > 0.5


BARS = [("great masterwort of the high valley", 0.6), ("b", 0.3), ("c", 0.1)]
PART, ALL = (0.1, 0.05, 0.9, 0.95), (0.0, 0.0, 1.0, 1.0)  # boxes that a network sees


def test_the_bars_of_a_stranger_are_grey():
    """Their colour has no hue; that of other photos' bars is a green."""
    for doubt, is_grey in (("not one of the 6 classes it was trained on", True), ("", False)):
        axes = draw_prediction(Image.new("RGB", (60, 40)), "photo", BARS, doubt=doubt).axes[1]
        saturations = [rgb_to_hsv(bar.get_facecolor()[:3])[1] for bar in axes.patches if bar.get_width() > 0]
        assert (max(saturations) < 0.08) == is_grey


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (60, 600), (8, 8), (3000, 300)])
@pytest.mark.parametrize(("box", "explained"), [(PART, "; frame: what the network sees"), (ALL, "")])
def test_the_heatmap_is_explained_whole_and_a_frame_only_where_there_is_one(size, box, explained):
    figure = draw_prediction(Image.new("RGB", size), "photo", BARS, Heatmap(np.eye(4, dtype=np.float32), box))
    figure.canvas.draw()  # which fits the axes to the photo
    assert [text.get_text() for text in figure.texts] == [f"bright: what speaks for {BARS[0][0]}{explained}"]
    assert len(figure.axes[0].patches) == len(explained) // len("; frame: what the network sees")
    (text,) = figure.texts
    assert text.get_fontsize() >= 8
    assert 0 <= text.get_window_extent().y0 < text.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0


def test_where_the_bars_go_on_below_a_photo_the_explanation_stays_beside_them():
    bars = [("great masterwort of the valley", 0.6), *BARS * 5]  # fits, however wide this matplotlib sets letters
    figure = draw_prediction(Image.new("RGB", (300, 400)), "photo", bars, Heatmap(np.eye(4, dtype=np.float32), PART))
    figure.canvas.draw()  # which fits the axes to the photo
    bright, frame = figure.texts
    assert bright.get_text() == f"bright: what speaks for {bars[0][0]}"
    assert frame.get_text() == "frame: what the network sees"
    assert bright.get_window_extent().y0 >= frame.get_window_extent().y1
    assert bright.get_window_extent().x1 < figure.axes[1].get_window_extent().x0
    assert bright.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0


def test_a_grid_is_as_wide_as_its_photos():
    photos = [(Image.new("RGB", (30, 40)), f"photo {number}") for number in range(5)]
    widths = [draw_grid(photos[:number]).get_figwidth() for number in (1, 2, 4, 5)]
    assert widths[0] < widths[1] < widths[2] == widths[3]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "pdf", "svg"])
def test_a_plot_comes_in_every_format_that_help_names(run, trained, photo, tmp_path, ending):
    path = tmp_path / f"plot.{ending}"
    outcome = run(predict, photo, trained / "checkpoint.pth", "--plot", path)
    assert outcome.code == 0, outcome.err
    beginnings = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "webp": b"RIFF", "pdf": b"%PDF", "svg": b"<?xml"}
    assert path.read_bytes().startswith(beginnings[ending])
