"""Runs notebooks as rehearsals do: offline, in a sandbox laid out as Kaggle's."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_kit import image, interpreters, sandbox
from offline_kit.errors import OfflineKitError, UsageError
from offline_kit.image import Image
from offline_kit.local_kaggle.running import Job, Result
from offline_kit.pip_settings import IndexSettings
from offline_kit.rehearsal import environments, execution, gateway, import_chains, imports, kernel, pythons
from offline_kit.rehearsal.environments import Workshop
from offline_kit.rehearsal.execution import Bench, Ran
from offline_kit.rehearsal.gateway import Service
from offline_kit.rehearsal.kernel import Ready
from offline_kit.runtime.kit_server import WRITTEN
from offline_kit.sandboxes.box import Mount

_GLANCE = 0.1  # seconds between two looks at a log


class SandboxRunner:
    """A `Runner`: each notebook in an environment made for the image that its mounted kit was made for.

    Under `current`, and where no kit is mounted, in the running environment.
    """

    def __init__(
        self, shop: Workshop, *, current: bool = False, kinds: tuple[str, ...] = sandbox.KINDS
    ) -> None:
        self.shop = shop
        self.current = current
        self.kinds = kinds

    def __call__(self, job: Job) -> Result:
        """Run a job; what the notebook did wrong, or what is missing to run it, is its failure."""
        source = job.folder / "notebook.ipynb"
        source.write_text(job.notebook, encoding="utf-8")
        try:
            job, service = _served(job, source)
            ran = self._ran(job, source, service)
        except (OfflineKitError, ValueError) as error:  # ValueError: a notebook that is no JSON
            said = getattr(error, "what", f"the notebook cannot be read: {error}")
            return Result(failure=said, log=((0.0, f"{said}\n"),))
        for line in ran.deleted:
            job.say(f"the local Kaggle: not kept: {line}\n")
        failure = _failure(ran)
        if service and job.rerun and not ran.outcome.timed_out and (problem := gateway.problem_of(ran)):
            failure = " ".join((problem.what, *problem.details[:1]))
        if service and job.rerun:
            _collect(ran, service.submission)
        if ran.working.is_dir():
            ran.working.replace(job.folder / "output")
        return Result(failure=failure)

    def _ran(self, job: Job, source: Path, service: Service | None) -> Ran:
        chosen = sandbox.find(self.kinds, report=self.shop.report)
        papermill = pythons.look(environments.papermill(self.shop))
        ready = self._kernel(job, (source, *(service.code if service else ())))
        bench = Bench(
            notebook=source,
            inputs=_inputs(job),
            kernel=ready.launch,
            papermill=papermill.path,
            shown=(*ready.python.mounts, *ready.mounts, *papermill.mounts),
            links={**papermill.links, **ready.python.links},
            uv=interpreters.uv(),
            installer="auto",
            timeout=job.timeout,
            env=(_index(self.shop.settings) if job.internet else {})
            | ({"KAGGLE_IS_COMPETITION_RERUN": "1"} if job.rerun else {}),
            network=job.internet,
        )
        if job.internet:
            job.say(
                "the local Kaggle: the internet is on, this notebook may use the network of this machine\n"
            )
        if service and job.contest:
            root = f"/kaggle/input/{job.contest.place}"
            bench = replace(bench, python_path=gateway.python_path(service, source, root))
            if job.rerun:
                bench = gateway.scoring(bench, service, root, None, job.folder / "driver")
        box = job.folder / "box"
        with _telling(box / execution.LOG, job.say):
            return execution.run(bench, chosen, box, report=self.shop.report)

    def _kernel(self, job: Job, code: Sequence[Path]) -> Ready:
        """Return the kernel for the kit that is mounted."""
        kits = [] if self.current else list(_kits(job))
        if kits:
            name = str(kits[0][1]["image"])
            try:
                chosen = image.load(name, accelerator="none", project=job.folder)
            except UsageError:  # captured, or of a file of the user's
                job.say(f"the local Kaggle has no image '{name}': the running environment stands in for it\n")
                return kernel.of_running(self.shop)
            if not chosen.local:
                return kernel.of_image(chosen, sorted(_used(kits, code, chosen)), self.shop)
        return kernel.of_running(self.shop)


def _served(job: Job, notebook: Path) -> tuple[Job, Service | None]:
    """Return the gateway's side for a notebook that serves one, and the job with a stand-in among its data if needed."""
    contest = job.contest
    if contest is None or not (gateway.serves(notebook) or (job.rerun and contest.gateway is not None)):
        return job, None
    entries = _entries(job, contest.place)
    params = {} if contest.gateway is None else {"gateway": contest.gateway}
    service = gateway.prepare(entries, params, contest.submission, job.folder / "gateway")
    laid = {f"{contest.place}/{name}": path for name, path in (entries | service.laid()).items()}
    others = [each for each in job.inputs if not f"{each[0]}/".startswith(f"{contest.place}/")]
    return replace(job, inputs=(*others, *laid.items())), service


