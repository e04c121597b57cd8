"""A token endpoint on loopback, and logins of a service account that use it: what logging in is tested with, by Google's own library."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT = "robot@some-project.iam.gserviceaccount.com"
GOOD = (200, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})
OVER = (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})


class TokenServer:
    """Answers every request with `answer`, (status, body) or None: not at all until it is closed. Counts them."""

    def __init__(self, answer: tuple[int, dict[str, object]] | None) -> None:
        self.answer = answer
        self.asked = 0
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if outer.answer is None:
                    outer._closing.wait(60)
                    return
                status, body = outer.answer
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def login(self, path: Path, project: str = "some-project") -> Path:
        """Writes the key file of a service account whose tokens come from here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": project,
                    "private_key_id": "1",
                    "private_key": pem,
                    "client_email": ACCOUNT,
                    "token_uri": self.url,
                }
            )
        )
        return path

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
