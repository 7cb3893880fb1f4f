"""A workshop: a throwaway environment in which somebody else's build runs, without secrets or network."""

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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from offline_kit.core import files, interpreters, processes
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.sandboxes import leftovers
from offline_kit.packages.builds import confined_build
from offline_kit.packages.builds.confined_build import Confinement
from offline_kit.packages.wheel_files import EPOCH
from offline_kit.project.types import Sdist, Wheel

if TYPE_CHECKING:
    from build import ProjectBuilder

_PASSED = (
    "PATH LANG LD_LIBRARY_PATH LIBRARY_PATH CPATH PKG_CONFIG_PATH CC CXX FC AR CFLAGS CXXFLAGS CPPFLAGS LDFLAGS "
    "CUDA_HOME CUDA_PATH RUSTUP_HOME JAVA_HOME SDKROOT MACOSX_DEPLOYMENT_TARGET "
    "SYSTEMROOT SYSTEMDRIVE COMSPEC PATHEXT PROCESSOR_ARCHITECTURE NUMBER_OF_PROCESSORS INCLUDE LIB"
)
_NETWORK = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "CARGO_NET_OFFLINE": "true",
    "GOPROXY": "off",
}
_WANTS_NETWORK = re.compile(
    r"name resolution|resolve host|resolving DNS|dns error|Network is unreachable|getaddrinfo|127\.0\.0\.1:9|"
    r"--offline was specified|offline mode|Connection refused|ConnectionError|URLError|No matching distribution found",
    re.IGNORECASE,
)
_CAUSES = (
    (re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'"), "its build imports '{0}' without asking for it"),
    (re.compile(r"(?:cargo|rustc)\W.{0,80}(?:not found|not installed|No such file)|can't find Rust compiler", re.I), "its build needs Rust"),
    (re.compile(r"\b(?:command '(?:\S*/)?(x86_64-linux-gnu-gcc|gcc|cc|clang|g\+\+|c\+\+)' failed: No such|unable to execute '(gcc|cc|clang)')"), "its build needs a C compiler"),
    (re.compile(r"fatal error: (\S+\.h(?:pp)?): No such file"), "its build needs the C header '{0}'"),
    (re.compile(r"\bcmake\b.{0,60}(?:not found|No such file)|CMake must be installed", re.I), "its build needs CMake"),
)  # fmt: skip


FRAMEWORKS = ("torch", "torchvision", "torchaudio", "tensorflow", "jax", "jaxlib")
"""What extensions are compiled against: another build of it than the image's gives a wheel that does not load."""
_AGAINST = re.compile(rf"\b({'|'.join(FRAMEWORKS)})\s?<\s?0|No module named '({'|'.join(FRAMEWORKS)})'")
WITH_FRAMEWORK = "name a release wheel that fits the image (./name.whl), or build it on Kaggle ('offline-kit build --on kaggle')"
"""The two ways to a package that is compiled against a framework of the image."""


def find_framework(text: str) -> str:
    """Return the framework that a build asked for, by what it said; empty for none."""
    match = _AGAINST.search(text)
    return next(filter(None, match.groups()), "") if match else ""


class BuildFailedError(Exception):
    """A build that ended badly: why, in one sentence, and its last lines."""

    def __init__(self, reason: str, tail: Sequence[str], *, wants_network: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        """For a person, without a capital: "its build needs Rust"."""
        self.tail = tuple(tail)
        """The last lines of the log."""
        self.wants_network = wants_network
        """It looks as if the build would go further with a network."""


@cache
def find_offline_prefix() -> tuple[str, ...]:
    """Return the words before a command that leave it without a network; empty where the system has none."""
    program = processes.find_program("unshare") if sys.platform == "linux" else None
    for flags in ("-rn", "-n"):
        if program and processes.run_command([program, flags, "true"], check=False, timeout=20).succeeded:
            return str(program), flags, "--"
    return ()


def clean_environment(scratch: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for foreign code: tools found as outside, home and temporary files in `scratch`.

    Tokens, keys and settings of the user stay behind: only names on a list are passed on.
    """
    env = {name: value for name, value in outside.items() if name.upper() in _PASSED.split()}
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        env[name] = str(scratch)
    rustup = Path(outside.get("HOME", "")) / ".rustup"
    if "RUSTUP_HOME" not in env and rustup.is_dir():
        env["RUSTUP_HOME"] = str(rustup)
    # What a build may put into its result must not depend on the day, the place or the order of a set.
    env |= {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    flags = f"-g0 -ffile-prefix-map={scratch}=."
    if sys.platform == "linux":
        env |= {name: f"{env.get(name, '')} {flags}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    return env


def unpack_sdist(sdist: Sdist, folder: Path) -> Path:
    """Unpack an sdist below `folder` and return the folder of its sources; ProjectError for a broken one."""
    try:
        if sdist.filename.endswith(".zip"):
            with zipfile.ZipFile(sdist.path) as archive:
                archive.extractall(folder)  # noqa: S202 (zipfile keeps members inside)
        else:
            with tarfile.open(sdist.path) as archive:
                # Python before 3.11.4 has no filters; what is unpacked is built, and so trusted, anyway.
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                archive.extractall(folder)  # noqa: S202 (filtered)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise ProjectError(
            f"the sdist '{sdist.filename}' cannot be unpacked: {error}",
            hint=f"exclude '{sdist.name}', or choose another version of it",
        ) from error
    inside = list(folder.iterdir())
    top = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
    if not any((top / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg")):
        raise ProjectError(
            f"the sdist '{sdist.filename}' holds neither pyproject.toml nor setup.py",
            hint=f"exclude '{sdist.name}', or choose another version of it",
        )
    return top


def read_static_requires(source: Path) -> set[str]:
    """Return what a build asks for before any of its code runs; BuildFailed for a pyproject.toml that is none."""
    import build

    try:
        requires = build.ProjectBuilder(source).build_system_requires
    except build.BuildException as error:
        raise BuildFailedError("its pyproject.toml is not valid", [str(error)]) from error
    # Old setuptools need wheel to make one; the standard default leaves it to them to ask.
    return requires if (source / "pyproject.toml").is_file() else requires | {"wheel"}


@dataclass(frozen=True, kw_only=True)
class BuildEnvironment:
    """A throwaway environment with exactly the wheels that were put into it."""

    python: Path
    """Its interpreter."""
    scratch: Path
    """A folder that goes away with it."""
    env: Mapping[str, str]
    """What a build sees."""
    log: Path
    """Everything that ran here said so in this file."""
    prefix: tuple[str, ...] | None = None
    """Words before each command of the user's own build; None: somebody else's runs in a box."""

    def sync_wheels(self, wheels: Sequence[Wheel]) -> None:
        """Let the environment hold exactly these wheels; BuildFailed where one cannot be installed."""
        lines = []
        for wheel in wheels:
            # Installers want the true name, which a cached file does not have.
            link = self.scratch / "wheels" / wheel.filename
            if not link.exists():
                files.link_or_copy(wheel.path, link)
            lines.append(f"{wheel.name} @ {link.as_uri()}\n")
        listed = self.scratch / "wheels.txt"
        listed.write_text("".join(lines), encoding="utf-8")
        options = ("--python", self.python, "--no-index", "--allow-empty-requirements", "--link-mode", "copy")
        self.run_uv("pip", "sync", "--quiet", *options, listed)

    def run_uv(self, *words: str | Path) -> None:
        """Run uv without network and configuration; BuildFailed where it does not do as told."""
        outside = processes.copy_environment()
        passed = ("UV_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")
        env = {**self.env, **{name: outside[name] for name in passed if name in outside}}
        env |= {"UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_OFFLINE": "1", "NO_COLOR": "1"}
        argv = [interpreters.uv_program(), *words]
        try:
            processes.run_command(argv, env=env, cwd=self.scratch, log=self.log, timeout=600)
        except OfflineKitError as error:
            raise self.make_failure("; ".join((error.what, *error.details))) from error

    def list_hook_requires(self, source: Path) -> tuple[str, ...]:
        """Return what the build hook asks for beyond build-system.requires; BuildFailed if it breaks."""
        with self._translate_errors():
            return tuple(sorted(self._make_builder(source).get_requires_for_build("wheel")))

    def build_wheel(self, source: Path, folder: Path) -> Path:
        """Build a wheel of the sources and return it; BuildFailed if that breaks."""
        with self._translate_errors():
            wheel = Path(self._make_builder(source).build("wheel", folder))
        if not leftovers.is_regular(wheel):
            raise BuildFailedError("its build leaves no wheel that is a regular file", [wheel.name])
        return wheel

    def _make_builder(self, source: Path) -> "ProjectBuilder":
        import build

        return build.ProjectBuilder(source, python_executable=str(self.python), runner=self._run_hook)

    def _run_hook(
        self, cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None
    ) -> None:
        env = {**self.env, **(extra_environ or {})}
        folder = Path(cwd or self.scratch)
        if self.prefix is not None:
            processes.run_command([*self.prefix, *cmd], cwd=folder, env=env, log=self.log, timeout=3600)
            return
        result = confined_build.run_confined(
            cmd,
            Confinement(
                env=env,
                cwd=folder,
                # the last word is the folder of questions and answers that pyproject_hooks makes
                writable=(self.scratch, Path(cmd[-1])) if Path(cmd[-1]).is_dir() else (self.scratch,),
                shown=confined_build.list_python_folders(self.python),
            ),
            log=self.log,
            timeout=3600,
        )
        if not result.succeeded:
            raise processes.CommandError(result)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        import build

        try:
            with warnings.catch_warnings():
                # The backend's warnings are for its author, and stand in the log.
                warnings.simplefilter("ignore")
                yield
        except (build.BuildException, build.BuildBackendException) as error:
            raise self.make_failure(str(error)) from error

    def make_failure(self, otherwise: str) -> BuildFailedError:
        """Make of the log what a person wants to read; `otherwise` stands in where it says nothing."""
        return read_failure(self.log, otherwise)


def read_failure(log: Path, otherwise: str) -> BuildFailedError:
    """Return the failure that a log tells of."""
    text = log.read_text(errors="replace") if log.exists() else ""
    tail = [line for line in text.splitlines() if line.strip()][-15:] or [otherwise]
    wants_network = bool(_WANTS_NETWORK.search(text))
    for pattern, sentence in _CAUSES:
        if match := pattern.search(text):
            return BuildFailedError(sentence.format(*match.groups()), tail, wants_network=wants_network)
    reason = "its build wants the network" if wants_network else "its build failed"
    return BuildFailedError(reason, tail, wants_network=wants_network)


def _choose_prefix(*, own: bool, network: bool) -> tuple[str, ...] | None:
    if not own and confined_build.is_confined():
        return None
    return () if network else find_offline_prefix()


@contextmanager
def create_build_environment(
    python: Path, wheels: Sequence[Wheel], *, log: Path, own: bool = False, network: bool = False
) -> Iterator[BuildEnvironment]:
    """Make an environment of this interpreter with these wheels alone, and remove it afterwards.

    Raises BuildFailed where a wheel cannot be installed (it is for another Python, say). `own`: the sources are
    the user's and may read this machine's files; others run in a box. Without `network`, which only own builds can
    have, commands get none where the system can do that, and obstacles in their way elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="offline-kit-build-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        env = clean_environment(scratch, processes.copy_environment()) | ({} if network else _NETWORK)
        env_folder = scratch / "env"
        programs = env_folder / ("Scripts" if sys.platform == "win32" else "bin")
        env |= {"PATH": os.pathsep.join((str(programs), env.get("PATH", ""))), "VIRTUAL_ENV": str(env_folder)}
        environment = BuildEnvironment(
            python=programs / ("python.exe" if sys.platform == "win32" else "python"),
            scratch=scratch,
            env=env,
            log=log,
            prefix=_choose_prefix(own=own, network=network),
        )
        environment.run_uv("venv", "--quiet", "--no-project", "--python", python, env_folder)
        environment.sync_wheels(wheels)
        yield environment
