"""Answer the gateway of an inference-server competition, and explain what goes wrong between the two.

This file is part of offline-kit and is pasted into the notebooks that it renders. Kaggle's gateway holds the
hidden test set and calls `predict` with one batch after the other; the package that both sides speak through,
kaggle_evaluation, lies in the competition's data.
"""

import importlib
import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_kit.runtime.kit_runtime import KitError, OpenKit, Say, load_object

PACKAGE = "kaggle_evaluation"
WRITTEN = ("submission.parquet", "submission.csv")
"""What gateways write."""
DEFAULT = re.compile(r"""["'](/kaggle/input/(?:competitions/)?[\w-]+/?([^"']*))["']""")
"""Where a gateway looks for the data when it is not told: in the mount layout of its own year."""
RULE = (
    "`function` is either predict(test) itself, called with each batch; or a function of `context`, called once, "
    "which returns such a predict; or a class constructed with the context, whose __call__(self, test) is the predict"
)
"""What the template calls, for a person."""


def predictor_of(name: str, kit: OpenKit, context: Any) -> Callable[..., Any]:
    """Return what is called with each batch: the object `name` itself, or what it makes of the context.

    Raises KitError for what fails while it is made, and for what cannot be called.
    """
    function = load_object(name, kit)
    if not callable(function):
        raise KitError(f"'{name}' cannot be called: its type is {type(function).__name__}", hint=RULE)
    if not takes_context(function):
        return function  # type: ignore[no-any-return]
    done = "constructing" if isinstance(function, type) else "calling"
    try:
        made = function(context)
    except KitError:
        raise
    except Exception as error:
        raise KitError(
            f"{done} '{name}' with the context raised {type(error).__name__}: {error}",
            ["this was before any batch was answered; the error itself stands above"],
            hint=f"correct it; {RULE}",
        ) from error
    if not callable(made):
        raise KitError(
            f"{done} '{name}' with the context gave a {type(made).__name__}, which cannot be called",
            hint=RULE,
        )
    return made  # type: ignore[no-any-return]


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether this makes the predict: a class, or what has a first parameter named or annotated as the context."""
    if isinstance(function, type):
        return True
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        return False  # compiled code may tell nothing of its parameters
    if first is None:
        return False
    said = getattr(first.annotation, "__name__", str(first.annotation))
    return first.name == "context" or said.strip("'\"").rpartition(".")[2] == "Context"


class Batches:
    """The notebook's `predict`, with a memory of the last batch for whoever has to explain an error."""

    def __init__(self, function: Callable[..., Any], say: Say = print) -> None:
        self.function, self.say = function, say
        self.number, self.asked, self.returned = 0, "", ""
        self.error: BaseException | None = None

    def predict(self, *batch: Any, **named: Any) -> Any:
        """Answer one batch; the gateway calls it by this name."""
        self.number, began = self.number + 1, time.monotonic()
        self.asked = ", ".join(map(shape_of, [*batch, *named.values()]))
        self.returned = "nothing yet"
        try:
            answer = self.function(*batch, **named)
        except Exception as error:
            self.error = error
            raise
        self.returned = shape_of(answer)
        if inspect.isroutine(answer):
            self.error = KitError(f"predict returned a function for batch {self.number}", hint=RULE)
            raise self.error
        if self.number == 1:
            self.say(f"first batch: {self.asked} -> {self.returned} in {time.monotonic() - began:.1f} s")
        return answer

    def explained(self, error: BaseException) -> KitError:
        """Return what the user should know of an error that ended the run."""
        if self.number == 0:
            return KitError(
                f"the gateway ended before the first batch: {type(error).__name__}: {error}",
                hint="check the test set; where it looks for it can be set with `data_paths`, names below the "
                "competition's folder, in [tool.offline-kit.notebook.params]",
            )
        told = [f"asked: {self.asked}", f"returned: {self.returned}"]
        if self.error:
            return KitError(
                f"predict raised {type(self.error).__name__} at batch {self.number}: {self.error}",
                told[:1],
                hint="correct the function; the error itself stands above",
            )
        return KitError(
            f"the gateway did not take what predict returned for batch {self.number}: {error}",
            told,
            hint="return a data frame or a series with the columns that are to be predicted, and exactly one row "
            "for each row that is asked for",
        )


def shape_of(value: Any) -> str:
    """Return what a batch or an answer is, for a person."""
    kind, family = type(value).__name__, type(value).__module__.partition(".")[0]
    kind = f"{family}.{kind}" if family in ("pandas", "polars", "numpy") else kind
    if hasattr(value, "columns"):
        return f"{kind} of {len(value)} row{'s' * (len(value) != 1)} ({', '.join(map(str, list(value.columns)[:8]))})"
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return kind
    return f"{kind} of {len(value)}"


