"""Name what is in photos, with probabilities, by a checkpoint that train.py wrote.

    python predict.py image.jpg checkpoint.pth
    python predict.py image.jpg checkpoint.pth --top_k 3 --category_names cat_to_name.json
    python predict.py image.jpg checkpoint.pth --plot prediction.png --heatmap
    python predict.py a.jpg b.jpg holiday checkpoint.pth      (photos, and all those below a folder)
    find . -name "*.jpg" | python predict.py - checkpoint.pth --format csv > answers.csv
    python predict.py image.jpg rose_app                      (a folder that export.py made, without torch)
    python predict.py flowers/test checkpoint.pth --evaluate  (where each class has a folder)

The checkpoint is all it needs: no network, no pretrained weights, and no matter which device it was trained on. Exit
codes: 0 all photos are answered, 1 some are (the last line says how many) or the work failed, 2 the input is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from flower_classifier.base import process
from flower_classifier.config.predict_options import PredictConfig

if __name__ == "__main__":  # torch takes seconds to load: --help, mistakes and Ctrl-C end the process before it does
    asked = process.begin(PredictConfig, "predict.py", __doc__)

# isort: split
import flower_classifier
from flower_classifier.base.files import check_writable
from flower_classifier.predicting.answering import answer_photos, named_photos
from flower_classifier.predicting.base_predictor import BasePredictor
from flower_classifier.predicting.output_formats import PictureWriter, plan_pictures


def run(config: PredictConfig) -> None:
    """Answer as `config` asks: photo by photo, or with --evaluate for a folder of labelled photos."""
    if config.evaluate:
        evaluate(config)
    else:
        predict_photos(config)


def load_predictor(config: PredictConfig) -> BasePredictor:
    """Return the checkpoint, ready to be asked, with the names that people use now."""
    return flower_classifier.load(config.checkpoint, config.gpu, config.category_names)


def predict_photos(config: PredictConfig) -> None:
    """Write the likeliest classes of every photo, and draw them where --plot asks for it."""
    photos = named_photos(config)
    sources = [config.checkpoint, *([config.category_names] if config.category_names else [])]
    pictures = plan_pictures(config.plot, photos, sources) if config.plot else {}
    if config.output:
        check_writable(config.output, "output")
    predictor = load_predictor(config)
    if config.output:
        from flower_classifier.predicting.chunked_answers import answer_in_parts  # here, as hardly anybody needs it

        answer_in_parts(config, photos, predictor, config.output)
        return
    writer = PictureWriter(predictor, pictures, config.heatmap, config.training_photos) if pictures else None
    answer_photos(config, photos, predictor, config.neighbours, writer)


def evaluate(config: PredictConfig) -> None:
    """Say how good the answers to labelled photos are, in a folder for each class or as a table says."""
    from flower_classifier.predicting.evaluate_folder import evaluate_folder
    from flower_classifier.predicting.predictor import Predictor  # here, as it loads torch
    from flower_classifier.report.report_files import report_folder

    folder = config.images[0]
    report = config.report or report_folder(config.checkpoint, folder, config.labels)
    check_writable(report, "report")
    predictor = load_predictor(config)
    assert isinstance(predictor, Predictor)  # PredictConfig refuses an exported folder
    evaluate_folder(predictor, folder, config.label_source, config.checkpoint, report, config.format)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict as a command line asks, within a process that goes on."""
    run(PredictConfig.parse("predict.py", __doc__, argv))


if __name__ == "__main__":
    process.run(lambda: run(asked), as_program=True)
