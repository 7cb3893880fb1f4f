"""Find out which repositories git asked for in a recorded session, and mirror them.

git writes a trace of each of its processes: they say addresses, depths and refs, whoever runs git. A repository is mirrored
after the cell, so that it hardly differs from what the cell got.
"""

import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kit_recording import add_object, link_file, redact

_TRACED = {"start": "argv", "cmd_name": "name", "exit": "code", "def_repo": "worktree"}
"""The field that is read of each kind of event (https://git-scm.com/docs/api-trace2)."""


def run_program(
    words: Iterable[str | Path], environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a program of the recorder's own, and return its output."""
    return subprocess.run(
        [*map(str, words)], env=environ, capture_output=True, text=True, errors="replace", check=False
    )


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
            if request.worktree:
                self.worktrees[request.worktree] = mirror
        for worktree, mirror in self.worktrees.items() if paths else ():
            self._copy_lfs_files(worktree, mirror)

    def _update_mirror(self, mirror: Path, request: GitRequest) -> None:
        if not mirror.exists():
            print(f"recording: repository {redact(request.url)}", flush=True)
            # Most objects need not come twice; a partial clone lacks some.
            is_whole = request.worktree and not re.search(
                "--(?:depth|filter|shallow)", " ".join(request.words)
            )
            clone = ["--reference-if-able", request.worktree, "--dissociate"] if is_whole else request.depth
            # Branches and tags; `--mirror` would bring every pull request, too.
            self._run_git("clone", "--bare", "--template=", *clone, request.url, mirror)
            self._run_git("-C", mirror, "remote", "remove", "origin", may_fail=True)  # may have a token
        elif (mirror / "shallow").exists() and not request.depth:
            everything = [f"+refs/{kind}/*:refs/{kind}/*" for kind in ("heads", "tags")]
            self._run_git("-C", mirror, "fetch", "--unshallow", request.url, *everything)
        for refspec in request.refspecs if mirror.exists() else ():
            # A name is that of a branch or of a tag: one of the two does not exist.
            self._run_git("-C", mirror, "fetch", *request.depth, request.url, refspec, may_fail=True)

    def _copy_lfs_files(self, worktree: str, mirror: Path) -> None:
        """Copy what Git LFS has downloaded so far to where it serves a file:// remote from."""
        folder = self._run_git("-C", worktree, "rev-parse", "--absolute-git-dir", may_fail=True)
        for path in Path(folder, "lfs", "objects").rglob("*") if folder else ():
            target = mirror / path.relative_to(folder)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_file(path, target)

    def _run_git(self, *words: str | Path, may_fail: bool = False) -> str:
        done = run_program(("git", *words), self.environ)
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
                (mirror / "FETCH_HEAD").unlink(missing_ok=True)  # it has URLs with their tokens
                with tarfile.open(path, "w") as archive:
                    archive.add(mirror, ".")
                stored = add_object(path, is_final=True)
                path.unlink()
                repositories.append({"url": redact(url), "commit": commit, **stored, "cell": cell})
        return repositories
