"""Record a run on this machine: in a sandbox with the network on, the image's versions and local copies of the inputs."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from offline_kit.adopt import recording
from offline_kit.adopt.recording import RecordedRun
from offline_kit.core import files, interpreters, processes, sandbox
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes.box import Mount
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.packages import pip_settings
from offline_kit.project.accelerators import find_machine, find_machine_shape
from offline_kit.project.kaggle_names import MARKER, METADATA_KEYS
from offline_kit.project.types import Kit
from offline_kit.rehearsal import environments, execution, gateway, kernel, mounts, verdict
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.gateway import GatewayService
from offline_kit.rehearsal.mounts import MountedInputs
from offline_kit.rehearsal.request import RehearsalRequest
from offline_kit.workflow import record_notebook, upload_secrets
from offline_kit.workflow.record_notebook import RecordingPlan

_PROGRESS = "recording: "  # begins the lines that the recorder prints after each cell
_BESIDE, _INPUT = "/rehearsal/project", "/kaggle/input/"
_MAX_RUNS = 3  # each with the packages of the image that pip had to bring to the one before
_LONG = 600.0  # seconds after which a run that failed is not repeated
_INSTALLS = re.compile(r"\bpip3?\b.{0,40}\binstall\b|\buv\b.{0,20}\b(?:pip|add)\b", re.DOTALL)
_COMMON = (
    "filelock fsspec huggingface-hub joblib matplotlib numpy packaging pandas pillow pyyaml regex requests safetensors"
    " scikit-learn scipy torch torchvision tqdm typing-extensions"
)
"""What the packages that notebooks install mostly depend on: without the image's, pip would download its own."""
_SECRET_LENGTH = 8  # characters; to mask shorter ones would garble what is no secret
_SECRET_NAME = re.compile(r"(?i)token|secret|passw(?:or)?d|key|credential")


def record_here(
    plan: RecordingPlan, env: str, *, yes: bool = False, report: Reporter = SILENT
) -> RecordedRun:
    """Run the notebook in a sandbox with the network on; keep log and executed notebook in .offline-kit/recorder.

    `env` is "matching" or "current", and `yes` agrees to large downloads. Raises ProjectError if a cell failed or a limit
    was reached; what was recorded until then is kept there, too, and an older recording stays as it is.
    """
    index, cache = pip_settings.read_pip_settings(processes.copy_environment()), files.cache_dir()
    shop = EnvironmentOptions(index=index, cache=files.make_folder(cache), yes=yes, report=report)
    # It is kept here, but would stop the push, after a run that may have taken hours.
    text = record_notebook.render_recorder(plan, "here")  # without the outputs, which are not pushed
    upload_secrets.check_notebook(plan.config, {plan.path.name: text}, report)
    part = recording.recording_folder(plan.config.project)
    evidence = part.with_name("recorder")
    files.ignore_in_git(files.make_folder(evidence.parent))
    files.sweep_stages(evidence)
    with files.stage_folder(evidence) as folder:
        run = _LocalRun(plan, shop, files.make_folder(folder / "run"), current=env == "current")
        result, problem = run.run_until_settled()
        document = record_notebook.read_document(result.working)
        problem = problem or record_notebook.check_finished(document, plan)
        _keep_files(result, record_notebook.name_submission(document), folder)
        _mask_secrets(folder, run.secrets)
        files.remove_path(folder / "run")
    if problem:
        problem.details = (*problem.details, *record_notebook.describe_kept(document, evidence))
        raise problem
    files.remove_path(part)
    (evidence / "part").replace(part)
    return recording.write_record(plan.config.project)


