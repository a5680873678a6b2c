"""Fetch onnxruntime-web, which runs networks in the page, into the package, so that exporting needs no network.

    python tools/vendoring.py

Needs npm, and the Python package onnxruntime, whose licence texts are copied. The files are kept gzipped where that is
worth it, since plain file hosts do not compress; the page unpacks them. versions.json says which they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "onnxruntime-web"
FOLDER = Path(__file__).resolve().parent.parent / "flower_classifier" / "export" / "page" / "vendor"
SCRIPTS = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
)
BINARIES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.asyncify.wasm")
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
VERSIONS = "versions.json"


def main() -> None:
    """Replace the vendored files by those of the newest release."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "--json", PACKAGE], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        packages = json.loads(packed)  # of one package; newer versions of npm give it by name
        facts = (packages if isinstance(packages, list) else list(packages.values()))[0]
        with tarfile.open(Path(folder) / facts["filename"]) as archive:
            archive.extractall(folder, filter="data")
        files = {name: (Path(folder) / "package" / "dist" / name).read_bytes() for name in (*SCRIPTS, *BINARIES)}
    unpacked = {name: hashlib.sha256(files[name]).hexdigest() for name in BINARIES}
    for name in BINARIES:
        files[f"{name}.gz"] = gzip.compress(files.pop(name), mtime=0)
    for name in SCRIPTS:  # which not every plain host knows to be scripts
        files[str(Path(name).with_suffix(".js"))] = files.pop(name)
    spec = find_spec("onnxruntime")
    assert spec and spec.origin  # as requirements-dev.txt has it
    for name in LICENCES:
        text = Path(spec.origin).with_name(name).read_bytes()
        if name == "LICENSE":
            files[name] = text
        else:  # the long one, of other people's code
            files[f"{name}.gz"] = gzip.compress(text, mtime=0)
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.iterdir():
        path.unlink()
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
    release = {"package": PACKAGE, "version": facts["version"], "licence": "MIT", "integrity": facts["integrity"]}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    (FOLDER / VERSIONS).write_text(
        json.dumps({**release, "sha256": digests, "sha256_unpacked": unpacked}, indent=1) + "\n"
    )
    print(f"{PACKAGE} {facts['version']}: {sum(map(len, files.values())) / 1e6:.1f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
