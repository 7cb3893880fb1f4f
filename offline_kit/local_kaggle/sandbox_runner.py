"""Runs notebooks as rehearsals do: offline, in a sandbox laid out as Kaggle's."""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offline_kit.core import interpreters, sandbox
from offline_kit.core.errors import OfflineKitError, UsageError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.notebook.runtime import kit_recording
from offline_kit.notebook.runtime.kit_server import WRITTEN
from offline_kit.project import images
from offline_kit.project.images import Image
from offline_kit.rehearsal import environments, execution, gateway, kernel, kit_facts, mounts
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.gateway import GatewayService

_DOCUMENT = f"recording/{kit_recording.DOCUMENT}"


class SandboxRunner:
    """A `NotebookRunner`: each notebook in an environment made for the image that its mounted kit was made for.

    That is the environment of its rehearsal. Under `current`, and where no kit is mounted, in the running environment.
    `project` is where the files of images lie that only this project knows.
    """

    def __init__(
        self,
        shop: EnvironmentOptions,
        *,
        current: bool = False,
        project: Path | None = None,
    ) -> None:
        self.shop = shop
        self.current = current
        self.project = project

    def __call__(self, job: RunJob) -> str:
        """Run a job; what the notebook did wrong, or what is missing to run it, is its failure."""
        source = job.folder / ("script.py" if job.is_script else "notebook.ipynb")
        source.write_text(job.notebook, encoding="utf-8")
        try:
            job, service = _add_gateway(job, source)
            run = self._run_job(job, source, service)
        except (OfflineKitError, ValueError) as error:  # ValueError: a notebook that is no JSON
            message = getattr(error, "what", f"the notebook cannot be read: {error}")
            job.say(f"{message}\n")
            return str(message)
        for line in run.deleted:
            job.say(f"the local Kaggle: not kept: {line}\n")
        failure = _describe_failure(run)
        if service and job.rerun:
            if not run.outcome.timed_out and (problem := gateway.find_gateway_problem(run)):
                failure = " ".join((problem.what, *problem.details[:1]))
            # What the gateway has written becomes output; a parquet file as CSV as well.
            for name in dict.fromkeys((service.submission, *WRITTEN)):
                table = gateway.collect_submission(run, name)
                if table is not None:
                    shutil.copyfile(table, run.working / table.name)
        if run.working.is_dir():
            run.working.replace(job.folder / "output")
        return failure

    def _run_job(self, job: RunJob, source: Path, service: GatewayService | None) -> KernelRun:
        chosen_sandbox = sandbox.find_sandbox(report=self.shop.report)
        image, ready = self._choose_kernel(job, (source, *(service.code if service else ())))
        env = {"KAGGLE_IS_COMPETITION_RERUN": "1"} if job.rerun else {}
        if job.internet:
            env |= self.shop.index.make_box_environment()
            words = "the internet is on, this notebook may use the network of this machine"
            job.say(f"the local Kaggle: {words}\n")
        folder = job.folder / "input"
        folder.mkdir()
        inputs = [Mount(inside="/kaggle/input", source=folder)]
        inputs += [mounts.mount_input(folder, path, source) for path, source in job.inputs]
        bench = RehearsalEnvironment(
            notebook=source,
            inputs=tuple(inputs),
            kernel=ready,
            papermill=environments.make_papermill_environment(self.shop),
            uv=interpreters.uv_program(),
            installer="auto",
            timeout=job.timeout,
            machine=job.machine,
            env=env,
            network=job.internet,
            # On Kaggle a notebook may install anything, in ways that no pattern finds.
            recorded=job.internet or any((source / _DOCUMENT).is_file() for _, source in job.inputs),
        )
        root = f"/kaggle/input/{job.contest.mount}" if job.contest else ""
        if service:
            bench = replace(bench, python_path=gateway.find_python_path(service, source, root))
        boxes = (job.folder / f"box{number}" for number in itertools.count())

        def run(environment: RehearsalEnvironment) -> KernelRun:
            box = next(boxes)
            if service and job.rerun:
                driver = job.folder / f"driver-{box.name}"
                environment = gateway.make_scoring_run(environment, service, root, None, driver)
            report = self.shop.report
            return execution.run_notebook(environment, chosen_sandbox, box, say=job.say, report=report)

        return kernel.run_until_complete(bench, image, self.shop, run)[1] if image else run(bench)

    def _choose_kernel(self, job: RunJob, code: Sequence[Path]) -> tuple[Image | None, KernelSetup]:
        """Return the image of the kit that is mounted, if it is known, and the kernel for it."""
        kit_files = () if self.current else kit_facts.list_mounted_files(folder for _, folder in job.inputs)
        if name := kit_facts.read_install_plan(kit_files).image:
            try:
                image = images.load_image(name, accelerator="none", project=self.project or job.folder)
            except UsageError:  # captured, or of an image file that only the kit's own machine has
                job.say(f"the local Kaggle has no image '{name}': the running environment stands in for it\n")
            else:
                return image, kernel.prepare_kernel(kit_files, code, image, self.shop, current=False)
        return None, kernel.make_running_kernel(self.shop)


def _add_gateway(job: RunJob, notebook: Path) -> tuple[RunJob, GatewayService | None]:
    """Return the gateway's side for a notebook that serves one, and the job with a stand-in among its data if needed."""
    contest = job.contest
    if contest is None or not (gateway.uses_gateway(notebook) or (job.rerun and contest.gateway is not None)):
        return job, None
    mount, entries, others = contest.mount, dict[str, Path](), []
    for at, source in job.inputs:
        if at == mount:
            entries |= {path.name: path for path in sorted(source.iterdir())}
        elif at.startswith(f"{mount}/"):
            entries[at.removeprefix(f"{mount}/")] = source
        else:
            others.append((at, source))
    params = {} if contest.gateway is None else {"gateway": contest.gateway}
    service = gateway.prepare_gateway(entries, params, contest.submission, job.folder / "gateway")
    laid = {f"{mount}/{name}": path for name, path in (entries | service.added_folders()).items()}
    return replace(job, inputs=(*others, *laid.items())), service


def _describe_failure(ran: KernelRun) -> str:
    if ran.outcome.timed_out:
        return "Your notebook was stopped because it exceeded the max allowed execution duration."
    if ran.outcome.over_memory:
        return "Your notebook tried to allocate more memory than is available."
    if ran.outcome.over_disk:
        return "No space left on device: /kaggle/working is full"
    cell = execution.find_stopped_cell(ran.cells)
    if cell and cell.status == "failed":
        return cell.message.splitlines()[0] if cell.message else "Notebook Threw Exception"
    return "" if ran.outcome.succeeded else f"The {ran.kind}'s process ended with code {ran.outcome.code}"
