"""torch.export: programs of torch.export.save (.pt2)."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework, answer_yes
from offline_kit.project.types import Finding, Member

_PROGRAMS = ("serialized_exported_program.json", "models/model.json")
"""The program's name in archives of older and newer torch."""
_COMPILED = "data/aotinductor/"


def score_match(path: Path, _sniffed: ClassifiedFile) -> float:
    """Match archives with an exported program, or with what a compiler made of one (to explain it)."""
    if not file_probe.read_head(path, 4).startswith(b"PK\x03\x04"):
        return 0.0
    names = _list_names(path)
    return SURE if any(name.endswith(_PROGRAMS) or _COMPILED in name for name in names) else 0.0


def read_version(member: Member) -> str:
    """Return the version of torch in the program, without its build."""
    return str(_read_program(member.path).get("torch_version") or "").partition("+")[0].removeprefix("<")


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report a program that is compiled for one machine, or a fixed number of rows."""
    if any(_COMPILED in name for name in _list_names(member.path)) and not _read_program(member.path):
        remedy = "export it for any machine: torch.export.save(torch.export.export(model, args), 'model.pt2')"
        return (
            file_probe.make_stop(member, "is compiled for the machine of the training (AOTInductor)", remedy),
        )
    rows = read_fixed_rows(_read_program(member.path))
    if not rows:
        return ()
    remedy = (
        'export it with a dynamic first axis, dynamic_shapes=({0: torch.export.Dim("rows")},), '
        f"or set batch_size = {rows} if the test set's rows are a multiple of it"
    )
    return (file_probe.make_warning(member, f"takes exactly {rows} row{'s' * (rows > 1)} at a time", remedy),)


def read_fixed_rows(program: dict[str, Any]) -> int:
    """Return the fixed number of rows of a program's first input; 0 if it is dynamic."""
    graph = program.get("graph_module", {})
    inputs = [_user_input(spec) for spec in _read_list(graph, "signature", "input_specs")]
    name = next((name for name in inputs if name), "")
    sizes = _read_key(graph, "graph", "tensor_values", name, "sizes")
    first = sizes[0] if isinstance(sizes, list) and sizes else {}
    rows = first.get("as_int") if isinstance(first, dict) else None
    return rows if isinstance(rows, int) else 0


def _user_input(spec: Any) -> str:
    name = _read_key(spec, "user_input", "arg", "as_tensor", "name")
    return name if isinstance(name, str) else ""


def _read_list(node: Any, *keys: str) -> Iterator[Any]:
    value = _read_key(node, *keys)
    yield from value if isinstance(value, list) else ()


def _read_key(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _list_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _read_program(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(_PROGRAMS))
            program = json.loads(archive.read(name))
    except (StopIteration, ValueError, zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return {}
    return program if isinstance(program, dict) else {}


TORCH_EXPORT = Framework(
    name="torch_export",
    title="torch.export",
    packages=("torch",),
    library="torch",
    score_match=score_match,
    uses_column_order=answer_yes,
    check_member=check_member,
    read_version=read_version,
    runtime=("kit_torch",),
    param_names=("activation",),
)
