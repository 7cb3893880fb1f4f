"""Find out what pip and git fetched in a recorded session, and fetch it once more as wheels and repositories.

pip writes a report of each installation, git a trace of each process: they say addresses, hashes and depths, whichever
index, option or helper they come from. Both are asked again at once or from pip's cache, so that they return the same.
"""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .kit_recording import RECORDER, link_file, link_object, redact
from .kit_runtime import SessionFolders


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run_program(
    words: Sequence[str | Path], environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, words)], env=environ, capture_output=True, text=True, errors="replace", check=False
    )


@dataclass(frozen=True)
class InstalledPackage:
    """A package that an installer put somewhere."""

    name: str
    version: str
    origin: str
    """"index", an address, "git+ADDRESS@commit", or "folder"."""
    requirement: str
    """What pip makes the same wheel of; "" if it is a file of the session."""
    cell: int

    @classmethod
    def from_direct_url(
        cls, name: str, version: str, direct_url: Mapping[str, Any], cell: int, *, is_direct: bool = True
    ) -> "InstalledPackage":
        """Return the package of an entry of pip's report, or of its direct_url.json (PEP 610)."""
        address = str(direct_url.get("url", ""))
        folder = f"#subdirectory={direct_url['subdirectory']}" if direct_url.get("subdirectory") else ""
        if vcs := direct_url.get("vcs_info"):
            origin = f"{vcs['vcs']}+{address}@{vcs['commit_id']}"
            return cls(name, version, origin, f"{name} @ {origin}{folder}", cell)
        if not address:
            return cls(name, version, "index", f"{name}=={version}", cell)
        if address.startswith("file:"):
            path = Path(unquote(urlsplit(address).path))
            # A wheel that a cell has downloaded is as good as one of the index; others lie there in a replay, too.
            is_fetched = path.suffix == ".whl" and not path.is_relative_to(SessionFolders().inputs)
            return cls(name, version, "folder", str(path) if is_fetched and path.is_file() else "", cell)
        # With the hash it is found among the wheels that pip has built and keeps in its cache.
        digest = direct_url.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        fragment = f"#sha256={digest}" if digest and not folder else folder
        return cls(name, version, address if is_direct else "index", f"{name} @ {address}{fragment}", cell)


