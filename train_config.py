"""What a training run can be asked to do: the flags of train.py, and the values they may take."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from backbones import DEFAULT_IMAGE_SIZE, resolve_arch
from command_line import Parser
from errors import InputError
from words import reason_of

DEFAULT_HIDDEN_UNITS = 512


@dataclass(frozen=True)
class TrainConfig:
    """One run's settings, checked. Raises InputError, naming the flag, for a value out of range."""

    data_dir: Path
    summary: bool = False
    download: bool = False
    valid_split: float = 0.2
    category_names: Path | None = None
    skip_bad: bool = False
    save_dir: Path = Path()
    resume: bool = False
    no_report: bool = False
    tensorboard: bool = False
    arch: str = "vgg16"
    weights: str | None = None  # None: DEFAULT, and none for cnn
    hidden_units: tuple[int, ...] | None = None  # None: 512, and no hidden layer for cnn
    dropout: float = 0.2
    image_size: int | None = None
    epochs: int = 20
    learning_rate: float = 0.001
    batch_size: int = 64
    views: int = 4
    seed: int = 0
    cache_dir: Path | None = None  # None: the platform's
    cache_limit: float = 10.0  # GB
    no_cache: bool = False
    gpu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", resolve_arch(self.arch))
        if self.hidden_units is None:  # the classic cnn ends in a single Linear
            object.__setattr__(self, "hidden_units", () if self.arch == "cnn" else (DEFAULT_HIDDEN_UNITS,))
        size = DEFAULT_IMAGE_SIZE if self.image_size is None else self.image_size
        check("--tensorboard", "with it", not (self.tensorboard and self.no_report), "without --no_report")
        check("--valid_split", self.valid_split, 0 < self.valid_split < 1, "between 0 and 1")
        check(
            "--hidden_units",
            " ".join(map(str, self.hidden_units)),
            all(1 <= n <= 10**6 for n in self.hidden_units),
            "from 1 to 1,000,000, or 0 for none",
        )
        check("--dropout", self.dropout, 0 <= self.dropout < 1, "at least 0 and below 1")
        check("--image_size", size, 8 <= size <= 1024, "between 8 and 1024 pixels")
        check("--epochs", self.epochs, 1 <= self.epochs <= 10**5, "from 1 to 100,000")
        check("--learning_rate", self.learning_rate, 0 < self.learning_rate <= 1000, "above 0 and at most 1000")
        check("--batch_size", self.batch_size, 1 <= self.batch_size <= 10**6, "from 1 to 1,000,000")
        check("--views", self.views, 1 <= self.views <= 10**6, "from 1 to 1,000,000")
        check("--cache_limit", self.cache_limit, 0 <= self.cache_limit <= 10**6, "at least 0 GB")
        check("--seed", self.seed, 0 <= self.seed < 2**63, "at least 0 and below 2^63")


def check(flag: str, value: object, fits: bool, wanted: str) -> None:
    """Refuse a value out of range; written so that `nan`, which compares with nothing, is refused too."""
    if not fits:
        raise InputError(f"{flag} must be {wanted}, not {reason_of(value)}")


def parse_hidden_units(text: str) -> tuple[int, ...]:
    """Parse `512`, `512,256` or `0` (no hidden layer)."""
    try:
        units = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} should be numbers, such as 512 or 512,256") from None
    return () if units == (0,) else units


