"""Rehearse inference-server competitions: provide the gateway, and run again as in Kaggle's scoring run.

If the local copy of the data includes the competition's own kaggle_evaluation, that is used; otherwise a stand-in is
added to the mount. In the first run the gateway is in the notebook's process, in the second in its own process.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files, resources
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.sandboxes import leftovers
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook import imports
from offline_kit.notebook.runtime.kit_server import PACKAGE, WRITTEN
from offline_kit.rehearsal import gateway_driver, gateway_standin, submission_check
from offline_kit.rehearsal.execution import KernelRun, RehearsalEnvironment

_SERVE = re.compile(r"\d+-serve")
_SERVE_MARKER = re.compile(r"^# %% serve\b", re.MULTILINE)  # of the same cell in a script
_DRIVER_FOLDER = "/rehearsal/gateway"
_OUTPUT_FOLDER = "/rehearsal/out/gateway"
_REMEDIES = {
    "SERVER_NEVER_STARTED": "load models in the first call, and nothing large before the cell that starts the server",
    "SERVER_RAISED_EXCEPTION": "fix the function; it must not depend on the order of the batches",
    "INVALID_SUBMISSION": "return a data frame or a series with the columns to predict, and exactly one row for each row of the batch",
    "GRPC_DEADLINE_EXCEEDED": "predict faster: only the first batch has no time limit",
}


@dataclass(frozen=True, kw_only=True)
class GatewayService:
    """The gateway of a rehearsal."""

    package: Path | None
    """The stand-in for kaggle_evaluation; None if the data includes the competition's own."""
    code: tuple[Path, ...]  # its Python files: the kernel's environment needs what they import
    params: Mapping[str, Any]  # the notebook's params for it: "data_paths", "server", "gateway"
    submission: str
    package_folder: str = ""  # name of the data's folder that contains the package; empty: the data itself

    def added_folders(self) -> dict[str, Path]:
        """Return the folders to add to the competition's mount, by name."""
        return {PACKAGE: self.package} if self.package else {}


def uses_gateway(notebook: Path) -> bool:
    """Whether a notebook runs an inference server: with the template's cell, or by importing kaggle_evaluation."""
    text = notebook.read_text(encoding="utf-8")
    if notebook.suffix == ".py":
        return bool(_SERVE_MARKER.search(text)) or _imports_package(notebook)
    try:
        cells = json.loads(text).get("cells", ())
        return any(_SERVE.fullmatch(str(cell.get("id", ""))) for cell in cells) or _imports_package(notebook)
    except (ValueError, AttributeError, TypeError):
        return False  # not a notebook: running it reports that


def _imports_package(notebook: Path) -> bool:
    """Whether a notebook's cells import kaggle_evaluation; those of the template do not."""
    return PACKAGE in imports.find_file_imports([notebook])


