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
"""The program in an archive, as older torch and newer torch call it."""
_COMPILED = "data/aotinductor/"


def score_match(path: Path, _sniffed: ClassifiedFile) -> float:
    """Claim zips that hold an exported program, or what a compiler made of one (to explain it)."""
    if not file_probe.read_head(path, 4).startswith(b"PK\x03\x04"):
        return 0.0
    names = _names(path)
    return SURE if any(name.endswith(_PROGRAMS) or _COMPILED in name for name in names) else 0.0


def read_version(member: Member) -> str:
    """Return the version of torch that the program states, without its build."""
    return str(_program(member.path).get("torch_version") or "").partition("+")[0].removeprefix("<")


def check_member(member: Member) -> tuple[Finding, ...]:
    """Return a program that is compiled for one machine, and a number of rows that is fixed."""
    if any(_COMPILED in name for name in _names(member.path)) and not _program(member.path):
        remedy = "export it for any machine: torch.export.save(torch.export.export(model, args), 'model.pt2')"
        return (
            file_probe.make_stop(member, "is compiled for the machine of the training (AOTInductor)", remedy),
        )
    rows = fixed_rows(_program(member.path))
    if not rows:
        return ()
    remedy = (
        'export it with a dynamic first axis, dynamic_shapes=({0: torch.export.Dim("rows")},), '
        f"or set batch_size = {rows} if the test set's rows are a multiple of it"
    )
    return (file_probe.make_warning(member, f"takes exactly {rows} row{'s' * (rows > 1)} at a time", remedy),)


def fixed_rows(program: dict[str, Any]) -> int:
    """Return how many rows the first input of a program takes at once; 0 for any number."""
    graph = program.get("graph_module", {})
    inputs = [_user_input(each) for each in _listed(graph, "signature", "input_specs")]
    name = next((each for each in inputs if each), "")
    sizes = _under(graph, "graph", "tensor_values", name, "sizes")
    first = sizes[0] if isinstance(sizes, list) and sizes else {}
    rows = first.get("as_int") if isinstance(first, dict) else None
    return rows if isinstance(rows, int) else 0


def _user_input(spec: Any) -> str:
    name = _under(spec, "user_input", "arg", "as_tensor", "name")
    return name if isinstance(name, str) else ""


def _listed(node: Any, *keys: str) -> Iterator[Any]:
    found = _under(node, *keys)
    yield from found if isinstance(found, list) else ()


def _under(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _program(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith(_PROGRAMS))
            found = json.loads(archive.read(name))
    except (StopIteration, ValueError, zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


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
