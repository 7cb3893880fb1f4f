"""Find out what was installed in a recorded session, and make a wheel of it.

pip writes a report of each installation (kit_hooking): addresses and hashes, whatever index or option they come from, of
build environments, too. With these addresses `pip wheel` finds the same files again, most in its cache.
"""

import importlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .kit_capture import normalize_name
from .kit_recording import RECORDER, add_object, redact
from .kit_repositories import run_program
from .kit_runtime import SessionFolders

_INDEX_OPTION = re.compile(r"--(?:extra-|default-)?index(?:-url)?[ =]['\"]?([^\s'\"]+)")


@dataclass(frozen=True)
class InstalledPackage:
    """A package that an installer put somewhere."""

    name: str
    version: str
    origin: str  # "index", an address, "git+ADDRESS@commit", or "folder"
    requirement: str  # what pip makes the same wheel of; "" if it is a file of the session
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
            distributions.setdefault(normalize_name(name), (distribution.version, direct_url))
    return distributions


class PackageRecorder:
    """What was installed in the session, and by which cell."""

    def __init__(self, folder: Path, environ: Mapping[str, str], lacking: Iterable[str] = ()) -> None:
        self.lacking, self.modules = frozenset(lacking), frozenset(sys.modules)
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
        state = self._read_state()
        if state != self.state:  # to read the metadata of all packages of an image takes a second
            previous, self.now, self.state = self.now, list_distributions(), state
            self.cells |= {name: cell for name, facts in self.now.items() if previous.get(name) != facts}

    def _read_reports(self) -> list[InstalledPackage]:
        items: list[tuple[int, Any]] = []
        for path in sorted(self.folder.glob("pip/*.json"), key=lambda path: path.stat().st_mtime_ns):
            cell = int(path.stem.partition("-")[0])
            with suppress(ValueError):  # a process that was killed
                items += [(cell, item) for item in json.loads(path.read_text(encoding="utf-8"))["install"]]
        return [
            InstalledPackage.from_direct_url(
                normalize_name(item["metadata"]["name"]),
                item["metadata"]["version"],
                item["download_info"],
                cell,
                is_direct=item["is_direct"],
            )
            for cell, item in items
        ]

    def collect_packages(
        self, commands: Iterable[Sequence[str]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the packages that were added, and the further wheels that pip used: of build environments and targets.

        `commands` are those of the session: only they say which index uv took a package from.
        """
        lines = [*map(" ".join, commands)]
        uv_lines = [line for line in lines if re.search(r"\buv\b.* install ", line)]
        indexes = [index for line in uv_lines for index in _INDEX_OPTION.findall(line)]
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
        added += self._find_borrowed(lines, {package.name for package in added})
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
                "replaces": "" if before == package.version else before,
            }
            for package in added
            for before in [self.before.get(package.name, ("",))[0]]
        ]
        names = {package["wheel"] for package in packages}
        others = {wheel["wheel"]: wheel for wheel in wheels.values() if wheel["wheel"] not in names}
        return packages, sorted(others.values(), key=lambda wheel: str(wheel["wheel"]))

    def _find_borrowed(self, lines: Iterable[str], added: Container[str]) -> list[InstalledPackage]:
        """Return what the run used of the packages that this machine has and the image lacks: pip had nothing to do."""
        if not self.lacking:
            return []
        installs = " ".join(line for line in lines if "install" in line)
        words = map(normalize_name, re.findall(r"[\w.-]+", installs))
        installed = self._close(words, self.lacking)
        owners = importlib.metadata.packages_distributions()
        modules = sys.modules.keys() - self.modules
        names = (normalize_name(name) for module in modules for name in owners.get(module, ()))
        # Another version of IPython than the image's imports other packages, for a traceback for example.
        kernel = self._close(["ipykernel"], self.now.keys())
        imported = self._close(names, self.lacking - kernel)
        packages = [
            InstalledPackage.from_direct_url(name, version, json.loads(direct_url or "{}"), 0)
            for name in sorted(name for name in installed | imported if name not in added)
            for version, direct_url in [self.now[name]]
        ]
        unasked = [package.name for package in packages if package.name not in installed]
        if unasked and " -r" not in installs:
            self.notes.append(
                f"no cell installs what this machine has and the image lacks: {', '.join(unasked)}"
            )
        if own := [package.name for package in packages if not package.requirement]:
            self.notes.append(f"installed from a folder of this machine, so not recorded: {', '.join(own)}")
        return [package for package in packages if package.requirement]

    def _close(self, names: Iterable[str], within: Set[str]) -> set[str]:
        """Return those of these packages that are `within`, with what they require of it."""
        closure, news = set[str](), {*names} & within & self.now.keys()
        while news:
            closure |= news
            lines = [line for name in news for line in importlib.metadata.requires(name) or ()]
            required = {re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line}
            news = ({*map(normalize_name, required)} & within & self.now.keys()) - closure
        return closure

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
            print(f"recording: collecting wheels, {len(batch)} in all", flush=True)
            if self._run_pip(folder, batch.values()):
                for requirement in batch.values():
                    if error := self._run_pip(folder, [requirement]):
                        self.notes.append(redact(f"no wheel of '{requirement}': {error}"))
            for path in folder.glob("*.whl"):
                name = normalize_name(path.name.partition("-")[0])
                wheels[batch.get(name, path.name)] = self._add_wheel(path)
        return wheels

    def _add_wheel(self, path: Path) -> dict[str, Any]:
        return {"wheel": path.name, **add_object(path, is_final=True)}

    def _run_pip(self, folder: Path, requirements: Iterable[str]) -> str:
        """Put the wheels of requirements into a folder; return pip's error, "" if there is none."""
        listing = folder / "requirements.txt"
        listing.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        quiet = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        words = ("wheel", "--no-deps", "--wheel-dir", str(folder), "-r", str(listing), *quiet)
        done = run_program((sys.executable, "-m", "pip", *words), self.environ)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return (errors or done.stderr.splitlines() or ["pip failed"])[-1] if done.returncode else ""
