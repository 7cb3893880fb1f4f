"""Secrets in what a kit would upload: own code, text files beside it, given wheels, params and the rendered notebook.

Wheels and sdists from an index are not read: everybody who can use the index has them, and the dummy keys of other
people's tests would stop builds. Nobody wrote a secret into binary files (weights, arrays, images), except those that
are credentials by their names.
"""

import codecs
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.adopt.recording import PART, RecordedRun
from offline_kit.checkpoints.pickle_scan import is_trusted
from offline_kit.core.errors import ProjectError
from offline_kit.core.redaction import find_secrets
from offline_kit.core.report import Reporter
from offline_kit.notebook.runtime.kit_recording import RecordedObjects
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Freeze, OwnCode

_LARGEST = 20_000_000  # bytes above which a text file is data
_LOGIN_FILE = re.compile(
    r"[._]?netrc|\.pypirc|\.npmrc|\.htpasswd|\.git-credentials|id_(rsa|dsa|ecdsa|ed25519)|stored_tokens"
    r"|kaggle\.json|access_token|(application_default_)?credentials\.json|secrets\.(toml|json|yaml|yml)"
    r"|.*\.(pem|p12|pfx|ppk)"
)  # files that programs keep their logins in
_EXAMPLES = (".example", ".sample", ".template", ".dist")


Secrets = dict[str, str]  # the file of each line that describes a secret


def check_own_files(config: Config, own: OwnCode, text_files: Iterable[Checkpoint], report: Reporter) -> None:
    """Raise ProjectError with the position of every secret in own code and texts; warn if `trust` names the file."""
    texts = [(source.original, source.path) for source in own.sources]
    texts += [(file.original, file.path) for file in text_files if file.size <= _LARGEST]
    contents = [(name, path.read_bytes()) for name, path in texts]
    members = (member for wheel in own.wheels for member in _read_wheel(wheel.path))
    _check_files(
        config, chain(contents, ((_name_source(config, name), data) for name, data in members)), report
    )


def check_given(config: Config, freeze: Freeze, report: Reporter) -> None:
    """Raise the same for wheels that the project gives or builds itself (`./x.whl`, a folder, git, a URL)."""
    wheels = {pin.local.name: pin.local for pin in freeze.pins if pin.url and pin.local}
    members = (
        (f"{name}/{member}", data)
        for name, path in sorted(wheels.items())
        for member, data in _read_wheel(path)
    )
    _check_files(config, members, report)


def check_recorded(config: Config, recorded: RecordedRun, report: Reporter) -> None:
    """Raise the same for the files of a recording: credentials by their names, and texts of the project's own."""
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        objects = RecordedObjects(recorded.folder / PART, Path(scratch))

        def read_file(file: Mapping[str, Any]) -> tuple[str, bytes]:
            is_own_text = file["kind"] == "beside" and file["size"] <= _LARGEST
            data = objects.find_object(file["sha256"]).read_bytes() if is_own_text else b"-"
            return re.sub(r"^\{\w+\}/", "", file["path"]), data  # {working}/config.yaml

        _check_files(config, map(read_file, recorded.read_document()["files"]), report)


def check_notebook(config: Config, texts: Mapping[str, str], report: Reporter) -> None:
    """Raise the same for the rendered notebook; the position is that in the file that the user wrote, if known."""
    settings = config.notebook
    written: dict[str, str] = {}
    for path in (
        config.source,
        config.project / settings.source if settings.source else None,
        config.project / settings.template,
    ):
        if path and path.is_file():
            shown_path = path.relative_to(config.project) if path.is_relative_to(config.project) else path
            written[shown_path.as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    secrets: Secrets = {}
    for name, text in texts.items():
        for position, secret, value in _find_in_text(name, text):
            file, own_position = _find_written(written, value) or (name, position)
            secrets[f"{own_position}: {secret}"] = file
    _raise_for_secrets(config, secrets, report)


def _check_files(config: Config, contents: Iterable[tuple[str, bytes]], report: Reporter) -> None:
    secrets: Secrets = {}
    for name, data in contents:
        # Windows PowerShell 5 redirects into UTF-16: `echo ... > .env`
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        is_binary = b"\0" in data[:8192] and not wide
        text = "" if is_binary else data.decode("utf-16" if wide else "utf-8", errors="replace")
        lines = [f"{position}: {secret}" for position, secret, _ in _find_in_text(name, text)]
        if not lines and data.strip() and _is_login_file(name):
            lines = [f"{name}: a credentials file, by its name"]
        secrets |= dict.fromkeys(lines, name)
    _raise_for_secrets(config, secrets, report)


def _raise_for_secrets(config: Config, secrets: Secrets, report: Reporter) -> None:
    refused = {line: file for line, file in secrets.items() if not is_trusted(file, config.trust)}
    for line in (line for line in secrets if line not in refused):
        report.warn(f"{line}; uploaded because `trust` names the file")
    if refused:
        names = ", ".join(f'"{file}"' for file in dict.fromkeys(refused.values()))
        raise ProjectError(
            "a secret would be uploaded"
            if len(refused) == 1
            else f"{len(refused)} secrets would be uploaded",
            code="secret-in-upload",
            hint="delete it, and revoke it if others have seen it; an offline notebook needs no login. If it is no secret, set"
            f" trust = [{names}] in [tool.offline-kit]",
            details=list(refused),
        )


def _find_in_text(name: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each secret: its position, what it is, and its value."""
    for prefix, source in _split_text(name, text):
        for secret in find_secrets(source):
            words = f"{secret.kind} in '{secret.name}'" if secret.name else secret.kind
            line = source.count("\n", 0, secret.start) + 1
            yield f"{prefix}{line}", words, source[secret.start : secret.end]


def _read_wheel(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a wheel that are small enough to be texts."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.file_size <= _LARGEST and not member.is_dir():
                yield member.filename, archive.read(member)


def _name_source(config: Config, member: str) -> str:
    """Return the file of the project that a wheel's member was built from, if it is known, else the member."""
    project = config.project.resolve()
    for root in (root for package in config.packages for root in (package / "src", package)):
        if (root / member).is_file():
            path = (root / member).resolve()
            return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)
    return member


def _is_login_file(name: str) -> bool:
    path = PurePosixPath(name)
    base = path.name.lower()
    dotenv = base in (".env", "env") or base.startswith(".env.") or base.endswith(".env")
    hub = base == "token" and path.parent.name in ("huggingface", ".huggingface")
    return bool(_LOGIN_FILE.fullmatch(base)) or hub or (dotenv and not base.endswith(_EXAMPLES))


def _split_text(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield what precedes a line number, and the text; of a notebook each cell and each output, unescaped."""
    if name.endswith(".ipynb"):
        try:
            cells = json.loads(text)["cells"]
            sources = ["".join(cell.get("source", "")) for cell in cells]
            outputs = [json.dumps(cell["outputs"]) for cell in cells if cell.get("outputs")]
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # no notebook: read as any other text
        else:
            yield from ((f"{name}: cell {number}, line ", source) for number, source in enumerate(sources, 1))
            yield from ((f"{name}: output, line ", source) for source in outputs)
            return
    yield f"{name}:", text


def _find_written(written: Mapping[str, str], value: str) -> tuple[str, str] | None:
    """Return the file of the user's that holds the secret, and its position there."""
    for name, text in written.items():
        for position, _, found_value in _find_in_text(name, text):
            if found_value == value:
                return name, position
    return None
