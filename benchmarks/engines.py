"""What else could run the frozen network and open photos on a CPU, for docs/measurements.md. Run by hand.

    pip install openvino simplejpeg
    TORCH_HOME=... python benchmarks/engines.py flowers --lite0 tf_efficientnet_lite0.pth

Networks: ours (eager torch, bfloat16 where the processor has it, norms folded, channels last), torch.compile (needs a
C++ compiler), onnxruntime in float32 and in 8 bits, OpenVINO in the precision that it chooses. Each takes micro-batches
of 8 photos on as many workers as there are cores, with one thread each, as extraction does; all in turn, in one
process, three rounds, the median. Then a linear head learns from each engine's features of squeezenet1_1 and lite0. At
the end photos are opened by Pillow (ours), simplejpeg and torchvision. Takes a quarter of an hour on two cores.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.process import keep_freed_memory
from flower_classifier.base.torchrun import usable_cores
from flower_classifier.export.onnx_model import WholeNetwork, onnx_of, quantised
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import Classifier, new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.folders import find_photos
from flower_classifier.photos.images import load_image
from flower_classifier.photos.splits import Split, load_splits
from flower_classifier.photos.views import open_views
from flower_classifier.predicting.exported_predictor import import_onnxruntime

ARCHS = ("squeezenet1_1", "mobilenet_v3_large", "densenet121", "resnet50", "vgg16", "timm/tf_efficientnet_lite0")
REAL = ("squeezenet1_1", "timm/tf_efficientnet_lite0")  # those of which there are weights here
BATCH, ROUNDS, TIMED = 8, 3, 128  # photos
CALIBRATING = 64  # photos that set the ranges of 8-bit numbers

Engine = Callable[[np.ndarray], np.ndarray]  # uint8 (B, S, S, 3) -> features, float32 (B, D)


def ours(classifier: Classifier) -> Engine:
    """Return the frozen part as training runs it."""
    frozen = FrozenBackbone(classifier, torch.device("cpu"))

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return frozen(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float().numpy()

    return run


def compiled(classifier: Classifier) -> Engine:
    """Return the same, compiled and with its weights as constants."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    frozen = FrozenBackbone(classifier, torch.device("cpu"))
    frozen.network = torch.compile(frozen.network)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return frozen(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float().numpy()

    return run


def by_onnxruntime(model: bytes) -> Engine:
    """Return what runs an exported network on one thread."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["features"], {"pixels": pixels})[0]


def by_openvino(model: bytes) -> Engine:
    """Return what runs an exported network on one thread for each worker, in the precision that OpenVINO chooses."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": usable_cores(), "NUM_STREAMS": usable_cores()}
    network = core.compile_model(core.read_model(model=model), "CPU", settings)

    def run(pixels: np.ndarray) -> np.ndarray:
        request = network.create_infer_request()  # a worker's own
        request.infer({"pixels": pixels})
        return request.get_tensor("features").data.copy()

    return run


def engines_of(classifier: Classifier, calibrating: np.ndarray) -> Iterator[tuple[str, Engine]]:
    """Yield the engines that there are here, by name."""
    classes = tuple(map(str, range(classifier.config.num_classes)))
    tensors = dict(classifier.state_dict())
    checkpoint = Checkpoint(classifier.config, classifier.preprocessing, classes, tensors)
    model = onnx_of(WholeNetwork(checkpoint), classifier.preprocessing.crop_size)
    kinds = {
        "torch, eager (ours)": lambda: ours(checkpoint.classifier),
        "torch.compile": lambda: compiled(checkpoint.classifier),
        "onnxruntime, float32": lambda: by_onnxruntime(model),
        "onnxruntime, int8": lambda: by_onnxruntime(quantised(model, iter(calibrating))),
        "OpenVINO": lambda: by_openvino(model),
        "OpenVINO, int8": lambda: by_openvino(quantised(model, iter(calibrating))),
    }
    for name, make in kinds.items():
        try:
            engine = make()
            engine(calibrating[:BATCH])
            yield name, engine
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {' '.join(str(error).split())[:100]}", file=sys.stderr)


