"""Indexes with a login: a sandbox knows them by an alias without one, and the proxy adds the login.

A resolver builds third-party sdists, and their code can read what the resolver can: its environment, its configuration and
the command lines of pip.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from offline_kit.core import http
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.files import CHUNK
from offline_kit.core.redaction import redact_urls
from offline_kit.packages.builds.index_proxy import ProxyReply
from offline_kit.packages.pip_settings import IndexSettings

if TYPE_CHECKING:
    import requests

_PASSED_HEADERS = frozenset(
    [
        "accept",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "cache-control",
        "user-agent",
    ]
)
"""Headers of a request that are passed on to the index."""
_CONNECTION_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "set-cookie", "content-length"}
)
_PAGE_TYPES = ("text/html", "application/vnd.pypi.simple", "application/json")
"""Content types with links to files."""


@dataclass(frozen=True, kw_only=True)
class HiddenIndex:
    """An index and its alias without a login."""

    url: str = field(repr=False)
    """May hold user and password."""
    alias: str
    """The address in the sandbox: http, a host under .invalid (RFC 2606), the same path."""
    settings: IndexSettings
    """Certificates and the proxy on the way to it."""

    @property
    def alias_host(self) -> str:
        """The host of the alias."""
        return urlsplit(self.alias).netloc

    @property
    def true_origin(self) -> str:
        """Scheme, host and port of the true address."""
        return _parse_origin(self.url)

    @contextmanager
    def answer_request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[ProxyReply]:
        """Request a page or file with the login and yield the reply, its links rewritten to the alias.

        Only reading is passed on: the login may allow uploads, which a build must not do.
        """
        if method not in ("GET", "HEAD"):
            yield ProxyReply(status=405)
            return
        passed = {name: value for name, value in headers.items() if name.lower() in _PASSED_HEADERS}
        with ExitStack() as stack:
            try:
                response = self._open_response(stack, method, path, passed | {"Accept-Encoding": "identity"})
                reply = self._make_reply(response)
            except (OfflineKitError, OSError) as error:
                reply = ProxyReply(status=502, body=[redact_urls(str(error)).encode()])
            yield reply

    def _open_response(
        self, stack: ExitStack, method: str, path: str, headers: Mapping[str, str]
    ) -> "requests.Response":
        parts = urlsplit(self.url)
        url = f"{parts.scheme}://{parts.netloc}{path}"
        response = stack.enter_context(
            http.open_response(url, self.settings, headers, method=method, redirects=False)
        )
        goal = urljoin(url, response.headers.get("location", ""))
        if response.is_redirect and _parse_origin(goal) != self.true_origin:
            # Often object storage with a signed URL, which the sandbox cannot reach.
            # The login is in the URL and not sent to the other host.
            response = stack.enter_context(http.open_response(goal, self.settings, headers, method=method))
        return response

    def _make_reply(self, response: "requests.Response") -> ProxyReply:
        reply_headers = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in _CONNECTION_HEADERS and name.lower() != "location"
        }
        if location := response.headers.get("location"):
            reply_headers["Location"] = self._replace_addresses(location.encode()).decode()
        if (
            response.headers.get("content-type", "").startswith(_PAGE_TYPES)
            and response.request.method != "HEAD"
        ):
            reply_headers = {
                name: value for name, value in reply_headers.items() if name.lower() != "content-encoding"
            }
            page = self._replace_addresses(response.content)
            return ProxyReply(
                status=response.status_code,
                headers={**reply_headers, "Content-Length": str(len(page))},
                body=[page],
            )
        if length := response.headers.get("content-length"):
            reply_headers["Content-Length"] = length
        return ProxyReply(
            status=response.status_code,
            headers=reply_headers,
            body=response.raw.stream(CHUNK, decode_content=False),
        )

    def _replace_addresses(self, text: bytes) -> bytes:
        """Replace addresses of the index by those of the alias."""
        parts = urlsplit(self.true_origin)
        port = f"(?::{parts.port})?" if parts.port == _PORTS[parts.scheme] else f":{parts.port}"
        own = rf"(?i)(?:{parts.scheme}:)?//(?:[^/@\s\"'<>]*@)?{re.escape(str(parts.hostname))}{port}(?=[/\"'?#\s]|$)"
        return re.sub(own.encode(), f"http://{self.alias_host}".encode(), text)


_PORTS = {"http": 80, "https": 443}


def _parse_origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def hide_credentials(settings: IndexSettings) -> tuple[IndexSettings, tuple[HiddenIndex, ...]]:
    """Return settings for a sandbox, without logins and keys, and the indexes behind their aliases."""
    hidden = {
        url: HiddenIndex(url=url, alias=_make_alias(url), settings=settings)
        for url in (settings.index_url, *settings.extra_index_urls, *settings.find_links)
        if _needs_login(url, settings)
    }

    def shown(urls: Collection[str]) -> tuple[str, ...]:
        return tuple(hidden[url].alias if url in hidden else url for url in urls)

    within = replace(
        settings,
        index_url=shown([settings.index_url])[0],
        extra_index_urls=shown(settings.extra_index_urls),
        find_links=shown(settings.find_links),
        client_cert="",
        # pip refuses plain http from hosts that are not trusted; this goes no further than the proxy's socket.
        trusted_hosts=(*settings.trusted_hosts, *(index.alias_host for index in hidden.values())),
        proxy="",
    )
    return within, tuple(hidden.values())


def _needs_login(url: str, settings: IndexSettings) -> bool:
    from requests.utils import get_netrc_auth

    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        return False
    # requests and pip also take logins from ~/.netrc.
    return bool("@" in parts.netloc or settings.client_cert or get_netrc_auth(url))


def _make_alias(url: str) -> str:
    """Return an alias for an index; each has its own, since uv and pip cache by address."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    digest = hashlib.sha256(f"{parts.username or ''} {bare}".encode()).hexdigest()[:16]
    return parts._replace(scheme="http", netloc=f"index-{digest}.invalid").geturl()
