"""Run a notebook with papermill, or a script with plain Python, in a sandbox, and read how it ended."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from offline_kit.adopt import script_setup
from offline_kit.core import files, processes, sandbox
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.sandbox import Sandbox
from offline_kit.core.sandboxes import leftovers
from offline_kit.core.sandboxes.box import Box, BoxOutcome, Mount
from offline_kit.notebook.runtime import kit_recording
from offline_kit.notebook.runtime.kit_runtime import KitError, find_failure
from offline_kit.project.accelerators import Machine, find_machine
from offline_kit.rehearsal import script_runs, swallowed_errors
from offline_kit.rehearsal.environments import Interpreter
from offline_kit.rehearsal.log_follower import LogFollower

HOME = "/home/kaggle"
MISSES = "misses.jsonl"  # file below /rehearsal/out: what the replay of a recording was asked for and lacks
# Only the setup cells of adopted and of recorded notebooks contain these (templates/adopt.py.j2, record.py.j2).
_SETUPS = (").open_adopted(", ").open_recorded(", ".start_recording(")
_PRINTED = 20_000  # characters of a cell's output to keep
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(error|exception|interrupt|exit)\b.*: \S", re.IGNORECASE)
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a notebook may raise that the run wrote as it liked."""
_LARGEST = 500_000_000  # bytes; a larger executed notebook is not read
_MAX_CELL_LINES = 8
_LINES_AROUND = 3  # of a script, before and after the one that failed
_LOG_TAIL = 1_000_000  # bytes of a script's log in which its traceback is looked for
MAX_ERROR_LINES = 12
_INSTALLS = re.compile(r"^\s*(?:[!%].*\b)?pip3?\b.*\binstall\b|-m['\", ]+pip['\", ]+install", re.MULTILINE)
_PROXIES = frozenset(("http_proxy", "https_proxy", "all_proxy", "no_proxy"))
# Of Python and uv, requests, curl, git, and pip: https://docs.openssl.org/master/man3/SSL_CTX_load_verify_locations/,
# https://requests.readthedocs.io/en/latest/user/advanced/#ssl-cert-verification
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT")
# uv takes only what is in the environment's own folder for installed, and --system for another Python than this
# environment's (https://docs.astral.sh/uv/pip/environments/): here pip installs, which sees the kernel's packages.
_UV = """#!/bin/sh
[ "$1 $2" = "pip install" ] || exec "{uv}" "$@"
shift 2
for word do
    shift
    case "$word" in --system|--no-cache|--no-progress|--compile-bytecode) ;; *) set -- "$@" "$word" ;; esac
done
exec "{python}" -m pip install "$@"
"""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class KernelSetup:
    """A kernel that is ready to start."""

    python: Interpreter
    launch: tuple[str, ...]  # command that starts it, before its connection file
    mounts: tuple[Mount, ...] = ()
    used: tuple[str, ...] = ()  # normalized names of the image packages that the notebook needs
    notes: tuple[str, ...] = ()
    of_image: bool = False
    container_path: str = (
        ""  # PATH of the container that it runs in; empty if it runs in an environment made here
    )
    derived: tuple[str, ...] = ()
    """The part of `used` that was read from the kit and its code, before any run failed."""


@dataclass(frozen=True, kw_only=True)
class RehearsalEnvironment:
    """Everything that a run needs: the notebook, its inputs, its kernel and its limits."""

    notebook: Path  # an .ipynb file, or a script, which plain Python runs
    inputs: tuple[Mount, ...]
    kernel: KernelSetup
    papermill: Interpreter
    uv: Path | None  # None: hidden, or that of the container
    installer: str
    timeout: float  # seconds
    machine: Machine = field(default_factory=lambda: find_machine(""))
    env: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    current: bool = False  # the kernel runs in the running environment, which may lack packages of the image
    python_path: tuple[str, ...] = ()  # folders in the sandbox that the kernel imports from
    own_packages: frozenset[str] = frozenset()
    wrapper: tuple[str, ...] = ()  # command that starts papermill's command; paths as in the sandbox
    recorded: bool = False
    """It is recorded, or replays a recording: what it installs goes where it would on Kaggle, and misses are listed."""


