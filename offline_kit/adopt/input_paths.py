"""Paths of a notebook below /kaggle/input: which source each belongs to, and what to write in their place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from offline_kit.adopt import file_places, literals
from offline_kit.adopt.calls import Code
from offline_kit.adopt.file_places import Ground, Mounted
from offline_kit.adopt.findings import Became, Edit, Found, Kind, Wish
from offline_kit.adopt.outcomes import Basket, found_of
from offline_kit.notebook.cells import Read

_HOLE = re.compile(r"\{[^{}]*\}|%(?:\(\w+\))?\d*[sdi]")
_WORD = re.compile(r"(?:\\.|[^\s\"'\\,;|&<>)])*")
_OF_COMPETITION = re.compile(r"(?:^|[/_.-])(sample_?sub\w*|test|train)(?=[._/-]|$)", re.IGNORECASE)
_VERSION = re.compile(r"(?P<framework>[\w.-]+)/(?P<variation>[\w.-]+)/(?P<version>\d+)(/|$)")
_FRAMEWORKS = frozenset(
    {
        "transformers",
        "pytorch",
        "tensorflow1",
        "tensorflow2",
        "tensorflow",
        "keras",
        "jax",
        "flax",
        "tflite",
        "tfjs",
    }
    | {
        "onnx",
        "gguf",
        "maxtext",
        "paxml",
        "coral",
        "scikitlearn",
        "scikit-learn",
        "xgboost",
        "lightgbm",
        "catboost",
    }
    | {
        "gemmacpp",
        "gemma.cpp",
        "tensorrtllm",
        "mlx",
        "litert",
        "keraslegacy",
        "other",
        "api",
        "pyt",
        "default",
    }
)
"""Frameworks of Kaggle Models, as their folders are called in lower case."""
_ROOTS = re.compile(r"(?:/|/kaggle/?|(?:\.\./)*\.\./?)")
_TRAINED = re.compile(r"\.(bin|ckpt|h5|joblib|keras|onnx|pkl|pt|pth|safetensors|cbm)$")
_SAMPLE = re.compile(r"sample.*sub|sub.*sample")
_LISTS = re.compile(r"walk\(\s*$")
_WALKS = re.compile(r"/?[\"']\s*\)\s*\.(rglob|walk)\(")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One path below the mounts, as it stands in a cell."""

    cell: int
    """Number of the cell."""
    start: int
    """Where the folder of the mounts begins."""
    end: int
    """Where it ends."""
    path: str
    """The whole path, "*" for what is not known."""


def edits(code: Code) -> Iterator[Edit]:
    """Yield what turns every path below the mounts into one below the folder that shows them.

    A walk over the whole folder stays: links to folders are not followed there, and it names no source.
    """
    for mention in mentions(code):
        source = code.reads[mention.cell].source
        before, behind = source[: mention.start].rstrip("\"'rRfF"), source[mention.end :]
        walks = _LISTS.search(before) or _WALKS.match(behind)
        if mention.path.rstrip("/") not in (file_places.INPUT, "../input") or not walks:
            yield Edit(cell=mention.cell, start=mention.start, end=mention.end, text=file_places.SHOWN)
    yield from {(edit.cell, edit.start): edit for edit in _edits_of_parts(code)}.values()


def _edits_of_parts(code: Code) -> Iterator[Edit]:
    """Yield the same for paths that are put together: `os.path.join("/kaggle", "input")`, `ROOT / "input"`.

    The part that a path begins with is led elsewhere in this one expression; a variable keeps its value, since
    other paths may begin with it.
    """
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                continue
            found = [text for text in literals.texts(node, code.known) if file_places.MOUNT.match(text)]
            leaf = _first_part(node) if found else None
            if leaf is None:
                continue
            elsewhere = "/tmp" if found[0].startswith("/") else f"{file_places.WORKING}/"  # noqa: S108
            start = code.reads[number].offset(leaf.lineno, leaf.col_offset)
            end = code.reads[number].offset(leaf.end_lineno or leaf.lineno, leaf.end_col_offset or 0)
            if text := _led_elsewhere(leaf, code.reads[number].source[start:end], elsewhere, code):
                yield Edit(cell=number, start=start, end=end, text=text)


