"""Secrets in what a kit would upload: own code, text files beside it, given wheels, params and the rendered notebook.

Wheels and sdists from an index are not read: everybody who can use the index has them, and the dummy keys of other
people's tests would stop builds. Binary files (weights, arrays, images) hold no text that anybody wrote a secret into.
"""

import codecs
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from offline_kit.checkpoints.pickle_scan import is_trusted
from offline_kit.core.errors import ProjectError
from offline_kit.core.redaction import Secret, find_secrets
from offline_kit.core.report import Reporter
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Freeze, OwnCode

_LARGEST = 20_000_000
"""Bytes above which a text file is data."""
_NAMES = frozenset(
    [
        "netrc",
        "_netrc",
        ".netrc",
        ".pypirc",
        "kaggle.json",
        ".git-credentials",
        ".npmrc",
        ".htpasswd",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "application_default_credentials.json",
        "stored_tokens",
        "credentials.json",
        "secrets.toml",
        "secrets.json",
        "secrets.yaml",
        "secrets.yml",
    ]
)
"""Files that programs keep their logins in."""
_EXAMPLES = (".example", ".sample", ".template", ".dist")


def check_own_files(config: Config, own: OwnCode, text_files: Iterable[Checkpoint], report: Reporter) -> None:
    """Raise ProjectError with file and line of every secret in own code and in text files that travel with it.

    Files that a glob of `trust` names may hold some: then it is said.
    """
    _raise_for_secrets(config, [*_secrets_of_code(config, own), *_secrets_of_files(text_files)], report)


def check_given(config: Config, freeze: Freeze, report: Reporter) -> None:
    """Raise the same for wheels that the project gives or builds itself (`./x.whl`, a folder, git, a URL)."""
    wheels = {pin.local.name: pin.local for pin in freeze.pins if pin.url and pin.local}
    secrets = (
        line
        for name, path in sorted(wheels.items())
        for member, data in _wheel_members(path)
        for line in _secrets_of_bytes(f"{name}/{member}", data)
    )
    _raise_for_secrets(config, secrets, report)


def check_notebook(config: Config, texts: Mapping[str, str], report: Reporter) -> None:
    """Raise the same for the rendered notebook; a secret is named where the user wrote it."""
    written = _written_by_user(config)
    problems: dict[str, None] = {}
    for name, text in texts.items():
        for cell_name, source in _text_pieces(name, text):
            for secret in find_secrets(source):
                value = source[secret.start : secret.end]
                location = _first_place(written, value) or f"{cell_name}{_line_number(source, secret)}"
                problems[f"{location}: {_describe_secret(secret)}"] = None
    _raise_for_secrets(config, problems, report)


def _raise_for_secrets(config: Config, secrets: Iterable[str], report: Reporter) -> None:
    lines = list(dict.fromkeys(secrets))
    trusted = [line for line in lines if is_trusted(_file_of(line), config.trust)]
    for line in trusted:
        report.warn(f"{line}; uploaded because `trust` names the file")
    if left := [line for line in lines if line not in trusted]:
        names = ", ".join(f'"{name}"' for name in dict.fromkeys(map(_file_of, left)))
        raise ProjectError(
            "a secret would be uploaded" if len(left) == 1 else f"{len(left)} secrets would be uploaded",
            code="secret-in-upload",
            hint="delete it, and revoke it if others have seen it; an offline notebook needs no login. If it is no secret, set"
            f" trust = [{names}] in [tool.offline-kit]",
            details=left,
        )


def _file_of(line: str) -> str:
    name = line.partition(": ")[0]
    stem, _, number = name.rpartition(":")
    return stem if number.isdigit() else name


def _describe_secret(secret: Secret) -> str:
    return f"{secret.kind} in '{secret.name}'" if secret.name else secret.kind


def _line_number(text: str, secret: Secret) -> str:
    return f":{text.count(chr(10), 0, secret.start) + 1}"


def _secrets_of_code(config: Config, own: OwnCode) -> Iterator[str]:
    for file in own.sources:
        yield from _secrets_of_bytes(file.original, file.path.read_bytes())
    for wheel in own.wheels:
        for member, data in _wheel_members(wheel.path):
            yield from _secrets_of_bytes(_source_of(config, member), data)


def _wheel_members(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a wheel that are small enough to be texts."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.file_size <= _LARGEST and not member.is_dir():
                yield member.filename, archive.read(member)


def _source_of(config: Config, member: str) -> str:
    """Return a wheel's member as the path of the project that it comes from, if one is known."""
    for package in config.packages:
        for root in (package / "src", package):
            if (root / member).is_file():
                path = (root / member).resolve()
                inside = path.is_relative_to(config.project.resolve())
                return path.relative_to(config.project.resolve()).as_posix() if inside else str(path)
    return member


def _secrets_of_files(text_files: Iterable[Checkpoint]) -> Iterator[str]:
    for file in text_files:
        if file.size <= _LARGEST:
            yield from _secrets_of_bytes(file.original, file.path.read_bytes())


def _secrets_of_bytes(name: str, data: bytes) -> Iterator[str]:
    # Windows PowerShell 5 redirects into UTF-16: `echo ... > .env`
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in data[:8192] and not wide:
        return
    text = data.decode("utf-16" if wide else "utf-8", errors="replace")
    has_text = False
    for cell_name, source in _text_pieces(name, text):
        for secret in find_secrets(source):
            has_text = True
            yield f"{cell_name}{_line_number(source, secret)}: {_describe_secret(secret)}"
    if not has_text and text.strip() and _keeps_logins(name):
        yield f"{name}: a credentials file, by its name"


def _keeps_logins(name: str) -> bool:
    path = PurePosixPath(name)
    base = path.name.lower()
    dotenv = base in (".env", "env") or base.startswith(".env.") or base.endswith(".env")
    hub = base == "token" and path.parent.name in ("huggingface", ".huggingface")
    return base in _NAMES or hub or (dotenv and not base.endswith(_EXAMPLES))


def _text_pieces(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield a text with its name; of a notebook, each cell and each output as they read."""
    if not name.endswith(".ipynb"):
        yield name, text
        return
    try:
        cells = json.loads(text)["cells"]
        sources = ["".join(cell.get("source", "")) for cell in cells]
        outputs = [json.dumps(cell["outputs"]) for cell in cells if cell.get("outputs")]
    except (ValueError, TypeError, KeyError, AttributeError):
        yield name, text
        return
    yield from ((f"{name}: cell {number}, line ", source) for number, source in enumerate(sources, 1))
    yield from ((f"{name}: output, line ", source) for source in outputs)


def _written_by_user(config: Config) -> dict[str, str]:
    """Return the texts that a notebook is rendered from, by their paths in the project."""
    settings = config.notebook
    template = config.project / settings.template
    paths = [config.source, config.project / settings.source if settings.source else None, template]
    texts = {}
    for path in paths:
        if path and path.is_file():
            shown_path = path.relative_to(config.project) if path.is_relative_to(config.project) else path
            texts[shown_path.as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return texts


def _first_place(written: Mapping[str, str], value: str) -> str:
    for name, text in written.items():
        for cell_name, source in _text_pieces(name, text):
            start = source.find(value)
            if start >= 0:
                number = source.count("\n", 0, start) + 1
                return f"{cell_name}{number}" if cell_name != name else f"{name}:{number}"
    return ""
