"""The environments of a rehearsal: the kernel's at the image's versions, and papermill's own.

Made with uv, kept in the cache under a digest of their content, mounted read-only. Every version of the
image is laid over whatever asks for the package (uv's overrides), as in the image itself, where nobody
asks whether its packages agree with each other.
"""

import hashlib
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.packages.pip_settings import IndexSettings, redact_urls
from offline_kit.project.images import Image

ASK_ABOVE = 500_000_000
"""Bytes; more than this is downloaded only when it was agreed to."""
TORCH_CPU = "https://download.pytorch.org/whl/cpu"
"""torch without CUDA's gigabytes; not everybody can reach it."""
_PAPERMILL = ("papermill>=2.7,<3",)
_KERNEL = ("ipykernel", "pip", "setuptools")
_GIGABYTES = ("nvidia-", "cuda-", "triton")  # what torch of the ordinary index brings along
_UNCACHED = re.compile(r"Identified uncached distribution: (\S+?)==")


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where environments are made and kept."""

    settings: IndexSettings
    """Where packages come from."""
    cache: Path
    """Folder of the cache."""
    yes: bool = False
    """Large downloads were agreed to."""
    confirm: Callable[[str], bool] | None = None
    """Asks a person; None: nobody is there to ask."""
    ask_above: int = ASK_ABOVE
    """Bytes of download that pass without asking."""
    report: Reporter = SILENT
    """Hears what is resolved and downloaded."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What has to be resolved: the same question has the same answer for ever."""

    names: tuple[str, ...]
    overrides: Mapping[str, str]
    python: Path

    @property
    def way_around(self) -> str:
        """What helps where this environment cannot be had; nothing does where it is no image's."""
        return "; with --env current the running environment is taken instead" if self.overrides else ""

    def key(self, settings: IndexSettings) -> str:
        overrides = sorted(self.overrides.items())
        places = (settings.list_index_urls(), *settings.find_links)
        words = (self.names, overrides, str(self.python), *places)
        return hashlib.sha256(repr(words).encode()).hexdigest()[:20]


def kernel(image: Image, packages: Sequence[str], shop: Workshop) -> Path:
    """Return the Python of an environment that holds the kernel's stack and `packages` at the image's versions.

    Raises ProjectError where this machine has no such Python, UsageError where a large download was not
    agreed to, OutsideError where the index or the disk says no.
    """
    python = interpreters.find_interpreter(image.python_minor, processes.copy_environment())
    if python is None:
        raise ProjectError(
            f"the image '{image.name}' runs Python {image.python_minor}, and this machine has none",
            hint=f"`uv python install {image.python_minor}`, or rehearse in the running environment with --env current",
        )
    versions = {name: image.public_version(name) for name in image.packages}
    # An index's torch pins CUDA libraries of its own, which are not always the image's: with those, `import torch`
    # ends in "libcufile.so.0: cannot open shared object file". So torch's pins hold, and a CPU build has none.
    question = _Question(
        names=tuple(sorted({name for name in packages if not _is_cuda_library(name)} | {*_KERNEL})),
        overrides={
            name: version
            for name, version in versions.items()
            if version and not (_is_cuda_library(name) or name == "triton")
        },
        python=python,
    )
    return _made("kernel", question, shop)


def _is_cuda_library(name: str) -> bool:
    """Whether a distribution is one of the CUDA libraries that torch brings along."""
    return name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py"  # pure Python, imported as pynvml


def papermill(shop: Workshop) -> Path:
    """Return the Python of papermill's own environment: its dependencies are nobody else's."""
    # The interpreter below the running environment: another environment of it shares what is made here.
    base = interpreters.find_interpreter("{}.{}".format(*sys.version_info), processes.copy_environment())
    return _made("papermill", _question_here(_PAPERMILL, base or Path(sys.executable)), shop)


def layer(packages: Sequence[str], python: Path, shop: Workshop) -> Path:
    """Return a folder with these packages for this interpreter, to be put last on its path."""
    made = _made("layer", _question_here(packages, python), shop)
    return next(
        made.parent.parent.glob("lib/python*/site-packages"), made.parent.parent / "Lib" / "site-packages"
    )


def _question_here(names: Sequence[str], python: Path) -> _Question:
    return _Question(names=tuple(names), overrides={}, python=python)


def _made(kind: str, question: _Question, shop: Workshop) -> Path:
    """Return the Python of the environment that answers the question; made now if it is not there yet."""
    lock = _lock(question, shop)
    key = hashlib.sha256(lock.read_bytes() + str(question.python).encode()).hexdigest()[:20]
    final = shop.cache / "environments" / f"{kind}-{key}"
    python = Path("env", "Scripts", "python.exe") if sys.platform == "win32" else Path("env", "bin", "python")
    with files.hold_lock(final.with_name(f"{final.name}.lock"), timeout=3600):
        if not (final / python).exists():
            _agree(kind, lock, question, shop)
            with files.stage_folder(final) as folder:
                _install(lock, folder / "env", question, shop)
        final.touch()  # what a clean-up of the cache goes by
    return final / python


def _install(lock: Path, env: Path, question: _Question, shop: Workshop) -> None:
    try:
        # Relocatable, since it is renamed when it is whole.
        _uv(["venv", "--relocatable", "--no-project", "--python", question.python, env], shop.settings)
        words: list[str | Path] = ["pip", "install", "--python", env, "--no-deps", "--compile-bytecode", "-r"]
        _uv([*words, _pins(lock)], shop.settings, torch=_is_from_torch(lock))
    except OfflineKitError as error:
        said = [redact_urls(line) for line in error.details] or [error.what]
        if full := files.full_cache_error(said, shop.cache):
            raise full from error
        raise OutsideError(
            "the rehearsal's environment could not be installed",
            hint=f"read uv's words above{question.way_around}",
            details=said,
        ) from error


