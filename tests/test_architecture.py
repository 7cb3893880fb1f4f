"""The floors: a module imports only from floors below its own, and files stay small."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "offline_kit"

FLOORS: list[set[str]] = [
    {
        "errors",
        "model",
        "report",
        "redaction",
        "wording",
        "kaggle_names",
        "resources",
        "adopting.nouns",
    },  # words
    {
        "proc",
        "files",
        "patience",
        "archives",
        "config_keys",
        "console",
        "crash",
        "runtime.kit_runtime",
        "accelerators",
        "cell_imports",
        "kaggle_rules",
        "pickles",
        "weights.slim_worker",
        "sandboxes.box",
        "sandboxes.leftovers",
        "index_proxy",
        "kaggle_gateway.worker",
        "kaggle_gateway.nouns",
        "kaggle_gateway.where",
    },  # doors, and code that stands alone
    {
        "web",
        "push.journal",
        "push.memory",
        "push.submission_causes",
        "push.submission_marks",
        "push.notebook_same",
        "push.outputs",
        "push.verify_bytes",
        "push.run_files",
        "push.run_logs",
        "git_state",
        "push.waiting",
        "kaggle_gateway.session",
        "runtime.kit_install",
        "runtime.kit_submission",
        "runtime.kit_server",
        "rehearsal.gateway_standin",
        "runtime.kit_preprocess",
        "runtime.kit_rows",
        "runtime.kit_torch",
        "runtime.kit_capture",
        "runtime.kit_wheelhouse",
        "runtime.kit_main",
        "runtime.kit_caches",
        "runtime.kit_sources",
        "sources",
        "scripts",
        "sandboxes.bubblewrap",
        "sandboxes.unshare",
        "sandboxes.docker",
        "sandboxes.weak",
        "sandboxes.memory",
        "package_lists",
        "cache",
        "checkpoint_kinds",
        "adopting.cells",
        "adopting.known_calls",
        "adopting.literals",
        "adopting.reading",
        "adopting.rewriting",
        "adopting.syntax",
        "runtime.kit_adopted",
        "import_names",
        "references",
        "weights.joblib_stream",
        "weights.fetches",
        "weights.verdicts",
        "own.sources",
        "interpreters",
        "wheel_tools",
    },
    {
        "runtime.kit_tasks",
        "runtime.kit_lightning",
        "sandbox",
        "push.ledger",
        "push.once",
        "kaggle_gateway.calls",
        "kaggle_gateway.uploads",
    },  # the door of that room
    {"confined"},
    {"building.workshop"},
    {"runtime.kit_ensemble", "runtime.kit_images", "adopting.shell"},
    {"runtime.kit_postprocess", "runtime.kit_batches", "runtime.kit_attached", "adopting.commands"},
    {"kaggle_gateway.datasets", "kaggle_gateway.notebooks", "kaggle_gateway.competitions"},
    {"kaggle_gateway.models"},
    {"kaggle_gateway.client"},
    {
        "weights.streams",
        "weights.left_out",
        "weights.hub_folders",
        "weights.torch_python",
        "weights.hyper_parameters",
    },  # the room of what the weights hold
    {"weights.scan", "weights.slim", "weights.downloads"},
    {"weights.main_names"},
    {"rehearsal.gateway_driver"},
    {"image", "manifest", "pip_settings", "remote_wheels"},  # facts
    {"config"},
    {"index", "index_credentials", "cuda_abi", "own.loose_modules", "building.wheel_fit"},
    {"push.dataset_plan", "push.ways", "push.submission_plan"},  # the room of what goes to Kaggle
    {"push.dataset_remote", "push.notebook_remote", "push.sending", "push.parts_elsewhere"},
    {"push.rendered_for", "push.verify_elsewhere"},
    {"push.submission_remote"},
    {"frameworks.base"},  # the room of frameworks
    {"frameworks.peek", "frameworks.pickled", "frameworks.torch_pickles"},
    {
        "frameworks.catboost",
        "frameworks.keras",
        "frameworks.lightgbm",
        "frameworks.lightning",
        "frameworks.onnx",
        "frameworks.skops",
        "frameworks.safetensors",
        "frameworks.sklearn",
        "frameworks.timm",
        "frameworks.torch_export",
        "frameworks.torch_module",
        "frameworks.torch_state_dict",
        "frameworks.torchscript",
        "frameworks.transformers",
        "frameworks.xgboost",
    },  # each beside the others
    {"frameworks.table"},
    {"frameworks.versions", "member_params"},
    {"predicting", "weights.stage"},
    {"choosing", "install_plan", "freeze.lines", "freeze.uv_tool"},  # the rooms of large stages
    {"freeze.lock_formats"},
    {
        "diff_sides",
        "fetching",
        "kit_layout",
        "freeze.inputs",
        "freeze.locks",
        "freeze.direct",
        "freeze.written",
    },
    {"diff", "freeze.facts", "freeze.engines"},
    {"freeze.stubs", "freeze.walk"},
    {"freeze.fates"},
    {"freeze.checks", "freeze.solve", "freeze.gather"},
    {"freeze.making", "chained.asked"},
    {"chained.house"},
    {"building.closure"},
    {"building.sdist_wheel"},
    {"own.wheel"},
    {"rehearsal.suspicious"},
    {
        "rehearsal.causes",
        "rehearsal.environments",
        "rehearsal.execution",
        "rehearsal.import_chains",
        "rehearsal.imports",
        "rehearsal.mounts",
        "rehearsal.plan",
        "rehearsal.pythons",
        "rehearsal.submission",
    },
    {"adopting.calls", "adopting.places"},  # the room of notebooks that others wrote
    {"adopting.folders", "adopting.verdicts"},
    {"adopting.lines", "adopting.models"},
    {"adopting.deciding", "adopting.own_names"},
    {
        "adopting.beside",
        "adopting.dialect",
        "adopting.lacking",
        "adopting.mounts",
        "adopting.preparing",
        "adopting.written_secrets",
    },
    {"adopting.looking"},
    {"rehearsal.missing_packages", "rehearsal.explanation"},
    {"rehearsal.fidelity", "rehearsal.gateway", "rehearsal.kernel", "rehearsal.verdict", "push.notebooks"},
    {
        "freeze.stage",
        "wheelhouse",
        "building.sdists",
        "own.code",
        "checkpoints",
        "bundle",
        "notebook",
        "push.datasets",
        "push.models",
        "push.verify",
        "push.submissions",
        "push.queued",
        "push.runs",
        "rehearsal.stage",
    },  # stages
    {
        "local_kaggle.settings",
        "local_kaggle.wire",
        "local_kaggle.traffic",
        "local_kaggle.connection",
        "local_kaggle.faults",
        "local_kaggle.running",
        "local_kaggle.judge",
    },  # the room of the local Kaggle
    {"local_kaggle.store", "local_kaggle.links", "local_kaggle.incoming", "local_kaggle.packing"},
    {"local_kaggle.run_logs"},
    {
        "local_kaggle.accounts",
        "local_kaggle.blobs",
        "local_kaggle.versions",
        "local_kaggle.kernel_runs",
        "local_kaggle.sandbox_runner",
        "local_kaggle.catalog",
    },
    {"local_kaggle.shelf"},
    {"local_kaggle.datasets", "local_kaggle.kernels", "local_kaggle.models"},
    {"local_kaggle.submissions"},
    {"local_kaggle.service"},
    {"local_kaggle.server"},
    {"local_kaggle.start"},
    {"members", "chained.job"},
    {"finding.proposal", "finding.tree"},  # the room of what `init` finds
    {"finding.kinds"},
    {"finding.text", "finding.weights", "finding.contest", "finding.code", "finding.needs"},
    {"finding.predicting"},
    {"finding.stage", "adopting.rendering"},
    {"adopt"},
    {"trained"},
    {"homes", "asking", "uploaded_secrets", "data_contract", "package_bounds"},
    {"pipeline", "shipping"},  # conductors
    {"chained.build", "stale"},
    {"chained.capture"},
    {"ship", "kaggle_rehearsal", "whereabouts"},
    {"ship_plan"},
    {"checks.nouns"},  # the room of what `doctor` looks at
    {
        "checks.box",
        "checks.configuration",
        "checks.credentials",
        "checks.disk",
        "checks.frozen",
        "checks.index",
        "checks.notebook",
        "checks.own_code",
        "checks.python",
        "checks.requirements",
        "checks.uv_tool",
        "checks.weights",
    },
    {"doctor"},
    {
        "summaries.chained",
        "summaries.kit",
        "summaries.kaggle",
        "summaries.compare",
        "summaries.start",
        "summaries.adopt",
    },
    {"commands.options"},
    {
        "commands.adopt",
        "commands.kit",
        "commands.render",
        "commands.kaggle",
        "commands.stores",
        "commands.start",
        "commands.compare",
    },
    {"cli"},  # front door
    {"__main__"},
]
"""From the ground up. A module may import only from sets above its own in this list."""


@cache
def all_modules() -> dict[str, Path]:
    """Return every module but the empty front doors, by its name inside the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py" and not name.startswith(("templates.", "data.")):
            found[name] = path
    return found


