"""The files of the page: most are the same in every exported folder, some have the classifier's title or digests."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path

from flower_classifier.base.files import sha256_of
from flower_classifier.judging.exported_folder import CARD_FILE, MODEL_FILE

PAGE = Path(__file__).resolve().parent / "page"
INDEX, SERVICE_WORKER, MANIFEST = "index.html", "service_worker.js", "manifest.webmanifest"
FILLED = (INDEX, SERVICE_WORKER)  # with {{words}} to be replaced
NOT_OF_THE_PAGE = (".py", ".md")  # endings of files beside it
PAPER = "#f6f4ef"  # as in style.css


def static_files() -> dict[str, bytes]:
    """Return the files that are the same in every exported folder, by their names in it."""
    paths = sorted(path for path in PAGE.rglob("*") if path.is_file() and path.name not in FILLED)
    return {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in paths}


def filled_files(title: str, others: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that depend on the title and on the `others` of the folder."""
    index = filled(INDEX, title=html.escape(title), card_sha256=sha256_of(others[CARD_FILE]))
    made = {INDEX: index, MANIFEST: manifest(title)}
    page = {name: data for name, data in {**others, **made}.items() if not name.endswith(NOT_OF_THE_PAGE)}
    # At once are kept the files that every visit needs; the network and what runs it, when they are first fetched
    later = [name for name in page if name == MODEL_FILE or name.startswith("vendor/")]
    shell = ["./", *sorted(set(page) - set(later))]
    version = sha256_of("".join(f"{name} {sha256_of(data)}\n" for name, data in sorted(page.items())).encode())[:16]
    worker = filled(SERVICE_WORKER, version=version, shell=json.dumps(shell), later=json.dumps(sorted(later)))
    return {**made, SERVICE_WORKER: worker}


def manifest(title: str) -> bytes:
    """Return what a phone asks for to install the page."""
    icons = [
        {"src": "icon-192.png", "sizes": "192x192", "type": "image/png", "purpose": "any maskable"},
        {"src": "icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any maskable"},
        {"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"},
    ]
    facts = {
        "name": title,
        "short_name": title[:12],
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": PAPER,
        "theme_color": PAPER,
        "lang": "en",
        "icons": icons,
    }
    return (json.dumps(facts, indent=1) + "\n").encode()


def filled(name: str, **words: str) -> bytes:
    """Return a file of the page with its {{words}} replaced."""
    text = (PAGE / name).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", value)
    return text.encode()
