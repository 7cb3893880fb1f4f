"""Make the environments of a rehearsal: the kernel's with the image's versions, and papermill's own.

uv makes them in the cache, one for each set of packages; they are mounted read-only. The image's versions override
every requirement, because the packages of the image itself do not all agree with each other.
"""

import hashlib
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes.box import SYSTEM, Mount
from offline_kit.packages.pip_settings import IndexSettings, redact_urls
from offline_kit.project.images import Image

TORCH_CPU = "https://download.pytorch.org/whl/cpu"
"""Index of torch without CUDA libraries (https://pytorch.org/get-started/locally/); blocked in some networks."""
# uv logs this with -v for each package that it would have to download:
_UNCACHED = re.compile(r"Identified uncached distribution: (\S+?)==")
_INSPECT = """
import importlib.metadata, json, os, platform, re, sys
names = {}
for d in importlib.metadata.distributions():
    name = d.metadata["Name"] if d.metadata else None
    if name:
        names.setdefault(re.sub(r"[-_.]+", "-", name).lower(), d.version)
print(json.dumps({
    "version": platform.python_version(), "prefix": sys.prefix, "base": [sys.base_prefix, sys.base_exec_prefix],
    "home": os.path.dirname(os.path.realpath(sys._base_executable)),
    "sites": [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")],
    "packages": names,
}))
"""


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """Where packages come from, where environments are kept, and what may be downloaded."""

    index: IndexSettings
    cache: Path
    yes: bool = False
    ask_above: int = 500_000_000  # bytes to download without confirmation
    report: Reporter = SILENT


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python interpreter on this machine, and what a sandbox must mount for it."""

    path: Path
    version: str
    packages: Mapping[str, str]  # version by normalized name
    mounts: tuple[Mount, ...]  # folders that it needs, read-only and at their own paths
    links: Mapping[str, str]
    home: str = ""  # folder of the executable that its environment is based on
    sites: tuple[str, ...] = ()  # folders of its packages
    is_venv: bool = False

    @property
    def minor(self) -> str:
        """Its minor version, such as "3.13"."""
        return ".".join(self.version.split(".")[:2])

    def list_scripts(self) -> list[Path]:
        """Return the programs of its virtual environment."""
        return sorted(self.path.parent.iterdir()) if self.is_venv else []


def make_kernel_environment(
    image: Image, packages: Sequence[str], options: EnvironmentOptions
) -> Interpreter:
    """Return the Python of an environment with ipykernel and `packages`, at the image's versions.

    Raises ProjectError if this machine does not have the image's Python; UsageError if a large download was
    not confirmed; OutsideError if the index or the disk refused.
    """
    python = interpreters.find_interpreter(image.python_minor)
    if python is None:
        raise ProjectError(
            f"the image '{image.name}' runs Python {image.python_minor}, and this machine has none",
            hint=f"run `uv python install {image.python_minor}`, or use the running environment with --env current",
            code="python-not-found",
        )
    # torch from PyPI pins its own CUDA libraries, at other versions than the image has: with the image's, `import torch`
    # fails with "libcufile.so.0: cannot open shared object file". So they are not overridden; a CPU build has none.
    names = {name for name in packages if not _is_cuda_library(name)}
    versions = {name: image.public_version(name) for name in image.packages if not _is_cuda_library(name)}
    maker = _EnvironmentMaker(
        kind="kernel",
        names=tuple(sorted({*names, "ipykernel", "pip", "setuptools"})),
        overrides={name: version for name, version in versions.items() if version and name != "triton"},
        python=python,
        options=options,
    )
    return inspect_interpreter(maker.ensure_environment())


def _is_cuda_library(name: str) -> bool:
    # nvidia-ml-py is pure Python (pynvml)
    return name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py"


def make_papermill_environment(options: EnvironmentOptions) -> Interpreter:
    """Return the Python of papermill's own environment, which keeps its dependencies away from the kernel's."""
    # Not sys.executable: its environment may be deleted, and others with the same Python share this one.
    python = interpreters.find_interpreter("{}.{}".format(*sys.version_info)) or Path(sys.executable)
    maker = _EnvironmentMaker(kind="papermill", names=("papermill>=2.7,<3",), python=python, options=options)
    return inspect_interpreter(maker.ensure_environment())


def make_layer(packages: Sequence[str], python: Path, options: EnvironmentOptions) -> Path:
    """Return a folder with these packages for this interpreter, to append to sys.path."""
    maker = _EnvironmentMaker(kind="layer", names=tuple(packages), python=python, options=options)
    env = maker.ensure_environment().parent.parent
    return next(env.glob("lib/python*/site-packages"), env / "Lib" / "site-packages")


@dataclass(frozen=True, kw_only=True)
class _EnvironmentMaker:
    """What an environment must contain, and how it gets there; equal contents share one lock."""

    kind: str
    names: tuple[str, ...]
    python: Path
    options: EnvironmentOptions
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def fallback_hint(self) -> str:
        """Second half of a hint; empty if no other environment can be used."""
        return ", or use the running environment with --env current" if self.overrides else ""

    def ensure_environment(self) -> Path:
        """Return the Python of the environment; make the environment first if it is not in the cache."""
        lock = self.resolve_lock()
        key = hashlib.sha256(lock.read_bytes() + str(self.python).encode()).hexdigest()[:20]
        env_folder = self.options.cache / "environments" / f"{self.kind}-{key}"
        python = (
            Path("env", "Scripts", "python.exe") if sys.platform == "win32" else Path("env", "bin", "python")
        )
        with files.hold_lock(env_folder.with_name(f"{env_folder.name}.lock"), timeout=3600):
            if not (env_folder / python).exists():
                self._confirm_download(lock)
                with files.stage_folder(env_folder) as folder:
                    self._install_environment(lock, folder / "env")
            env_folder.touch()  # `offline-kit cache prune` deletes by age
        return env_folder / python

    def _install_environment(self, lock: Path, env: Path) -> None:
        try:
            # --relocatable: the finished environment is renamed (https://docs.astral.sh/uv/reference/cli/#uv-venv).
            self._run_uv(["venv", "--relocatable", "--no-project", "--python", self.python, env])
            words: list[str | Path] = ["pip", "install", "--python", env, "--no-deps", "--compile-bytecode"]
            self._run_uv([*words, "-r", lock.with_name("pins.txt")], torch=_is_from_torch_index(lock))
        except OfflineKitError as error:
            messages = [redact_urls(line) for line in error.details] or [error.what]
            raise files.full_cache_error(messages, self.options.cache) or OutsideError(
                "the environment of the rehearsal could not be installed",
                hint=f"fix what uv reports above{self.fallback_hint}",
                code="environment-install-failed",
                details=messages,
            ) from error

    def _confirm_download(self, lock: Path) -> None:
        """Show the size of the download; raise UsageError if it is large and was not confirmed."""
        with tempfile.TemporaryDirectory(prefix="offline-kit.") as target:
            words: list[str | Path] = ["pip", "install", "-v", "--dry-run", "--no-deps", "--target", target]
            words += ["--python", self.python, "-r", lock.with_name("pins.txt")]
            dry_run = self._run_uv(words, torch=_is_from_torch_index(lock), check=False)
        if "Would download" not in dry_run.err:
            return
        sizes = {item["name"]: _find_size(item) for item in tomllib.loads(lock.read_text())["packages"]}
        uncached = {name for name in _UNCACHED.findall(dry_run.err) if name in sizes}
        sizes = {name: sizes[name] for name in uncached or sizes}
        total = sum(sizes.values())
        total_size = files.format_size(total) if total else "of unknown size"
        text = f"{len(sizes)} packages ({total_size}) for the {self.kind} environment of the rehearsal"
        if total > self.options.ask_above and not self.options.yes:
            largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
            largest_sizes = ", ".join(f"{name} {files.format_size(sizes[name])}" for name in largest)
            if not self.options.report.confirm(f"Download {text} ({largest_sizes}, ...)?"):
                raise UsageError(
                    f"{text} must be downloaded",
                    hint="confirm with --yes, or use the running environment with --env current",
                    code="download-not-confirmed",
                    details=[f"largest: {largest_sizes}"],
                )
        self.options.report.step(f"downloading {text}")

    def resolve_lock(self) -> Path:
        """Return the lock (pylock.toml, PEP 751) from the cache; resolve it if it is not there."""
        index, report = self.options.index, self.options.report
        locations = (index.list_index_urls(), *index.find_links)
        identity = ("with pins.txt", self.names, sorted(self.overrides.items()), str(self.python), *locations)
        key = hashlib.sha256(repr(identity).encode()).hexdigest()[:20]
        lock = self.options.cache / "environments" / "locks" / key / "pylock.toml"
        if lock.is_file():
            return lock
        report.step(f"resolving an environment: {', '.join(self.names[:6])}, ...")
        with files.stage_folder(lock.parent) as folder:
            compiled = self._compile_lock(folder)
            if not compiled.succeeded:
                messages = [redact_urls(line) for line in compiled.last_lines()]
                raise files.full_cache_error(messages, self.options.cache) or OutsideError(
                    "the environment of the rehearsal could not be resolved",
                    hint=f"check the network and the index{self.fallback_hint}",
                    code="environment-unresolvable",
                    details=messages,
                )
            text = (folder / "pylock.toml").read_text()
            # torch from PyPI depends on gigabytes of nvidia-* packages.
            if "nvidia-" in text and not index.no_index:
                if not self._compile_lock(folder, torch=True).succeeded:
                    report.note(f"torch is installed with its CUDA libraries: {TORCH_CPU} cannot be reached")
                    (folder / "pylock.toml").write_text(text)
                text = (folder / "pylock.toml").read_text()
            # uv looks up plain pins in its cache by version; the URLs in a lock miss what came from another index.
            pins = [f"{item['name']}=={item['version']}\n" for item in tomllib.loads(text)["packages"]]
            (folder / "pins.txt").write_text("".join(pins))
        return lock

    def _compile_lock(self, folder: Path, *, torch: bool = False) -> processes.CompletedCommand:
        (folder / "wanted.in").write_text("\n".join(self.names) + "\n")
        lines = [f"{name}=={version}\n" for name, version in sorted(self.overrides.items())]
        (folder / "overrides.txt").write_text("".join(lines))
        words: list[str | Path] = ["pip", "compile", "wanted.in", "--override", "overrides.txt", "--quiet"]
        words += ["--format", "pylock.toml", "--output-file", "pylock.toml", "--python", self.python]
        # A firewall that drops packets would block for uv's default of 30 s and 3 retries.
        patience = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"} if torch else {}
        return self._run_uv(words, cwd=folder, torch=torch, check=False, **patience)

    def _run_uv(
        self,
        words: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        torch: bool = False,
        check: bool = True,
        **variables: str,
    ) -> processes.CompletedCommand:
        index = self.options.index
        env = index.make_uv_environment(UV_PREVIEW_FEATURES="pylock", **variables)
        if torch:
            others = (index.index_url, *index.extra_index_urls)
            index = replace(index, index_url=TORCH_CPU, extra_index_urls=others)
        with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
            config = index.write_uv_config(Path(scratch) / "uv.toml")
            argv = [interpreters.uv_program(), *words, "--config-file", config]
            return processes.run_command(argv, cwd=cwd, env=env, timeout=3600, check=check)


def _is_from_torch_index(lock: Path) -> bool:
    return TORCH_CPU.split("/")[2] in lock.read_text()


def _find_size(package: Mapping[str, Any]) -> int:
    """Return the size of the largest wheel, else of the sdist; 0 if the index does not give it."""
    candidates = package.get("wheels") or [package.get("sdist") or package.get("archive") or {}]
    return max(int(candidate.get("size", 0)) for candidate in candidates)


def inspect_interpreter(path: Path) -> Interpreter:
    """Run an interpreter to read its prefix, version and packages; raise OutsideError if it does not run."""
    try:
        answer = processes.run_command(
            [path, "-c", _INSPECT],
            env=processes.copy_environment(PYTHONPATH=None, PYTHONHOME=None),
            timeout=60,
        )
        facts = json.loads(answer.out.strip().splitlines()[-1])
    except (OfflineKitError, ValueError, IndexError) as error:
        raise OutsideError(
            f"the Python '{path}' does not run: {error}",
            hint=f"run '{path} --version' and reinstall it if that fails",
            code="python-not-usable",
        ) from error
    prefixes = [Path(facts["prefix"]), *map(Path, facts["base"])]
    folders = {folder for prefix in prefixes for folder in (prefix, prefix.resolve()) if _is_hidden(folder)}
    outermost = [folder for folder in folders if not folders.intersection(folder.parents)]
    # The links from `path` to the real file that lie outside the mounted folders.
    links, link = dict[str, str](), path
    while link.is_symlink():
        target = link.readlink()
        if _is_hidden(link.parent) and not folders.intersection(link.parents):
            links[str(link)] = str(target)
        link = link.parent / target
    return Interpreter(
        path=path,
        version=facts["version"],
        packages=facts["packages"],
        mounts=tuple(Mount(inside=str(folder), source=folder.resolve()) for folder in sorted(outermost)),
        links=links,
        home=facts["home"],
        sites=tuple(facts["sites"]),
        is_venv=facts["prefix"] != facts["base"][0],
    )


def _is_hidden(folder: Path) -> bool:
    """Whether the sandbox does not already show this folder as part of the system."""
    return len(folder.parts) > 1 and folder.parts[1] not in SYSTEM and folder.is_dir()