def _led_elsewhere(leaf: ast.expr, own: str, elsewhere: str, code: Code) -> str:
    """Return what is written for the first part of a path; "" where that names the mounts by itself."""
    if isinstance(leaf, ast.JoinedStr):
        first = leaf.values[0]
        said = literals.text(first.value, code.known) if isinstance(first, ast.FormattedValue) else ""
        return f'("{elsewhere}" + {own})' if said and _ROOTS.fullmatch(said) else ""
    said = literals.texts(leaf, code.known)[0]
    if not _ROOTS.fullmatch(said):
        return ""
    return repr(elsewhere + said) if isinstance(leaf, ast.Constant) else f"type({own})({elsewhere + said!r})"


def _first_part(node: ast.expr) -> ast.expr | None:
    """Return the constant, name or f-string that a path is begun with."""
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


def mentions(code: Code) -> Iterator[Mention]:
    """Yield the paths in strings, shell lines and the bodies of cell magics; comments are left alone."""
    for number, read in code.reads.items():
        for start, end in _texts(read):
            for found in file_places.MOUNT.finditer(read.source, start, end):
                rest = _HOLE.sub("*", read.source[found.end() : end])
                before = read.source[found.start() - 1 : found.start()]
                if before in ("'", '"') and before in rest:  # names may have blanks and parentheses
                    path = found[0] + rest.partition(before)[0]
                else:
                    word = _WORD.match(rest)
                    path = found[0] + re.sub(r"\\(.)", r"\1", word[0] if word else "")
                yield Mention(cell=number, start=found.start(), end=found.end(), path=path)


def _texts(read: Read) -> Iterator[tuple[int, int]]:
    yield from ((magic.start, magic.end) for magic in read.magics)
    yield from read.strings


def resolve(code: Code, ground: Ground, basket: Basket) -> Iterator[Found]:
    """Yield what each source that paths name became, once for each; files of the project come into the basket."""
    wanted: dict[str, list[tuple[Wish, Mounted]]] = {}
    for wish in _wishes(code):
        place = file_places.mounted(wish.target)
        if place.name:
            wanted.setdefault(place.name, []).append((wish, place))
    for name, asked in wanted.items():
        ground = replace(ground, sources=basket.sources)
        yield _resolved(name, asked, ground, basket)


def _wishes(code: Code) -> list[Wish]:
    found = [_wish(one.cell, code.reads[one.cell].line(one.start), one.path, code) for one in mentions(code)]
    for number, tree in code.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.BinOp | ast.Call | ast.JoinedStr):
                paths = [text for text in literals.texts(node, code.known) if file_places.MOUNT.match(text)]
                found += [_wish(number, node.lineno, path, code) for path in paths]
    told = {(one.cell, one.line) for one in found if "*" not in file_places.mounted(one.target).name}
    found = [
        one
        for one in found
        if (one.cell, one.line) not in told or "*" not in file_places.mounted(one.target).name
    ]  # a pattern whose holes are filled in on the same line
    return sorted(dict.fromkeys(found), key=lambda one: (one.cell, one.line))


def _wish(cell: int, line: int, path: str, code: Code) -> Wish:
    text = code.reads[cell].source.split("\n")[line - 1].strip()
    return Wish(kind=Kind.MOUNT, cell=cell, line=line, text=text, target=path)


