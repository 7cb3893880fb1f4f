"""Serve predictions to the gateway of an inference-server competition, and explain failures between the two.

Kaggle's gateway has the hidden test set and calls `predict` with one batch after the other; their common package,
kaggle_evaluation, is in the competition's data.
"""

import ast
import importlib
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .kit_hooks import load_object
from .kit_runtime import KitError, OpenKit, in_scoring_run

PACKAGE = "kaggle_evaluation"
WRITTEN = ("submission.parquet", "submission.csv")  # what gateways write
DEFAULT = re.compile(r"""["'](/kaggle/input/(?:competitions/)?[\w-]+/?([^"']*))["']""")
"""A gateway's default data path, in the mount layout of its own year."""
RULE = (
    "`function` is either predict(test) itself, called with each batch; or a function of `context`, called once, "
    "which returns such a predict; or a class constructed with the context, whose __call__(self, test) is the predict"
)
"""What the template calls, for a person."""
SERVER, GATEWAY = "InferenceServer", "Gateway"
"""How the classes of the package's `core` end that a competition derives its own from."""


def make_predictor(name: str, kit: OpenKit, context: Any) -> Callable[..., Any]:
    """Return the function to call with each batch: the object `name`, or what it returns for the context."""
    function = predictor = load_object(name, kit)
    problem = f"'{name}' cannot be called: its type is {type(function).__name__}"
    if callable(function) and _takes_context(function):
        action = "constructing" if isinstance(function, type) else "calling"
        try:
            predictor = function(context)
        except KitError:
            raise
        except Exception as error:
            raise KitError(
                f"{action} '{name}' with the context raised {type(error).__name__}: {error}",
                ["no batch was answered before this; the error itself is shown above"],
                code="predictor-failed",
                hint=f"fix it; {RULE}",
            ) from error
        kind = type(predictor).__name__
        problem = f"{action} '{name}' with the context gave a {kind}, which cannot be called"
    if not callable(predictor):
        raise KitError(problem, code="predictor-not-callable", hint=RULE)
    return predictor  # type: ignore[no-any-return]


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether this makes the predict: a class, or what has a first parameter named or annotated as the context."""
    if isinstance(function, type):
        return True
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False  # compiled code may tell nothing of its parameters
    if first is None:
        return False
    annotation = getattr(first.annotation, "__name__", str(first.annotation))
    return first.name == "context" or annotation.strip("'\"").rpartition(".")[2] == "Context"


class BatchRecorder:
    """The notebook's `predict`; records the last batch to explain errors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.number, self.request, self.response = 0, "", ""
        self.error: BaseException | None = None

    def predict(self, *batch: Any, **named: Any) -> Any:
        """Answer one batch; the gateway calls it by this name."""
        self.number, began = self.number + 1, time.monotonic()
        self.request = ", ".join(map(describe_value, [*batch, *named.values()]))
        self.response = "nothing yet"
        try:
            answer = self.function(*batch, **named)
            if inspect.isroutine(answer):
                problem = f"predict returned a function for batch {self.number}"
                raise KitError(problem, code="prediction-is-function", hint=RULE)
        except Exception as error:
            self.error = error
            raise
        self.response = describe_value(answer)
        if self.number == 1:
            print(f"first batch: {self.request} -> {self.response} in {time.monotonic() - began:.1f} s")
        return answer

    def explain_error(self, error: BaseException) -> KitError:
        """Return what the user should know of an error that ended the run."""
        asked = f"asked: {self.request}"
        if self.number == 0:
            return KitError(
                f"the gateway ended before the first batch: {type(error).__name__}: {error}",
                code="gateway-failed",
            )
        if isinstance(self.error, KitError):
            return KitError(
                f"predict failed at batch {self.number}: {self.error.what}",
                [asked, *self.error.details],
                code=self.error.code,
                hint=self.error.hint,
            )
        if self.error:
            return KitError(
                f"predict raised {type(self.error).__name__} at batch {self.number}: {self.error}",
                [asked],
                code="prediction-failed",
            )
        return KitError(
            f"the gateway did not take what predict returned for batch {self.number}: {error}",
            [asked, f"returned: {self.response}"],
            code="prediction-refused",
        )


def describe_value(value: Any) -> str:
    """Return what a batch or an answer is, for a person."""
    kind, family = type(value).__name__, type(value).__module__.partition(".")[0]
    kind = f"{family}.{kind}" if family in ("pandas", "polars", "numpy") else kind
    if hasattr(value, "columns"):
        return f"{kind} of {len(value)} row{'s' * (len(value) != 1)} ({', '.join(map(str, list(value.columns)[:8]))})"
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return kind
    return f"{kind} of {len(value)}"


