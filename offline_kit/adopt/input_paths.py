"""Find the paths of a notebook below /kaggle/input, resolve their sources, and redirect them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from offline_kit.adopt import literals, notebook_files
from offline_kit.adopt.findings import (
    CellEdit,
    Collected,
    ExternalNeed,
    FindingResolution,
    NeedKind,
    ResolvedNeed,
    resolve_need,
)
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import MountPath, NotebookFiles
from offline_kit.notebook.cells import ParsedCell

_PLACEHOLDER = re.compile(r"\{[^{}]*\}|%(?:\(\w+\))?\d*[sdi]")
_PATH_WORD = re.compile(r"(?:\\.|[^\s\"'\\,;|&<>)])*")
_OF_COMPETITION = re.compile(r"(?:^|[/_.-])(sample_?sub\w*|test|train)(?=[._/-]|$)", re.IGNORECASE)
_VERSION = re.compile(r"(?P<framework>[\w.-]+)/(?P<variation>[\w.-]+)/(?P<version>\d+)(/|$)")
_FRAMEWORKS = frozenset(
    {"transformers", "pytorch", "tensorflow1", "tensorflow2", "tensorflow", "keras", "jax", "flax", "tflite"}
    | {"tfjs", "onnx", "gguf", "maxtext", "paxml", "coral", "scikitlearn", "scikit-learn", "xgboost"}
    | {"lightgbm", "catboost", "gemmacpp", "gemma.cpp", "tensorrtllm", "mlx", "litert", "keraslegacy"}
    | {"other", "api", "pyt", "default"}
)
"""Frameworks of Kaggle Models, as in https://www.kaggle.com/models (folder names, in lower case)."""
_PATH_ROOTS = re.compile(r"(?:/|/kaggle/?|(?:\.\./)*\.\./?)")
_TRAINED = re.compile(r"\.(bin|ckpt|h5|joblib|keras|onnx|pkl|pt|pth|safetensors|cbm)$")
_SAMPLE = re.compile(r"sample.*sub|sub.*sample")
_WALK_CALL = re.compile(r"walk\(\s*$")
_WALK_METHOD = re.compile(r"/?[\"']\s*\)\s*\.(rglob|walk)\(")


@dataclass(frozen=True, kw_only=True)
class PathMention:
    """A path below the mounts in a cell's text."""

    cell: int
    start: int
    """Offsets of the mounts' folder, the part that is replaced."""
    end: int
    path: str
    """The whole path, with "*" for unknown parts."""


def edit_input_paths(code: NotebookCode) -> Iterator[CellEdit]:
    """Yield the edits that redirect paths below the mounts to the folder that the setup cell builds.

    A walk over the whole folder stays: `os.walk` and `rglob` do not follow the links to folders there.
    """
    for mention in find_mentions(code):
        source = code.reads[mention.cell].source
        before, behind = source[: mention.start].rstrip("\"'rRfF"), source[mention.end :]
        walks = _WALK_CALL.search(before) or _WALK_METHOD.match(behind)
        if mention.path.rstrip("/") not in (notebook_files.INPUT, "../input") or not walks:
            yield CellEdit(
                cell=mention.cell, start=mention.start, end=mention.end, text=notebook_files.SHOWN_INPUT
            )
    yield from {(edit.cell, edit.start): edit for edit in _edit_joined_paths(code)}.values()


def _edit_joined_paths(code: NotebookCode) -> Iterator[CellEdit]:
    """Yield the same for joined paths: `os.path.join("/kaggle", "input")`, `ROOT / "input"`.

    Only the first part of the one expression is replaced; a variable keeps its value for other paths.
    """
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                continue
            paths = [
                text
                for text in literals.possible_strings(node, code.strings)
                if notebook_files.MOUNT.match(text)
            ]
            first_part = _find_first_part(node) if paths else None
            if first_part is None:
                continue
            prefix = "/tmp" if paths[0].startswith("/") else f"{notebook_files.WORKING}/"  # noqa: S108
            start = code.reads[number].text_offset(first_part.lineno, first_part.col_offset)
            end = code.reads[number].text_offset(
                first_part.end_lineno or first_part.lineno, first_part.end_col_offset or 0
            )
            if text := _replace_first_part(first_part, code.reads[number].source[start:end], prefix, code):
                yield CellEdit(cell=number, start=start, end=end, text=text)


