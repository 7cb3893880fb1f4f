"""ONNX: graphs that onnxruntime runs, with their weights inside or beside them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file, read_message
from offline_kit.checkpoints.frameworks.base import (
    SURE,
    Framework,
    make_stop,
    make_warning,
    parse_release,
)
from offline_kit.project.types import CheckpointKind, Finding, Member

_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"}
)
# onnxruntime's version, and its newest operator set and file format since then.
# https://onnxruntime.ai/docs/reference/compatibility.html
_NEWEST = (
    *(((1, 14), 18, 8), ((1, 15), 19, 9), ((1, 17), 20, 9), ((1, 18), 21, 10)),
    *(((1, 21), 22, 10), ((1, 23), 23, 11), ((1, 24), 25, 13), ((1, 25), 26, 13)),
    ((1, 31), 10_000, 10_000),  # from here on nothing is known to be too new
)
_TENSOR = {8: str, 13: {1: str, 2: str}}
_INPUT = {1: str, 2: {1: {2: {1: {1: int}}}}}
# Version, graph (weights, inputs) and operator sets: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_MODEL = {1: int, 7: {5: _TENSOR, 11: _INPUT}, 8: {1: str, 2: int}}


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """Facts of a graph apart from its operators."""

    ir_version: int
    opsets: dict[str, int]  # version of each operator set, by its domain; the default one is ""
    external: set[str]
    inputs: int  # how many inputs it has, weights not counted
    fixed_rows: int  # how many rows its first input takes at once; 0 for any number


def find_graph(member: Member) -> Path:
    """Return the graph of a member: itself, or the one in its folder."""
    return next(member.path.glob("*.onnx"), member.path) if member.path.is_dir() else member.path


def read_graph(path: Path) -> OnnxGraph:
    """Read a graph without its operators and weights; damaged parts are left out."""
    model: dict[int, list[Any]] = {}
    with path.open("rb") as stream, suppress(ValueError):
        # Sniffing has seen that it is whole at the top; deeper damage shows when it is loaded.
        read_message(stream, path.stat().st_size, _MODEL, model)
    graph = model.get(7, [{}])[-1]
    tensors = graph.get(5, [])
    names = {name for tensor in tensors for name in tensor.get(8, [])}
    entries = [entry for tensor in tensors for entry in tensor.get(13, [])]
    inputs = [item for item in graph.get(11, []) if names.isdisjoint(item.get(1, [""]))]
    # The first dimension of an input: its type, the tensor, the shape, the dimension, its value.
    dimension = inputs[0] if inputs else {}
    for number in (2, 1, 2, 1):
        dimension = dimension.get(number, [{}])[0]
    return OnnxGraph(
        ir_version=model.get(1, [0])[-1],
        opsets={opset.get(1, [""])[-1]: opset.get(2, [0])[-1] for opset in model.get(8, [])},
        # https://onnx.ai/onnx/repo-docs/ExternalData.html
        external={value for entry in entries if entry.get(1) == ["location"] for value in entry.get(2, [])},
        inputs=len(inputs),
        fixed_rows=dimension.get(1, [0])[0],
    )


class _Onnx(Framework):
    def score_match(self, path: Path, sniffed: ClassifiedFile) -> float:
        """Match graphs, and folders with one graph, the files of its weights and nothing else."""
        if not path.is_dir():
            return SURE if sniffed.kind is CheckpointKind.ONNX else 0.0
        graphs = sorted(path.glob("*.onnx"))
        if len(graphs) != 1 or classify_file(graphs[0]).kind is not CheckpointKind.ONNX:
            return 0.0
        external = read_graph(graphs[0]).external
        siblings = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        return SURE if external and siblings - external == {graphs[0].name} else 0.0

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report missing weights, operators of other libraries, and a fixed number of rows."""
        graph = read_graph(find_graph(member))
        missing = sorted(name for name in graph.external if not (find_graph(member).parent / name).is_file())
        if graph.external and (missing or not member.path.is_dir()):
            names = ", ".join(f"'{name}'" for name in missing or sorted(graph.external))
            remedy = "put the graph and these files alone into a folder, and name the folder in `checkpoints`"
            state = "which are missing" if missing else "which are not included with it"
            yield make_stop(member, f"has its weights in {names}, {state}", remedy)
        if foreign_domains := sorted(set(graph.opsets) - _KNOWN_DOMAINS):
            problem = (
                f"uses operators of {', '.join(foreign_domains)}, which onnxruntime itself does not have"
            )
            remedy = "predict with a `function` of yours that registers their library"
            yield make_warning(member, problem, remedy)
        if graph.fixed_rows:
            remedy = f"export it with a dynamic first axis, or set batch_size = {graph.fixed_rows}"
            yield make_warning(member, f"takes exactly {graph.fixed_rows} rows at a time", remedy)

    def uses_column_order(self, member: Member) -> bool:
        """Whether its one input takes all columns; several take one each, by their names."""
        return find_graph(member).is_file() and read_graph(find_graph(member)).inputs == 1

    def check_versions(self, member: Member, versions: Mapping[str, str]) -> Iterator[Finding]:
        """Warn if the notebook's onnxruntime does not support a graph."""
        runtime = versions.get("onnxruntime", versions.get("onnxruntime-gpu", ""))
        supported = [row for row in _NEWEST if row[0] <= parse_release(runtime)]
        if not supported:
            return
        _, opset, ir_version = supported[-1]
        graph = read_graph(find_graph(member))
        graph_opset = max(graph.opsets.get("", 0), graph.opsets.get("ai.onnx", 0))
        if graph_opset > opset:
            problem = (
                f"uses operator set {graph_opset}, and the notebook's onnxruntime {runtime} has up to {opset}"
            )
            remedy = f"export it with opset_version={opset}, or require a newer onnxruntime"
            yield make_warning(member, problem, remedy)
        if graph.ir_version > ir_version:
            problem = f"is of file format (IR) {graph.ir_version}, and the notebook's onnxruntime {runtime} reads up to {ir_version}"
            remedy = f"set model.ir_version = {ir_version} before onnx.save, or require a newer onnxruntime"
            yield make_warning(member, problem, remedy)


ONNX = _Onnx("onnx")
