"""A real web server on this machine that serves one archive, with the faults that servers and networks have."""

import io
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from waiting import LIMIT


class Server(ThreadingHTTPServer):
    """Serves one archive, to those who ask for a part of it as well, and misbehaves as told."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.url = body, f"http://127.0.0.1:{self.server_port}/flower_data.zip"
        self.kind, self.status, self.knows_ranges, self.says_length = "application/zip", 200, True, True
        self.cuts = []  # before which byte of the archive the connections break off, one after the other
        self.stalls = False  # whether a connection to be broken off hangs before, until the server closes
        self.misplaced = 0  # bytes by which a part begins too late
        self.next_chunk = ""  # the size that is sent of a chunk, in hexadecimal, where the archive comes in chunks
        self.asked, self.sent = [], 0  # the Range of every request, and bytes of the archive that went out
        self.hanging = threading.Event()  # set when a connection is stalled
        self.closing = threading.Event()

    def server_close(self):
        self.closing.set()
        super().server_close()

    def handle_error(self, request, client_address):
        """Keep quiet about readers that leave."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request as its server says."""

    def do_GET(self):
        site, asked = self.server, self.headers["Range"]
        site.asked.append(asked)
        total = len(site.body)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.knows_ranges else 0
        end = site.cuts.pop(0) if site.cuts else len(site.body)
        if site.status != 200 or start >= total:
            self.send_response(site.status if site.status != 200 else 416)
            if site.says_length:
                self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", site.kind)
        if site.next_chunk:
            self.send_header("Transfer-Encoding", "chunked")
        elif site.says_length:
            self.send_header("Content-Length", str(total - start))
        if start:
            self.send_header("Content-Range", f"bytes {start + site.misplaced}-{total - 1}/{total}")
        self.end_headers()
        part = site.body[start:end]
        if site.next_chunk:
            part = b"%x\r\n%b\r\n%b\r\n" % (len(part), part, site.next_chunk.encode()) + site.body[end:]
        self.wfile.write(part)
        site.sent += len(part)
        if end < len(site.body) and site.stalls:
            site.hanging.set()
            site.closing.wait(LIMIT)

    def log_message(self, *_):
        """Keep quiet."""


def zipped(files):
    """Return the bytes of an archive; names that are a ZipInfo keep what it says."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return stream.getvalue()


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
