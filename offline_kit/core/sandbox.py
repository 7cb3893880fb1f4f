"""The door to sandboxes: find one that works here by running it, and run a box in it."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError, OutsideError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes import bubblewrap, docker, memory, unshare, weak
from offline_kit.core.sandboxes.box import Box, BoxOutcome, Mount

KINDS = ("bubblewrap", "unshare", "docker", "weak")
"""From the best to the least."""
_TRIFLE = (
    "cd /kaggle/input && ! true 2>/dev/null > x && true > /kaggle/working/x"
    ' && [ "$(grep -c . /proc/net/route)" -le 1 ] || { echo "the network or the inputs are open"; exit 1; }'
)
_TICK = 0.1  # seconds between two looks at the memory
_GRACE = 1.0  # seconds between the request to end and the kill


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A sandbox that was seen to work on this machine."""

    kind: str
    """One of KINDS."""
    program: Path | None
    """What makes it; None for the weak one."""
    refused: tuple[str, ...] = ()
    """Better ones that did not work, each with its last words."""

    @property
    def is_weak(self) -> bool:
        """Whether it only puts obstacles in the way and proves nothing."""
        return self.kind == "weak"

    def path_prefix(self, scratch: Path) -> str:
        """Return what stands before every path in the box: nothing, but for the weak sandbox."""
        return str(scratch) if self.is_weak else ""


def find_sandbox(kinds: Iterable[str] = KINDS, *, report: Reporter = SILENT) -> Sandbox:
    """Return the best of these kinds that works here; each is tried by running it.

    A weak one is warned of with what the better ones said. Raises OutsideError where none works.
    """
    refused: list[str] = []
    for kind, program in _list_candidates(kinds):
        candidate = Sandbox(kind=kind, program=program, refused=tuple(refused))
        problem = _probe_sandbox(candidate)
        if problem:
            refused.append(f"{program or kind}: {problem}")
            continue
        if candidate.is_weak:
            report.warn(
                "no real sandbox works here; the rehearsal runs behind weak obstacles only: Python sockets are"
                f" refused, nothing else is proven ({'; '.join(refused) or 'bubblewrap, unshare and docker are missing'})"
            )
        return candidate
    raise OutsideError(
        "no sandbox works on this machine",
        code="sandbox-missing",
        hint="on Linux install bubblewrap (`apt install bubblewrap`), or allow user namespaces"
        " (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`); elsewhere use docker or WSL2",
        details=refused,
    )


def _list_candidates(kinds: Iterable[str]) -> Iterator[tuple[str, Path | None]]:
    programs: dict[str, Callable[[], tuple[Path | None, ...]]] = {
        "bubblewrap": bubblewrap.find_programs,
        "unshare": lambda: (unshare.find_program(),),
        "docker": lambda: (docker.find_program(),),
    }
    for kind in kinds:
        if kind == "weak" and sys.platform != "win32":  # no links, no ends of groups there: WSL2 has them
            yield kind, None
        elif sys.platform == "linux":
            yield from ((kind, program) for program in programs[kind]() if program)


def _probe_sandbox(candidate: Sandbox) -> str:
    """Run a trifle with each sort of mount; return what went wrong, or nothing."""
    if candidate.is_weak:
        return ""
    with tempfile.TemporaryDirectory(prefix="offline-kit-probe.") as name:
        folder = Path(name)
        for part in ("shown", "working", "scratch"):
            (folder / part).mkdir()
        box = Box(
            argv=("/bin/sh", "-c", _TRIFLE),
            mounts=(
                Mount(inside="/kaggle/input", source=folder / "shown"),
                Mount(inside="/kaggle/working", source=folder / "working", writable=True),
            ),
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            log=folder / "log",
            scratch=folder / "scratch",
            timeout=20,
        )
        try:
            outcome = run_box(candidate, box)
        except OfflineKitError as error:
            return error.what
        if outcome.succeeded and (folder / "working" / "x").exists():
            return ""
        lines = box.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {outcome.code}"


def run_box(sandbox: Sandbox, box: Box, *, watch: Callable[[], None] = lambda: None) -> BoxOutcome:
    """Run a box to its end, its time limit or its memory limit; nothing of it survives the call.

    `watch` is called about ten times a second. An interrupt ends the box and goes on upwards.
    """
    argv, env = build_command(sandbox, box)
    began = time.monotonic()
    cwd = Path(box.cwd) if sandbox.is_weak else None
    process = processes.start_process(argv, cwd=cwd, env=env, log=box.log)
    tree = memory.ProcessTree(process.pid)
    reason = ""
    try:
        while process.poll() is None and not reason:
            reason = _sample_limits(
                box, tree, time.monotonic() - began, partial(processes.wait_for_process, process)
            )
            _follow_container(sandbox, box, tree, process.pid)
            watch()
    finally:
        if sandbox.kind == "docker" and sandbox.program and process.poll() is None:
            docker.kill_container(sandbox.program, box)
        tree.list_pids()
        if process.poll() is None:
            processes.end_process(process, grace=_GRACE)
        if sandbox.is_weak:
            _end_stragglers(tree.list_remaining())
    watch()
    return BoxOutcome(
        code=process.returncode,
        seconds=time.monotonic() - began,
        peak_memory=tree.peak,
        memory_by=tree.by,
        timed_out=reason == "time",
        over_memory=reason == "memory",
    )


def build_command(sandbox: Sandbox, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the words and the environment that run a box in this sandbox."""
    if sandbox.program is None:
        return weak.build_command(box)
    if sandbox.kind == "bubblewrap":
        return bubblewrap.build_command(sandbox.program, box), box.env
    if sandbox.kind == "unshare":
        return unshare.build_command(sandbox.program, box), box.env
    return docker.build_command(sandbox.program, box), processes.copy_environment()


def _sample_limits(box: Box, tree: memory.ProcessTree, elapsed: float, wait: Callable[[float], None]) -> str:
    """Sample the memory, wait a little or until the process ends, and return which limit is passed: "time", "memory" or ""."""
    began = time.monotonic()
    memory = tree.sample_memory()
    if box.memory is not None and memory > box.memory:
        return "memory"
    if elapsed > box.timeout:
        return "time"
    # A sample of a huge process takes long and holds its page tables: never more than a tenth of the time.
    wait(max(_TICK, 9 * (time.monotonic() - began)))
    return ""


def _follow_container(sandbox: Sandbox, box: Box, tree: memory.ProcessTree, client: int) -> None:
    """Point the sampling at the container's first process: it is no child of docker's client."""
    if sandbox.kind == "docker" and sandbox.program and tree.root == client:
        tree.root = docker.first_process(sandbox.program, box) or client


def _end_stragglers(pids: Iterable[int]) -> None:
    """Kill what left its process group (kernels do) and has no namespace that would end it."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