def run_all(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    """Return the features of photos, uint8 (N, S, S, 3), as extraction computes them."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.concatenate(list(pool.map(engine, np.split(pixels, range(BATCH, len(pixels), BATCH)))))


def views_of(split: Split, classifier: Classifier) -> np.ndarray:
    """Return the plain views of photos, uint8 (N, S, S, 3)."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        paths = map(split.path, range(len(split)))
        return np.concatenate(list(pool.map(lambda path: open_views(path, classifier.preprocessing), paths)))


def accuracy_of(engine: Engine, parts: Sequence[tuple[np.ndarray, torch.Tensor]], classes: int) -> float:
    """Return the validation accuracy, in %, of a linear head that has learned from an engine's features."""
    (train, labels), (valid, true) = parts
    rows, judged = (torch.from_numpy(run_all(engine, pixels)) for pixels in (train, valid))
    mean, std = rows.mean(dim=0), rows.std(dim=0) + 1e-6
    rows, judged = (rows - mean) / std, (judged - mean) / std
    torch.manual_seed(0)
    head = nn.Linear(rows.shape[1], classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(40):
        for chosen in torch.randperm(len(rows)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
    return 100 * (head(judged).argmax(dim=1) == true).double().mean().item()


def print_networks(options: argparse.Namespace) -> None:
    """Print what each engine costs a photo, and what its features are worth."""
    splits = load_splits(options.flowers)
    print("| network | engine | a photo, ms | of ours | relative difference | valid accuracy, % |")
    print("|---|---|---|---|---|---|")
    for arch in ARCHS:
        weights = (str(options.lite0) if "lite0" in arch else None) if arch in REAL else "none"
        classifier, _ = new_classifier(arch, len(splits.classes), weights)
        few = views_of(Split("some", splits.valid.root, splits.valid.photos[:TIMED], splits.valid.labels), classifier)
        with torch.inference_mode():
            reference = torch.cat([exact_features(classifier, batch) for batch in np.split(few, 16)]).numpy()
        parts = [
            (views_of(split, classifier), torch.tensor(split.labels))
            for split in ((splits.train, splits.valid) if arch in REAL else ())
        ]
        torch.set_num_threads(1)
        found = dict(engines_of(classifier, few[:CALIBRATING]))
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(ROUNDS):
            for name, engine in found.items():
                began = time.perf_counter()
                run_all(engine, few)
                seconds[name].append(time.perf_counter() - began)
        own = statistics.median(next(iter(seconds.values())))
        for name, engine in found.items():
            taken = statistics.median(seconds[name])
            off = np.linalg.norm(run_all(engine, few) - reference) / np.linalg.norm(reference)
            accuracy = f"{accuracy_of(engine, parts, len(splits.classes)):.1f}" if parts else ""
            print(
                f"| {arch} | {name} | {1e3 * taken / TIMED:.2f} | {taken / own:.2f} | {off:.0e} | {accuracy} |",
                flush=True,
            )
        torch.set_num_threads(usable_cores())


def exact_features(classifier: Classifier, pixels: np.ndarray) -> torch.Tensor:
    """Return features by plain torch in float32."""
    return classifier.features(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def print_decoders(options: argparse.Namespace) -> None:
    """Print what opening a photo costs: a full picture, and one that is no smaller than a network needs."""
    photos = find_photos(options.flowers / "valid")[:TIMED]
    decoders: dict[str, Callable[[Path], object]] = {
        "Pillow, no smaller than 512 pixels (ours)": lambda path: np.asarray(load_image(path, 512)),
        "Pillow, whole": lambda path: np.asarray(load_image(path)),
    }
    try:
        import simplejpeg

        decoders["simplejpeg, no smaller than 512 pixels"] = lambda path: simplejpeg.decode_jpeg(
            path.read_bytes(), min_height=512, min_width=512, min_factor=1
        )
    except ImportError:
        print("  simplejpeg is not installed", file=sys.stderr)
    from torchvision.io import ImageReadMode, decode_image, read_file

    decoders["torchvision, whole"] = lambda path: decode_image(read_file(str(path)), ImageReadMode.RGB)
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(ROUNDS):
        for name, decode in decoders.items():
            began = time.perf_counter()
            with ThreadPoolExecutor(usable_cores()) as pool:
                list(pool.map(decode, photos))
            seconds[name].append(time.perf_counter() - began)
    own = statistics.median(next(iter(seconds.values())))
    print("\n| opening a photo | ms | of ours |\n|---|---|---|")
    for name, values in seconds.items():
        taken = statistics.median(values)
        print(f"| {name} | {1e3 * taken / len(photos):.2f} | {taken / own:.2f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("--lite0", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    print_networks(options)
    print_decoders(options)


if __name__ == "__main__":
    main()