def build_parser(doc: str) -> Parser:
    """Build train.py's parser. `doc` is its docstring: what it does, examples, what it writes."""
    what, examples, writes = doc.strip().split("\n\n")
    parser = Parser(prog="train.py", description=f"{what}\n\n{writes}", epilog=f"examples:\n{examples}")
    default = TrainConfig

    data = parser.add_argument_group("data")
    data.add_argument(
        "data_dir",
        type=Path,
        metavar="DATA_DIR",
        help="folder that holds train/, valid/ (or val/) and perhaps test/, in each a folder of photos a class; "
        "or a folder that holds the class folders themselves",
    )
    data.add_argument(
        "--summary",
        action="store_true",
        help="open every photo, say what was found and about how long a new run would take, and stop: nothing is "
        "trained or written (but --download, where given, goes first)",
    )
    data.add_argument(
        "--download",
        action="store_true",
        help="fetch photos of 102 species of flowers into DATA_DIR first, unless something is there already",
    )
    data.add_argument(
        "--valid_split",
        type=float,
        default=default.valid_split,
        metavar="SHARE",
        help="share of each class's training photos to hold out, where there is no validation folder",
    )
    data.add_argument(
        "--category_names",
        type=Path,
        metavar="JSON",
        help="mapping from class folder to the name people use, such as cat_to_name.json; kept in the checkpoint",
    )
    data.add_argument(
        "--skip_bad",
        action="store_true",
        help="train without the photos that cannot be opened, instead of stopping before the first epoch",
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--arch",
        default=default.arch,
        help="cnn (small, trained from scratch), or any of torchvision's classification models: alexnet, vgg16, "
        "densenet121, resnet50, mobilenet_v3_large, efficientnet_b0, convnext_tiny, vit_b_16, …",
    )
    model.add_argument(
        "--weights",
        help="DEFAULT, another of torchvision's names (IMAGENET1K_V1), a file with a state dict, or none for "
        "random weights (default: DEFAULT; cnn takes none)",
    )
    hidden_units = model.add_argument(
        "--hidden_units",
        "--hidden_layer1",
        type=parse_hidden_units,
        metavar="N",
        help="width of the new classifier's hidden layer; several numbers (512 256) make several layers, 0 makes none "
        f"(default: {DEFAULT_HIDDEN_UNITS}; 0 for cnn)",
    )
    parser.take_many(hidden_units)
    model.add_argument(
        "--dropout", type=float, default=default.dropout, metavar="P", help="dropout behind each hidden layer"
    )
    model.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help=f"side of the pictures that cnn takes (default: {DEFAULT_IMAGE_SIZE}); pretrained models bring their own",
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs", type=int, default=default.epochs, metavar="N", help="passes over the training photos"
    )
    training.add_argument(
        "--learning_rate",
        "--lr",
        type=float,
        default=default.learning_rate,
        metavar="RATE",
        help="Adam's step size",
    )
    training.add_argument(
        "--batch_size", type=int, default=default.batch_size, metavar="N", help="photos an optimizer step"
    )
    training.add_argument(
        "--views",
        type=int,
        default=default.views,
        metavar="N",
        help="versions of every training photo, used in turn: the plain photo, its mirror image, then random crops; "
        "each costs one pass of the backbone",
    )
    training.add_argument(
        "--seed",
        type=int,
        default=default.seed,
        metavar="N",
        help="same seed and machine, same checkpoint (on a CPU)",
    )
    training.add_argument("--gpu", action="store_true", help="use CUDA or Apple's MPS where there is one")

    cache = parser.add_argument_group("feature cache")
    cache.add_argument(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where features are kept, so that the next run need not compute them (default: the user's cache folder)",
    )
    cache.add_argument(
        "--cache_limit",
        type=float,
        default=default.cache_limit,
        metavar="GB",
        help="size beyond which the features used least recently are dropped",
    )
    cache.add_argument("--no_cache", action="store_true", help="keep features in memory, for this run alone")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--save_dir",
        type=Path,
        default=default.save_dir,
        metavar="DIR",
        help="where checkpoint.pth and run/ go; created if missing",
    )
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on where the run in --save_dir stopped, as if it never had; give a larger --epochs to train longer",
    )
    output.add_argument(
        "--no_report",
        action="store_true",
        help="write no tables and pictures into run/, as a search over many runs wants it",
    )
    output.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the curves and pictures of run/ for tensorboard too, into run/tensorboard/",
    )
    return parser