@dataclass(frozen=True, kw_only=True)
class KernelRun:
    """How a run ended, and where its files are."""

    outcome: BoxOutcome
    executed: Path  # the executed notebook; missing for a script, and if papermill did not get that far
    log: Path
    working: Path  # /kaggle/working after the run: regular files and folders only
    deleted: tuple[str, ...] = ()
    """One line for each file that was deleted because it is not regular or too large."""
    script: Path | None = None  # what ran, if it is no notebook

    @property
    def kind(self) -> str:
        """What ran, for messages: "notebook" or "script"."""
        return "script" if self.script else "notebook"

    @cached_property
    def cells(self) -> tuple["ExecutedCell", ...]:
        """The code cells with their results; a script is one cell, and a damaged notebook has none."""
        if self.script:
            return (read_script(self.script, self.log, self.outcome),)
        return read_cells(self.executed)


def run_notebook(
    environment: RehearsalEnvironment,
    runner: Sandbox,
    folder: Path,
    *,
    say: Say = lambda _line: None,
    report: Reporter = SILENT,
) -> KernelRun:
    """Run the notebook in `folder`, which must be empty, and return how it ended; `say` gets the log, line by line."""
    for name in ("tmp", "working", "home", "out", "scratch", "in/src"):
        (folder / name).mkdir(parents=True)
    prefix, machine, log = runner.path_prefix(folder / "scratch"), environment.machine, folder / "log.txt"
    text = environment.notebook.read_text(encoding="utf-8")
    is_script = environment.notebook.suffix == ".py"
    source = folder / ("in/src/script.py" if is_script else "in/notebook.ipynb")
    source.write_text(text, encoding="utf-8")
    cells = () if is_script else json.loads(text).get("cells", ())
    code = text if is_script else "\n".join(_join_sources(cells, "code"))
    # A recorded notebook may install packages in ways that no pattern finds.
    may_install = environment.recorded or _INSTALLS.search(code)
    if may_install and sys.platform != "win32" and not runner.image:
        environment = _add_writable_site(environment, folder / "env", prefix)
    variables, kernel_variables = _make_variables(environment, prefix)
    _write_kernel_spec(environment, folder / "in", kernel_variables)
    mounts = [
        Mount(inside="/tmp", source=folder / "tmp", writable=True),  # noqa: S108 - the box's own
        Mount(inside=HOME, source=folder / "home", writable=True),
        *environment.inputs,
        Mount(inside="/kaggle/working", source=folder / "working", writable=True, limit=machine.disk),
        *([Mount(inside=script_runs.SCRIPT_FOLDER, source=source.parent)] if is_script else []),
        Mount(inside="/rehearsal/in", source=folder / "in"),
        Mount(inside="/rehearsal/out", source=folder / "out", writable=True),
        *([Mount(inside="/rehearsal/bin/uv", source=environment.uv)] if environment.uv else []),
        *environment.kernel.python.mounts,
        *environment.kernel.mounts,
        *environment.papermill.mounts,
    ]
    if environment.network:
        network_variables, certificates = find_network_access()
        variables, mounts = network_variables | variables, [*mounts, *certificates]
    box = Box(
        argv=_build_command(environment, prefix, is_script=is_script),
        mounts=tuple(mounts),
        links={**environment.papermill.links, **environment.kernel.python.links},
        env=variables | (kernel_variables if is_script else {}),
        cwd=f"{prefix}/kaggle/working",
        log=log,
        scratch=folder / "scratch",
        timeout=environment.timeout,
        memory=machine.memory,
        cores=machine.cores,
        network=environment.network,
    )
    with report.waiting(f"running the {'script' if is_script else 'notebook'}") as show:
        added_cells = count_added_cells(_join_sources(cells))
        follower = LogFollower(log, cells, added_cells=added_cells, say=say, show=show)
        outcome = sandbox.run_box(runner, box, watch=follower.follow)
        follower.end()
    leftovers.clean_leftovers(folder / "out")
    return KernelRun(
        outcome=outcome,
        executed=folder / "out" / "executed.ipynb",
        log=log,
        working=folder / "working",
        deleted=leftovers.clean_leftovers(folder / "working"),
        script=source if is_script else None,
    )


def _join_sources(cells: Iterable[Mapping[str, Any]], kind: str = "") -> list[str]:
    return ["".join(cell.get("source") or "") for cell in cells if kind in ("", cell.get("cell_type"))]


