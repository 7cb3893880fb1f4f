"""A run with the network on reaches the internet as this machine does."""

from pathlib import Path

import pytest

from offline_kit.core.sandboxes.box import Mount
from offline_kit.rehearsal import execution


def test_proxies_and_certificates_reach_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of proxies and certificates are passed on with the files they name; nothing else is."""
    bundle = tmp_path / "authorities.pem"
    bundle.write_text("a certificate")
    for name, value in {
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": str(bundle),
        "REQUESTS_CA_BUNDLE": str(tmp_path / "missing.pem"),
        "HF_TOKEN": "private",
    }.items():
        monkeypatch.setenv(name, value)
    variables, mounts = execution.find_network_access()
    expected = {
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": str(bundle),
    }
    assert expected.items() <= variables.items()
    assert not {"HF_TOKEN", "REQUESTS_CA_BUNDLE", "PATH"} & variables.keys()
    assert Mount(inside=str(bundle), source=bundle) in mounts