class _LocalRun:
    """The runs of one recording, in a folder that is deleted afterwards."""

    def __init__(self, plan: RecordingPlan, shop: EnvironmentOptions, folder: Path, *, current: bool) -> None:
        self.plan, self.shop, self.folder, self.current = plan, shop, folder, current
        self.sandbox = _find_sandbox(plan)
        beside = plan.list_beside()
        for name in plan.find_crowded(beside):
            shop.report.warn(
                f"'{name}' has too many files for the run to see them; put what it reads below input/"
            )
            del beside[name]
        modules = [path for path in beside.values() if path.suffix == ".py"]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules]
        code = "\n".join([*(cell.source for cell in plan.adoption.adoption.cells), *texts])
        # Secrets of this machine's environment that the code names: on Kaggle they are the account's.
        self.secrets = {
            name: text
            for name, text in processes.copy_environment().items()
            if _SECRET_NAME.search(name) and re.search(f"""(["']){re.escape(name)}\\1""", code)
        }
        self.gateway: GatewayService | None = None
        if gateway.uses_gateway(plan.path):
            settings, data = plan.config.notebook, plan.config.competition_data
            name = Path(settings.submission).name
            self.gateway = gateway.prepare_gateway(data, settings.params, name, folder / "gateway")
        self.code = (plan.path, *modules, *(self.gateway.code if self.gateway else ()))
        kernel_setup = self._prepare_kernel(_COMMON.split() if _INSTALLS.search(code) else ())
        self.environment = self._make_environment(beside, kernel_setup)

    def _make_environment(
        self, beside: Mapping[str, Path], kernel_setup: KernelSetup
    ) -> RehearsalEnvironment:
        plan, local_inputs = self.plan, self.plan.list_local_inputs()
        shape = find_machine_shape(plan.config.accelerator)
        machine = find_machine(shape)
        if shape:
            self.shop.report.warn("no GPU is used here: a cell that needs one fails; --record kaggle has it")
        inputs = _lay_out_inputs(plan, self.folder / "input", local_inputs, self.gateway)
        for note in inputs.notes:
            self.shop.report.note(note)
        notebook = self.folder / f"recorder{plan.path.suffix}"
        project = _BESIDE if beside else ""
        # In the image's versions nothing is lacking: the kernel has no other packages than the image.
        lacking = {*kernel_setup.python.packages} - {*plan.adoption.image.packages} if self.current else ()
        text = record_notebook.render_recorder(
            plan, "here", pack_inputs=tuple(local_inputs), beside=project, lacking=sorted(lacking)
        )
        notebook.write_text(text, encoding="utf-8")
        project_files = (
            Mount(inside=f"{_BESIDE}/{name}", source=path.resolve()) for name, path in beside.items()
        )
        return RehearsalEnvironment(
            notebook=notebook,
            inputs=(*inputs.mounts, *project_files),
            kernel=kernel_setup,
            papermill=environments.make_papermill_environment(self.shop),
            uv=interpreters.uv_program(),
            installer="auto",
            timeout=machine.seconds,
            machine=machine,
            env={**self.shop.index.make_box_environment(), **self.secrets},
            network=True,
            recorded=True,
            current=self.current,
            python_path=gateway.find_python_path(self.gateway, plan.path, inputs.data),
        )

    def _prepare_kernel(self, more: Collection[str]) -> KernelSetup:
        """Return the kernel for the code, with those of these packages that the image has."""
        image = self.plan.adoption.image
        names = [name for name in more if name in image.packages]
        return kernel.prepare_kernel((), self.code, image, self.shop, current=self.current, more=names)

    def run_until_settled(self) -> tuple[KernelRun, ProjectError | None]:
        """Run, again if pip installed what the image has and the kernel lacked; return the last run and its problem."""
        plan, report, more = self.plan, self.shop.report, {*_COMMON.split()}
        report.step(f"recording '{plan.source}' in {self.sandbox.kind}: it runs with the internet on")
        for _ in range(_MAX_RUNS):
            self.environment, result = kernel.run_until_complete(
                self.environment, plan.adoption.image, self.shop, self._run
            )
            provided = self._find_provided(result)
            is_hopeless = not result.outcome.succeeded and result.outcome.seconds > _LONG
            if not provided or is_hopeless:
                break
            names = ", ".join(provided)
            report.note(
                f"pip installed {names} only because this machine lacked the image's; recording again with it"
            )
            more.update(provided)
            self.environment = replace(self.environment, kernel=self._prepare_kernel(more))
        problem = verdict.find_run_problem(result, self.environment)
        return result, record_notebook.explain_failure(problem, plan) if problem else None

    def _run(self, environment: RehearsalEnvironment) -> KernelRun:
        box, report = self.folder / "box", self.shop.report

        def say_progress(line: str) -> None:
            if line.startswith(_PROGRESS):
                report.step(line.strip())

        files.remove_path(box)
        return execution.run_notebook(environment, self.sandbox, box, say=say_progress, report=report)

    def _find_provided(self, result: KernelRun) -> list[str]:
        """Return the image's packages that a run installed only because the kernel lacks them."""
        document = record_notebook.read_document(result.working) or {}
        added = (package["name"] for package in document.get("packages", ()) if not package["replaces"])
        setup = self.environment.kernel
        lacked = {*self.plan.adoption.image.packages} - {*setup.python.packages}
        return sorted(lacked.intersection(added)) if setup.of_image else []


