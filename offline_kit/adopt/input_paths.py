"""Find the paths that cells read, next to the notebook and below /kaggle/input; resolve and redirect them."""

import ast
import re
from collections.abc import Iterator, Mapping

from offline_kit.adopt.findings import CellEdit, ExternalNeed, NeedKind, Outcome
from offline_kit.adopt.notebook_code import NotebookCode, call_name, node_span
from offline_kit.adopt.notebook_files import (
    INPUT,
    MOUNT,
    OUTPUT,
    SHOWN_INPUT,
    SOURCE_PARTS,
    InspectedNotebook,
    MountPath,
    join_run_path,
    split_mount_path,
)

_WRITING_CALL = re.compile(r"(to|write|save)_\w+|save(txt|fig)?|dump|imwrite|makedirs|mkdir|rmtree|remove")
_FOLDER_CALL = re.compile(r"Path|listdir|i?glob|scandir|walk|from_pretrained|load|load_model")
"""Calls whose argument without a slash may be a folder."""
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|%(?:\(\w+\))?\d*[sdi]")
_PATH_WORD = re.compile(r"(?:\\.|[^\s\"'\\,;|&<>)])*")
_OF_COMPETITION = re.compile(r"(?:^|[/_.-])(sample_?sub\w*|test|train)(?=[._/-]|$)", re.IGNORECASE)
# Frameworks of Kaggle Models, as in https://www.kaggle.com/models
_VERSION = re.compile(
    r"(transformers|pyt(orch)?|tensorflow[12]?|keras(legacy)?|jax|flax|tflite|tfjs|onnx|gguf|maxtext|paxml|coral|scikit-?learn"
    r"|xgboost|lightgbm|catboost|gemma\.?cpp|tensorrtllm|mlx|litert|other|api|default)/[\w.-]+/\d+(?=/|$)",
    re.IGNORECASE,
)
_ATTACH = (
    "attach it (dataset_sources = [\"owner/{0}\"] in [tool.offline-kit.notebook]), or put a copy into 'input/{0}' and adopt"
    " again: it goes into the kit"
)
_PATH_ROOTS = re.compile(r"(?:/|/kaggle/?|(?:\.\./)*\.\./?)")
_TRAINED = re.compile(r"\.(bin|ckpt|h5|joblib|keras|onnx|pkl|pt|pth|safetensors|cbm)$")
_SAMPLE = re.compile(r"sample.*sub|sub.*sample")
_WALK_CALL = re.compile(r"walk\(\s*$")
_WALK_METHOD = re.compile(r"/?[\"']\s*\)\s*\.(rglob|walk)\(")
_PREFIX_CALL = re.compile(r"\b((len|replace|startswith|removeprefix|relative_to)\(|relpath\([^()]*,)\s*$")
"""Calls that take the mounts' folder off a path, which a walk has found under its real name."""


def place_read_files(notebook: InspectedNotebook) -> None:
    """Record every relative path that means a file of the project: it goes into the kit, and back to its place."""
    for number, tree in notebook.code.trees.items():
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.expr) or not _may_be_path(node, parents, notebook.code):
                continue
            text = notebook.code.strings.value(node)
            folder = notebook.folder_at(number, node.lineno)
            path = join_run_path(folder, text) if text and not text.startswith("/") else text
            if not _is_read(text, path, parents.get(node), notebook):
                continue
            hits = notebook.find_beside(path)
            names = [notebook.relative_name(hit) for hit in hits]
            notebook.checkpoints |= dict.fromkeys(names)
            # of a pattern, only the last part is unknown
            top = path.rpartition("/")[0] if "*" in path else ""
            places = [f"{top}/{hit.name}".lstrip("/") if "*" in path else path for hit in hits]
            notebook.beside |= dict(zip(places, names, strict=True))
            need = notebook.make_need(NeedKind.FILE, number, node.lineno, target=text)
            notebook.resolved.append(need.resolve(Outcome.CHECKPOINT, ", ".join(names)))


