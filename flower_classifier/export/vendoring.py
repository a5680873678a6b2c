"""Fetch what the page runs networks with, onnxruntime-web, into the package: so that exporting needs no network.

    python -m flower_classifier.export.vendoring

Needs npm, and the Python package onnxruntime, whose licence texts are copied. The files are kept gzipped where that is
worth it, since plain file hosts do not compress; the page unpacks them. versions.json says which they are.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flower_classifier.base.files import sha256_of

PACKAGE = "onnxruntime-web"
FOLDER = Path(__file__).resolve().parent / "page" / "vendor"
SCRIPTS = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
)
BINARIES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.asyncify.wasm")
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
VERSIONS = "versions.json"

Facts = dict[str, Any]  # what npm says of a package, in JSON


def main() -> None:
    """Replace the vendored files by those of the newest release."""
    with tempfile.TemporaryDirectory() as place:
        packed = subprocess.run(
            ["npm", "pack", "--json", PACKAGE], cwd=place, check=True, capture_output=True, text=True
        ).stdout
        facts = one_of(json.loads(packed))
        with tarfile.open(Path(place) / facts["filename"]) as archive:
            archive.extractall(place, filter="data")
        files = {name: (Path(place) / "package" / "dist" / name).read_bytes() for name in (*SCRIPTS, *BINARIES)}
    unpacked = {name: sha256_of(files[name]) for name in BINARIES}
    for name in BINARIES:
        files[f"{name}.gz"] = gzip.compress(files.pop(name), mtime=0)
    for name in SCRIPTS:  # which not every plain host knows to be scripts
        files[str(Path(name).with_suffix(".js"))] = files.pop(name)
    spec = find_spec("onnxruntime")
    assert spec and spec.origin  # as requirements-dev.txt has it
    for name in LICENCES:
        files[f"{name}.gz" if name != "LICENSE" else name] = licence(Path(spec.origin).with_name(name))
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
    told = {"package": PACKAGE, "version": facts["version"], "licence": "MIT", "integrity": facts["integrity"]}
    digests = {name: sha256_of(data) for name, data in sorted(files.items())}
    (FOLDER / VERSIONS).write_text(
        json.dumps({**told, "sha256": digests, "sha256_unpacked": unpacked}, indent=1) + "\n"
    )
    print(f"{PACKAGE} {facts['version']}: {sum(map(len, files.values())) / 1e6:.1f} MB in {FOLDER}")


def one_of(packed: list[Facts] | dict[str, Facts]) -> Facts:
    """Return the facts of the one package that npm packed: newer versions of npm give them by name."""
    return (packed if isinstance(packed, list) else list(packed.values()))[0]


def licence(path: Path) -> bytes:
    """Return a licence text, the long one of other people's code gzipped."""
    return path.read_bytes() if path.name == "LICENSE" else gzip.compress(path.read_bytes(), mtime=0)


if __name__ == "__main__":
    main()