def list_distributions() -> dict[str, tuple[str, str]]:
    """Return version and direct_url.json of every importable distribution, by name; not of those in an input."""
    importlib.invalidate_caches()
    distributions: dict[str, tuple[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] if distribution.metadata else None
        folder = Path(str(distribution.locate_file("")))
        if name and distribution.version and not folder.is_relative_to(SessionFolders().inputs):
            direct_url = distribution.read_text("direct_url.json") or ""
            distributions.setdefault(_normalize_name(name), (distribution.version, direct_url))
    return distributions


class PackageRecorder:
    """What was installed in the session, and by which cell."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        # With the hooks, by which pip reports what it installs to build a wheel.
        hooks = {name: os.environ[name] for name in (RECORDER, "PYTHONPATH")}
        self.folder, self.environ = folder, {**environ, **hooks}
        self.before = self.now = list_distributions()
        self.cells: dict[str, int] = {}
        self.state = self._read_state()
        self.notes: list[str] = []

    def _read_state(self) -> list[tuple[str, int]]:
        folders = [Path(entry or ".") for entry in sys.path]
        return [(str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()]

    def note_changes(self, cell: int) -> None:
        """Note what the environment has since the last call."""
        if (
            state := self._read_state()
        ) != self.state:  # the metadata of an image's packages takes a second to read
            previous, self.now, self.state = self.now, list_distributions(), state
            self.cells |= {name: cell for name, facts in self.now.items() if previous.get(name) != facts}

    def _read_reports(self) -> list[InstalledPackage]:
        packages = []
        for path in sorted(self.folder.glob("pip/*.json"), key=lambda path: path.stat().st_mtime_ns):
            cell = int(path.stem.partition("-")[0])
            for item in json.loads(path.read_text(encoding="utf-8"))["install"]:
                metadata = item["metadata"]
                packages.append(
                    InstalledPackage.from_direct_url(
                        _normalize_name(metadata["name"]),
                        metadata["version"],
                        item["download_info"],
                        cell,
                        is_direct=item["is_direct"],
                    )
                )
        return packages

    def collect_packages(
        self, commands: Iterable[Sequence[str]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the packages that were added, and the further wheels that pip used: of build environments and targets.

        `commands` are those of the session: only they say which index uv took a package from.
        """
        lines = [line for line in map(" ".join, commands) if re.search(r"\buv\b.* install ", line)]
        indexes = [index for line in lines for index in _INDEX_OPTION.findall(line)]
        self.environ["PIP_EXTRA_INDEX_URL"] = " ".join(
            [self.environ.get("PIP_EXTRA_INDEX_URL", ""), *indexes]
        )
        reported = self._read_reports()
        by_version = {(package.name, package.version): package for package in reported}
        added = []
        for name, (version, direct_url) in self.now.items():
            if (version, direct_url) != self.before.get(name):
                origin = json.loads(direct_url or "{}")
                package = InstalledPackage.from_direct_url(name, version, origin, self.cells.get(name, 0))
                added.append(package if origin else by_version.get((name, version), package))
        wheels = self._make_wheels([*added, *reported])
        # What uv has built, pip builds again, in environments that it reports.
        wheels |= self._make_wheels(package for package in self._read_reports() if package not in reported)
        packages = [
            {
                "name": package.name,
                "version": package.version,
                **wheels.get(package.requirement, {"wheel": "", "sha256": "", "size": 0}),
                "origin": redact(package.origin),
                "cell": package.cell,
                "replaces": self.before.get(package.name, ("",))[0],
            }
            for package in added
        ]
        names = {package["wheel"] for package in packages}
        others = {wheel["wheel"]: wheel for wheel in wheels.values() if wheel["wheel"] not in names}
        return packages, sorted(others.values(), key=lambda wheel: str(wheel["wheel"]))

    def _make_wheels(self, packages: Iterable[InstalledPackage]) -> dict[str, dict[str, Any]]:
        """Return file name, SHA-256 and size of the wheel of each requirement."""
        wheels = {}
        batches: list[dict[str, str]] = []
        for requirement, name in {package.requirement: package.name for package in packages}.items():
            if requirement.endswith(".whl") and Path(requirement).is_file():
                wheels[requirement] = self._add_wheel(Path(requirement))
            elif requirement:  # pip takes no two versions of a package at once
                batch = next((batch for batch in batches if name not in batch), None)
                if batch is None:
                    batches.append(batch := {})
                batch[name] = requirement
        for batch in batches:
            folder = Path(tempfile.mkdtemp(prefix="wheels", dir=self.folder))
            print(f"recording: wheels of {len(batch)} packages", flush=True)
            if self._run_pip(folder, batch.values()):
                for requirement in batch.values():
                    if error := self._run_pip(folder, [requirement]):
                        self.notes.append(redact(f"no wheel of '{requirement}': {error}"))
            for path in folder.glob("*.whl"):
                wheels[batch[_normalize_name(path.name.partition("-")[0])]] = self._add_wheel(path)
        return wheels

    def _add_wheel(self, path: Path) -> dict[str, Any]:
        return {"wheel": path.name, **link_object(path)}

    def _run_pip(self, folder: Path, requirements: Iterable[str]) -> str:
        """Put wheels into a folder; return pip's error, "" if there is none."""
        listing = folder / "requirements.txt"
        listing.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        quiet = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        words = ("wheel", "--no-deps", "--wheel-dir", str(folder), "-r", str(listing), *quiet)
        done = _run_program((sys.executable, "-m", "pip", *words), self.environ)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (errors or done.stderr.splitlines() or ["pip failed"])[-1] if done.returncode else ""


@dataclass(frozen=True)
class GitRequest:
    """What a git process asked a server for."""

    url: str
    command: str
    words: tuple[str, ...]
    worktree: str

    @property
    def depth(self) -> list[str]:
        """The option for the number of commits that it wants; none for all."""
        match = re.search(r"--depth[ =](\d+)", " ".join(self.words))
        depth = match[1] if match else "1" if self.command == "ls-remote" else ""
        return ["--depth", depth] if depth else []

    @property
    def refspecs(self) -> list[str]:
        """The refs and commits that it names, as the mirror is to have them."""
        if branch := re.search(r" (?:-b |--branch[ =])(\S+)", " ".join(self.words)):
            return [f"+refs/{kind}/{branch[1]}:refs/{kind}/{branch[1]}" for kind in ("heads", "tags")]
        names = [word.lstrip("+").partition(":")[0] for word in self.words if self.command == "fetch"]
        refs = [re.sub(r"^(?=pull/|merge-requests/)", "refs/", name) for name in names]
        # git sends no commit that no ref reaches.
        commits = [name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)]
        return [f"+{ref}:{ref}" for ref in refs if ref.startswith("refs/")] + [
            f"+{commit}:refs/offline-kit/{commit[:12]}" for commit in commits
        ]