def find_network_access() -> tuple[dict[str, str], tuple[Mount, ...]]:
    """Return how this machine reaches the internet: its variables of proxies and certificates, and the files they name."""
    env = processes.copy_environment()
    proxies = {name: value for name, value in env.items() if name.lower() in _PROXIES and value}
    certificates = {name: env[name] for name in _CERTIFICATES if Path(env.get(name) or ".").is_file()}
    # The box has its own /tmp and home, but a certificate may lie in those of this machine.
    files_named = sorted({str(Path(path).absolute()) for path in certificates.values()})
    return proxies | certificates, tuple(Mount(inside=path, source=Path(path)) for path in files_named)


def _build_command(environment: RehearsalEnvironment, prefix: str, *, is_script: bool) -> tuple[str, ...]:
    words = [
        f"{prefix}{word}" if word.startswith(("/rehearsal/", "/kaggle/")) else word
        for word in environment.wrapper
    ]
    if is_script:
        # Unbuffered: the log then has what a killed process printed.
        return (*words, environment.kernel.launch[0], "-u", f"{prefix}{script_runs.SCRIPT}")
    words += [str(environment.papermill.path), "-m", "papermill"]
    words += [f"{prefix}/rehearsal/in/notebook.ipynb", f"{prefix}/rehearsal/out/executed.ipynb"]
    # A cold environment on a slow disk takes longer to start than papermill's 60 s.
    words += ["--log-output", "--no-progress-bar", "--start-timeout", "300"]
    return (*words, "--cwd", f"{prefix}/kaggle/working")


def _add_writable_site(environment: RehearsalEnvironment, folder: Path, prefix: str) -> RehearsalEnvironment:
    """Put a writable environment over the kernel's, so that the notebook can install packages as on Kaggle.

    The kernel's own environment is read-only, because other runs use it too.
    """
    kernel, inside = environment.kernel, f"{prefix}/rehearsal/env"
    minor = kernel.python.minor
    site = files.make_folder(folder / "lib" / f"python{minor}" / "site-packages")
    # A virtual environment (PEP 405) whose .pth file adds the kernel's site-packages: pip counts what is there as
    # installed, and what pip installs comes first on sys.path (https://docs.python.org/3/library/site.html).
    (folder / "pyvenv.cfg").write_text(f"home = {kernel.python.home}\ninclude-system-site-packages = false\n")
    added = [f"import site; site.addsitedir({kernel_site!r})\n" for kernel_site in kernel.python.sites]
    (site / "offline-kit.pth").write_text("".join(added))
    own_scripts = dict.fromkeys(("pip", "pip3"), f'#!/bin/sh\nexec "{inside}/bin/python" -m pip "$@"\n')
    if environment.recorded and environment.uv:
        own_scripts["uv"] = _UV.format(uv=f"{prefix}/rehearsal/bin/uv", python=f"{inside}/bin/python")
    scripts = files.make_folder(folder / "bin")
    for name, text in own_scripts.items():
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    links = {script.name: script for script in kernel.python.list_scripts()}
    links |= dict.fromkeys(("python", "python3", f"python{minor}"), kernel.python.path)
    for name, target in links.items():
        if name not in own_scripts:
            (scripts / name).symlink_to(target)
    mount = Mount(inside="/rehearsal/env", source=folder, writable=True)
    launch = (f"{inside}/bin/python", *kernel.launch[1:])
    return replace(environment, kernel=replace(kernel, launch=launch, mounts=(*kernel.mounts, mount)))


def _write_kernel_spec(environment: RehearsalEnvironment, folder: Path, variables: Mapping[str, str]) -> None:
    """Write the spec of the kernel (https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs)."""
    argv = [*environment.kernel.launch, "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python", "env": variables}
    spec_folder = files.make_folder(folder / "jupyter" / "kernels" / "python3")
    (spec_folder / "kernel.json").write_text(json.dumps(spec))
    swallowed_errors.install_monitor(folder.with_name("out"), environment.own_packages)


