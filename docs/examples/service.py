"""A web service: a photo goes in, JSON comes out.

pip install flask
PYTHONPATH=. CLASSIFIER=rose_app flask --app docs/examples/service.py run
curl -F photo=@rose.jpg http://127.0.0.1:5000/
"""

import io
import os

from flask import Flask, abort, request
from PIL import Image

import flower_classifier as fc

MOST_BYTES, MOST_PIXELS = 20_000_000, 50_000_000  # so many pixels take 0.4 GB at most while they are opened

predictor = fc.load(os.environ["CLASSIFIER"])  # a checkpoint, or an exported folder
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns of more, and refuses more than twice as many


def is_too_large(photo: bytes) -> bool:
    """Say whether a picture has too many pixels, by its header: a small file may hold very many."""
    try:
        Image.open(io.BytesIO(photo)).close()
    except Exception as error:  # whatever else is wrong with it, the predictor says
        return isinstance(error, Image.DecompressionBombError)
    return False


@app.errorhandler(413)
def too_large(_: Exception) -> tuple[dict[str, object], int]:
    """Refuse an upload that would take too much memory."""
    return {"error": f"a photo may have {MOST_BYTES:,} bytes and {MOST_PIXELS:,} pixels at most"}, 413


@app.post("/")
def name_photo() -> dict[str, object] | tuple[dict[str, object], int]:
    """Answer one upload."""
    if "photo" not in request.files:
        return {"error": "send a file as the form's field photo"}, 400
    photo = request.files["photo"].read()
    if is_too_large(photo):
        abort(413)
    try:
        return predictor(photo).plain()
    except fc.InputError as error:
        return {"error": str(error)}, 400