def prepare_gateway(
    data: Path | Mapping[str, Path] | None, params: Mapping[str, Any], submission: str, folder: Path
) -> GatewayService:
    """Return the gateway for this copy of the competition's data; write a stand-in to `folder` if it has none.

    `data` is a folder, or its entries by name. `params` are the notebook's: "gateway" has the stand-in's options, or
    names a class of the competition's own package.

    Raises ProjectError if there is no data; UsageError if an option of the stand-in is unknown.
    """
    if data is None:
        raise ProjectError(
            "rehearsing an inference server needs the test set",
            hint="set `competition_data` to a local copy of the competition's data, or of a part of it",
            code="competition-data-not-set",
        )
    data_paths = params.get("data_paths", [])
    if not isinstance(data_paths, list | tuple) or not all(isinstance(path, str) for path in data_paths):
        raise UsageError(
            f"`data_paths` must be a list of names below the competition's data, not {data_paths!r}",
            hint="fix [tool.offline-kit.notebook.params]",
            code="data-paths-invalid",
        )
    driver_params: dict[str, Any] = {"data_paths": list(data_paths)}
    entries = {path.name: path for path in sorted(data.iterdir())} if isinstance(data, Path) else data
    # The competition's own package is in the data itself, or in one of its folders.
    package_folder, beside = "", entries
    if PACKAGE not in entries:
        package_folder = next((name for name, path in entries.items() if (path / PACKAGE).is_dir()), "")
        beside = {path.name: path for path in entries[package_folder].iterdir()} if package_folder else {}
    package = beside.get(PACKAGE)
    if package and package.is_dir():
        modules = [path for path in beside.values() if path.suffix == ".py" and path.is_file()]
        names = {key: params[key] for key in ("server", "gateway") if isinstance(params.get(key), str)}
        return GatewayService(
            package=None,
            code=tuple(sorted([*package.rglob("*.py"), *modules])),
            params=driver_params | names,
            submission=submission,
            package_folder=package_folder,
        )
    # Without the competition's package, `gateway` has the options of the stand-in.
    options = params.get("gateway", {})
    if isinstance(options, str):
        raise UsageError(
            f"`gateway` names the class '{options}', but the competition's data has no {PACKAGE} to define it",
            hint="use all of the competition's data, or set `gateway` to a table of options of the stand-in",
            code="gateway-class-not-found",
        )
    if problems := gateway_standin.find_option_problems(options):
        raise UsageError(
            "the options of the stand-in gateway are invalid",
            hint="fix [tool.offline-kit.notebook.params.gateway]",
            code="gateway-options-invalid",
            details=problems,
        )
    standin = write_standin(folder, {"submission": submission, **options})
    code = (standin / "core" / "standin.py",)
    return GatewayService(package=standin, code=code, params=driver_params, submission=submission)


def write_standin(
    folder: Path, options: Mapping[str, Any], *, name: str = "Standin", new: bool = False
) -> Path:
    """Write the stand-in for kaggle_evaluation to `folder`, with the newer `run` method if `new`; return the package."""
    package = files.make_folder(folder / PACKAGE / "core").parent
    standin, base = f"{PACKAGE}.core.standin", "NewInferenceServer" if new else "InferenceServer"
    derived = f"from {PACKAGE}.core import standin\n\n\nclass {{}}(standin.{{}}):\n    pass\n"
    texts = {
        "__init__.py": f"from {standin} import import_any_name\n\nimport_any_name()\n",
        "core/__init__.py": "",
        # Modules of the real package that notebooks import from.
        "core/templates.py": f"from {standin} import Gateway, InferenceServer\n",
        "core/any_name.py": f"from {standin} import make_any_class as __getattr__\n",
        "core/base_gateway.py": f"from {standin} import GatewayRuntimeError\n",
        "core/standin.py": resources.read_source("rehearsal/gateway_standin"),
        f"{name.lower()}_inference_server.py": derived.format(f"{name}InferenceServer", base),
        f"{name.lower()}_gateway.py": derived.format(f"{name}Gateway", "Gateway"),
        gateway_standin.OPTIONS: json.dumps(dict(options)),
    }
    for file, text in texts.items():
        (package / file).write_text(text, encoding="utf-8")
    return package


def find_submission(working: Path, name: str) -> str:
    """Return the name of the submission that a gateway wrote; its format depends on the competition."""
    return next((written for written in (name, *WRITTEN) if (working / written).is_file()), name)


def make_scoring_run(
    environment: RehearsalEnvironment,
    service: GatewayService,
    root: str,
    first_submission: Path | None,
    folder: Path,
) -> RehearsalEnvironment:
    """Return the environment of the second run: notebook and gateway in two processes, as in Kaggle's scoring run.

    `root` is the mount of the competition's data, `first_submission` the result of the first run; the driver's files
    are written to `folder`.
    """
    # As in the package, so that the driver imports them by their own names; a folder needs no __init__ for that.
    runtime = files.make_folder(folder / "offline_kit" / "notebook" / "runtime")
    for name, source in resources.runtime_files().items():
        (runtime / name).write_bytes(source)
    (folder / "driver.py").write_text(resources.read_source("rehearsal/gateway_driver"), encoding="utf-8")
    if first_submission and first_submission.suffix == ".parquet" and first_submission.is_file():
        shutil.copyfile(first_submission, folder / gateway_driver.FIRST_SUBMISSION)
    words = (environment.kernel.launch[0], f"{_DRIVER_FOLDER}/driver.py", _OUTPUT_FOLDER, root)
    return replace(
        environment,
        inputs=(*environment.inputs, Mount(inside=_DRIVER_FOLDER, source=folder)),
        wrapper=(*words, json.dumps(dict(service.params))),
    )


