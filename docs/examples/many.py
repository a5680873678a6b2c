"""Answers to very many photos, on all the machines that Ray knows.

pip install "ray[data]"
PYTHONPATH=. python docs/examples/many.py rose_app photos answers
"""

import json
import sys

import ray

import flower_classifier as fc


class Classifier:
    """What each of Ray's processes has: it is loaded once."""

    def __init__(self, path: str) -> None:
        self.predictor = fc.load(path)  # a checkpoint, or an exported folder

    def __call__(self, photo: dict) -> dict:
        """Answer one photo."""
        try:
            answer = self.predictor(photo["bytes"]).plain()
        except fc.InputError as error:
            answer = {"error": str(error)}
        return {"path": photo["path"], "answer": json.dumps(answer)}


if __name__ == "__main__":
    path, photos, answers = sys.argv[1:]
    files = ray.data.read_binary_files(photos, include_paths=True)
    processes = int(ray.cluster_resources()["CPU"])
    files.map(Classifier, fn_constructor_args=[path], concurrency=processes).write_json(answers)