def floor_of(module: str) -> int:
    """Return the floor of a module; one that is on no floor is an error."""
    for number, names in enumerate(FLOORS):
        if module in names:
            return number
    pytest.fail(f"{module} stands on no floor: add it to FLOORS")


def internal_imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("offline_kit"):
            base = node.module.removeprefix("offline_kit").lstrip(".")
            known = all_modules()
            found |= {base} if base in known else {f"{base}.{n.name}".lstrip(".") for n in node.names}
        elif isinstance(node, ast.Import):
            names = [n.name for n in node.names if n.name.startswith("offline_kit.")]
            found |= {name.removeprefix("offline_kit.") for name in names}
    return found - {"__version__"}


def test_imports_point_down() -> None:
    """Nothing reaches sideways or up."""
    wrong = [
        f"{module} may not import {target}"
        for module, path in all_modules().items()
        for target in internal_imports(path)
        if floor_of(target) >= floor_of(module)
    ]
    assert not wrong


def test_files_and_functions_stay_small() -> None:
    """No file over 600 lines, no function over 60 (docstring left out), no more than 7 arguments."""
    wrong = []
    for module, path in all_modules().items():
        source = path.read_text()
        if source.count("\n") > 600:
            wrong.append(f"{module} is too long")
        wrong += [f"{module}.{trouble}" for trouble in _large_functions(ast.parse(source))]
    assert not wrong


def _large_functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            if (node.end_lineno or 0) - body[0].lineno + 1 > 60:
                yield f"{node.name} is too long"
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if len(arguments) > 7:
                yield f"{node.name}: a frozen object is missing"


def test_every_name_on_a_floor_is_a_module_once() -> None:
    """What moved or went leaves its floor."""
    names = [name for floor in FLOORS for name in floor]
    assert sorted(names) == sorted(set(names) & set(all_modules()))


def test_front_doors_are_empty() -> None:
    """An `__init__` holds the version or nothing: cycles come in through front doors."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", path


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    """`--help` and the package import neither torch nor kaggle nor any other heavy module."""
    import subprocess
    import sys

    heavy = "{'torch', 'kaggle', 'requests', 'rich', 'jinja2', 'nbformat', 'jupytext', 'packaging.metadata'}"
    code = (
        "import sys, contextlib, io\n"
        "import offline_kit.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    offline_kit.cli.main(['--help'])\n"
        f"loaded = {heavy} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