def find_package(root: Path | None) -> Path:
    """Return the folder of the competition's package; raises KitError where its data has none."""
    if root is None:
        raise KitError(
            "an inference server needs its competition, and this notebook names none",
            hint="set `competition` in [tool.offline-kit]",
        )
    for folder in (root / PACKAGE, *sorted(root.glob(f"*/{PACKAGE}"))):
        if folder.is_dir():
            return folder
    names = sorted(path.name for path in root.iterdir())
    raise KitError(
        f"'{root}' has no {PACKAGE}: is this a competition with an inference server?",
        [f"it has: {', '.join(names[:20])}"],
        hint="compare with the competition's demo notebook, or use the template `function`",
    )


def server_class(root: Path | None, name: str = "") -> Any:
    """Return the competition's class of servers, from the package in its data.

    `name` ("module:Class") says which, where there are several. Raises KitError.
    """
    package = find_package(root)
    for folder in (package.parent, package):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: its data shall hide no package of the kit or the image
    importlib.invalidate_caches()
    if name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    found = {path.stem: f"{PACKAGE}.{path.stem}" for path in sorted(package.glob("*_inference_server.py"))}
    if not found:
        found = {path.stem: path.stem for path in sorted(package.parent.glob("*_inference_server.py"))}
    classes = [each for module in found.values() for each in _classes(importlib.import_module(module))]
    if len(classes) == 1:
        return classes[0]
    raise KitError(
        f"'{package}' defines {len(classes)} inference servers, and one is needed",
        [f"{each.__module__}:{each.__name__}" for each in classes],
        hint='name it: `server = "module:Class"` in [tool.offline-kit.notebook.params]',
    )


def _classes(module: Any) -> list[Any]:
    return [
        value
        for name, value in vars(module).items()
        if name.endswith("InferenceServer") and getattr(value, "__module__", "") == module.__name__
    ]


def data_paths(root: Path, names: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Return what the gateway is told about where the data lies; None: it finds it itself.

    By default what its own source says, as far as that names a mount layout that this session has not.
    """
    if names:
        return tuple(str(root / name) for name in names)
    package = find_package(root)
    for path in [*sorted(package.glob("*_gateway.py")), *sorted(package.parent.glob("*_gateway.py"))]:
        text = path.read_text(encoding="utf-8")
        said = text.partition("def unpack_data_paths")[2].partition("\n    def ")[0]
        found = dict(DEFAULT.findall(said))
        if found and not all(Path(place).exists() for place in found):
            return tuple(str(root / name) for name in found.values())
    return None


def serve(
    predict: Callable[..., Any],
    root: Path | None,
    submission: Path,
    params: Mapping[str, Any] | None = None,
    say: Say = print,
) -> Path | None:
    """Serve `predict` to the gateway until it is done.

    In Kaggle's scoring run the gateway is another machine, which keeps the submission: returns None, if at
    all. Else it runs here, on the public test set, and the path of what it wrote is returned. Raises KitError.
    """
    params, batches = params or {}, Batches(predict, say)
    server = server_class(root, str(params.get("server", "")))(batches.predict)
    scoring = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))
    say(
        f"server: {type(server).__name__}, {'for the scoring run' if scoring else 'with a gateway of its own'}"
    )
    began = time.time()
    try:
        if hasattr(server, "run"):
            server.run(**({} if scoring else {"competition_data_folder": str(root)}))
        elif scoring:
            server.serve()
        else:
            server.run_local_gateway(data_paths(Path(str(root)), params.get("data_paths", ())))
    except Exception as error:
        if isinstance(batches.error, KitError) and batches.number == 1:
            raise batches.error from batches.error.__cause__  # it says what to do, whatever the gateway made of it
        raise batches.explained(error) from error
    say(
        f"server: {batches.number} batch{'es' * (batches.number != 1)} answered in {time.time() - began:.1f} s"
    )
    return None if scoring else written(submission, began)


def written(submission: Path, since: float) -> Path:
    """Return the submission that a gateway has just written; raises KitError for none, or another format."""
    places = [folder / name for folder in (submission.parent, Path.cwd()) for name in WRITTEN]
    found = [path for path in (submission, *places) if path.is_file() and path.stat().st_mtime >= since - 2]
    if not found:
        raise KitError(
            "the gateway ended without an error and wrote no submission",
            hint="read its output above: it tells which rows it asked for",
        )
    if found[0].name != submission.name:
        raise KitError(
            f"the gateway wrote '{found[0].name}', and this notebook is to submit '{submission.name}'",
            hint=f'set `submission = "{found[0].name}"` in [tool.offline-kit.notebook]',
        )
    return found[0]
