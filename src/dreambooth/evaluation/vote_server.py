"""Serves one comparison page to this computer alone, and writes down its votes as they come."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pydantic import ValidationError

from dreambooth.errors import ConfigError
from dreambooth.evaluation.votes import Key, Vote, misfit

HOST = "127.0.0.1"
PORTS = range(20000, 30000)  # below those that systems hand out, above those that browsers refuse
LONGEST_VOTE = 4096  # bytes


class VoteServer(ThreadingHTTPServer):
    """Listens on the loopback interface: on `port`, or where it is 0 on the page's own port or any that is free.

    Raises ConfigError for a port that is not free.
    """

    daemon_threads = True

    def __init__(self, html: str, key: Key, votes: Path, port: int = 0) -> None:
        self.html, self.key, self.votes = html.encode(), key, votes
        self._writing = threading.Lock()
        try:
            super().__init__((HOST, port or port_of(key.page)), _Handler)
        except OSError as error:
            if port:
                raise ConfigError(
                    f"Port {port} cannot be served on ({error.strerror}); give another --port."
                ) from error
            super().__init__((HOST, 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def is_own(self, host: str) -> bool:
        """Whether a Host header, or an Origin without its scheme, is ours: no other web page may read or vote."""
        return host in {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def keep(self, vote: Vote) -> None:
        """Adds the vote on a line of its own, whole or not at all. Raises OSError."""
        with self._writing, self.votes.open("a+b", buffering=0) as file:
            size = file.tell()
            file.seek(max(0, size - 1))
            cut_short = file.read(1) not in (b"", b"\n")
            line = b"\n" * cut_short + vote.model_dump_json().encode() + b"\n"
            if file.write(line) < len(line):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def port_of(page: str) -> int:
    """The same at every serving: a browser remembers the answers of a page by its address, port and all."""
    return PORTS[zlib.crc32(page.encode()) % len(PORTS)]


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "dreambooth", ""

    @property
    def own(self) -> VoteServer:
        assert isinstance(self.server, VoteServer)
        return self.server

    def do_GET(self) -> None:
        if not self.own.is_own(self.headers.get("Host", "")):
            return self._answer(HTTPStatus.FORBIDDEN, b"This page is for this computer alone.")
        if self.path != "/":
            return self._answer(HTTPStatus.NOT_FOUND, b"There is nothing here.")
        return self._answer(HTTPStatus.OK, self.own.html, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        origin = self.headers.get("Origin", "").removeprefix("http://")
        if not self.own.is_own(self.headers.get("Host", "")) or (origin and not self.own.is_own(origin)):
            return self._answer(HTTPStatus.FORBIDDEN, b"Votes are taken from this page alone.")
        if self.path != "/votes":
            return self._answer(HTTPStatus.NOT_FOUND, b"There is nothing here.")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST_VOTE:
            self.close_connection = True
            return self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"That is no vote.")
        try:
            vote = Vote.model_validate_json(self.rfile.read(int(length)))
        except ValidationError:
            return self._answer(HTTPStatus.BAD_REQUEST, b"That is no vote.")
        if fault := misfit(vote, self.own.key):
            return self._answer(HTTPStatus.CONFLICT, f"The votes do not match the page: {fault}.".encode())
        try:
            self.own.keep(vote)
        except OSError as error:
            told = f"The vote cannot be written: {error.strerror}."
            return self._answer(HTTPStatus.INSUFFICIENT_STORAGE, told.encode())
        return self._answer(HTTPStatus.NO_CONTENT, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal belongs to the sentences of the command."""

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)
