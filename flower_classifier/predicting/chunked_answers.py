"""predict.py --output: answers to very many photos, part by part, in as many processes as torchrun starts.

    answers/manifest.json        what was asked, so that another question does not go on in this folder
    answers/part-00000.jsonl     the answers to the first 1,024 photos, whole or not there
    answers/answers.jsonl        all of them, as one process prints them; the parts are then gone
    answers/answers.sha256       its digest: a file that was cut off is not taken for the answers

A part's number decides its rank. After a kill, the same command goes on with the parts that are not there. The
processes need not talk: whoever finds all parts on the disk puts them together.
"""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from flower_classifier.base.console import progress
from flower_classifier.base.files import replaced_whole, sha256_of, sha256_of_file, write_whole
from flower_classifier.base.messages import InputError, RunError, counted, note, reason_of, warn
from flower_classifier.base.torchrun import rank, world_size
from flower_classifier.config.allowed import SPEC_FILE
from flower_classifier.config.predict_options import PredictConfig
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.mending import counting_damaged
from flower_classifier.predicting.answering import AnswerRules, answered_in_part, none_opened
from flower_classifier.predicting.base_predictor import BasePredictor
from flower_classifier.predicting.output_formats import json_of

# Photos per part: a multiple of every micro-batch, so that batches (and digits) equal those of a single process
PART = 1_024
MANIFEST, ALL, DIGEST, LOCK = "manifest.json", "answers.jsonl", "answers.sha256", ".lock"
WAIT_FOR_LOCK = 600  # seconds: putting millions of answers together takes some
ASKED = ("top_k", "min_probability", "stranger_rate", "sets", "neighbours", "gpu")  # options that change answers


