"""Inference-server competitions: the gateway of a rehearsal, and its second run, as the scoring run will be.

Where the local copy of the data brings the competition's own kaggle_evaluation, that is used; else a stand-in is
laid into the mount. The first run has the gateway in the notebook's process, the second in one of its own.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core import files, resources
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook import imports
from offline_kit.notebook.runtime.kit_server import PACKAGE, WRITTEN
from offline_kit.rehearsal import gateway_driver, gateway_standin
from offline_kit.rehearsal import submission_check as submission
from offline_kit.rehearsal.execution import Bench, Ran

_SERVE = re.compile(r"\d+-serve")
_PLACE = "/rehearsal/gateway"
_OUT = "/rehearsal/out/gateway"
_SERVER = """from kaggle_evaluation.core import standin


class {name}InferenceServer(standin.{base}):
    pass
"""
_GATEWAY = """from kaggle_evaluation.core import standin


class {name}Gateway(standin.Gateway):
    pass
"""
_INIT = """from kaggle_evaluation.core import standin

standin.import_any_name(__name__)
"""
_TEMPLATES = """from kaggle_evaluation.core.standin import Gateway, InferenceServer

__all__ = ["Gateway", "InferenceServer"]
"""
_ERRORS = """from kaggle_evaluation.core.standin import GatewayRuntimeError

__all__ = ["GatewayRuntimeError"]
"""
_REMEDIES = {
    "SERVER_NEVER_STARTED": "load models in the first call, and nothing large before the cell that serves",
    "SERVER_RAISED_EXCEPTION": "correct the function: what it does must not depend on the order of the batches",
    "INVALID_SUBMISSION": "return a data frame or a series with the columns that are to be predicted, and exactly one"
    " row for each row that is asked for",
    "GRPC_DEADLINE_EXCEEDED": "answer faster: only the first batch may take as long as it needs",
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """The gateway's side of a rehearsal."""

    package: Path | None
    """The stand-in for kaggle_evaluation; None where the data brings the competition's own."""
    code: tuple[Path, ...]
    """Its Python files: what they import has to be in the kernel's environment."""
    params: Mapping[str, Any]
    """What the notebook's params say of it: "data_paths", "server", "gateway"."""
    submission: str
    """What it writes."""
    place: str = ""
    """Folder of the competition's data that holds the package, a name below it; empty: the data itself."""

    def laid(self) -> dict[str, Path]:
        """Return what is laid into the competition's mount, by name."""
        return {PACKAGE: self.package} if self.package else {}


def serves(notebook: Path) -> bool:
    """Whether a notebook serves a gateway: it has the cell of our template, or imports kaggle_evaluation itself."""
    try:
        found = json.loads(notebook.read_text(encoding="utf-8")).get("cells", ())
        return any(_SERVE.fullmatch(str(cell.get("id", ""))) for cell in found) or imports_package(notebook)
    except (ValueError, AttributeError, TypeError):
        return False  # no notebook: running it says so


def imports_package(notebook: Path) -> bool:
    """Whether a notebook's cells import kaggle_evaluation: one of the user's, as the template's find it by themselves."""
    return PACKAGE in imports.of_files([notebook])


def prepare(
    data: Path | Mapping[str, Path] | None, params: Mapping[str, Any], submission: str, folder: Path
) -> Service:
    """Return the gateway for this copy of the competition's data; a stand-in is written into `folder`.

    `data` is a folder, or its entries by name. `params` are the notebook's: "gateway" has the stand-in's options,
    or names a class of the competition's own package. Raises ProjectError without any data, UsageError for
    unknown options.
    """
    if data is None:
        raise ProjectError(
            "an inference server cannot be rehearsed without a test set",
            hint="set competition_data to a local copy of the competition's data, or a part of it",
        )
    entries = {path.name: path for path in sorted(data.iterdir())} if isinstance(data, Path) else data
    said: dict[str, Any] = {"data_paths": _paths(params)}
    said |= {key: params[key] for key in ("server", "gateway") if isinstance(params.get(key), str)}
    for place, own in _packages(entries):
        code = [*own.rglob("*.py"), *(own.parent.glob("*.py") if place else _python_of(entries))]
        return Service(
            package=None, code=tuple(sorted(code)), params=said, submission=submission, place=place
        )
    options = {"submission": submission, **_options(params.get("gateway", {}))}
    package = write_standin(folder, options)
    code = [package / "core" / "standin.py"]
    said = {key: value for key, value in said.items() if key == "data_paths"}
    return Service(package=package, code=tuple(code), params=said, submission=submission)


