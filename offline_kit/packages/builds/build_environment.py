"""A temporary environment in which a build runs, without secrets or network."""

import os
import re
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.sandboxes import leftovers
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.confined_build import Confinement
from offline_kit.packages.wheel_files import EPOCH
from offline_kit.project.types import Wheel

if TYPE_CHECKING:
    from build import ProjectBuilder

_PASSED_VARIABLES = (
    "PATH LANG LD_LIBRARY_PATH LIBRARY_PATH CPATH PKG_CONFIG_PATH CC CXX FC AR CFLAGS CXXFLAGS CPPFLAGS LDFLAGS "
    "CUDA_HOME CUDA_PATH RUSTUP_HOME JAVA_HOME SDKROOT MACOSX_DEPLOYMENT_TARGET "
    "SYSTEMROOT SYSTEMDRIVE COMSPEC PATHEXT PROCESSOR_ARCHITECTURE NUMBER_OF_PROCESSORS INCLUDE LIB"
)
_OFFLINE_VARIABLES = {
    # Port 9 is "discard": nothing listens there, so every request fails at once.
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "CARGO_NET_OFFLINE": "true",
    "GOPROXY": "off",
}
# The wording of glibc, cargo, pip, urllib and requests.
_WANTS_NETWORK = re.compile(
    r"name resolution|resolve host|resolving DNS|dns error|Network is unreachable|getaddrinfo|127\.0\.0\.1:9|"
    r"--offline was specified|offline mode|Connection refused|ConnectionError|URLError|No matching distribution found",
    re.IGNORECASE,
)
# The wording of Python, cargo and maturin, setuptools, gcc, and CMake.
_CAUSES = (
    (re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'"), "its build imports '{0}' without requiring it"),
    (re.compile(r"(?:cargo|rustc)\W.{0,80}(?:not found|not installed|No such file)|can't find Rust compiler", re.I), "its build needs Rust"),
    (re.compile(r"\b(?:command '(?:\S*/)?(x86_64-linux-gnu-gcc|gcc|cc|clang|g\+\+|c\+\+)' failed: No such|unable to execute '(gcc|cc|clang)')"), "its build needs a C compiler"),
    (re.compile(r"fatal error: (\S+\.h(?:pp)?): No such file"), "its build needs the C header '{0}'"),
    (re.compile(r"\bcmake\b.{0,60}(?:not found|No such file)|CMake must be installed", re.I), "its build needs CMake"),
)  # fmt: skip
# Packages that extensions are compiled against; one compiled against another build than the image's does not load.
FRAMEWORKS = ("torch", "torchvision", "torchaudio", "tensorflow", "jax", "jaxlib")
_FRAMEWORK_NEEDED = re.compile(
    rf"\b({'|'.join(FRAMEWORKS)})\s?<\s?0|No module named '({'|'.join(FRAMEWORKS)})'"
)
# Hint for a package that is compiled against a framework of the image.
WITH_FRAMEWORK = "name a release wheel that fits the image (./name.whl), or build it on Kaggle ('offline-kit build --on kaggle')"


def find_framework(text: str) -> str:
    """Return the framework that a build misses by its output; empty for none."""
    match = _FRAMEWORK_NEEDED.search(text)
    return next(filter(None, match.groups()), "") if match else ""


class BuildFailedError(Exception):
    """A build failed; callers turn it into an error that names the package.

    `reason` is one sentence without a capital ("its build needs Rust"), `tail` the last lines of the log, and
    `wants_network` whether the build seems to have tried to use the network.
    """

    def __init__(self, reason: str, tail: Sequence[str], *, wants_network: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.tail, self.wants_network = reason, tuple(tail), wants_network


def clean_environment(scratch: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for third-party code: the same tools, but home and temporary files in `scratch`.

    Only names on a list are passed on, so no token, key or setting of the user is.
    """
    env = {name: value for name, value in outside.items() if name.upper() in _PASSED_VARIABLES.split()}
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        env[name] = str(scratch)
    # cargo is a proxy of rustup, which looks for toolchains in RUSTUP_HOME, by default ~/.rustup.
    rustup = Path(outside.get("HOME", "")) / ".rustup"
    if "RUSTUP_HOME" not in env and rustup.is_dir():
        env["RUSTUP_HOME"] = str(rustup)
    # For equal wheels everywhere: no dates, no paths of this machine, no order of sets, see
    # https://reproducible-builds.org/docs/source-date-epoch/
    env |= {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    # Debug information and __FILE__ would hold the temporary folder: gcc.gnu.org/onlinedocs/gcc/Overall-Options.html
    flags = f"-g0 -ffile-prefix-map={scratch}=."
    if sys.platform == "linux":
        env |= {name: f"{env.get(name, '')} {flags}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    return env


def unpack_sdist(path: Path, folder: Path, *, filename: str = "") -> Path:
    """Unpack an archive of sources below `folder` and return the project's folder; ProjectError for a damaged one.

    `filename` is its original name if it is a blob of the cache.
    """
    filename = filename or path.name
    hint = f"exclude '{filename.rpartition('-')[0] or filename}', or choose another version of it"
    try:
        if filename.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)  # noqa: S202 (zipfile removes ".." itself)
        else:
            with tarfile.open(path) as archive:
                # Python before 3.11.4 has no extraction filters (PEP 706).
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                archive.extractall(folder)  # noqa: S202 (filtered)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise ProjectError(
            f"the sdist '{filename}' cannot be unpacked: {error}", code="archive-unreadable", hint=hint
        ) from error
    inside = list(folder.iterdir())
    top = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
    if not any((top / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg")):
        raise ProjectError(
            f"the sdist '{filename}' has neither pyproject.toml nor setup.py", code="sdist-invalid", hint=hint
        )
    return top


def read_static_requires(source: Path) -> set[str]:
    """Return build-system.requires; raise BuildFailedError for an invalid pyproject.toml."""
    import build

    try:
        requires = build.ProjectBuilder(source).build_system_requires
    except build.BuildException as error:
        raise BuildFailedError("its pyproject.toml is not valid", [str(error)]) from error
    # setuptools before 70.1 needs the package wheel, and the default requirement of the package build is setuptools alone.
    return requires if (source / "pyproject.toml").is_file() else requires | {"wheel"}


@dataclass(frozen=True, kw_only=True)
class BuildEnvironment:
    """A temporary environment with exactly the wheels that were synced into it."""

    python: Path
    scratch: Path  # is deleted with the environment
    env: Mapping[str, str]  # of every command
    log: Path  # receives the output of every command
    prefix: tuple[str, ...] | None = None  # before each command of the user's own build; None: confined

    def sync_wheels(self, wheels: Sequence[Wheel]) -> None:
        """Install exactly these wheels; raise BuildFailedError if one cannot be installed."""
        lines = []
        for wheel in wheels:
            # uv reads name, version and tags from the file name; a blob of the cache is named by its hash.
            link = self.scratch / "wheels" / wheel.filename
            if not link.exists():
                files.link_or_copy(wheel.path, link)
            lines.append(f"{wheel.name} @ {link.as_uri()}\n")
        listed = self.scratch / "wheels.txt"
        listed.write_text("".join(lines), encoding="utf-8")
        # Copies: with hard links a build could change the files in uv's cache.
        options = ("--python", self.python, "--no-index", "--allow-empty-requirements", "--link-mode", "copy")
        self.run_uv("pip", "sync", "--quiet", *options, listed)

    def run_uv(self, *words: str | Path) -> None:
        """Run uv without network and configuration; raise BuildFailedError if it fails."""
        outside = processes.copy_environment()
        passed = ("UV_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")
        env = {**self.env, **{name: outside[name] for name in passed if name in outside}}
        env |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_OFFLINE": "1", "NO_COLOR": "1"}
        argv = [interpreters.uv_program(), *words]
        try:
            processes.run_command(argv, env=env, cwd=self.scratch, log=self.log, timeout=600)
        except OfflineKitError as error:
            raise read_failure(self.log, "; ".join((error.what, *error.details))) from error

    def build_wheel(self, source: Path, folder: Path) -> Path:
        """Build a wheel from the sources; raise BuildFailedError if that fails."""
        with self.open_builder(source) as builder:
            wheel = Path(builder.build("wheel", folder))
        # A third-party build could leave a link to a file of this machine instead.
        if not leftovers.is_regular(wheel):
            raise BuildFailedError("its build leaves no wheel that is a regular file", [wheel.name])
        return wheel

    @contextmanager
    def open_builder(self, source: Path) -> "Iterator[ProjectBuilder]":
        """Yield what runs the hooks of the build backend (PEP 517); raise BuildFailedError if one fails."""
        import build

        try:
            with warnings.catch_warnings():
                # The backend's warnings are for its author, and are in the log.
                warnings.simplefilter("ignore")
                yield build.ProjectBuilder(source, python_executable=str(self.python), runner=self._run_hook)
        except (build.BuildException, build.BuildBackendException) as error:
            raise read_failure(self.log, str(error)) from error

    def _run_hook(
        self, cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None
    ) -> None:
        env = {**self.env, **(extra_environ or {})}
        folder = Path(cwd or self.scratch)
        if self.prefix is not None:
            processes.run_command([*self.prefix, *cmd], cwd=folder, env=env, log=self.log, timeout=3600)
            return
        # The last word is the folder in which pyproject_hooks exchanges input.json and output.json.
        exchange = (Path(cmd[-1]),) if Path(cmd[-1]).is_dir() else ()
        shown = confined_build.list_python_folders(self.python)
        limits = Confinement(env=env, cwd=folder, writable=(self.scratch, *exchange), shown=shown)
        result = confined_build.run_confined(cmd, limits, log=self.log, timeout=3600)
        if not result.succeeded:
            raise processes.CommandError(result)


def read_failure(log: Path, otherwise: str) -> BuildFailedError:
    """Return the failure that a log shows, its cause named if it is a common one."""
    text = log.read_text(errors="replace") if log.exists() else ""
    tail = [line for line in text.splitlines() if line.strip()][-15:] or [otherwise]
    wants_network = bool(_WANTS_NETWORK.search(text))
    reason = "its build needs the network" if wants_network else "its build failed"
    for pattern, sentence in _CAUSES:
        if match := pattern.search(text):
            reason = sentence.format(*match.groups())
            break
    return BuildFailedError(reason, tail, wants_network=wants_network)


@contextmanager
def create_build_environment(
    python: Path,
    wheels: Sequence[Wheel],
    *,
    log: Path,
    own: bool = False,
    network: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[BuildEnvironment]:
    """Create an environment of this interpreter with only these wheels, and delete it afterwards.

    `own` builds are the user's and may read this machine's files; all others are confined. Without `network`,
    which only own builds can have, the network is cut if the system can do that, else discouraged by variables.
    Raises BuildFailedError if a wheel cannot be installed.
    """
    confined = not own and confined_build.is_confined()
    with tempfile.TemporaryDirectory(prefix="offline-kit-build-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        env = clean_environment(scratch, processes.copy_environment())
        env |= {**({} if network else _OFFLINE_VARIABLES), **variables}
        env["HOME"] = str(files.make_folder(scratch / "home"))
        env_folder = scratch / "env"
        # Virtual environments have Scripts on Windows and bin elsewhere (sysconfig, scheme "venv").
        programs = env_folder / ("Scripts" if sys.platform == "win32" else "bin")
        env |= {"PATH": os.pathsep.join((str(programs), env.get("PATH", ""))), "VIRTUAL_ENV": str(env_folder)}
        environment = BuildEnvironment(
            python=programs / ("python.exe" if sys.platform == "win32" else "python"),
            scratch=scratch,
            env=env,
            log=log,
            prefix=None if confined else () if network else confined_build.make_offline_prefix(),
        )
        environment.run_uv("venv", "--quiet", "--no-project", "--python", python, env_folder)
        environment.sync_wheels(wheels)
        yield environment
