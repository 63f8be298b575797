"""A mirror on loopback: fills a folder from the real archives on the first round, then serves that folder alone.

    python -m tests.bench.mirror FOLDER NAME=URL...     prints its port

While FOLDER/closed does not exist, what is missing is fetched and kept; then it is answered with 404 and noted in
FOLDER/missed, so that no figure has a distant server in it.
"""

from __future__ import annotations

import email.utils
import os
import shutil
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD below the names given."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    folder: Path
    archives: dict[str, str]

    def do_GET(self) -> None:
        """Answer with the file, fetched first where that is allowed."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with the header alone."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        name = self.path.lstrip("/")
        path = self.folder / "files" / name
        if ".." in name.split("/") or not self._there(name, path):
            self._end(404, b"")
            return
        with open(path, "rb") as f:
            s = os.fstat(f.fileno())
            date = email.utils.formatdate(s.st_mtime, usegmt=True)
            if self.headers.get("If-Modified-Since") == date:
                self.send_response(304)
                self.send_header("Last-Modified", date)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(s.st_size))
            self.send_header("Last-Modified", date)
            self.end_headers()
            self.wfile.flush()
            offset = 0
            while body and offset < s.st_size:
                offset += os.sendfile(self.connection.fileno(), f.fileno(), offset, s.st_size - offset)

    def _there(self, name: str, path: Path) -> bool:
        if path.is_file():
            return True
        if (self.folder / "closed").exists():
            with open(self.folder / "missed", "a") as f:
                f.write(name + "\n")
            return False
        return self._fetched(name, path)

    def _fetched(self, name: str, path: Path) -> bool:
        archive, _, rest = name.partition("/")
        if archive not in self.archives or Path(f"{path}.absent").exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(f"{path}.{os.getpid()}.{id(self)}")
        try:
            with (
                urllib.request.urlopen(f"{self.archives[archive]}/{rest}", timeout=60) as answer,
                aside.open("wb") as f,
            ):
                shutil.copyfileobj(answer, f)
                told = answer.headers["Last-Modified"]
            if told:
                date = email.utils.parsedate_to_datetime(told).timestamp()
                os.utime(aside, (date, date))
            aside.rename(path)
            return True
        except urllib.error.HTTPError as e:
            if e.code == 404:
                Path(f"{path}.absent").touch()
            return False
        finally:
            aside.unlink(missing_ok=True)

    def _end(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until the standard input ends."""
    Handler.folder = Path(sys.argv[1])
    Handler.archives = dict(word.split("=", 1) for word in sys.argv[2:])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
