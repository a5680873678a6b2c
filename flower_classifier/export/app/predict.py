"""Name what is in photos, with probabilities, by the classifier in this folder.

    python predict.py image.jpg
    python predict.py image.jpg --top_k 3 --sets 95
    python predict.py a.jpg b.jpg holiday --format csv      (photos, and all those below a folder)

Python with onnxruntime, numpy and pillow is all it needs: pip install onnxruntime numpy pillow
"""

from pathlib import Path

from flower_classifier.base import process
from flower_classifier.config.predict_options import QuestionConfig

if __name__ == "__main__":  # --help and mistakes end the process before anything is loaded
    asked = process.begin(QuestionConfig, "predict.py", __doc__)

# isort: split
import flower_classifier
from flower_classifier.predicting.answering import answer_photos, named_photos


def run(config: QuestionConfig) -> None:
    """Write the likeliest classes of every photo."""
    photos = named_photos(config)
    predictor = flower_classifier.load(Path(__file__).resolve().parent, category_names=config.category_names)
    answer_photos(config, photos, predictor)


if __name__ == "__main__":
    process.run(lambda: run(asked), as_program=True)