def find_python_path(service: GatewayService | None, notebook: Path, root: str) -> tuple[str, ...]:
    """Return the folders to add to the kernel's path: that of the package, if the user's own cells import it."""
    if not service or not root:
        return ()
    # In such a competition, Kaggle puts kaggle_evaluation on sys.path: its starter notebooks import it directly.
    return (f"{root}/{service.package_folder}".rstrip("/"),) if _imports_package(notebook) else ()


def find_gateway_problem(result: KernelRun) -> ProjectError | None:
    """Return the error of a second run's gateway; None if it succeeded, or if the notebook failed first."""
    folder = result.executed.parent / "gateway"
    outcome = files.read_json(folder / gateway_driver.OUTCOME)
    # Without an outcome, a limit was reached, or the notebook never started its server.
    if not outcome or outcome["gateway"] == 0 or (outcome["first"] == "notebook" and outcome["notebook"]):
        return None
    log = (folder / gateway_driver.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    tail = [line for line in log if line.strip()][-6:]
    if outcome["first"] == "notebook":
        return ProjectError(
            "the notebook ended while the gateway of the scoring run was still waiting for it",
            hint="make sure that the scoring run reaches the cell that starts the server, and that the server keeps running",
            code="server-ended-early",
            details=tail,
        )
    gateway_result = read_gateway_result(result)
    kind, text = gateway_result.get("ErrorType", ""), gateway_result.get("ErrorDetails", "")
    return ProjectError(
        f"the gateway failed with {kind or 'an error'} when it ran in its own process, as in the scoring run",
        hint=_REMEDIES.get(kind, "fix the error below; Kaggle would show only its kind"),
        code="gateway-failed",
        details=[text] if text else tail,
    )


def collect_submission(result: KernelRun, submission: str) -> Path | None:
    """Copy the gateway's submission to the notebook's place; return its copy as CSV if the driver wrote one."""
    written = result.executed.parent / "gateway" / submission
    if leftovers.is_regular(written):
        (result.working / submission).unlink(missing_ok=True)
        shutil.copyfile(written, result.working / submission)
    table = written.with_name(written.name + gateway_driver.TABLE_SUFFIX)
    return table if leftovers.is_regular(table) else None


def describe_second_run(second: KernelRun, service: GatewayService) -> tuple[str, ...]:
    """Return notes about a successful second run."""
    gateway_result = read_gateway_result(second)
    kind = "a stand-in for the competition's gateway" if service.package else "the competition's own gateway"
    note = f"tested with {kind}: in the notebook's process, then in two processes as in the scoring run"
    if "Batches" not in gateway_result:
        return (note,)
    batches, rows = gateway_result["Batches"], gateway_result.get("Rows", 0)
    one_batch = "1 batch, so the order of batches was not tested"
    sent = one_batch if batches == 1 else f"{batches} batches in random order, then in reverse"
    return (note, f"{rows} row{'s' * (rows != 1)} in {sent}")


def warn_of_differences(first: KernelRun, second: KernelRun, service: GatewayService) -> tuple[str, ...]:
    """Warn if the two runs gave different predictions."""
    folder = second.executed.parent / "gateway"
    first_table, second_table = first.working / service.submission, folder / service.submission
    if service.submission.endswith(".parquet"):
        first_table = folder / f"{gateway_driver.FIRST_SUBMISSION}{gateway_driver.TABLE_SUFFIX}"
        second_table = folder / f"{service.submission}{gateway_driver.TABLE_SUFFIX}"
    if not (first_table.is_file() and second_table.is_file()):
        return ()
    odd = submission_check.describe_difference(first_table, second_table)
    warning = f"the two runs gave different predictions ({odd}): predict depends on the order of the batches, or on chance"
    return (warning,) if odd else ()


def read_gateway_result(result: KernelRun) -> dict[str, Any]:
    """Return what the gateway of a second run reported: "Rows" that it received, "Batches", "ErrorType"; {} if nothing."""
    return files.read_json(result.executed.parent / "gateway" / "result.json")