def _find_sandbox(plan: RecordingPlan) -> sandbox.Sandbox:
    try:
        # In the weak one /kaggle does not exist, which the cells name as it is.
        return sandbox.find_sandbox([kind for kind in sandbox.KINDS if kind != "weak"])
    except OutsideError as error:
        error.hint = f"record it on Kaggle: offline-kit adopt {plan.source} --record kaggle; or {error.hint}"
        raise


def _lay_out_inputs(
    plan: RecordingPlan, folder: Path, local_inputs: Mapping[str, Path], service: GatewayService | None
) -> MountedInputs:
    config, settings = plan.config, plan.config.notebook
    request = RehearsalRequest(
        kit=Kit(folder=config.project, id="", parts=()),
        image=plan.adoption.image,
        competition=config.competition,
        competition_data=config.competition_data,
        copies=config.copies,
    )
    keys = ("competition_sources", *METADATA_KEYS.values())
    sources = {key: getattr(settings, key) for key in keys}
    added_folders = service.added_folders() if service else {}
    added_folders = service.added_folders() if service else {}
    inputs = mounts.lay_out_inputs(request, sources, folder, added_folders=added_folders)
    # Old public notebooks name the mounts of the older layout: /kaggle/input/<slug>.
    request, old_folder = replace(request, layout="old"), folder.with_name("old-input")
    old_inputs = mounts.lay_out_inputs(request, sources, old_folder, added_folders=added_folders)
    placed = {mount.inside: mount.source for mount in old_inputs.mounts[1:]}
    placed |= {f"{_INPUT}{name}": path for name, path in local_inputs.items()}
    added_mounts = [
        mounts.mount_input(folder, inside.removeprefix(_INPUT), source)
        for inside, source in placed.items()
        if inside.startswith(_INPUT)
    ]
    return replace(inputs, mounts=(*inputs.mounts, *added_mounts))


def _mask_secrets(folder: Path, secrets: Mapping[str, str]) -> None:
    """Mask the values of secrets that a cell has printed; the recorder itself masks what goes into the kit."""
    values = [value for value in secrets.values() if len(value) >= _SECRET_LENGTH]
    for path in folder.iterdir():
        if path.suffix in (".ipynb", ".txt") and values:
            text = path.read_text(encoding="utf-8", errors="replace")
            path.write_text(re.sub("|".join(map(re.escape, values)), "***", text), encoding="utf-8")


def _keep_files(result: KernelRun, submission: str, folder: Path) -> None:
    """Move the part, the submission, the executed notebook and the log out of the run's folder."""
    working, part = result.working, files.make_folder(folder / "part")
    targets = {working / name: part / name for name in (MARKER, recording.PART, RUNTIME_PACKAGE)}
    targets |= {result.executed: folder / "executed.ipynb", result.log: folder / "log.txt"}
    targets |= {result.script: folder / "script.py"} if result.script else {}
    targets |= {working / submission: folder / Path(submission).name} if submission else {}
    for source, target in targets.items():
        if source.exists():
            source.replace(target)