_INDEX_OPTION = re.compile(r"--(?:extra-|default-)?index(?:-url)?[ =]['\"]?([^\s'\"]+)")
_TRACED = {"start": "argv", "cmd_name": "name", "exit": "code", "def_repo": "worktree"}
"""The field that is read of each kind of event (https://git-scm.com/docs/api-trace2)."""


def read_git_traces(paths: Iterable[Path]) -> list[GitRequest]:
    """Return what git processes asked servers for by HTTP, and got."""
    processes: dict[str, dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):  # a line that was not finished
                event = json.loads(line)
                if key := _TRACED.get(event["event"]):
                    processes.setdefault(event["sid"], {}).setdefault(key, event[key])
    requests = []
    for process, facts in processes.items():
        words = facts.get("argv", [""])
        if not re.search(r"git-remote-https?$", words[0]) or facts.get("code"):
            continue
        # The id of a process begins with those of its ancestors; "_run_dashed_" starts the helper of the command.
        ids = process.split("/")
        ancestors = [processes.get("/".join(ids[:count]), {}) for count in range(len(ids) - 1, 0, -1)]
        command = next((facts for facts in ancestors if not facts.get("name", "_").startswith("_")), {})
        request = (command.get("name", ""), tuple(command.get("argv", ())), command.get("worktree", ""))
        requests.append(GitRequest(words[-1], *request))
    return requests


class RepositoryRecorder:
    """Bare mirrors of the repositories that git asked for, as they were after the cell."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.environ = folder, {**environ, "GIT_TERMINAL_PROMPT": "0"}
        self.traces: set[Path] = set()
        self.mirrors: dict[str, tuple[Path, int]] = {}
        """Folder and cell, by address."""
        self.worktrees: dict[str, Path] = {}
        """Mirrors, by folder of a clone."""
        self.notes: list[str] = []

    def record_new(self, cell: int) -> None:
        """Mirror what git has asked for since the last call."""
        paths = set(self.folder.glob("git/*")) - self.traces
        self.traces |= paths
        for request in read_git_traces(sorted(paths)):
            url = request.url.rstrip("/").removesuffix(".git")
            new = self.folder / "mirrors" / f"{len(self.mirrors)}.git"
            mirror, _ = self.mirrors.setdefault(url, (new, cell))
            self._update_mirror(mirror, request)
            self.worktrees[request.worktree] = mirror
        for worktree, mirror in self.worktrees.items() if paths else ():
            self._copy_lfs_files(worktree, mirror)

    def _update_mirror(self, mirror: Path, request: GitRequest) -> None:
        if not mirror.exists():
            print(f"recording: repository {redact(request.url)}", flush=True)
            # Branches and tags; `--mirror` would bring every pull request, too.
            self._run_git("clone", "--bare", "--template=", *request.depth, request.url, mirror)
        elif (mirror / "shallow").exists() and not request.depth:
            everything = [f"+refs/{kind}/*:refs/{kind}/*" for kind in ("heads", "tags")]
            self._run_git("-C", mirror, "fetch", "--unshallow", request.url, *everything)
        for refspec in request.refspecs if mirror.exists() else ():
            # A name is that of a branch or of a tag: one of the two does not exist.
            self._run_git("-C", mirror, "fetch", *request.depth, request.url, refspec, may_fail=True)

    def _copy_lfs_files(self, worktree: str, mirror: Path) -> None:
        """Copy what Git LFS has downloaded so far to where it serves a file:// remote from."""
        folder = worktree and self._run_git("-C", worktree, "rev-parse", "--absolute-git-dir", may_fail=True)
        for path in Path(folder or mirror, "lfs", "objects").rglob("*"):
            target = mirror / "lfs" / path.relative_to(Path(folder) / "lfs")
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_file(path, target)

    def _run_git(self, *words: str | Path, may_fail: bool = False) -> str:
        done = _run_program(("git", *words), self.environ)
        if done.returncode and not may_fail:
            self.notes.append(redact(f"git {words[-2]}: {done.stderr.strip()}"))
        return done.stdout.strip()

    def collect_repositories(self) -> list[dict[str, Any]]:
        """Return the repositories; the object of each is a tar of the bare mirror."""
        # No bundle: it lacks the boundary of a shallow clone, and then cannot be cloned.
        repositories = []
        for url, (mirror, cell) in self.mirrors.items():
            if mirror.exists():
                commit = self._run_git("-C", mirror, "rev-parse", "HEAD", may_fail=True)
                path = mirror.with_suffix(".tar")
                with tarfile.open(path, "w") as archive:
                    archive.add(mirror, ".")
                stored = link_object(path)
                path.unlink()
                repositories.append({"url": redact(url), "commit": commit, **stored, "cell": cell})
        return repositories