def find_server_package(root: Path | None) -> Path:
    """Return the folder of the competition's package; raises KitError if its data has none."""
    if root is None:
        raise KitError(
            "an inference server needs its competition, and this notebook names none",
            code="competition-not-attached",
            hint="set `competition` in [tool.offline-kit]",
        )
    # Some hosts put it one folder down.
    for folder in (root / PACKAGE, *sorted(root.glob(f"*/{PACKAGE}"))):
        if folder.is_dir():
            return folder
    names = sorted(path.name for path in root.iterdir())
    raise KitError(
        f"'{root}' has no {PACKAGE}: is this a competition with an inference server?",
        [f"it has: {', '.join(names[:20])}"],
        code="inference-server-not-found",
    )


def find_classes(package: Path, kind: str) -> dict[str, Path]:
    """Return the competition's own servers (`kind` SERVER) or gateways (GATEWAY), "module:Class", and their files.

    Nothing is imported. Base classes decide, because packages differ in names and nesting: beside `core`, in a
    folder `<name>_<id>`, or in the folder of the package. A class that another one extends is left out.
    """
    core = package / "core"
    inside = [path for path in sorted(package.rglob("*.py")) if core not in path.parents]
    for paths in (inside, sorted(package.parent.glob("*.py"))):
        classes = [entry for path in paths for entry in _read_classes(path, package.parent)]
        # Classes derive from each other in any order, so this goes on until nothing is added.
        kinds: set[str] = set()
        while derived := {
            name
            for _, name, bases, _ in classes
            if name not in kinds and any(base.endswith(kind) or base in kinds for base in bases)
        }:
            kinds |= derived
        extended = {base for _, name, bases, _ in classes if name in kinds for base in bases if base != name}
        leaves = {f"{module}:{name}": path for module, name, _, path in classes if name in kinds - extended}
        if leaves:
            return leaves
    return {}


