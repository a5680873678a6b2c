"""What a training run can be asked to do: the options of train.py, and the values they may take."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flower_classifier.base.files import check_there
from flower_classifier.base.messages import InputError
from flower_classifier.base.options import Limits, Settings, Values, argument, filled_path, option
from flower_classifier.base.parser import ForeignNames
from flower_classifier.config import allowed, foreign_names
from flower_classifier.photos.tables import STEM, check_columns

if TYPE_CHECKING:
    from flower_classifier.photos.label_tables import Labels

TABLES = ("labels", "valid_labels", "test_labels", "without")  # options that are paths of tables
CLASS_WEIGHTS = ("equal", "balanced")
# Options that a resumed run keeps, unless others are typed
RESUMED_OPTIONS = (
    "labels",
    "valid_labels",
    "test_labels",
    "columns",
    "valid_split",
    "test_split",
    "groups",
    "skip_bad",
    "bad_limit",
    "without",
    "arch",
    "weights",
    "hidden_units",
    "dropout",
    "image_size",
    "layers",
    "shrinkage",
    "no_roots",
    "no_whitening",
    "mirror",
    "fit",
    "epochs",
    "learning_rate",
    "batch_size",
    "views",
    "augment",
    "weight_decay",
    "label_smoothing",
    "class_weights",
    "patience",
    "fine_tune",
    "unfreeze",
    "backbone_lr",
    "seed",
)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """One run's settings, checked. Raises InputError, naming the option, for a value out of range.

    Only the networks know the names and needs of architectures, so `arch`, `weights` and `hidden_units` are not checked
    here.
    """

    foreign: ClassVar[ForeignNames] = foreign_names.TRAIN

    data_dir: Path = argument(
        "most used",
        "folder that holds train/, valid/ (or val/) and perhaps test/, each with one folder of photos per class (or "
        "with tar files of photos); or a folder that holds the class folders themselves",
        metavar="DATA_DIR",
    )
    summary: bool = option(
        False,
        "most used",
        "open every photo, say what was found and about how long a new run would take, and stop: nothing is "
        "trained or written (but --download, where given, goes first)",
    )
    category_names: Path | None = option(
        None,
        "most used",
        "mapping from class folder to the name people use, such as cat_to_name.json; kept in the checkpoint",
        metavar="JSON",
    )
    arch: str = option(
        "vgg16",
        "most used",
        "cnn (small, trained from scratch), or any of torchvision's classification models: alexnet, vgg16, "
        "densenet121, resnet50, mobilenet_v3_large, efficientnet_b0, convnext_tiny, vit_b_16, …; vgg, densenet and "
        "resnet for short; or any of timm's (pip install timm): timm/NAME, timm/NAME.TAG",
    )
    epochs: int = option(
        20, "most used", "passes over the training photos", metavar="N", limits=Limits(least=1, most=10**5)
    )
    learning_rate: float = option(
        0.001,
        "most used",
        "AdamW's step size",
        metavar="RATE",
        limits=Limits(above=0, most=1000),
        aliases=("lr",),
    )
    tune: bool = option(
        False,
        "most used",
        "try dozens of heads on the same features first, and train the one that the validation photos choose: searches "
        "--hidden_units, --dropout, --learning_rate, --weight_decay, --label_smoothing and --views, where not given; "
        "a resumed run has its head already, and is not searched for another",
    )
    fine_tune: int = option(
        0,
        "most used",
        "after --epochs of the head alone, train the backbone too, for N more epochs: most accurate, but each "
        "takes a minute or more on a CPU; 4 is a good number",
        metavar="N",
        limits=Limits(least=0, most=10**5),
    )
    gpu: bool = option(False, "most used", "use CUDA or Apple's MPS where there is one")
    save_dir: Path = option(
        Path(),
        "most used",
        "where checkpoint.pth and run/ go; created if missing. A path that ends in .pth or .pt is that of the "
        "checkpoint itself, and run/ lies beside it",
        metavar="DIR",
    )
    resume: bool = option(
        False,
        "most used",
        "go on where the run in --save_dir stopped, as if it never had, with its own options where no others are "
        "given; a larger --epochs trains longer, or --fine_tune once that has begun; a run that was killed before it "
        "saved anything starts again",
    )

    download: bool = option(
        False,
        "data",
        "fetch photos of 102 species of flowers into DATA_DIR first, unless something is there already",
    )
    labels: Path | None = option(
        None,
        "data",
        "take classes from a table and not from folders: a photo's path and its label in each row, perhaps its split; "
        "or from the photos' names, such as cat.0.jpg, with `stem`",
        metavar="FILE.csv",
    )
    valid_labels: Path | None = option(
        None, "data", "the table of the validation photos, beside --labels", metavar="FILE.csv"
    )
    test_labels: Path | None = option(None, "data", "the table of the test photos, beside --labels", metavar="FILE.csv")
    columns: str | None = option(
        None,
        "data",
        "the columns of the tables that hold path, label and split, such as path=image,label=species,split=set",
        metavar="NAMES",
        unset="found by their usual names",
    )
    valid_split: float = option(
        0.2,
        "data",
        "share of each class's training photos to hold out, where there are no validation photos",
        metavar="SHARE",
        limits=Limits(above=0, below=1),
    )
    test_split: float = option(
        0.0,
        "data",
        "share of each class's training photos to hold out for a test, where there are no test photos; 0 for none",
        metavar="SHARE",
        limits=Limits(least=0, below=1),
    )
    groups: str | None = option(
        None,
        "data",
        "which photos are held out together, so that none of them is learned from. folder: those in a folder below "
        "their class's; stem: those whose names differ by the last number alone (scene1_frame2.jpg); a table with the "
        "columns `path` and `group`: those with the same group; none: each photo for itself",
        metavar="folder|stem|FILE.csv",
        unset="near copies",
    )
    doctor: bool = option(
        False,
        "data",
        "examine the photos, and stop: which are there twice, in two splits, under a wrong label, unlike any class, "
        "blurry, dark or tiny; the findings go into doctor/ in --save_dir, and nothing is trained",
    )
    without: Path | None = option(
        None,
        "data",
        "train without the photos that a table lists in its column `path`, such as what you leave of the doctor's",
        metavar="FILE.csv",
    )
    skip_bad: bool = option(
        False,
        "data",
        "train without the photos that cannot be opened, instead of stopping before the first epoch",
    )
    bad_limit: float = option(
        0.5,
        "data",
        "share of a split's photos that --skip_bad may leave out; where more fail, the run stops: the disk may be at "
        "fault, and should not leave a model of few photos",
        metavar="SHARE",
        limits=Limits(least=0, most=1),
    )

    weights: str | None = option(
        None,
        "model",
        "DEFAULT, another name of torchvision's (IMAGENET1K_V1) or tag of timm's, a file with a state dict (.pth, "
        ".safetensors), or none for random weights",
        unset="DEFAULT; cnn takes none",
    )
    hidden_units: tuple[int, ...] | None = option(
        None,
        "model",
        "width of the new classifier's hidden layer; several numbers (512 256) make several layers, 0 makes none",
        metavar="N",
        limits=allowed.LAYER_WIDTH,
        most=allowed.MOST_LAYERS,
        aliases=("hidden_layer1",),
        unset=f"{allowed.DEFAULT_HIDDEN_UNITS}; 0 for cnn",
    )
    dropout: float = option(0.2, "model", "dropout behind each hidden layer", metavar="P", limits=allowed.DROPOUT)
    image_size: int | None = option(
        None,
        "model",
        "side of the pictures that cnn or a model of timm's takes; other pretrained models bring their own",
        metavar="PIXELS",
        limits=allowed.IMAGE_SIZE,
        unset=f"{allowed.DEFAULT_IMAGE_SIZE} for cnn; else the model's own",
    )
    layers: str | None = option(
        None,
        "model",
        "what the new classifier sees of the backbone: its own output and the means of several layers before it, its "
        "output alone, or with vgg and alexnet their last layer position by position",
        choices=allowed.LAYERS,
        unset="several; last for transformers and for very few photos",
    )
    mirror: bool = option(
        False,
        "model",
        "answer with the mean over a photo and its mirror image: a little more accurate, and twice the work for each "
        "photo; kept in the checkpoint",
    )

    fit: str = option(
        "crop",
        "model",
        "how a photo becomes the square that the network takes. crop: its middle is cut out; pad: bars are added; "
        "squash: it is pressed into the square. pad and squash lose nothing at the ends of wide and tall photos. "
        "Kept in the checkpoint",
        choices=allowed.FITS,
    )

    batch_size: int = option(
        64, "training", "photos per optimizer step", metavar="N", limits=Limits(least=1, most=10**6)
    )
    views: int = option(
        4,
        "training",
        "versions of every training photo, used in turn: the plain photo, its mirror image, then random crops, or as "
        "--augment says; each costs one pass of the backbone",
        metavar="N",
        limits=Limits(least=1, most=10**6),
    )
    augment: str = option(
        "mirror",
        "training",
        "how the views of a photo differ, in fine-tuning too. none: there is one view; crops: random crops, where a "
        "mirror image would be of another class, as with arrows and letters; mirror: crops and mirror images; turns: "
        "quarter turns too, for photos without up and down, such as a microscope's or a satellite's",
        choices=allowed.AUGMENTS,
    )
    shrinkage: float | None = option(
        None,
        "training",
        "features are whitened for the new classifier: how far their covariance within the classes is drawn towards "
        "one that is alike in all directions; 1 draws it there",
        metavar="SHARE",
        limits=allowed.SHRINKAGE,
        unset=f"{allowed.DEFAULT_SHRINKAGE}; for very few photos not whitened",
    )
    no_roots: bool = option(
        False,
        "training",
        "whiten features as they are: otherwise square roots are taken first of those that are never below zero",
    )
    no_whitening: bool = option(
        False, "training", "let the new classifier learn from the features as the backbone gives them"
    )
    weight_decay: float = option(
        0.0,
        "training",
        "how much AdamW shrinks weights, times --learning_rate at every step; 1 is strong, 0 leaves Adam",
        metavar="RATE",
        limits=Limits(least=0, most=1000),
    )
    label_smoothing: float = option(
        0.0,
        "training",
        "share of each label that is spread evenly over all classes",
        metavar="SHARE",
        limits=Limits(least=0, below=1),
    )
    class_weights: str = option(
        "equal",
        "training",
        "how much a training photo counts: all the same, or those of small classes more, so that each class counts the "
        "same in all",
        choices=CLASS_WEIGHTS,
    )
    patience: int = option(
        0,
        "training",
        "stop when the validation loss was no lower for so many epochs; 0 trains all epochs",
        metavar="N",
        limits=Limits(least=0, most=10**5),
    )
    seed: int = option(
        0,
        "training",
        "same seed and machine, same checkpoint, byte for byte (on a CPU)",
        metavar="N",
        limits=Limits(least=0, below=2**63),
    )

    unfreeze: str | None = option(
        None,
        "fine-tuning",
        "what of the backbone learns: the last third of its layers, or all",
        choices=allowed.UNFREEZE,
        unset="last on a CPU, all on a GPU",
    )
    backbone_lr: float = option(
        0.0001,
        "fine-tuning",
        "AdamW's step size for the backbone's last layer; it falls towards the first, and the head's is larger",
        metavar="RATE",
        limits=Limits(above=0, most=1000),
    )

    cache_dir: Path | None = option(
        None,
        "feature cache",
        "where features are kept, so that the next run need not compute them",
        metavar="DIR",
        unset="the user's cache folder",
    )
    cache_limit: float = option(
        10.0,
        "feature cache",
        "size beyond which the features used least recently are dropped, except those in use",
        metavar="GB",
        limits=Limits(least=0, most=10**6, unit="GB"),
    )
    no_cache: bool = option(False, "feature cache", "keep features in memory, for this run alone")

    no_memory: bool = option(
        False,
        "output",
        "keep no memory of the training photos in the checkpoint: predict.py --neighbours cannot name them",
    )
    no_report: bool = option(
        False, "output", "write no tables and pictures into run/, only summary.json: for a search over many runs"
    )
    tensorboard: bool = option(
        False, "output", "write curves while training, and then the pictures, for tensorboard, into run/tensorboard/"
    )

    typed: frozenset[str] = field(default=frozenset(), compare=False)  # the options that the command line gave

    @property
    def kept(self) -> dict[str, object]:
        """The options that a resumed run keeps, in plain types, and the name of its checkpoint's file."""
        options = {name: getattr(self, name) for name in RESUMED_OPTIONS}
        weights = self.weights
        if weights is not None and Path(weights).is_file():
            weights = str(Path(weights).absolute())  # found from any folder
        units = None if self.hidden_units is None else list(self.hidden_units)
        groups = self.groups
        if groups is not None and Path(groups).suffix:  # a table
            groups = str(Path(groups).absolute())
        tables = {name: getattr(self, name) for name in TABLES}
        tables = {name: path and str(path if path == STEM else path.absolute()) for name, path in tables.items()}
        values = {"weights": weights, "hidden_units": units, "groups": groups, "checkpoint": self.checkpoint_path.name}
        return {**options, **values, **tables}

    @property
    def begun(self) -> Values:
        """All that a run is started again with which was stopped before it saved anything, in plain types."""
        names = str(self.category_names.absolute()) if self.category_names else None
        return {"kept": self.kept, "typed": sorted(self.typed), "tune": self.tune, "category_names": names}

    def starting_again(self, begun: Values) -> TrainConfig:
        """Return the options of the run that `begun` is of, unless others are given now. Raises KeyError, TypeError."""
        config = self.resuming(begun["kept"])
        names = self.category_names or (Path(begun["category_names"]) if begun["category_names"] else None)
        typed = config.typed | set(begun["typed"]) & set(RESUMED_OPTIONS)  # which a search leaves as they are
        return replace(config, resume=False, tune=self.tune or begun["tune"], category_names=names, typed=typed)

    @property
    def checkpoint_path(self) -> Path:
        """The file that the checkpoint goes into; what else a run leaves goes into the folder that it is in."""
        names_file = self.save_dir.suffix in allowed.CHECKPOINT_ENDINGS and not self.save_dir.is_dir()
        return self.save_dir if names_file else self.save_dir / allowed.CHECKPOINT_FILE

    @property
    def label_source(self) -> Labels | None:
        """Where labels are written; None: folders say them."""
        from flower_classifier.photos.label_tables import Labels  # here: --help needs no Pillow

        tables = self.valid_labels, self.test_labels
        return Labels(self.labels, *tables, self.columns) if self.labels else None

    def check_files(self) -> None:
        """Raise InputError for files of names and weights that are not there."""
        if self.category_names:
            check_there(self.category_names, "category_names")
        if self.weights and Path(self.weights).suffix in allowed.WEIGHTS_ENDINGS:
            check_there(Path(self.weights), "weights")

    def is_given(self, name: str) -> bool:
        """Say whether an option was typed, or set by a program to something else than its default."""
        default = next(option.default for option in fields(self) if option.name == name)
        return name in self.typed or getattr(self, name) != default

    def resuming(self, stored: Values) -> TrainConfig:
        """Return these options with those `stored` by an earlier run, unless they were typed or set by a program.

        Raises InputError where that run's checkpoint is another file beside this one: it would replace this one.
        """
        stored = {"groups": "none", **stored}  # as runs of earlier versions held photos out
        before = self.checkpoint_path.with_name(stored.get("checkpoint", self.checkpoint_path.name))
        if before != self.checkpoint_path:
            raise InputError(
                f"cannot go on: the run beside {self.checkpoint_path} is of {before}; --save_dir {before} resumes it",
                "resume",
            )
        taken = {name: stored[name] for name in RESUMED_OPTIONS if name in stored and not self.is_given(name)}
        taken |= {name: Path(taken[name]) for name in TABLES if taken.get(name)}
        if stored.get("augment") == "none" and "augment" not in taken:
            taken.pop("views", None)  # the one that there was without augmentation
        options: Values = {name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()}
        return replace(self, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.weights.startswith("~"):
            object.__setattr__(self, "weights", str(filled_path(self.weights)))
        if self.test_split + self.valid_split >= 1:
            raise InputError(
                "and --valid_split together must be below 1: nothing would be left to learn from", "test_split"
            )
        if self.tensorboard and self.no_report:
            raise InputError("cannot be used together with --no_report", "tensorboard")
        if self.shrinkage and self.no_whitening:
            raise InputError("cannot be used together with --no_whitening", "shrinkage")
        if self.mirror and self.augment != "mirror":
            raise InputError("goes with --augment mirror alone, which learns from mirror images", "mirror")
        if self.augment == "none":
            if self.is_given("views") and self.views > 1:
                raise InputError("above 1 cannot be used together with --augment none", "views")
            object.__setattr__(self, "views", 1)
        if self.doctor and self.summary:
            raise InputError("cannot be used together with --summary", "doctor")
        for name in ("valid_labels", "test_labels"):
            if getattr(self, name) and not (self.labels and self.labels != STEM):
                raise InputError("is a table beside that of --labels, which gives the training photos", name)
        check_columns(self.labels, self.columns)
