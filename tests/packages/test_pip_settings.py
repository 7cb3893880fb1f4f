"""pip's configuration: read as pip reads it, told to uv and pip alike, secrets kept out of sight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core import processes
from offline_kit.core.errors import UsageError
from offline_kit.packages import pip_settings
from offline_kit.packages.pip_settings import IndexSettings, read_pip_settings, redact_urls
from tests.support.local_index import LocalIndex, make_wheel


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose home is empty and whose machine-wide configuration is not ours."""
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "xdg"), "PATH": "/usr/bin:/bin"}


def configure(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("chosen", ["", "mine.conf", "not-there.conf"])
def test_the_files_are_those_that_pip_reads(home: dict[str, str], tmp_path: Path, chosen: str) -> None:
    """`pip config debug` names the same files; the user's own go when PIP_CONFIG_FILE names one that exists."""
    configure(tmp_path / "mine.conf", "[global]\n")
    env = {**home, **({"PIP_CONFIG_FILE": str(tmp_path / chosen)} if chosen else {})}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"], env=env, capture_output=True, text=True, check=True
    )
    theirs = [line.partition(",")[0].strip() for line in done.stdout.splitlines() if ", exists: " in line]
    assert sorted(str(path) for path in pip_settings.list_config_files(env)) == sorted(theirs)


def test_stronger_places_win_whole(home: dict[str, str]) -> None:
    """PIP_* beats [install], which beats [global]; lists are replaced, not joined; empty values count for nothing."""
    configure(
        Path(home["HOME"]) / ".pip/pip.conf", "[global]\nindex_url = https://legacy/simple\ntimeout = 7\n"
    )
    configure(
        Path(home["HOME"]) / ".config/pip/pip.conf",
        "[global]\nindex-url = https://global/simple\nextra-index-url = https://a/simple\n    https://b/simple\n"
        "find-links = /one /two\ntrusted-host = a:8080\n"
        "[install]\nindex-url = https://install/simple\n[wheel]\nno-index = yes\n",
    )
    found = read_pip_settings(
        {**home, "PIP_EXTRA_INDEX_URL": "https://c/simple", "PIP_FIND_LINKS": "", "PIP_DEFAULT_TIMEOUT": "60"}
    )
    assert found == IndexSettings(
        index_url="https://install/simple",
        extra_index_urls=("https://c/simple",),
        find_links=("/one", "/two"),
        trusted_hosts=("a:8080",),
        timeout=60,
        cert=found.cert,
    )


def test_the_null_device_switches_the_files_off(home: dict[str, str]) -> None:
    """PIP_CONFIG_FILE=/dev/null means no file at all, as pip has it."""
    configure(Path(home["HOME"]) / ".config/pip/pip.conf", "[global]\nindex-url = https://x/simple\n")
    assert read_pip_settings({**home, "PIP_CONFIG_FILE": os.devnull}) == IndexSettings()