class AnswerChunks:
    """The parts of the answers to some photos, in a folder."""

    def __init__(self, folder: Path, photos: Sequence[Path]) -> None:
        self.folder, self.photos = folder, photos
        self.number = -(-len(photos) // PART)
        self.all = folder / ALL
        self.digest = folder / DIGEST

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time put files in place. Raises RunError where the file system has no locks."""
        lock = self.folder / LOCK
        try:
            with FileLock(lock, timeout=WAIT_FOR_LOCK):
                yield
        except (Timeout, NotImplementedError) as error:
            reason = reason_of(error)
            raise RunError(f"{lock} cannot be locked ({reason}): take a folder of another disk") from None

    def manifest(self, config: PredictConfig) -> dict[str, object]:
        """Return what the answers depend on: the photos' paths, the checkpoint, the options."""
        checkpoint = config.checkpoint / SPEC_FILE if config.asks_exported else config.checkpoint
        digests: dict[str, str | None] = {}
        for name, path in (("checkpoint", checkpoint), ("category_names", config.category_names)):
            try:
                digests[f"{name}_sha256"] = sha256_of_file(path) if path else None
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}") from None
        return {
            "format_version": 1,
            "photos": len(self.photos),
            "paths_sha256": sha256_of("\0".join(map(str, self.photos)).encode("utf-8", "surrogateescape")),
            **digests,
            "photos_in_a_part": PART,
            **{name: getattr(config, name) for name in ASKED},
        }

    def keep_manifest(self, manifest: dict[str, object]) -> None:
        """Write the manifest, or compare it with the one that is there. Raises InputError where they differ."""
        path = self.folder / MANIFEST
        if not path.exists():
            if any(self.folder.glob("*.jsonl")):
                raise InputError(f"{self.folder} holds other files of answers: give another folder", "output")
            write_whole(path, (json.dumps(manifest, indent=1) + "\n").encode())
            return
        try:
            before = json.loads(path.read_bytes())
            differing = sorted(name for name in manifest if before.get(name) != manifest[name])
        except (ValueError, AttributeError):
            raise InputError(f"{path} is damaged: give another folder", "output") from None
        if differing:
            names = ", ".join(differing)
            raise InputError(f"{self.folder} holds answers to another question ({names}): give another", "output")

    def path(self, index: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{index:05d}.jsonl"

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Return which of these parts are not there yet."""
        absent = [index for index in indices if not self.path(index).exists()]  # first: they go when all are one file
        return [] if self.all.exists() else absent

    def photos_of(self, index: int) -> Sequence[Path]:
        """Return the photos of a part."""
        return self.photos[index * PART : (index + 1) * PART]

    def answer_missing(self, question: AnswerRules, predictor: BasePredictor) -> bool:
        """Write the answers to this rank's parts that are not there; say whether there were any."""
        mine = self.missing(range(rank(), self.number, world_size()))
        count = sum(len(self.photos_of(index)) for index in mine)
        with counting_damaged(), progress(count, "photos", "photo") as bar:
            for index in mine:
                if not self.missing([index]):
                    continue  # an earlier job's process has done it meanwhile
                photos = self.photos_of(index)
                lines = []
                for photo, answer in zip(photos, predictor.answers(photos, bar, len(self.photos)), strict=True):
                    outcome = answer if isinstance(answer, ImageError) else question.verdict_on(answer)
                    lines.append(f"{json_of(photo, outcome)}\n")
                self.keep(index, lines)
        return bool(mine)

    def keep(self, index: int, lines: Sequence[str]) -> None:
        """Write a part whole or not at all; a surviving process of an earlier job may be writing it too."""
        write_whole(self.path(index), "".join(lines).encode(), writer=f"-{platform.node()[:40]}-{os.getpid()}")

    def put_together(self) -> bool:
        """Make one file of all parts, if they are all there and nobody else has done so; say whether it was done."""
        with self.locked():
            is_last = not self.all.exists() and not self.missing(range(self.number))
            if is_last:
                digest = hashlib.sha256()
                with replaced_whole(self.all) as file:
                    for index in range(self.number):
                        data = self.checked(index)
                        digest.update(data)
                        file.write(data)
                    write_whole(self.digest, f"{digest.hexdigest()}\n".encode())  # first: the file ends the work
            if self.all.exists():
                for pattern in ("part-*.jsonl", ".part-*.tmp"):  # the latter of processes that were killed
                    for path in self.folder.glob(pattern):
                        path.unlink(missing_ok=True)
        return is_last

    def checked(self, index: int) -> bytes:
        """Return a part's bytes. Where they are not a line for each photo, delete the part and raise RunError."""
        data, photos = self.path(index).read_bytes(), self.photos_of(index)
        lines = data.split(b"\n")
        try:
            paths = [json.loads(line)["path"] for line in lines[:-1]]
        except (ValueError, KeyError, TypeError):
            paths = []
        if lines[-1] or paths != [json.loads(json_of(photo, ImageError("")))["path"] for photo in photos]:
            self.path(index).unlink()
            raise RunError(f"{self.path(index)} was not whole: give the same command again")
        return data

    def remove_damaged(self) -> None:
        """Remove the file of all answers where it is not what was written: it is then made anew.

        Of one without a digest, as earlier versions left it, the lines are counted.
        """
        if not self.all.exists():
            return
        if self.digest.exists():
            is_whole = self.digest.read_text(encoding="ascii", errors="replace").strip() == sha256_of_file(self.all)
        else:
            with self.all.open("rb") as file:
                ends = [line.startswith(b"{") and line.endswith(b"}\n") for line in file]
            is_whole = len(ends) == len(self.photos) and all(ends)
        if not is_whole:
            warn(f"{self.all} is damaged, or was changed: these photos are answered again")
            self.all.unlink()


def answer_in_parts(config: PredictConfig, photos: Sequence[Path], predictor: BasePredictor, folder: Path) -> None:
    """Write the answers to this rank's parts that are not there; put all together if these were the last.

    Raises InputError for a folder with answers to another question, RunError where the disk refuses; at the end, in a
    single process, RunError for some photos that cannot be opened, and InputError where none can be.
    """
    question, chunks = AnswerRules(config, predictor, config.neighbours), AnswerChunks(folder, photos)
    manifest = chunks.manifest(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with chunks.locked():
            chunks.keep_manifest(manifest)
            chunks.remove_damaged()
        try:
            has_worked = chunks.answer_missing(question, predictor)
        except KeyboardInterrupt:
            note(f"the same command goes on after the parts that are in {folder}")
            raise
        is_last = chunks.put_together()
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    if not chunks.all.exists():
        left = counted(len(chunks.missing(range(chunks.number))), "part")
        note(f"{left} of {chunks.number} are still missing: other processes are at them, or were killed")
        return
    with chunks.all.open(encoding="utf-8") as file:
        bad = sum('"error": ' in line and "error" in json.loads(line) for line in file)
    if is_last:
        unopened = f", of which {bad:,} could not be opened" if bad else ""
        print(f"{chunks.all}: {counted(len(photos), 'photo')}{unopened}", flush=True)
    elif not has_worked:
        note(f"{chunks.all}: these answers are there already")
    if bad and world_size() == 1:  # of a job, torchrun would report it as a crash
        if bad == len(photos):
            raise InputError(f"{none_opened(bad)}: {chunks.all} says why")
        raise RunError(f"{answered_in_part(bad, len(photos))}: {chunks.all} says why")