def _replace_first_part(leaf: ast.expr, own: str, elsewhere: str, code: NotebookCode) -> str:
    """Return the replacement of a path's first part; "" if that part is the mounts' folder itself."""
    if isinstance(leaf, ast.JoinedStr):
        first = leaf.values[0]
        text = (
            literals.string_value(first.value, code.strings) if isinstance(first, ast.FormattedValue) else ""
        )
        return f'("{elsewhere}" + {own})' if text and _PATH_ROOTS.fullmatch(text) else ""
    text = literals.possible_strings(leaf, code.strings)[0]
    if not _PATH_ROOTS.fullmatch(text):
        return ""
    return repr(elsewhere + text) if isinstance(leaf, ast.Constant) else f"type({own})({elsewhere + text!r})"


def _find_first_part(node: ast.expr) -> ast.expr | None:
    """Return the constant, name or f-string that a path expression begins with."""
    while isinstance(node, ast.BinOp | ast.Call):
        if isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node.func, ast.Attribute) and node.func.attr in (
            "joinpath",
            "format",
            "glob",
            "rglob",
        ):
            node = node.func.value
        elif node.args and not isinstance(node.args[0], ast.Starred):
            node = node.args[0]
        else:
            return None
    return node if isinstance(node, ast.Constant | ast.Name | ast.Attribute | ast.JoinedStr) else None


def find_mentions(code: NotebookCode) -> Iterator[PathMention]:
    """Yield the paths in strings, shell lines and the bodies of cell magics, but not in comments."""
    for number, read in code.reads.items():
        for start, end in _text_spans(read):
            for match in notebook_files.MOUNT.finditer(read.source, start, end):
                following = _PLACEHOLDER.sub("*", read.source[match.end() : end])
                before = read.source[match.start() - 1 : match.start()]
                if before in ("'", '"') and before in following:  # names may have blanks and parentheses
                    path = match[0] + following.partition(before)[0]
                else:
                    word = _PATH_WORD.match(following)
                    path = match[0] + re.sub(r"\\(.)", r"\1", word[0] if word else "")
                yield PathMention(cell=number, start=match.start(), end=match.end(), path=path)


def _text_spans(read: ParsedCell) -> Iterator[tuple[int, int]]:
    yield from ((magic.start, magic.end) for magic in read.magics)
    yield from read.strings


def resolve_sources(code: NotebookCode, files: NotebookFiles, collected: Collected) -> Iterator[ResolvedNeed]:
    """Yield each source that paths name, resolved; collect the project's files among them."""
    mentions_by_source: dict[str, list[tuple[ExternalNeed, MountPath]]] = {}
    for need in _list_path_needs(code):
        mount_path = notebook_files.split_mount_path(need.target)
        if mount_path.name:
            mentions_by_source.setdefault(mount_path.name, []).append((need, mount_path))
    for name, paths in mentions_by_source.items():
        files = replace(files, sources=collected.sources)
        yield _resolve_source(name, paths, files, collected)


def _list_path_needs(code: NotebookCode) -> list[ExternalNeed]:
    needs = [
        _path_need(need.cell, code.reads[need.cell].line_number(need.start), need.path, code)
        for need in find_mentions(code)
    ]
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                paths = [
                    text
                    for text in literals.possible_strings(node, code.strings)
                    if notebook_files.MOUNT.match(text)
                ]
                needs += [_path_need(number, node.lineno, path, code) for path in paths]
    known_lines = {
        (need.cell, need.line)
        for need in needs
        if "*" not in notebook_files.split_mount_path(need.target).name
    }
    needs = [
        need
        for need in needs
        if (need.cell, need.line) not in known_lines
        or "*" not in notebook_files.split_mount_path(need.target).name
    ]  # a pattern that is known as a whole on the same line
    return sorted(dict.fromkeys(needs), key=lambda need: (need.cell, need.line))


def _path_need(cell: int, line: int, path: str, code: NotebookCode) -> ExternalNeed:
    text = code.line_text(cell, line)
    return ExternalNeed(kind=NeedKind.MOUNT, cell=cell, line=line, text=text, target=path)