def _agree(kind: str, lock: Path, question: _Question, shop: Workshop) -> None:
    """Size what would be downloaded; raise UsageError for much of it that nobody agreed to."""
    sizes = _missing_sizes(lock, question, shop)
    total = sum(sizes.values())
    if not sizes:
        return
    told = files.format_size(total) if total else "of unknown size"
    text = f"{len(sizes)} packages ({told}) for the {kind} environment of the rehearsal"
    if total > shop.ask_above and not shop.yes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        shown = ", ".join(f"{name} {files.format_size(sizes[name])}" for name in largest)
        if not (shop.confirm and shop.confirm(f"Download {text} ({shown}, ...)?")):
            raise UsageError(
                f"{text} would have to be downloaded",
                hint="agree with --yes, or rehearse in the running environment with --env current",
                details=[f"largest: {shown}"],
            )
    shop.report.step(f"downloading {text}")


def _missing_sizes(lock: Path, question: _Question, shop: Workshop) -> dict[str, int]:
    """Return the bytes of each package that uv's cache lacks; 0 where the index tells no size."""
    with tempfile.TemporaryDirectory(prefix="offline-kit.") as nowhere:
        words: list[str | Path] = ["pip", "install", "-v", "--dry-run", "--no-deps", "--target", nowhere]
        words += ["--python", question.python, "-r", _pins(lock)]
        done = _uv(words, shop.settings, torch=_is_from_torch(lock), check=False)
    if "Would download" not in done.err:
        return {}
    sizes = {item["name"]: _size(item) for item in tomllib.loads(lock.read_text())["packages"]}
    missing = {name for name in _UNCACHED.findall(done.err) if name in sizes}
    return {name: sizes[name] for name in missing or sizes}


def _pins(lock: Path) -> Path:
    """Return the lock as plain pins beside it: for those uv finds in its cache what anybody installed before."""
    path = lock.with_name("pins.txt")
    if not path.is_file():
        packages = tomllib.loads(lock.read_text())["packages"]
        files.write_atomic(path, "".join(f"{item['name']}=={item['version']}\n" for item in packages))
    return path


def _is_from_torch(lock: Path) -> bool:
    return TORCH_CPU.split("/")[2] in lock.read_text()


def _size(package: Mapping[str, Any]) -> int:
    """Return the size of the wheel that will be taken: the lock lists fitting ones only, pure ones last."""
    files_ = package.get("wheels") or [package.get("sdist") or package.get("archive") or {}]
    return int(
        max(files_, key=lambda file: _preference(file.get("name") or file.get("url", ""))).get("size", 0)
    )


def _preference(place: str) -> int:
    try:
        tags = parse_wheel_filename(place.rpartition("/")[2])[3]
    except InvalidWheelFilename:
        return 0
    return 0 if all(tag.platform == "any" for tag in tags) else 1


def _lock(question: _Question, shop: Workshop) -> Path:
    """Resolve once per question and return the lock, a pylock.toml in the cache."""
    final = shop.cache / "environments" / "locks" / question.key(shop.settings) / "pylock.toml"
    if final.is_file():
        return final
    shop.report.step(f"resolving an environment: {', '.join(question.names[:6])}, ...")
    with files.stage_folder(final.parent) as folder:
        done = _compile(folder, question, shop)
        if not done.succeeded:
            said = [redact_urls(line) for line in done.last_lines()]
            raise files.full_cache_error(said, shop.cache) or OutsideError(
                "the rehearsal's environment could not be resolved",
                hint=f"check the network and the index{question.way_around}",
                details=said,
            )
        if _GIGABYTES[0] in (folder / "pylock.toml").read_text() and not shop.settings.no_index:
            whole = (folder / "pylock.toml").read_bytes()
            if not _compile(folder, question, shop, torch=True).succeeded:
                shop.report.note(f"torch comes with CUDA's libraries: {TORCH_CPU} cannot be reached")
                (folder / "pylock.toml").write_bytes(whole)
    return final


def _compile(
    folder: Path, question: _Question, shop: Workshop, *, torch: bool = False
) -> processes.CompletedCommand:
    (folder / "wanted.in").write_text("\n".join(question.names) + "\n")
    lines = [f"{name}=={version}\n" for name, version in sorted(question.overrides.items())]
    (folder / "overrides.txt").write_text("".join(lines))
    words: list[str | Path] = ["pip", "compile", "wanted.in", "--override", "overrides.txt", "--quiet"]
    words += ["--format", "pylock.toml", "--output-file", "pylock.toml", "--python", question.python]
    return _uv(words, shop.settings, cwd=folder, torch=torch, hasty=torch, check=False)


def _uv(
    words: Sequence[str | Path],
    settings: IndexSettings,
    *,
    cwd: Path | None = None,
    torch: bool = False,
    hasty: bool = False,
    check: bool = True,
) -> processes.CompletedCommand:
    changes = settings.make_uv_environment()
    changes |= {"NO_COLOR": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": None}
    changes["UV_PREVIEW_FEATURES"] = "pylock"
    if torch:
        changes["UV_INDEX"] = " ".join(filter(None, [TORCH_CPU, changes.get("UV_INDEX")]))
    if hasty:
        # A firewall that swallows packets must not hold up everybody who cannot reach torch's index.
        changes |= {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    argv = [interpreters.uv_program(), *words, *settings.make_uv_arguments()]
    return processes.run_command(
        argv, cwd=cwd, env=processes.copy_environment(**changes), timeout=3600, check=check
    )
