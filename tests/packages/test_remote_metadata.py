"""Metadata out of large wheels without fetching them."""

from pathlib import Path

import pytest

from offline_kit.core import http
from offline_kit.packages.distribution_metadata import LARGE, read_remote_metadata
from offline_kit.packages.pip_settings import IndexSettings
from tests.support.local_index import LocalIndex, make_wheel


def large_wheel(folder: Path) -> Path:
    """Write a wheel that is too large to be fetched for its metadata alone, with a vendored one ahead of it."""
    import random

    return make_wheel(
        folder,
        "big",
        "1.0",
        requires=["alpha>=2"],
        files={
            "big/_vendor/old-0.1.dist-info/METADATA": "Name: old\nRequires-Dist: beta\n",
            "big/big.bin": random.Random(1).randbytes(LARGE * 3),
        },
    )


@pytest.mark.parametrize("ranges", [True, False])
def test_metadata_of_a_large_wheel(tmp_path: Path, ranges: bool) -> None:
    """METADATA is found with a fraction of the bytes, and also where the server sends the whole file."""
    wheel = large_wheel(tmp_path)
    with LocalIndex(ranges=ranges) as index:
        index.add(wheel, pep658=False)
        url = f"{index.root}/files/{wheel.name}"
        raw = read_remote_metadata(url, wheel.stat().st_size, settings=IndexSettings(), patience=http.PATIENT)
    assert raw is not None
    assert b"Requires-Dist: alpha>=2" in raw


def test_small_and_local_wheels_are_left_to_others(tmp_path: Path) -> None:
    """Nothing is asked for a file that is small or lies on this disk."""
    for url, size in (("http://127.0.0.1:9/x.whl", LARGE - 1), ((tmp_path / "x.whl").as_uri(), LARGE * 2)):
        assert read_remote_metadata(url, size, settings=IndexSettings(), patience=http.PATIENT) is None