def _resolve_source(
    name: str, paths: list[tuple[ExternalNeed, MountPath]], files: NotebookFiles, collected: Collected
) -> ResolvedNeed:
    need, mount_path = paths[0]
    if "*" in name:
        return _resolve_pattern(name, paths, files, collected)
    if files.is_attached(mount_path):
        return resolve_need(need, FindingResolution.SERVED, name)
    if mount_path.kind and len(name.split("/")) == {"competition": 1, "model": 5}.get(mount_path.kind, 2):
        collected.add_source(mount_path.kind, name)
        return resolve_need(need, FindingResolution.SOURCE, f"{mount_path.kind} {name}")
    if path := _kaggle_model(name, paths):
        remedy = f'attach the model (model_sources = ["owner/{path}"] in [tool.offline-kit.notebook], with its owner)'
        return resolve_need(need, FindingResolution.UNRESOLVED, path, remedy)
    if _is_competition(mount_path, paths, files):
        collected.add_source("competition", name)
        return resolve_need(
            need,
            FindingResolution.SOURCE,
            f"competition {name}",
            "taken for the competition's data: check it",
        )
    served = [file for _, mount in paths for file in _serve_mounted(mount, files, collected)]
    if served:
        return resolve_need(need, FindingResolution.CHECKPOINT, ", ".join(dict.fromkeys(served)))
    return resolve_need(
        need,
        FindingResolution.UNRESOLVED,
        name,
        f'attach it (dataset_sources = ["owner/{mount_path.source_slug}"] in [tool.offline-kit.notebook]), or put a copy into'
        f" 'input/{mount_path.source_slug}' and adopt again: it goes into the kit",
    )


def _kaggle_model(name: str, paths: list[tuple[ExternalNeed, MountPath]]) -> str:
    """Return "model/framework/variation/version" if a path without a kind is a Kaggle Model's; else ""."""
    matches = (_VERSION.match(mount_path.below) for _, mount_path in paths)
    model = next((match for match in matches if match and match["framework"].lower() in _FRAMEWORKS), None)
    return f"{name}/{model['framework']}/{model['variation']}/{model['version']}" if model else ""


def _is_competition(
    mount_path: MountPath, paths: list[tuple[ExternalNeed, MountPath]], files: NotebookFiles
) -> bool:
    """Whether a path without a kind is probably the competition's, by its sample submission or file names."""
    if files.sources.competitions:
        return False
    if "competition" in files.unnamed and len(set(files.unnamed)) == 1:
        return True  # the only kind that its metadata attaches
    copies = files.find_mounted(replace(mount_path, below=""))
    if any(
        _SAMPLE.search(path.name.lower()) for copy in copies if copy.is_dir() for path in copy.glob("*.csv")
    ):
        return True
    if files.unnamed and "competition" not in files.unnamed:
        return False
    return any(_OF_COMPETITION.search(mount.below) and not _TRAINED.search(mount.below) for _, mount in paths)


def _resolve_pattern(
    name: str, paths: list[tuple[ExternalNeed, MountPath]], files: NotebookFiles, collected: Collected
) -> ResolvedNeed:
    """Resolve a path that begins with a pattern: ship what it matches in the project's copies."""
    need = paths[0][0]
    attached = files.sources
    matched = [
        hit
        for _, mount_path in paths
        for hit in files.find_matching(f"input/{mount_path.name}/{mount_path.below}".rstrip("/"))
    ]
    for hit in matched:
        path = files.relative_name(hit)
        slug = path.split("/")[1]
        if not files.is_attached(MountPath(kind="", name=slug, below="")):
            collected.checkpoints[path] = None
            collected.served[path] = path
    if matched:
        return resolve_need(
            need, FindingResolution.CHECKPOINT, ", ".join(dict.fromkeys(map(files.relative_name, matched)))
        )
    if attached.competitions or attached.datasets or attached.notebooks or attached.models:
        return resolve_need(need, FindingResolution.UNCHANGED, "matches what is attached")
    return resolve_need(
        need,
        FindingResolution.UNRESOLVED,
        name,
        "attach what it matches (dataset_sources in [tool.offline-kit.notebook]), or put a copy below 'input' and"
        " adopt again: it goes into the kit",
    )


def _serve_mounted(mount_path: MountPath, files: NotebookFiles, collected: Collected) -> list[str]:
    """Ship the project's files that a path means; return their names."""
    hits = files.find_mounted(mount_path)
    names = []
    for hit in hits:
        group = f"{mount_path.kind}s/" if mount_path.kind else ""
        below = (
            mount_path.below
            if "*" not in mount_path.below
            else f"{mount_path.below.rpartition('/')[0]}/{hit.name}".lstrip("/")
        )
        path = "/".join(part for part in ("input", group + mount_path.name, below) if part)
        if "*" not in path:
            name = files.relative_name(hit)
            collected.checkpoints[name] = None
            collected.served[path] = name
            names.append(name)
    return names
