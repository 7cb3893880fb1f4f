"""Crash reports: enough to mend the bug, nothing to steal."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.cli import main as crash_report
from offline_kit.core.redaction import redact_secrets

word = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789", min_size=8, max_size=30)


@given(word, word)
def test_credentials_of_urls_are_taken_out(user: str, password: str) -> None:
    """Neither user nor password of an index URL stays."""
    text = redact_secrets(f"GET https://{user}:{password}@index.example/simple failed")
    assert text == "GET https://index.example/simple failed"


@pytest.mark.parametrize("login", ["u:p@ss", "u:pa/ss", "u:p/a@ss", "gh0_token"])
def test_passwords_of_any_letters_are_taken_out(login: str) -> None:
    """An "@" or a "/" in a password ends neither of the two readings of it."""
    assert redact_secrets(f"GET https://{login}@h/x failed") == "GET https://h/x failed"
    secrets = crash_report.environment_secrets({"PIP_INDEX_URL": f"https://me:long-{login}@h/simple"})
    assert secrets == (f"long-{login}",)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer s3cretvalue",
        "Authorization: Basic czNjcmV0dmFsdWU=s3cretvalue",
        "KAGGLE_KEY=s3cretvalue",
        "{'key': 's3cretvalue', 'username': 'alice'}",
        '{"token": "s3cretvalue"}',
        "KGAT_s3cretvalue",
        "api_key: s3cretvalue",
        "https://h/a.whl?X-Amz-Signature=s3cretvalue",
    ],
)
def test_tokens_are_taken_out(text: str) -> None:
    """Headers, variables and JSON with tokens are blinded."""
    assert "s3cretvalue" not in redact_secrets(text)


def test_the_report_names_versions_and_the_traceback(tmp_path: Path) -> None:
    """A report says what ran, where it broke, and with which version."""
    try:
        raise ValueError("https://u:p4ssw0rd@host/ broke")
    except ValueError as error:
        place = crash_report.write_report(error, ["build", "."], tmp_path)
    text = place.read_text()
    assert "command: offline-kit build ." in text
    assert "ValueError" in text
    assert "p4ssw0rd" not in text


def test_what_the_environment_calls_a_secret_is_taken_out(tmp_path: Path) -> None:
    """Wherever it stands, without a name beside it; short values and other variables stay."""
    environment = {
        "KAGGLE_KEY": "s3cretvalue",
        "PIP_INDEX_URL": "https://u:p4ssw0rd%21@host/simple",
        "SOME_TOKEN": "1",
        "HOME": "/home/me",
    }
    error = ValueError(["s3cretvalue", "p4ssw0rd%21", "1 of 1", "/home/me"])
    text = crash_report.write_report(
        error, [], tmp_path, crash_report.environment_secrets(environment)
    ).read_text()
    assert "s3cretvalue" not in text
    assert "p4ssw0rd" not in text
    assert "1 of 1" in text
    assert "/home/me" in text