def _packages(entries: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Yield the competition's own packages: in the data, then in a folder of it, with the name of that folder."""
    if (own := entries.get(PACKAGE)) and own.is_dir():
        yield "", own
    for name, path in entries.items():
        if (path / PACKAGE).is_dir():
            yield name, path / PACKAGE


def _python_of(entries: Mapping[str, Path]) -> list[Path]:
    return [path for name, path in entries.items() if name.endswith(".py") and path.is_file()]


def _options(said: Any) -> dict[str, Any]:
    if isinstance(said, str):
        raise UsageError(
            f"`gateway` names a class, '{said}', and the competition's data brings no {PACKAGE} that could define it",
            hint="use the whole of the competition's data, or give the options of the stand-in as a table",
        )
    if problems := gateway_standin.option_problems(said):
        raise UsageError(
            "the options of the stand-in gateway cannot be used",
            hint="correct [tool.offline-kit.notebook.params.gateway]",
            details=problems,
        )
    return dict(said)


def _paths(params: Mapping[str, Any]) -> list[str]:
    paths = params.get("data_paths", [])
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise UsageError(
            f"`data_paths` must be a list of names below the competition's data, not {paths!r}",
            hint="correct [tool.offline-kit.notebook.params]",
        )
    return list(paths)


def write_standin(
    folder: Path, options: Mapping[str, Any], *, name: str = "Standin", new: bool = False
) -> Path:
    """Write the stand-in for kaggle_evaluation into `folder` and return the package; `new`: with the one call `run`."""
    package = files.make_folder(folder / PACKAGE / "core").parent
    base = "NewInferenceServer" if new else "InferenceServer"
    texts = {
        "__init__.py": _INIT,
        "core/__init__.py": "",
        "core/templates.py": _TEMPLATES,
        "core/base_gateway.py": _ERRORS,
        "core/standin.py": resources.read_source("rehearsal/gateway_standin"),
        f"{name.lower()}_inference_server.py": _SERVER.format(name=name, base=base),
        f"{name.lower()}_gateway.py": _GATEWAY.format(name=name),
        gateway_standin.OPTIONS: json.dumps(dict(options)),
    }
    for file, text in texts.items():
        (package / file).write_text(text, encoding="utf-8")
    return package


def written(working: Path, name: str) -> str:
    """Return the submission that a gateway wrote: competitions differ in its format, and the gateway decides."""
    found = [each for each in (name, *WRITTEN) if (working / each).is_file()]
    return found[0] if found else name


def scoring(bench: Bench, service: Service, root: str, first: Path | None, folder: Path) -> Bench:
    """Return the bench of the second run: notebook and gateway as two processes, as when Kaggle scores.

    `root` is where the competition's data is mounted, `first` what the run in one process wrote; the driver's files are
    written into `folder`.
    """
    # As in the package, so that the driver imports them by their own names; a folder needs no __init__ for that.
    runtime = files.make_folder(folder / "offline_kit" / "notebook" / "runtime")
    for module in ("kit_runtime", "kit_server"):
        text = resources.read_source(f"notebook/runtime/{module}")
        (runtime / f"{module}.py").write_text(text, encoding="utf-8")
    driver = "driver.py"
    (folder / driver).write_text(resources.read_source("rehearsal/gateway_driver"), encoding="utf-8")
    if first and first.suffix == ".parquet" and first.is_file():
        shutil.copyfile(first, folder / gateway_driver.FIRST)
    around = (bench.kernel[0], f"{_PLACE}/{driver}", _OUT, root, json.dumps(dict(service.params)))
    return replace(bench, inputs=(*bench.inputs, Mount(inside=_PLACE, source=folder)), around=around)


def python_path(service: Service | None, notebook: Path, root: str) -> tuple[str, ...]:
    """Return what the kernel finds on its path: the package's folder, where cells of the user's import it.

    On Kaggle a notebook of such a competition imports kaggle_evaluation without having touched sys.path.
    """
    if service is None or not root or not imports_package(notebook):
        return ()
    return (f"{root}/{service.place}".rstrip("/"),)


def problem_of(ran: Ran) -> ProjectError | None:
    """Return what the gateway of a second run was not content with; None: it was, or the notebook failed first."""
    folder = ran.executed.parent / "gateway"
    try:
        told = json.loads((folder / gateway_driver.OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # ended by a limit, or a notebook that never came that far
    if told["gateway"] == 0:
        return None
    result = _result(folder)
    log = (folder / gateway_driver.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    tail = [line for line in log if line.strip()][-6:]
    if told["first"] == "notebook":
        if told["notebook"]:
            return None
        return ProjectError(
            "the notebook ended while the gateway of the scoring run still waited for it",
            hint="serve in the scoring run: the cell that serves has to come to its turn, and to stay",
            details=tail,
        )
    kind, text = result.get("ErrorType", ""), result.get("ErrorDetails", "")
    return ProjectError(
        f"in two processes, as in the scoring run, the gateway ended with {kind or 'an error'}",
        hint=_REMEDIES.get(kind, "read what it says; on Kaggle you would see no more than this word"),
        details=[text] if text else tail,
    )


def collect(ran: Ran, submission: str) -> Path | None:
    """Lay the gateway's submission where a notebook's is looked for; returns it as CSV where it is none and can be."""
    written = ran.executed.parent / "gateway" / submission
    if _is_regular(written):
        (ran.working / submission).unlink(missing_ok=True)
        shutil.copyfile(written, ran.working / submission)
    table = written.with_name(written.name + gateway_driver.TABLE)
    return table if _is_regular(table) else None


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()  # a box may leave links that lead out of it


def notes_of(second: Ran, service: Service) -> tuple[str, ...]:
    """Return what a second run that went well tells."""
    told = _result(second.executed.parent / "gateway")
    whose = "a stand-in for the competition's gateway" if service.package else "the competition's own gateway"
    notes = [f"served {whose} in its own process, then in two processes as in the scoring run"]
    if "Batches" in told:
        batches, rows = told["Batches"], told.get("Rows", 0)
        one_batch = "1 batch: whether the answers depend on the order of several was not tried"
        sent = one_batch if batches == 1 else f"{batches} batches in random order, then in the opposite one"
        notes.append(f"{rows} row{'s' * (rows != 1)} in {sent}")
    return tuple(notes)


def warnings_of(first: Ran, second: Ran, service: Service) -> tuple[str, ...]:
    """Return what may spoil a score although both runs went well: answers that were not the same twice."""
    folder = second.executed.parent / "gateway"
    parquet = service.submission.endswith(".parquet")
    one = (
        folder / f"{gateway_driver.FIRST}{gateway_driver.TABLE}"
        if parquet
        else first.working / service.submission
    )
    two = folder / f"{service.submission}{gateway_driver.TABLE if parquet else ''}"
    if not (one.is_file() and two.is_file()):
        return ()
    odd = submission.differing(one, two)
    said = f"the two runs answered differently ({odd}): predict depends on the order of the batches, or on chance"
    return (said,) if odd else ()


def rows_of(ran: Ran) -> int:
    """Return how many rows the gateway of a second run was answered; 0 where it does not tell."""
    return int(_result(ran.executed.parent / "gateway").get("Rows", 0))


def _result(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
