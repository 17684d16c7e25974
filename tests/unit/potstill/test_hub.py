"""A hub, or a mirror of it, that sends what it should not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).parents[3]
COMMIT, HASH = "a" * 40, "b" * 64
FETCH = """
import sys
from potstill.errors import ArtifactError
from potstill.checkpoints import find_checkpoint
try:
    found = find_checkpoint("owner/model") / "config.json"
    print("fetched", found.resolve().read_text())
except ArtifactError as error:
    print("refused", error.found)
"""


class HubHandler(BaseHTTPRequestHandler):
    sends: ClassVar[dict[str, str]] = {}

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        commit, length = self.sends.get("commit", COMMIT), self.sends.get("length")
        content = b"{}"
        if self.path.startswith("/api/"):
            files = [{"type": "file", "path": "config.json", "size": 2, "oid": HASH}]
            about = {"id": "owner/model", "sha": commit, "siblings": [{"rfilename": "config.json"}]}
            content, length = json.dumps(files if "/tree/" in self.path else about).encode(), None
        self.send_response(200)
        self.send_header("ETag", f'"{self.sends.get("etag", HASH)}"')
        self.send_header("X-Repo-Commit", commit)
        is_whole = self.command == "HEAD" or length is None
        self.send_header("Content-Length", str(len(content)) if is_whole else str(length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("sends", "wanted"),
    [
        ({}, "fetched {}"),
        ({"etag": "../../../../victim"}, "refused the hub names a file by a path"),
        ({"etag": "../../../../absent"}, "refused the hub names a file by a path"),
        ({"etag": ".."}, "refused the hub names a file by a path"),
        ({"commit": "../../../../absent"}, "refused the hub names a file by a path"),
        ({"length": "1000"}, "refused the hub's answer cannot be used"),
    ],
    ids=str,
)
def test_a_hub_reads_and_writes_no_files_outside_of_its_cache(hub, tmp_path, sends, wanted):
    (tmp_path / "victim").write_text("secret")
    HubHandler.sends = sends
    environment = {
        "PATH": os.defpath,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", FETCH]
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith(wanted), answer.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"hf", "victim"}
