"""A web service: a photo goes in, JSON comes out.

pip install flask
PYTHONPATH=. CLASSIFIER=rose_app flask --app docs/examples/service.py run
curl -F photo=@rose.jpg http://127.0.0.1:5000/
"""

import os

from flask import Flask, request

import flower_classifier as fc

predictor = fc.load(os.environ["CLASSIFIER"])  # a checkpoint, or an exported folder
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 20_000_000  # bytes; a larger upload is refused


@app.post("/")
def name_photo() -> dict[str, object] | tuple[dict[str, object], int]:
    """Answer one upload."""
    if "photo" not in request.files:
        return {"error": "send a file as the form's field photo"}, 400
    try:
        return predictor(request.files["photo"].read()).plain()
    except fc.InputError as error:
        return {"error": str(error)}, 400