def _may_be_path(node: ast.expr, parents: Mapping[ast.AST, ast.AST], code: NotebookCode) -> bool:
    """Whether an expression is a whole string (no part of a longer one, no docstring) that is not written to."""
    above = parents.get(node)
    if isinstance(node, ast.Name | ast.Attribute) or isinstance(
        above, ast.Expr | ast.JoinedStr | ast.FormattedValue | ast.Subscript | ast.Compare
    ):
        return False
    if isinstance(above, ast.BinOp | ast.Call) and code.strings.value(above):
        return False
    call = parents.get(above) if isinstance(above, ast.keyword) else above
    if not isinstance(call, ast.Call):
        return True
    name = call_name(call)
    if name == "chdir" or ast.unparse(call.func) in ("sys.path.append", "sys.path.insert"):
        return False  # a folder of the run, or of modules
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    writes = any(isinstance(mode, ast.Constant) and str(mode.value)[:1] in ("w", "a", "x") for mode in modes)
    return not _WRITING_CALL.fullmatch(name) and not (name == "open" and writes)


def _is_read(text: str, path: str, above: ast.AST | None, notebook: InspectedNotebook) -> bool:
    """Whether a string is a path that is read; `path` is the same relative to the working folder."""
    if not text or text.endswith((".py", ".ipynb")) or MOUNT.match(text):
        return False
    hits = notebook.find_beside(path)
    if not hits or "*" in text.partition("/")[0] or text.rpartition("/")[2] == "submission.csv":
        return False
    is_folder_call = isinstance(above, ast.Call) and _FOLDER_CALL.fullmatch(call_name(above))
    return all(hit.is_file() for hit in hits) or "/" in text.strip("/.") or bool(is_folder_call)


def edit_input_paths(code: NotebookCode, competition: str) -> Iterator[CellEdit]:
    """Yield the edits that redirect paths below the mounts to the folder that the setup cell builds.

    A walk over the whole folder stays: `os.walk` and `rglob` do not follow the links to folders there. Files directly
    below the mounts are those of the `competition`, if it is known.
    """
    kept_walk, stripping = False, list[CellEdit]()
    for cell, span, path in _find_mentions(code):
        is_of_competition = competition and _is_file_of_old(split_mount_path(path))
        text = f"{SHOWN_INPUT}/{competition}" if is_of_competition else SHOWN_INPUT
        source, edit = code.reads[cell].source, CellEdit(cell=cell, span=span, text=text)
        before, behind = source[: span[0]].rstrip("\"'rRfF"), source[span[1] :]
        is_whole = path.rstrip("/") in (INPUT, "../input")
        if is_whole and (_WALK_CALL.search(before) or _WALK_METHOD.match(behind)):
            kept_walk = True
        elif is_whole and _PREFIX_CALL.search(before):
            stripping.append(edit)
        else:
            yield edit
    yield from () if kept_walk else stripping
    # Of joined paths, `os.path.join("/kaggle", "input")` or `ROOT / "input"`, only the first part of the one
    # expression is replaced; a variable keeps its value for other paths.
    edited = set()
    for cell, node, paths in _find_built_paths(code):
        first_part = _find_first_part(node)
        if first_part is None:
            continue
        span = node_span(code.reads[cell], first_part)
        prefix = "/tmp" if paths[0].startswith("/") else f"/tmp{OUTPUT}/"  # noqa: S108
        text = _replace_first_part(first_part, code.reads[cell].source[slice(*span)], prefix, code)
        if text and (cell, span[0]) not in edited:
            edited.add((cell, span[0]))
            yield CellEdit(cell=cell, span=span, text=text)


def _is_file_of_old(mount_path: MountPath) -> bool:
    """Whether a path means a file directly below the mounts, where Kaggle had the data of a competition until 2019."""
    return not mount_path.kind and not mount_path.below and "." in mount_path.name  # a slug has no dot


