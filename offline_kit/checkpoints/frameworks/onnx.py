"""ONNX: graphs that onnxruntime runs, with their weights inside or beside them."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.protobuf import read_fields, read_text
from offline_kit.project.types import CheckpointKind, Finding, Member

_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"}
)
_NEWEST = (
    ((1, 14), 18, 8),
    ((1, 15), 19, 9),
    ((1, 17), 20, 9),
    ((1, 18), 21, 10),
    ((1, 21), 22, 10),
    ((1, 23), 23, 11),
    ((1, 24), 25, 13),
    ((1, 25), 26, 13),
)
"""onnxruntime's version, and its newest operator set and file format since then.

https://onnxruntime.ai/docs/reference/compatibility.html
"""
_UNKNOWN = ((1, 31), 10_000, 10_000)
"""From this onnxruntime on nothing is known to be too new."""


@dataclass(kw_only=True)
class OnnxGraph:
    """Facts of a graph apart from its operators."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    """Version of each operator set, by its domain; the default one is ""."""
    external: set[str] = field(default_factory=set)
    """Files beside it that hold weights."""
    inputs: int = 0
    """How many inputs it has, weights not counted."""
    fixed_rows: int = 0
    """How many rows its first input takes at once; 0 for any number."""


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match graphs, and folders with one graph, the files of its weights and nothing else."""
    if not path.is_dir():
        return SURE if sniffed.kind is CheckpointKind.ONNX else 0.0
    graphs = sorted(path.glob("*.onnx"))
    if len(graphs) != 1 or classify_file(graphs[0]).kind is not CheckpointKind.ONNX:
        return 0.0
    external = read_graph(graphs[0]).external
    siblings = {
        path_inside.relative_to(path).as_posix() for path_inside in path.rglob("*") if path_inside.is_file()
    }
    return SURE if external and siblings - external == {graphs[0].name} else 0.0


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report missing weights, operators of other libraries, and a fixed number of rows."""
    graph = read_graph(find_graph(member))
    missing = sorted(name for name in graph.external if not (find_graph(member).parent / name).is_file())
    findings = []
    if graph.external and (missing or not member.path.is_dir()):
        names = ", ".join(f"'{name}'" for name in missing or sorted(graph.external))
        remedy = "put the graph and these files alone into a folder, and name the folder in `checkpoints`"
        state = "which are missing" if missing else "which are not included with it"
        findings.append(file_probe.make_stop(member, f"has its weights in {names}, {state}", remedy))
    foreign_domains = sorted(set(graph.opsets) - _KNOWN_DOMAINS)
    if foreign_domains:
        problem = f"uses operators of {', '.join(foreign_domains)}, which onnxruntime itself does not have"
        findings.append(
            file_probe.make_warning(
                member, problem, "predict with a `function` of yours that registers their library"
            )
        )
    if graph.fixed_rows:
        remedy = f"export it with a dynamic first axis, or set batch_size = {graph.fixed_rows}"
        findings.append(
            file_probe.make_warning(member, f"takes exactly {graph.fixed_rows} rows at a time", remedy)
        )
    return tuple(findings)


def uses_column_order(member: Member) -> bool:
    """Whether its one input takes all columns; several take one each, by their names."""
    return find_graph(member).is_file() and read_graph(find_graph(member)).inputs == 1


def check_versions(member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Warn if the notebook's onnxruntime does not support a graph."""
    runtime = versions.get("onnxruntime", versions.get("onnxruntime-gpu", ""))
    supported = [row for row in (*_NEWEST, _UNKNOWN) if row[0] <= file_probe.parse_release(runtime)]
    if not supported:
        return ()
    _, opset, ir_version = supported[-1]
    graph = read_graph(find_graph(member))
    graph_opset = max(graph.opsets.get("", 0), graph.opsets.get("ai.onnx", 0))
    findings = []
    if graph_opset > opset:
        problem = (
            f"uses operator set {graph_opset}, and the notebook's onnxruntime {runtime} has up to {opset}"
        )
        remedy = f"export it with opset_version={opset}, or require a newer onnxruntime"
        findings.append(file_probe.make_warning(member, problem, remedy))
    if graph.ir_version > ir_version:
        problem = f"is of file format (IR) {graph.ir_version}, and the notebook's onnxruntime {runtime} reads up to {ir_version}"
        remedy = f"set model.ir_version = {ir_version} before onnx.save, or require a newer onnxruntime"
        findings.append(file_probe.make_warning(member, problem, remedy))
    return tuple(findings)