def _resolved(name: str, asked: list[tuple[Wish, Mounted]], ground: Ground, basket: Basket) -> Found:
    wish, place = asked[0]
    if "*" in name:
        return _of_pattern(name, asked, ground, basket)
    if ground.is_attached(place):
        return found_of(wish, Became.SERVED, name)
    if place.kind and len(name.split("/")) == {"competition": 1, "model": 5}.get(place.kind, 2):
        basket.attach(place.kind, name)
        return found_of(wish, Became.SOURCE, f"{place.kind} {name}")
    if path := _model_of(name, asked):
        remedy = f'attach the model (model_sources = ["owner/{path}"] in [tool.offline-kit.notebook], with its owner)'
        return found_of(wish, Became.ASKED, path, remedy)
    if _is_competition(place, asked, ground):
        basket.attach("competition", name)
        return found_of(
            wish, Became.SOURCE, f"competition {name}", "taken for the competition's data: see that it is"
        )
    files = [file for _, each in asked for file in _serve(each, ground, basket)]
    if files:
        return found_of(wish, Became.CHECKPOINT, ", ".join(dict.fromkeys(files)))
    return found_of(
        wish,
        Became.ASKED,
        name,
        f'attach it (dataset_sources = ["owner/{place.slug}"] in [tool.offline-kit.notebook]), or put a copy into'
        f" 'input/{place.slug}' and adopt again: it travels",
    )


def _model_of(name: str, asked: list[tuple[Wish, Mounted]]) -> str:
    """Return "model/framework/variation/version" for an old path that is a Kaggle Model's; else ""."""
    found = (_VERSION.match(place.rest) for _, place in asked)
    model = next((each for each in found if each and each["framework"].lower() in _FRAMEWORKS), None)
    return f"{name}/{model['framework']}/{model['variation']}/{model['version']}" if model else ""


def _is_competition(place: Mounted, asked: list[tuple[Wish, Mounted]], ground: Ground) -> bool:
    """Whether an old path is probably the competition's: its copy holds a sample, or its files are called so."""
    if ground.sources.competitions:
        return False
    if "competition" in ground.unnamed and len(set(ground.unnamed)) == 1:
        return True  # what the notebook's metadata has attached, and nothing else
    copies = ground.of_mount(replace(place, rest=""))
    if any(
        _SAMPLE.search(path.name.lower()) for copy in copies if copy.is_dir() for path in copy.glob("*.csv")
    ):
        return True
    if ground.unnamed and "competition" not in ground.unnamed:
        return False
    return any(_OF_COMPETITION.search(each.rest) and not _TRAINED.search(each.rest) for _, each in asked)


def _of_pattern(name: str, asked: list[tuple[Wish, Mounted]], ground: Ground, basket: Basket) -> Found:
    """Decide on a path that begins with a pattern: what it matches of the project's copies travels."""
    wish = asked[0][0]
    own = ground.sources
    matched = [
        hit for _, place in asked for hit in ground.matching(f"input/{place.name}/{place.rest}".rstrip("/"))
    ]
    for hit in matched:
        path = ground.name(hit)
        slug = path.split("/")[1]
        if not ground.is_attached(Mounted(kind="", name=slug, rest="")):
            basket.checkpoints[path] = None
            basket.served[path] = path
    if matched:
        return found_of(wish, Became.CHECKPOINT, ", ".join(dict.fromkeys(map(ground.name, matched))))
    if own.competitions or own.datasets or own.notebooks or own.models:
        return found_of(wish, Became.KEPT, "matches what is attached")
    return found_of(
        wish,
        Became.ASKED,
        name,
        "attach what it is to match (dataset_sources in [tool.offline-kit.notebook]), or put a copy below 'input' and"
        " adopt again: it travels",
    )


def _serve(place: Mounted, ground: Ground, basket: Basket) -> list[str]:
    """Have the project's files travel that a path means; return their names."""
    hits = ground.of_mount(place)
    names = []
    for hit in hits:
        group = f"{place.kind}s/" if place.kind else ""
        rest = (
            place.rest if "*" not in place.rest else f"{place.rest.rpartition('/')[0]}/{hit.name}".lstrip("/")
        )
        path = "/".join(part for part in ("input", group + place.name, rest) if part)
        if "*" not in path:
            name = ground.name(hit)
            basket.checkpoints[name] = None
            basket.served[path] = name
            names.append(name)
    return names
