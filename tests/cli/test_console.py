"""What a person and a script see."""

import json

import pytest

from offline_kit.cli.console import Console
from offline_kit.core.errors import ProjectError

LONG = "some_package_with_a_long_name-1.0.0-cp313-cp313-manylinux_2_28_x86_64.manylinux_2_35_x86_64.whl"


def test_no_column_of_a_table_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long file name leaves room for its size, however narrow the terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    Console().show_table("Own code", ("file", "size"), [(LONG, "7.2 kB")])
    assert "7.2 kB" in capsys.readouterr().err


def test_a_log_has_room_unless_somebody_says_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal a wheel's name is whole; COLUMNS is followed where it is set."""
    monkeypatch.delenv("COLUMNS", raising=False)
    Console().show_table("Own code", ("file", "size"), [(LONG, "7.2 kB")])
    assert LONG in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "60")
    Console().show_table("Own code", ("file", "size"), [(LONG, "7.2 kB")])
    assert LONG not in capsys.readouterr().err


def test_paths_of_facts_are_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """What a person may copy stands on one line."""
    path = "/a/very/long/place/" + "x" * 300
    Console().show_facts("Rehearsal passed", [("evidence", path)])
    assert path in capsys.readouterr().err


def test_markup_in_names_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets of extras and paths are no colours."""
    console = Console()
    console.note("optuna[optional]")
    console.show_table("t", ("a",), [("pandas[excel]",)])
    said = capsys.readouterr().err
    assert "optuna[optional]" in said
    assert "pandas[excel]" in said


def test_an_error_is_details_sentence_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads it on stderr, a script gets the same as one object."""
    Console(as_json=True).show_error(
        ProjectError("no wheel", hint="pin 1.0", code="no-wheel", details=["a", "b"])
    )
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "ok": False,
        "code": "no-wheel",
        "error": "no wheel",
        "hint": "pin 1.0",
        "details": ["a", "b"],
    }
    assert err.splitlines()[-2:] == ["error[no-wheel]: no wheel", "hint: pin 1.0"]


def test_quiet_says_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps, notes, tables and bars are silenced; warnings are not."""
    console = Console(quiet=True)
    console.step("a")
    console.note("b")
    console.show_table("c", ("d",), [("e",)])
    with console.progress("f", 1) as advance:
        advance(1)
    console.warn("g")
    assert capsys.readouterr().err.strip() == "warning: g"
