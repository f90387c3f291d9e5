"""What environments are made of in the tests: wheels, a lock, and an index on this machine's own address."""

from __future__ import annotations

import base64
import hashlib
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TAG = "py3-none-any"


def make_wheel(folder: Path, name: str, version: str, *, tag: str = TAG, files: dict[str, str] | None = None) -> Path:
    """A wheel of one module; *files* are added, those below `scripts/` as programs."""
    info = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": f"VERSION = {version!r}\nassert VERSION\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    for path, text in (files or {}).items():
        content[path.replace("scripts/", f"{name}-{version}.data/scripts/").replace("INFO/", f"{info}/")] = text
    record = f"{info}/RECORD"
    lines = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in content.items()]
    content[record] = "\n".join([*lines, f"{record},,", ""])
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in content.items():
            entry = zipfile.ZipInfo(place)
            entry.external_attr = (0o100755 if "/scripts/" in place else 0o100644) << 16
            wheel.writestr(entry, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def sha256(path: Path) -> str:
    """A file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pin(wheel: Path, *, digest: str = "", marker: str = "") -> str:
    """A lock's line for a wheel."""
    name, version = wheel.name.split("-")[:2]
    condition = f" ; {marker}" if marker else ""
    return f"{name}=={version}{condition} \\\n    --hash=sha256:{digest or sha256(wheel)}\n    # via tests\n"


class Index:
    """A package index; *folder* is what it serves, *url* where."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def add(self, name: str, version: str, **more: object) -> Path:
        """Make a wheel, and serve it."""
        project = self.folder / "simple" / name
        project.mkdir(parents=True, exist_ok=True)
        wheel = make_wheel(project, name, version, **more)
        links = "".join(f'<a href="{one.name}#sha256={sha256(one)}">{one.name}</a>\n' for one in project.glob("*.whl"))
        (project / "index.html").write_text(f"<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n")
        return wheel

    def add_uv(self) -> Path:
        """Serve a package that is called uv and runs the real one of this machine."""
        real = shutil.which("uv")
        assert real, "uv is in requirements/test.txt's environment"
        return self.add("uv", "0.0.1", files={"scripts/uv": f'#!/bin/sh\nexec {real} "$@"\n'})


class _Silent(SimpleHTTPRequestHandler):
    def __init__(self, *words: object, login: str = "", delay: float = 0.0, **more: object) -> None:
        self.wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self.delay = delay
        super().__init__(*words, **more)

    def do_GET(self) -> None:
        """Serve those who may, after a while."""
        time.sleep(self.delay)
        if self.wanted and self.headers["Authorization"] != self.wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_words: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Let be kept what is fetched, as real indexes do."""
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()


@contextmanager
def serve(folder: Path, login: str = "", delay: float = 0.0) -> Iterator[Index]:
    """An index for as long as it is wanted; it answers after *delay* seconds, and wants a *login* (`name:password`)."""
    handler = partial(_Silent, directory=str(folder), login=login, delay=delay)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Index(folder, f"http://{login + '@' if login else ''}127.0.0.1:{server.server_port}/simple/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