def _entries(job: Job, place: str) -> dict[str, Path]:
    """Return what lies at a place below /kaggle/input, by name."""
    found: dict[str, Path] = {}
    for at, source in job.inputs:
        if at == place:
            found |= {path.name: path for path in sorted(source.iterdir())}
        elif at.startswith(f"{place}/"):
            found[at.removeprefix(f"{place}/")] = source
    return found


def _collect(ran: Ran, submission: str) -> None:
    """Lay what the gateway has written into the working folder, which is the output; a parquet file as CSV as well."""
    for name in dict.fromkeys((submission, *WRITTEN)):
        table = gateway.collect(ran, name)
        if table is not None:
            shutil.copyfile(table, ran.working / table.name)


def _index(settings: IndexSettings) -> dict[str, str]:
    """Return the indexes of this machine for a notebook with the internet on: its box has no home with a pip.conf.

    Folders are left out: the box does not show them.
    """
    extra = [url for url in settings.extra_index_urls if not url.startswith("file:")]
    told = {
        "PIP_INDEX_URL": "" if settings.index_url.startswith("file:") else settings.index_url,
        "PIP_EXTRA_INDEX_URL": " ".join(extra),
        "PIP_CERT": settings.cert,
        "PIP_TRUSTED_HOST": " ".join(settings.trusted_hosts),
        "PIP_PROXY": settings.proxy,
        "PIP_TIMEOUT": f"{settings.timeout:.0f}",
    }
    return {name: value for name, value in told.items() if value}


def _inputs(job: Job) -> tuple[Mount, ...]:
    """Return the mounts of /kaggle/input: a folder of empty places, then what lies over each."""
    folder = job.folder / "input"
    folder.mkdir()
    mounts = [Mount(inside="/kaggle/input", source=folder)]
    for place, source in job.inputs:
        point = folder / place
        point.parent.mkdir(parents=True, exist_ok=True)
        point.mkdir(exist_ok=True) if source.is_dir() else point.touch()
        mounts.append(Mount(inside=f"/kaggle/input/{place}", source=source.resolve()))
    return tuple(mounts)


def _kits(job: Job) -> Iterator[tuple[list[Path], dict[str, Any]]]:
    """Yield the install plan of every kit that is mounted, with all packages that are: its own may be in other parts."""
    folders = [folder / "packages" for _, folder in job.inputs if (folder / "packages").is_dir()]
    archives = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    for folder in folders:
        with suppress(OSError, ValueError):
            plan = json.loads((folder / "install.json").read_text("utf-8"))
            if {"image", "provided", "install"} <= set(plan):
                yield archives, plan


def _used(kits: list[tuple[list[Path], dict[str, Any]]], code: Sequence[Path], chosen: Image) -> set[str]:
    """Return what of the image a run needs: provided to the kits, imported by the notebook or the packages."""
    found, names = set(imports.of_files(code)), set()
    for archives, plan in kits:
        names |= {str(item["name"]) for item in plan["provided"]}
        roots = [name for item in plan["install"] for name in item.get("imports", ())]
        found |= import_chains.unavoidable(archives, roots)
        own = {item.get("wheel") for item in plan["install"] if item.get("role") == "own"}
        found |= imports.of_files([path for path in archives if path.name in own])
    return {
        name for name in names | set(imports.distributions(found, chosen.packages)) if name in chosen.packages
    }


def _failure(ran: Ran) -> str:
    if ran.outcome.timed_out:
        return "Your notebook was stopped because it exceeded the max allowed execution duration."
    cell = execution.stopped_at(execution.cells(ran.executed))
    if cell and cell.status == "failed":
        return cell.message.splitlines()[0] if cell.message else "Notebook Threw Exception"
    return "" if ran.outcome.ok else f"The notebook's process ended with code {ran.outcome.code}"


@contextmanager
def _telling(log: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the lines of a log as it grows, while the block lasts."""
    ended = threading.Event()

    def follow() -> None:
        place, rest, last = 0, b"", False
        while not last:
            last = ended.wait(_GLANCE)
            new = _beyond(log, place)
            place += len(new)
            *lines, rest = (rest + new).split(b"\n")
            for line in lines:
                say(line.decode(errors="replace") + "\n")
        if rest:
            say(rest.decode(errors="replace"))

    teller = threading.Thread(target=follow, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _beyond(path: Path, place: int) -> bytes:
    """Return what a file has from a place on; nothing where it is not there yet."""
    try:
        with path.open("rb") as stream:
            stream.seek(place)
            return stream.read()
    except FileNotFoundError:
        return b""