def _read_classes(path: Path, root: Path) -> Iterator[tuple[str, str, list[str], Path]]:
    """Yield module, name and plain names of the bases of the classes that importing a file defines, and its path."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, SyntaxError, ValueError):
        return  # a notebook's cells or a note: nothing that a gateway could import
    parts = path.relative_to(root).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    aliases = {alias.asname: alias.name for node in imports for alias in node.names if alias.asname}
    statements = list(tree.body)
    while statements:
        node = statements.pop(0)
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
            yield module, node.name, [aliases.get(base, base) for base in bases], path
        elif isinstance(node, ast.Try) or (
            isinstance(node, ast.If) and "__name__" not in ast.unparse(node.test)
        ):
            statements = [*node.body, *node.orelse, *statements]


def load_class(package: Path, kind: str, name: str = "") -> Any:
    """Import the competition's server or gateway class; `name` ("module:Class" or "Class") selects one of several."""
    for folder in (package.parent, package):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: its data shall hide no package of the kit or the image
    importlib.invalidate_caches()
    defined = list(find_classes(package, kind))
    files = [path.relative_to(package.parent).as_posix() for path in sorted(package.rglob("*.py"))]
    listed = defined or [f"python files: {', '.join(files[:20])}{', ...' if len(files) > 20 else ''}"]
    matching = [reference for reference in defined if name in ("", reference, reference.partition(":")[2])]
    if len(matching) != 1 and ":" not in name:
        word, key = ("inference servers", "server") if kind == SERVER else ("gateways", "gateway")
        raise KitError(
            f"'{package}' defines {len(matching)} {word}{f' named {name}' if name else ''}, and one is needed",
            listed,
            code="server-class-ambiguous",
            hint=f'name it: `{key} = "module:Class"` in [tool.offline-kit.notebook.params]',
        )
    module, _, attribute = (matching[0] if len(matching) == 1 else name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (AttributeError, ModuleNotFoundError) as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        if is_missing and str(error.name).partition(".")[0] not in (PACKAGE, module.partition(".")[0]):
            raise  # what the package itself needs: its own words say it best
        raise KitError(
            f"'{package}' has no module '{module}'" if is_missing else f"'{module}' defines no '{attribute}'",
            listed,
            code="server-class-not-found",
        ) from error


def construct_server(server: Any, predict: Callable[..., Any]) -> Any:
    """Construct a competition's server with `predict`; raises KitError if its constructor takes no function."""
    # The relay of kaggle_evaluation 0.9.0 takes nothing but a `types.FunctionType`: no bound method, no lambda, no
    # object with `__call__`.

    def endpoint(*batch: Any, **named: Any) -> Any:
        return predict(*batch, **named)

    endpoint.__name__ = endpoint.__qualname__ = "predict"
    try:
        parameters = list(inspect.signature(server).parameters.values())
    except (TypeError, ValueError):
        return server(endpoint)
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                return server(**{parameter.name: endpoint})
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD and not re.search(
            "path|dir|folder|port|modules", parameter.name
        ):
            return server(endpoint)
    raise KitError(
        f"the competition's {server.__name__} takes no function: {server.__name__}{inspect.signature(server)}",
        ["it answers its gateway by itself, from what the notebook writes"],
        code="server-takes-no-function",
    )


def find_data_paths(root: Path, names: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Return the data paths to pass to the gateway; None if its own defaults work."""
    # A default in its source may name a mount layout that this session does not have.
    if names:
        return tuple(str(root / name) for name in names)
    for path in dict.fromkeys(find_classes(find_server_package(root), GATEWAY).values()):
        text = path.read_text(encoding="utf-8", errors="replace")
        unpack_source = text.partition("def unpack_data_paths")[2].partition("\n    def ")[0]
        default_paths = dict(DEFAULT.findall(unpack_source))
        if not all(Path(default_path).exists() for default_path in default_paths):
            return tuple(str(root / name) for name in default_paths.values())
    return None


def serve_gateway(
    predict: Callable[..., Any], root: Path | None, submission: Path, params: Mapping[str, Any] | None = None
) -> Path | None:
    """Serve `predict` to the gateway until it is done.

    In Kaggle's scoring run the gateway is another machine, which keeps the submission: returns None, if at
    all. Else it runs here, on the public test set, and the path of what it wrote is returned. Raises KitError.
    """
    params, batches = params or {}, BatchRecorder(predict)
    package = find_server_package(root)
    # Kaggle waits 15 minutes for the server, so models are loaded at the first batch, not here.
    server_class = load_class(package, SERVER, str(params.get("server", "")))
    server = construct_server(server_class, batches.predict)
    scoring = in_scoring_run()
    gateways = ", ".join(find_classes(package, GATEWAY)) or "none defined"
    print(f"server: {server_class.__name__} of {server_class.__module__}; gateway: {gateways}")
    if not (scoring or hasattr(server, "run") or hasattr(server, "run_local_gateway")):
        raise KitError(
            f"{server_class.__name__} has neither `run` nor `run_local_gateway`: only a scoring run can call it",
            [f"it has: {', '.join(name for name in dir(server) if not name.startswith('_'))}"],
            code="server-without-gateway",
        )
    print(f"server: {'for the scoring run' if scoring else 'with a gateway in this process'}")
    began = time.time()
    try:
        if hasattr(server, "run"):
            server.run(**({} if scoring else {"competition_data_folder": str(root)}))
        elif scoring:
            server.serve()
        else:
            server.run_local_gateway(find_data_paths(Path(str(root)), params.get("data_paths", ())))
    except Exception as error:
        if isinstance(batches.error, KitError) and batches.number == 1:
            raise batches.error from batches.error.__cause__  # it says what to do, whatever the gateway made of it
        raise batches.explain_error(error) from error
    number = batches.number
    print(f"server: {number} batch{'es' * (number != 1)} answered in {time.time() - began:.1f} s")
    return None if scoring else find_written(submission, began)


def find_written(submission: Path, since: float) -> Path:
    """Return the submission that a gateway has just written; raises KitError for none, or another format."""
    usual_paths = [folder / name for folder in (submission.parent, Path.cwd()) for name in WRITTEN]
    for path in (submission, *usual_paths):
        # Two seconds, because some file systems keep no finer times.
        if path.is_file() and path.stat().st_mtime >= since - 2:
            if path.name == submission.name:
                return path
            raise KitError(
                f"the gateway wrote '{path.name}', and this notebook is to submit '{submission.name}'",
                code="submission-name-mismatch",
                hint=f'set `submission = "{path.name}"` in [tool.offline-kit.notebook]',
            )
    raise KitError(
        "the gateway finished without an error, but wrote no submission",
        code="submission-not-written",
        hint="check its output above for the rows that it requested",
    )