def _find_built_paths(code: NotebookCode) -> Iterator[tuple[int, ast.expr, list[str]]]:
    """Yield the expressions that build a path below the mounts, each with its cell and possible values."""
    for cell in code.trees:
        for node in code.walk(cell):
            if isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                paths = [text for text in code.strings.possible(node) if MOUNT.match(text)]
                if paths:
                    yield cell, node, paths


def _replace_first_part(part: ast.expr, own: str, prefix: str, code: NotebookCode) -> str:
    """Return the replacement of a path's first part; "" if that part is the mounts' folder itself."""
    first = part.values[0] if isinstance(part, ast.JoinedStr) else part
    text = code.strings.possible(first.value if isinstance(first, ast.FormattedValue) else first)[0]
    if not _PATH_ROOTS.fullmatch(text):
        return ""
    if isinstance(part, ast.Constant):
        return repr(prefix + text)
    return f'type({own})("{prefix}" + str({own}))'  # a string or a path


def _find_first_part(node: ast.expr | None) -> ast.expr | None:
    """Return the constant, name or f-string that a path expression begins with."""
    match node:
        case (
            ast.BinOp(left=first)
            | ast.Call(func=ast.Attribute(value=first, attr="joinpath" | "format" | "glob" | "rglob"))
            | ast.Call(args=[first, *_])
        ):
            return _find_first_part(first)
        case ast.Constant() | ast.Name() | ast.Attribute() | ast.JoinedStr():
            return node
    return None


def _find_mentions(code: NotebookCode) -> Iterator[tuple[int, tuple[int, int], str]]:
    """Yield the paths in strings, shell lines and the bodies of cell magics, but not in comments.

    Each has its cell, the span of the mounts' folder in it, and the whole path with "*" for unknown parts.
    """
    for number, read in code.reads.items():
        for start, end in (*((magic.start, magic.end) for magic in read.magics), *read.strings):
            for match in MOUNT.finditer(read.source, start, end):
                following = _PLACEHOLDER.sub("*", read.source[match.end() : end])
                before = read.source[match.start() - 1 : match.start()]
                if before in ("'", '"') and before in following:  # names may have blanks and parentheses
                    path = match[0] + following.partition(before)[0]
                else:
                    word = _PATH_WORD.match(following)
                    path = match[0] + re.sub(r"\\(.)", r"\1", word[0] if word else "")
                yield number, match.span(), path


