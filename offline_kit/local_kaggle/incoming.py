"""One HTTP request as the server sees it: where it goes, and its body, however it is framed."""

import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from offline_kit.local_kaggle.wire import ServiceRefusal

LOCAL = frozenset({"localhost", "127.0.0.1", "::1", ""})
_MAX_LINE = 256


@dataclass(frozen=True, kw_only=True)
class RequestTarget:
    """What a request line asks for, in origin form or (to a proxy) absolute form."""

    host: str
    """Host name; empty in origin form."""
    path: str
    """Path, still quoted."""
    query: str = ""
    """What follows its question mark."""

    @property
    def is_foreign(self) -> bool:
        """Whether it is meant for another host."""
        return self.host not in LOCAL

    def rpc_name(self) -> str:
        """Return "package.Service/Method", or "" where it is no remote call."""
        words = self.path.strip("/").split("/")
        words = words[1:] if words[:1] == ["api"] else words
        return "/".join(words[1:]) if len(words) == 3 and words[0] == "v1" and "." in words[1] else ""

    def log_request(self) -> dict[str, str]:
        """Return the request for the log that is to be followed; empty if it is something else."""
        words = self.path.strip("/").split("/")
        words = words[1:] if words[:1] == ["api"] else words
        if len(words) != 6 or words[:4] != ["v1", "kernels", "logs", "stream"]:
            return {}
        label = urllib.parse.parse_qs(self.query).get("versionLabel", [""])[0]
        return {"userName": words[4], "kernelSlug": words[5], "versionLabel": label}

    def word_after(self, prefix: str) -> str:
        """Return the first word behind a prefix, or ""."""
        return self.path.removeprefix(prefix).partition("/")[0] if self.path.startswith(prefix) else ""


def target_of(line: str) -> RequestTarget:
    """Read the target of a request line."""
    split = urllib.parse.urlsplit(line)
    return RequestTarget(
        host=(split.hostname or "") if split.scheme else "", path=split.path or "/", query=split.query
    )


class ByteStream(Protocol):
    """What a body is read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""

    def readline(self, size: int, /) -> bytes:
        """Return a line of up to `size` bytes."""


class TruncatedBodyError(OSError):
    """The body ended before its end, or was cut by an injected fault."""


class IncomingBody:
    """The body of a request, by length or in chunks; tells how much came."""

    def __init__(self, headers: Mapping[str, str], stream: ByteStream, told: Callable[[int], None]) -> None:
        self._stream = stream
        self._told = told
        self._chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
        self._left = 0 if self._chunked else _content_length(headers)
        self._ended = not self._chunked and not self._left
        self.received = 0
        self.cut_after = -1
        """Bytes after which reading raises CutError; -1 for never."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; nothing at the end. Raises CutError if the sender is gone."""
        if self._chunked and not self._left and not self._ended:
            self._next_chunk()
        if self._ended:
            return b""
        if self.cut_after >= 0:
            size = min(size, self.cut_after - self.received)
            if size <= 0:
                raise TruncatedBodyError("cut by an injected fault")
        piece = self._stream.read(min(size, self._left))
        if not piece:
            raise TruncatedBodyError("the sender is gone")
        self._left -= len(piece)
        self.received += len(piece)
        if not self._left:
            if self._chunked:
                self._stream.readline(_MAX_LINE)
            else:
                self._ended = True
        self._told(self.received)
        return piece

    def read_all(self, limit: int) -> bytes:
        """Return all of it; refuses more than `limit` bytes."""
        pieces = bytearray()
        while piece := self.read(1 << 16):
            pieces += piece
            if len(pieces) > limit:
                raise ServiceRefusal(413, "Request too large")
        return bytes(pieces)

    def drain_rest(self) -> None:
        """Read on to the end, so that an early answer is not lost in a reset connection."""
        self.cut_after = -1
        while self.read(1 << 18):
            pass

    def _next_chunk(self) -> None:
        line = self._stream.readline(_MAX_LINE)
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise TruncatedBodyError("a chunk has no length") from None
        if not self._left:
            while self._stream.readline(_MAX_LINE).strip():
                pass
            self._ended = True


def _content_length(headers: Mapping[str, str]) -> int:
    length = headers.get("Content-Length") or "0"
    if not length.isdecimal():
        raise ServiceRefusal(400, "Invalid Content-Length")
    return int(length)
