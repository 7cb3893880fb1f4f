"""The one index that resolvers see: all indexes together, by the resolver's rules, and nothing else of the network."""

import json
import math
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError
from offline_kit.packages.builds.index_server import INSIDE, IndexServer
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from tests.support.local_index import LocalIndex, make_wheel


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LocalIndex]:
    """An index with three uploads, behind a login."""
    with LocalIndex() as index:
        for version, day in (("1.0", "01"), ("2.0", "02"), ("3.0", "03")):
            wheel = make_wheel(tmp_path / "wheels", "left", version, requires=["right"])
            index.add(wheel, pep658=False, upload_time=f"2026-01-{day}T00:00:00Z")
        yield index


def opener(variables: dict[str, str]) -> urllib.request.OpenerDirector:
    """Return what asks as a command with these proxy variables does."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": variables["HTTP_PROXY"]}))


def test_it_serves_what_counts_without_a_sandbox_too(other: LocalIndex, tmp_path: Path) -> None:
    """Files up to the cut-off, with metadata that the index itself does not serve; no login goes inside."""
    settings = IndexSettings(index_url=other.with_credentials("me", "s3cret"))
    index = PackageIndex(settings, cache=tmp_path / "cache")
    with IndexServer(index, "2026-01-02T12:00:00Z").serve(None) as variables:
        ask = opener(dict(variables)).open
        with ask(f"{INSIDE.index_url}/left/") as answer:
            text = answer.read().decode()
        files = json.loads(text)["files"]
        assert [row["filename"].split("-")[1] for row in files] == ["1.0", "2.0"]
        assert "s3cret" not in text
        with ask(f"http://index.invalid{files[0]['url']}.metadata") as answer:
            assert b"Requires-Dist: right" in answer.read()
        for url, status in ((f"{INSIDE.index_url}/none/", 404), (f"{other.root}/simple/left/", 403)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(url)
            assert refused.value.code == status


def test_trouble_with_an_index_is_kept(other: LocalIndex, tmp_path: Path) -> None:
    """A resolver may pass a page over that fails; the error of ours names the index."""
    other.fail("/simple/left", 403, times=math.inf)
    server = IndexServer(PackageIndex(IndexSettings(index_url=other.url), cache=tmp_path / "cache"))
    with server.serve(None) as variables, pytest.raises(urllib.error.HTTPError):
        opener(dict(variables)).open(f"{INSIDE.index_url}/left/")
    assert isinstance(server.error, OutsideError)
    assert other.root in server.error.what