def resolve_sources(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield each source that paths name, resolved; collect the project's files among them."""
    code = notebook.code
    mentions = [
        (cell, code.reads[cell].line_number(span[0]), path) for cell, span, path in _find_mentions(code)
    ]
    written_names = {split_mount_path(path).name for _, _, path in mentions}
    for cell, node, paths in _find_built_paths(code):
        mentions += [(cell, node.lineno, path) for path in paths]
    known_lines = {(cell, line) for cell, line, path in mentions if "*" not in split_mount_path(path).name}
    paths_by_source: dict[str, list[tuple[ExternalNeed, MountPath]]] = {}
    for cell, line, path in sorted(dict.fromkeys(mentions), key=lambda mention: mention[:2]):
        mount_path = split_mount_path(path)
        # a pattern may be known as a whole on the same line
        if mount_path.name and ("*" not in mount_path.name or (cell, line) not in known_lines):
            need = notebook.make_need(NeedKind.MOUNT, cell, line, target=path)
            paths_by_source.setdefault(mount_path.name, []).append((need, mount_path))
    for name, mentioned in paths_by_source.items():
        need, mount_paths = mentioned[0][0], [mount_path for _, mount_path in mentioned]
        has_copy = not notebook.sources.competitions and notebook.find_mounted(mount_paths[0])
        if _is_file_of_old(mount_paths[0]) and not has_copy:
            competition = next(iter(notebook.sources.competitions), "")
            if competition and name in written_names:
                yield need.resolve(Outcome.REWRITTEN, f"{SHOWN_INPUT}/{competition}/{name}")
            else:
                fix = f"read it from '{INPUT}/{competition}/{name}'" if competition else "set `competition`"
                yield need.ask(f"a competition's data was directly below {INPUT} until 2019: {fix}", name)
        else:
            yield _resolve_source(need, mount_paths, notebook)


def _resolve_source(need: ExternalNeed, paths: list[MountPath], notebook: InspectedNotebook) -> ExternalNeed:
    kind, name, slug = paths[0].kind, paths[0].name, paths[0].source_slug
    if "*" not in name and (named := _resolve_named(need, paths, notebook)):
        return named
    if shipped := [file for path in paths for file in _serve_mounted(path, notebook)]:
        return need.resolve(Outcome.CHECKPOINT, ", ".join(dict.fromkeys(shipped)))
    if "*" in name and any(notebook.sources.by_kind().values()):
        return need.resolve(Outcome.UNCHANGED, "matches what is attached")
    # The slug of a competition looks like that of a dataset.
    may_be = f', or set competition = "{slug}"' if not (kind or notebook.sources.competitions) else ""
    return need.ask(f"{_ATTACH.format(slug)}{may_be}", name)


def _resolve_named(
    need: ExternalNeed, paths: list[MountPath], notebook: InspectedNotebook
) -> ExternalNeed | None:
    """Resolve a path to a source that is attached, or can be; None if a copy has to do."""
    kind, name = paths[0].kind, paths[0].name
    if notebook.is_attached(paths[0]):
        return need.resolve(Outcome.SERVED, name)
    if kind and len(name.split("/")) == SOURCE_PARTS[kind]:
        notebook.sources = notebook.sources.add(kind, name)
        return need.resolve(Outcome.SOURCE, f"{kind} {name}")
    if model := next(filter(None, (_VERSION.match(path.below) for path in paths)), None):
        handle = f"{name}/{model[0]}"
        attach = f'model_sources = ["owner/{handle}"] in [tool.offline-kit.notebook], with its owner'
        return need.ask(f"attach the model ({attach})", handle)
    if _is_competition(paths, notebook):
        notebook.sources = notebook.sources.add("competition", name)
        check = "taken for the competition's data: check it"
        return need.resolve(Outcome.SOURCE, f"competition {name}", check)
    return None


def _is_competition(paths: list[MountPath], notebook: InspectedNotebook) -> bool:
    """Whether a path without a kind is probably the competition's, by its sample submission or file names."""
    unnamed = set(notebook.unnamed)
    if notebook.sources.competitions:
        return False
    if unnamed == {"competition"}:
        return True  # the only kind that its metadata attaches
    copies = notebook.find_mounted(MountPath(kind=paths[0].kind, name=paths[0].name, below=""))
    tables = [path.name.lower() for copy in copies if copy.is_dir() for path in copy.glob("*.csv")]
    if any(map(_SAMPLE.search, tables)):
        return True
    if unnamed and "competition" not in unnamed:
        return False
    return any(_OF_COMPETITION.search(path.below) and not _TRAINED.search(path.below) for path in paths)


def _serve_mounted(mount_path: MountPath, notebook: InspectedNotebook) -> Iterator[str]:
    """Ship the project's files that a path means; yield their names."""
    name, below = mount_path.name, mount_path.below
    is_pattern, group = "*" in name, f"{mount_path.kind}s/" if mount_path.kind else ""
    matching = notebook.find_matching(f"input/{name}/{below}".rstrip("/")) if is_pattern else ()
    for hit in matching if is_pattern else notebook.find_mounted(mount_path):
        file = notebook.relative_name(hit)
        inner = f"{below.rpartition('/')[0]}/{hit.name}".lstrip("/") if "*" in below else below
        path = file if is_pattern else "/".join(filter(None, ("input", group + name, inner)))
        source = MountPath(kind="", name=file.split("/")[1], below="") if is_pattern else mount_path
        if "*" not in path and not notebook.is_attached(source):
            notebook.served[path], notebook.checkpoints[file] = file, None
        if "*" not in path:
            yield file
