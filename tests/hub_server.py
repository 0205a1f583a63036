"""A hub on this machine that speaks as much of Hugging Face's HTTP as huggingface_hub asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "6cee5e81ee83917806bbde320786a8fb61efebee"


class Hub:
    """Serves one folder as one repository.

    requests: (method, path) of each. cut_after: bytes of a file after which the connection is
    dropped, once; 0 never drops.
    """

    def __init__(self, repository: str, folder: Path) -> None:
        self.repository, self.folder = repository, folder
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.cut_after = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                hub.requests.append((self.command, self.path))
                parts = self.path.partition("?")[0].strip("/").split("/")
                if self.path.startswith(f"/api/models/{hub.repository}/revision/"):
                    self._json(hub.info(), body)
                elif self.path.startswith(f"/api/models/{hub.repository}/tree/"):
                    self._json(hub.tree(), body)
                elif self.path.startswith(f"/{hub.repository}/resolve/"):
                    self._file(hub.folder / "/".join(parts[4:]), body)
                else:
                    self._send(404, b'{"error": "Repository not found"}', {}, body)

            def _json(self, value: object, body: bool) -> None:
                text = json.dumps(value).encode()
                self._send(200, text, {"Content-Type": "application/json"}, body)

            def _file(self, path: Path, body: bool) -> None:
                if not path.is_file():
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                    return
                data = path.read_bytes()
                headers = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                status, wanted = 200, self.headers.get("Range", "")
                if wanted and body:
                    hub.ranges.append(wanted)
                    first = int(wanted.removeprefix("bytes=").partition("-")[0])
                    headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                    status, data = 206, data[first:]
                self._send(status, data, headers, body)

            def _send(self, status: int, data: bytes, headers: dict, body: bool) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if not body:
                    return
                if 0 < hub.cut_after < len(data):
                    self.wfile.write(data[: hub.cut_after])
                    hub.cut_after = 0
                    self.close_connection = True
                    self.connection.close()
                else:
                    self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def info(self) -> dict:
        files = [
            {"rfilename": str(path.relative_to(self.folder)), "size": path.stat().st_size}
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]
        return {"id": self.repository, "modelId": self.repository, "sha": COMMIT, "siblings": files}

    def tree(self) -> list[dict]:
        files = self.info()["siblings"]
        return [
            {"type": "file", "path": f["rfilename"], "size": f["size"], "oid": COMMIT}
            for f in files
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