def find_graph(member: Member) -> Path:
    """Return the graph of a member: itself, or the one in its folder."""
    return next(member.path.glob("*.onnx"), member.path) if member.path.is_dir() else member.path


def read_graph(path: Path) -> OnnxGraph:
    """Read a graph without its operators and weights; damaged parts are left out."""
    graph = OnnxGraph()
    try:
        with path.open("rb") as stream:
            _read_model(stream, path.stat().st_size, graph)
    except ValueError:
        pass  # sniffing has seen that it is whole at the top; deeper damage shows when it is loaded
    return graph


def _read_model(stream: IO[bytes], end: int, graph: OnnxGraph) -> None:
    for number, value in read_fields(stream, end):
        if number == 1:  # ir_version
            graph.ir_version = value
        elif number == 7:  # graph
            _read_graph(stream, stream.tell() + value, graph)
        elif number == 8:  # opset_import
            domain, version = _read_opset(io.BytesIO(stream.read(value)), value)
            graph.opsets[domain] = version


def _read_opset(stream: IO[bytes], end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in read_fields(stream, end):
        if number == 1:  # domain
            domain = read_text(stream, value)
        elif number == 2:  # version
            version = value
    return domain, version


def _read_graph(stream: IO[bytes], end: int, graph: OnnxGraph) -> None:
    weights: set[str] = set()
    inputs: list[tuple[str, int]] = []
    for number, value in read_fields(stream, end):
        if number == 5:  # initializer
            weights.add(_read_tensor(stream, stream.tell() + value, graph))
        elif number == 11:  # input
            inputs.append(_read_input(stream.read(value)))
    row_counts = [rows for name, rows in inputs if name not in weights]
    graph.inputs = len(row_counts)
    graph.fixed_rows = next(iter(row_counts), 0)


def _read_tensor(stream: IO[bytes], end: int, graph: OnnxGraph) -> str:
    name = ""
    for number, value in read_fields(stream, end):
        if number == 8:  # name
            name = read_text(stream, value)
        elif number == 13:  # external_data: https://onnx.ai/onnx/repo-docs/ExternalData.html
            entry = [read_text(part, length) for part, length in _read_parts(stream.read(value))]
            if entry[:1] == ["location"]:
                graph.external.add(entry[-1])
    return name


def _read_parts(message: bytes) -> Iterator[tuple[IO[bytes], int]]:
    stream = io.BytesIO(message)
    for _, length in read_fields(stream, len(message)):
        yield stream, length


def _read_input(message: bytes) -> tuple[str, int]:
    """Return name and fixed first dimension of an input: name 1, type 2, tensor 1, shape 2, dimension 1, value 1."""
    stream = io.BytesIO(message)
    name, rows = "", 0
    for number, value in read_fields(stream, len(message)):
        if number == 1:  # name
            name = read_text(stream, value)
        elif number == 2:  # type
            rows = _read_nested(stream.read(value), (1, 2, 1))
    return name, rows


def _read_nested(message: bytes, steps: tuple[int, ...]) -> int:
    stream = io.BytesIO(message)
    for number, value in read_fields(stream, len(message)):
        if not steps:
            return value if number == 1 else 0
        if number == steps[0]:
            return _read_nested(stream.read(value), steps[1:])
    return 0


ONNX = Framework(
    name="onnx",
    title="ONNX",
    packages=("onnxruntime",),
    score_match=score_match,
    uses_column_order=uses_column_order,
    check_member=check_member,
    check_versions=check_versions,
    param_names=("activation",),
)