def test_places_are_made_absolute(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder of find-links is the same folder for a program that runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    found = read_pip_settings({**home, "PIP_FIND_LINKS": "wheels ~/more https://x/page file:///there"})
    assert found.find_links == (
        str(tmp_path / "wheels"),
        f"{home['HOME']}/more",
        "https://x/page",
        "file:///there",
    )


@pytest.mark.parametrize(("name", "value"), [("PIP_NO_INDEX", "perhaps"), ("PIP_TIMEOUT", "soon")])
def test_values_that_pip_refuses_are_refused(home: dict[str, str], name: str, value: str) -> None:
    """A value that is none is named with the place where it stands."""
    with pytest.raises(UsageError, match=f"{value}.*PIP_"):
        read_pip_settings({**home, name: value})


def test_a_broken_file_is_named_and_shows_no_password(home: dict[str, str]) -> None:
    """A file that is no configuration file ends in an error without the secrets in it."""
    path = Path(home["HOME"]) / ".config/pip/pip.conf"
    configure(path, "index-url = https://me:secret@host/simple\n")
    with pytest.raises(UsageError) as caught:
        read_pip_settings(home)
    assert str(path) in caught.value.what
    assert "secret" not in caught.value.what


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://me:pa-ss@host/simple for more", "see https://host/simple for more"),
        ("https://ghp_token@github.com/a/b", "https://github.com/a/b"),
        ("https://u:p@ss@host/x", "https://host/x"),
        ("https://u:pa/ss@host/x", "https://host/x"),
        ("https://u:p/a@ss@host/x and https://h/y@v1", "https://host/x and https://h/y@v1"),
        ("git+https://host:8443/a/b@v1.0", "git+https://host:8443/a/b@v1.0"),
        ("http://[::1]:8080/a@b", "http://[::1]:8080/a@b"),
        ("https://h/s?token=ab&page=2", "https://h/s?token=***&page=2"),
        ("https://h/a.whl?X-Amz-Signature=ab#sha256=cd", "https://h/a.whl?X-Amz-Signature=***#sha256=cd"),
        ("git+ssh://git@github.com/a/b.git@v1", "git+ssh://git@github.com/a/b.git@v1"),
        ("git+ssh://git:pw@github.com/a", "git+ssh://github.com/a"),
        ("git+https://github.com/a/b@v1.0", "git+https://github.com/a/b@v1.0"),
        ("--index-url 'https://${USER}:${TOKEN}@h/s'", "--index-url 'https://${USER}:${TOKEN}@h/s'"),
        ("file:///srv/wheels", "file:///srv/wheels"),
        ("403 for url: https://h/o/file.csv?X-Signature=ab'", "403 for url: https://h/o/file.csv?***'"),
        ("exceeded with url: /upload/0123456789abcdef0123 (by)", "exceeded with url: /upload/*** (by)"),
        (
            "500 for url: https://h/v1/x.KernelService/GetKernel",
            "500 for url: https://h/v1/x.KernelService/GetKernel",
        ),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    """Users and passwords go, harmless parts stay."""
    assert redact_urls(text) == shown


@given(st.from_regex(r"[a-z0-9!$%^&*()_+=,.;:@-]{1,20}", fullmatch=True), st.text(max_size=20))
def test_no_password_survives(secret: str, around: str) -> None:
    """Whatever stands where a password stands does not come through."""
    shown = redact_urls(f"{around} https://user:{secret}@host/path")
    assert f"user:{secret}@" not in shown
    assert "https://host/path" in shown


def test_settings_show_no_urls() -> None:
    """The printed form (crash reports, tracebacks) holds no index address, since it may hold a password."""
    settings = IndexSettings(
        index_url="https://u:secret@h", extra_index_urls=("https://u:secret@i",), proxy="u:secret@p"
    )
    assert "secret" not in repr(settings)


def test_uv_and_pip_see_the_same(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index with password, second index, folder with a blank in its name: both programs find all three packages."""
    import uv

    links = tmp_path / "my, wheels"
    make_wheel(links, "gamma", "3.0")
    with LocalIndex() as first, LocalIndex() as second:
        first.add(make_wheel(tmp_path / "built", "alpha", "1.0"))
        second.add(make_wheel(tmp_path / "built", "beta", "2.0"))
        second.add(make_wheel(tmp_path / "built", "alpha", "1.1"))
        settings = IndexSettings(
            index_url=first.with_credentials("me", "se@cret"),
            extra_index_urls=(second.url,),
            find_links=(str(links),),
        )
        monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/no")
        clean = {**home, "PIP_INDEX_URL": "http://127.0.0.1:9/no"}
        for_pip = processes.copy_environment(**{**clean, **settings.make_pip_environment()})
        processes.run_command(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-cache-dir",
                "-d",
                tmp_path / "got",
                "alpha",
                "beta",
                "gamma",
            ],
            env=for_pip,
            cwd=tmp_path,
        )
        (tmp_path / "requirements.in").write_text("alpha\nbeta\ngamma\n")
        for_uv = settings.make_uv_environment(UV_CACHE_DIR=str(tmp_path / "uv"))
        config = settings.write_uv_config(tmp_path / "uv.toml")
        pins = processes.run_command(
            [uv.find_uv_bin(), "pip", "compile", "--config-file", config, "requirements.in"],
            env=for_uv,
            cwd=tmp_path,
        ).out
    versions = {"alpha-1.1", "beta-2.0", "gamma-3.0"}
    assert {path.name.removesuffix("-py3-none-any.whl") for path in (tmp_path / "got").iterdir()} == versions
    assert versions <= {line.replace("==", "-") for line in pins.splitlines()}


def test_no_index_reaches_both(home: dict[str, str], tmp_path: Path) -> None:
    """With no-index neither program asks an index."""
    import uv

    make_wheel(tmp_path / "wheels", "gamma", "3.0")
    with LocalIndex() as index:
        index.add(make_wheel(tmp_path / "built", "gamma", "4.0"))
        settings = read_pip_settings(
            {
                **home,
                "PIP_INDEX_URL": index.url,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(tmp_path / "wheels"),
            }
        )
        (tmp_path / "in").write_text("gamma\n")
        for_uv = settings.make_uv_environment(UV_CACHE_DIR=str(tmp_path / "uv"))
        config = settings.write_uv_config(tmp_path / "uv.toml")
        pins = processes.run_command(
            [uv.find_uv_bin(), "pip", "compile", "--config-file", config, "in"],
            env=for_uv,
            cwd=tmp_path,
        )
        for_pip = processes.copy_environment(**settings.make_pip_environment())
        processes.run_command(
            [sys.executable, "-m", "pip", "download", "-d", "got", "gamma"], env=for_pip, cwd=tmp_path
        )
    assert "gamma==3.0" in pins.out
    assert (tmp_path / "got" / "gamma-3.0-py3-none-any.whl").exists()
    assert index.requests == []
    assert settings.list_index_urls() == ()