def _make_variables(environment: RehearsalEnvironment, prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return all environment variables of a run, as in a batch run on Kaggle, and those that only its kernel has."""
    own_path = f"{prefix}/rehearsal/bin:{_SYSTEM_PATH}" if environment.uv else _SYSTEM_PATH
    search_path = environment.kernel.container_path or own_path
    env = {
        "PATH": search_path,
        "HOME": f"{prefix}{HOME}",
        "USER": "kaggle",
        "LOGNAME": "kaggle",
        "TMPDIR": f"{prefix}/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "SHELL": "/bin/sh",
        "TERM": "dumb",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",  # "Interactive" in the editor
        "JUPYTER_PATH": f"{prefix}/rehearsal/in/jupyter",
        "JUPYTER_RUNTIME_DIR": f"{prefix}/rehearsal/out/runtime",
        "JUPYTER_PLATFORM_DIRS": "1",  # without it, jupyter_core warns in the log
        "IPYTHONDIR": f"{prefix}/rehearsal/out/ipython",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # without it, debugpy warns of frozen modules
        "OFFLINE_KIT_INSTALLER": environment.installer,
        **environment.env,
    }
    if environment.recorded:
        env[kit_recording.MISSES] = f"{prefix}/rehearsal/out/{MISSES}"
    if prefix:
        # The weak sandbox (no bubblewrap, no user namespaces) cannot change the root folder, so /kaggle does not
        # exist: the runtime in the notebook reads these variables instead.
        env["OFFLINE_KIT_INPUT"] = f"{prefix}/kaggle/input"
        env["OFFLINE_KIT_WORKING"] = f"{prefix}/kaggle/working"
        env["OFFLINE_KIT_SCRATCH"] = f"{prefix}/tmp/offline-kit"  # noqa: S108
    kernel_env = {"PATH": f"{Path(environment.kernel.launch[0]).parent}:{search_path}"}
    if environment.python_path:
        kernel_env["PYTHONPATH"] = ":".join(f"{prefix}{folder}" for folder in environment.python_path)
    return env, kernel_env


@dataclass(frozen=True, kw_only=True)
class ExecutedCell:
    """A code cell of an executed notebook."""

    number: int  # position among all cells of the notebook, from 1
    source: str
    seconds: float | None  # None if the cell did not end
    started: float | None = None  # seconds since the epoch
    status: str  # as papermill writes it: "completed", "failed", "running" or "pending"
    error: tuple[str, ...] = ()  # lines of the error and its traceback, without colors
    message: str = ""  # the error and its causes alone, without lines of source code
    printed: str = ""  # the end of the output, without colors
    failure: KitError | None = None
    added_cells: int = 0  # number of cells that offline-kit put before those of an adopted notebook
    label: str = ""  # its number, or the line of a script that failed, in the user's file
    quoted: tuple[str, ...] = ()  # its first lines, or those around the failed one, below the label


def label_cell(number: int, added_cells: int) -> str:
    """Return the number of a cell in the user's file, with that of the rendered notebook if they differ."""
    if not added_cells:
        return f"cell {number}"
    own = f"cell {number - added_cells}" if number > added_cells else "the setup cell"
    return f"{own} (cell {number} of the rendered notebook)"


def count_added_cells(sources: Sequence[str]) -> int:
    """Return how many cells precede those of the user's file; 0 for a notebook that was not adopted."""
    numbers = (
        number for number, source in enumerate(sources, 1) if any(setup in source for setup in _SETUPS)
    )
    return next(numbers, 0)


def read_cells(executed: Path) -> tuple[ExecutedCell, ...]:
    """Return the code cells of an executed notebook; () if it is missing or damaged."""
    try:
        own_cells = load_cells(executed, limit=_LARGEST)
        added_cells = count_added_cells(["".join(cell.get("source", "")) for _, cell in own_cells])
        return tuple(
            parse_cell(number, cell, added_cells) for number, cell in own_cells if cell["cell_type"] == "code"
        )
    except DAMAGED:
        return ()


def load_cells(executed: Path, *, limit: int) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the numbered cells of an executed notebook of at most `limit` bytes; raise one of DAMAGED for a damaged one."""
    if not leftovers.is_regular(executed, limit=limit):
        return []
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    # papermill inserts cells with this tag before the one that failed:
    # https://papermill.readthedocs.io/en/latest/usage-execute.html
    tag = "papermill-error-cell-tag"
    return [*enumerate((cell for cell in cells if tag not in cell["metadata"].get("tags", ())), 1)]


def parse_cell(number: int, cell: Mapping[str, Any], added_cells: int) -> ExecutedCell:
    """Return a code cell as papermill left it."""
    papermill_metadata = cell["metadata"].get("papermill") or {}
    seconds = float(papermill_metadata.get("duration") or 0)
    outputs = cell.get("outputs", ())
    printed = strip_colors("".join("".join(output.get("text", "")) for output in outputs))
    traceback, messages = list[str](), list[str]()
    for output in outputs:
        if output.get("output_type") == "error":
            messages.append(f"{output.get('ename')}: {output.get('evalue')}")
            lines = strip_colors("\n".join(output.get("traceback") or ())).splitlines()
            traceback += lines or messages[-1:]
    source, label = "".join(cell.get("source", "")), label_cell(number, added_cells)
    return ExecutedCell(
        number=number,
        source=source,
        seconds=seconds
        if papermill_metadata.get("duration") is not None and math.isfinite(seconds)
        else None,
        started=_parse_time(papermill_metadata.get("start_time")),
        status="failed" if messages else str(papermill_metadata.get("status") or "pending"),
        error=tuple(traceback),
        message="\n".join([*messages, *(line for line in traceback if _RAISED.match(line))]),
        printed=printed[-_PRINTED:],
        failure=find_failure(printed) if messages else None,
        added_cells=added_cells,
        label=label,
        quoted=quote_cell(label, source),
    )


def _parse_time(text: Any) -> float | None:
    """Return papermill's time, in UTC, as seconds since the epoch; older versions wrote no zone."""
    if not isinstance(text, str):
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_script(script: Path, log: Path, outcome: BoxOutcome) -> ExecutedCell:
    """Return a script that ran as a cell: "failed" with the error in its log, "running" if it was stopped."""
    source, tail = script.read_text(encoding="utf-8"), strip_colors(read_tail(log, _LOG_TAIL))
    cell = ExecutedCell(
        number=1, source=source, seconds=outcome.seconds, status="completed", label="the script", printed=tail
    )
    if outcome.is_over_limit:
        cell = replace(cell, seconds=None, status="running")
    elif not outcome.succeeded and (failed := script_runs.find_script_failure(tail)):
        cell = replace(
            cell,
            status="failed",
            error=failed.error,
            message=failed.message,
            failure=failed.failure,
            label=script_setup.label_line(source, failed.line),
            quoted=quote_line(source, failed.line),
            printed=tail[: failed.start],
        )
    return replace(cell, printed=cell.printed[-_PRINTED:])


def read_tail(path: Path, size: int) -> str:
    """Return the text of the last `size` bytes of a file; "" if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - size, 0))
        return stream.read().decode(errors="replace")


def strip_colors(text: str) -> str:
    """Return a terminal's text without its codes for colors."""
    return _ANSI.sub("", text)


def find_stopped_cell(cells: tuple[ExecutedCell, ...]) -> ExecutedCell | None:
    """Return the cell that failed, or that was running when the run was stopped."""
    return next((cell for cell in cells if cell.status in ("failed", "running")), None)


def quote_cell(label: str, source: str) -> tuple[str, ...]:
    """Return the first lines of a cell's code, indented, below its label."""
    lines = source.splitlines()
    omitted = len(lines) - _MAX_CELL_LINES
    ending = (f"    ... {omitted} more line{'s' * (omitted > 1)}",) if omitted > 0 else ()
    return (f"{label}:", *(f"    {line}" for line in lines[:_MAX_CELL_LINES]), *ending)


def quote_line(script: str, line: int) -> tuple[str, ...]:
    """Return a line of a script and those around it, below its label."""
    lines = script.split("\n")
    numbers = range(max(line - _LINES_AROUND, 1), min(line + _LINES_AROUND, len(lines)) + 1)
    quoted = (f"  {'>' if number == line else ' '} {lines[number - 1]}".rstrip() for number in numbers)
    return (f"{script_setup.label_line(script, line)}:", *quoted)


def shorten_error(error: Sequence[str]) -> tuple[str, ...]:
    """Return the last lines of an error, without empty ones: a long one begins with frames of libraries."""
    lines = tuple(line for line in error if line.strip())
    return lines if len(lines) <= MAX_ERROR_LINES else ("...", *lines[-MAX_ERROR_LINES:])
