"""What predict.py can be asked to do: its flags, the values they may take, and the photos they stand for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from answers import FORMATS
from command_line import Parser
from data_utils import find_photos
from errors import InputError
from images import photo_endings
from messages import note

DEFAULT_TOP_K = 5
STDIN = Path("-")


@dataclass(frozen=True)
class PredictConfig:
    """One call's settings, checked. Raises InputError, naming the flag, for what could only fail after the work."""

    images: Sequence[Path]
    checkpoint: Path
    null: bool = False
    category_names: Path | None = None
    gpu: bool = False
    evaluate: bool = False
    report: Path | None = None
    top_k: int | None = None  # None: DEFAULT_TOP_K
    format: str = "text"
    plot: Path | None = None
    heatmap: bool = False
    photos: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"--top_k must be at least 1, not {self.top_k}")
        if self.checkpoint.suffix.lower() in photo_endings():
            raise InputError(f"{self.checkpoint} is no checkpoint, by its name: that comes last, behind the photos")
        if self.evaluate:
            self.check_evaluation()
        elif self.report:
            raise InputError("--report is for what --evaluate finds")
        if self.heatmap and not self.plot:
            raise InputError("--heatmap is drawn on the photo: it needs --plot")
        object.__setattr__(self, "photos", [] if self.evaluate else find_all(self.images, self.null))
        if self.plot:
            self.check_plots()

    def check_evaluation(self) -> None:
        """Refuse what does not go with --evaluate."""
        if len(self.images) != 1 or not self.images[0].is_dir():
            raise InputError("--evaluate takes one folder that holds a folder of photos for each class")
        if self.plot or self.heatmap or self.null or self.top_k or self.format != "text":
            raise InputError(
                "--evaluate judges all answers; --plot, --heatmap, --null, --top_k and --format are for single ones"
            )

    def check_plots(self) -> None:
        """Refuse to draw where nothing can be drawn, or over what it is drawn from."""
        from plots import check_picture_path

        if self.plot_is_folder:
            if self.plot.is_file():
                raise InputError(f"--plot {self.plot} is a file; for several photos name a folder")
        else:
            check_picture_path(self.plot)
        sources = {os.path.realpath(path) for path in (*self.photos, self.checkpoint, self.category_names) if path}
        if any(os.path.realpath(picture) in sources for picture in self.pictures):
            raise InputError(f"--plot {self.plot} would overwrite what it is drawn from")

    @property
    def plot_is_folder(self) -> bool:
        """Whether --plot names a folder: that of a picture for each of several photos."""
        return len(self.photos) > 1 or self.plot.is_dir() or not self.plot.suffix

    @property
    def pictures(self) -> Iterator[Path]:
        """The picture of each photo: the file named, or one in that folder, of the photo's own path and name."""
        if not self.plot_is_folder:
            return iter([self.plot])
        absolute = [Path(os.path.abspath(photo)) for photo in self.photos]  # noqa: PTH100 -- without any ".."
        shared = os.path.commonpath([photo.parent for photo in absolute])
        return (self.plot / photo.parent.relative_to(shared) / f"{photo.name}.png" for photo in absolute)


def find_all(paths: Sequence[Path], null: bool) -> list[Path]:
    """Return the photos among the paths, below those that are folders, and for "-" those that stdin names, in order."""
    photos: list[Path] = []
    for path in paths:
        for named in read_paths(null) if path == STDIN else [path]:
            found = find_photos(named) if os.path.isdir(named) else [named]  # noqa: PTH112 -- Path.is_dir() may raise
            if not found:
                raise InputError(f"there are no photos below {named}")
            photos += found
    return photos


def read_paths(null: bool) -> list[Path]:
    """Read paths from stdin: one a line, or with `null` each ended by a NUL, as `find -print0` writes them."""
    if sys.stdin is None:
        raise InputError("-: there is no standard input to read paths from")
    if sys.stdin.isatty():
        note("reading paths of photos from the terminal, one a line; Ctrl-D ends them")
    lines = sys.stdin.buffer.read().split(b"\0" if null else b"\n")
    paths = [Path(os.fsdecode(line if null else line.removesuffix(b"\r"))) for line in lines if line.strip()]
    if not paths:
        raise InputError("-: standard input names no photo")
    return paths


def build_parser(doc: str) -> Parser:
    """Build predict.py's parser. `doc` is its docstring: what it does, examples, what it needs."""
    what, examples, needs = doc.strip().split("\n\n")
    parser = Parser(prog="predict.py", description=f"{what}\n\n{needs}", epilog=f"examples:\n{examples}")
    inputs = parser.add_argument_group("input")
    inputs.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="photos (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF), folders of photos at any depth, or - for paths on "
        "standard input, one a line",
    )
    inputs.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pth as train.py wrote it")
    inputs.add_argument(
        "--null",
        "-0",
        action="store_true",
        help="paths on standard input end in a NUL, not in a line break, as `find -print0` writes them",
    )
    inputs.add_argument(
        "--category_names",
        type=Path,
        metavar="JSON",
        help="mapping from class folder to the name people use (default: the names given at training, if any)",
    )
    inputs.add_argument("--gpu", action="store_true", help="use CUDA or Apple's MPS where there is one")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top_k", type=int, metavar="K", help=f"how many of the likeliest classes to show (default: {DEFAULT_TOP_K})"
    )
    output.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text for people; json (one array), jsonl (an object a line) or csv (a row a class) for programs",
    )
    output.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw the photo beside its probabilities (PNG, JPEG, WebP, PDF or SVG); of several photos, one picture "
        "each into the folder of this name",
    )
    output.add_argument(
        "--heatmap",
        action="store_true",
        help="show on the plotted photo which places speak for the likeliest class",
    )
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--evaluate",
        action="store_true",
        help="IMAGE is a folder with a folder of photos for each class: say how many answers are right, and how far "
        "probabilities can be believed",
    )
    evaluation.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="where --evaluate leaves its tables and pictures (default: evaluation/, beside the checkpoint)",
    )
    return parser
