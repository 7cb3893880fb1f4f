"""Calls of the project's own code that would fetch weights or data when a model is made: found in the syntax.

The notebook has no internet. Weights that the checkpoint replaces are switched off; others travel in the
kit and are found through their caches (see `kit_caches`).
"""

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.checkpoints import download_calls
from offline_kit.checkpoints.download_calls import UNKNOWN, DownloadCall, DownloadKind, Switch
from offline_kit.checkpoints.hub_folders import is_hub_id
from offline_kit.core.errors import OfflineKitError
from offline_kit.packages.own import code_files
from offline_kit.project import references
from offline_kit.project.types import Finding, OwnCode, Severity

_REPLACED = "the checkpoint replaces these weights"
_SPACY = re.compile(r"[a-z]{2,3}_\w+_(?:sm|md|lg|trf)")
"""The name of a model of spaCy's, which is a package."""
_CORPUS = re.compile(r"nltk\.(corpus\.\w+\.\w+|(\w+\.)*(word_tokenize|sent_tokenize|pos_tag|ne_chunk))")
"""What reads data that NLTK fetches apart."""
_ASIDE = frozenset({"tests", "test", "docs", "examples", "scripts", "notebooks"})
"""Folders of a package that its models do not come from."""


@dataclass(frozen=True)
class _Place:
    """What an expression may refer to where it stands."""

    defaults: Mapping[str, ast.expr]
    """Defaults of the parameters of the functions around it."""
    constants: Mapping[str, ast.expr]
    """What the module and its classes of settings bind: "NAME" and "CFG.name"."""


def findings(
    project: Path, files: Iterable[Path], params: Mapping[str, object], bundled: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return a finding for each call in these Python files that would fetch something; nothing is imported.

    `params` are those of the notebook: what they switch off is no finding. `bundled` are normalized names of packages
    in the kit.
    """
    found: list[Finding] = []
    for path in dict.fromkeys(files):
        tree = references.parse_module(path) if path.suffix == ".py" else None
        if tree is not None:
            shown = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name
            found += _Reader((project, shown), tree, params, bundled).findings()
    return tuple(found)


def of_code(
    project: Path,
    packages: Sequence[Path],
    own: OwnCode,
    params: Mapping[str, object],
    bundled: Collection[str] = (),
    entries: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Return the findings of the code that travels: loose modules, and what own packages are built from.

    `entries` are the references that the notebook starts from; code that they do not import is left out. Without
    entries all code counts.
    """
    loose = [source.path for source in own.sources]
    built = [root / name for root in packages for name in code_files.read_source_tree(root).names]
    aside = (path for path in (*loose, *built) if not _ASIDE & {part.lower() for part in path.parts[-4:-1]})
    used = _used(project, packages, own, entries)
    return findings(
        project, (path for path in aside if used is None or path.resolve() in used), params, bundled
    )


def _used(
    project: Path, packages: Sequence[Path], own: OwnCode, entries: Sequence[str]
) -> frozenset[Path] | None:
    """Return the files that the notebook imports; None if that cannot be known."""
    folders = [*(package / "src" for package in packages), *packages, *(project / root for root in own.roots)]
    roots = [*folders, project / "src", project]
    try:
        starts = [one.file for one in references.resolve_references(project, entries, roots) if one.file]
    except OfflineKitError:  # the build reports it
        return None
    return references.find_reached_files(starts, roots) if starts else None


class _Reader:
    """The calls of one module, with the full names that its imports give them."""

    def __init__(
        self,
        place: tuple[Path, str],
        tree: ast.Module,
        params: Mapping[str, object],
        bundled: Collection[str],
    ) -> None:
        self.project, self.shown = place
        self.tree, self.params, self.bundled = tree, params, bundled
        self.names = references.map_imported_names(tree)
        self.constants = _constants(tree)

    def findings(self) -> Iterator[Finding]:
        """Yield the findings in the order of the lines."""
        found = [(call.lineno, finding) for call, place in _calls(self.tree, _Place({}, self.constants))
                 for finding in self.of(call, place)]  # fmt: skip
        yield from (finding for _, finding in sorted(found, key=lambda pair: pair[0]))

    def of(self, call: ast.Call, place: _Place) -> Iterator[Finding]:
        name = download_calls.dotted(call.func, self.names)
        on = [each for each in download_calls.switches(call, name) if self.is_on(each, place)]
        first = _value(call.args[0], place) if call.args else UNKNOWN
        if on and not self.is_cached(name, first):
            yield self.switched(call, place, name, on)
        download = download_calls.find_download(name, first if isinstance(first, str) else "")
        if download and download.kind is DownloadKind.MODEL_ID and download.remedy:
            yield from self.of_hub(call, place, name, download)
        elif download and download.remedy:
            if not self.is_at_hand(call, name, first, download):
                yield self.told(call, f"calls {name}(), which fetches from the internet", download.remedy)
        elif name == "spacy.load" and isinstance(first, str) and _SPACY.fullmatch(first):
            if not (self.project / first).exists() and first.replace("_", "-") not in self.bundled:
                yield self.told(
                    call,
                    f"calls spacy.load('{first}'), which is a package of its own",
                    download_calls.ADD_WHEEL,
                )
        elif _CORPUS.fullmatch(name) and not (self.project / "caches/nltk_data").exists():
            yield self.told(
                call, f"calls {name}(), which reads data that NLTK fetches apart", download_calls.NLTK_CACHE
            )

    def is_at_hand(self, call: ast.Call, name: str, what: object, download: DownloadCall) -> bool:
        """Whether what a call would fetch is in the project, in a cache that travels, or read from a folder."""
        if download.kind is DownloadKind.OTHER and (self.project / str(what)).exists():
            return True
        cached = download.remedy == download_calls.TORCH_CACHE and self.is_cached(name, what)
        return cached or _is_local(call)

    def is_cached(self, name: str, what: object) -> bool:
        """Whether a copy of the library's cache that travels holds what a call would fetch."""
        text = str(what) if isinstance(what, str) else ""
        hub, torch = self.project / "caches/huggingface/hub", self.project / "caches/torch/hub"
        if name.startswith("torch.hub.load") and name != "torch.hub.load_state_dict_from_url":
            return any(torch.glob(f"{text.partition(':')[0].replace('/', '_')}_*")) if text else False
        if name.startswith(("torch.hub", "torch.utils.model_zoo")):
            return bool(text) and (torch / "checkpoints" / text.rpartition("/")[2]).is_file()
        if name.startswith("torchvision."):
            return any(torch.glob(f"checkpoints/{name.rpartition('.')[2]}-*.pth"))
        if name.startswith("timm."):
            return bool(text) and any(hub.glob(f"models--timm--{text.partition('.')[0]}.*"))
        return bool(text) and (hub / f"models--{text.replace('/', '--')}").is_dir()

    def is_on(self, switch: Switch, place: _Place) -> bool:
        """Whether an argument fetches, said outright, by a parameter's default, or by its own default."""
        said = switch.said
        if isinstance(said, ast.Name) and said.id in self.params and not self.params[said.id]:
            return False
        return switch.fetches(_value(said, place) if said is not None else UNKNOWN)

    def switched(self, call: ast.Call, place: _Place, name: str, on: Sequence[Switch]) -> Finding:
        """Return the finding of a call with arguments that fetch weights."""
        first = on[0]
        off = " and ".join(f"{each.argument}={each.off}" for each in on)
        if first.said is None:
            what = f"calls {name}() without {first.argument}, which then is {first.default} and is fetched"
            return self.told(call, what, f"write {off}: {_REPLACED}")
        text = ast.unparse(first.said)
        by_parameter = isinstance(first.said, ast.Name) and first.said.id in place.defaults
        remedy = f"write {off}"
        if by_parameter and first.off == "False" and len(on) == 1:
            remedy = f"set {text} = false in [tool.offline-kit.notebook.params]"
        shown = text if first.placed else f"{first.argument}={text}"
        what = f"calls {name}({shown}), whose weights are fetched from the internet"
        return self.told(call, what, f"{remedy}: {_REPLACED}")

    def of_hub(self, call: ast.Call, place: _Place, name: str, download: DownloadCall) -> Iterator[Finding]:
        """Find what a hub's name is given to; a pipeline without one takes a model of its task's."""
        argument, at = download.source
        said = next((one.value for one in call.keywords if one.arg == argument), None)
        said = said or (call.args[at] if at < len(call.args) else None)
        value = _value(said, place) if said is not None else UNKNOWN
        if said is None and name == "transformers.pipeline" and not _has_stars(call):
            yield self.told(
                call, "calls pipeline() without a model, which fetches one for its task", download.remedy
            )
        if not is_hub_id(value) or (self.project / str(value)).exists() or self.is_cached(name, value):
            return
        what = f"calls {name.partition('.')[2]}('{value}'), which fetches it from the hub"
        by_name = f"write EfficientNet.from_name('{value}'): {_REPLACED}"
        yield self.told(call, what, by_name if name.startswith("efficientnet_pytorch.") else download.remedy)

    def told(self, call: ast.Call, what: str, remedy: str) -> Finding:
        where = f"{self.shown}:{call.lineno}"
        return Finding(severity=Severity.WARN, about=where, what=what, remedy=remedy)


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}": value for name, value in _assigned(node.body)}
        else:
            found |= dict(_assigned([node]))
    return found


def _assigned(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((one.id, node.value) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def _calls(node: ast.AST, place: _Place) -> Iterator[tuple[ast.Call, _Place]]:
    """Yield every call with what its names may mean; what stands below the guard of a script is left out."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = _Place({**place.defaults, **_defaults(node.args)}, place.constants)
    if isinstance(node, ast.Call):
        yield node, place
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, place)


def _defaults(arguments: ast.arguments) -> dict[str, ast.expr]:
    plain = [*arguments.posonlyargs, *arguments.args]
    unknown = ast.Name(id="?")
    found: dict[str, ast.expr] = {one.arg: unknown for one in (*plain, *arguments.kwonlyargs)}
    backwards = zip(reversed(plain), reversed(arguments.defaults), strict=False)
    found |= {one.arg: default for one, default in backwards}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found | {one.arg: default for one, default in pairs if default is not None}


def _value(node: ast.expr, place: _Place, depth: int = 0) -> Any:
    """Return what an expression stands for, as far as the module tells; UNKNOWN otherwise."""
    if isinstance(node, ast.Constant):
        return node.value
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    known = place.defaults.get(name) or place.constants.get(name)
    return _value(known, place, depth + 1) if known is not None and depth < 5 else UNKNOWN


def _has_stars(call: ast.Call) -> bool:
    return any(one.arg is None for one in call.keywords)


def _is_local(call: ast.Call) -> bool:
    """Whether a torch.hub.load reads a folder: source="local"."""
    return any(
        one.arg == "source" and isinstance(one.value, ast.Constant) and one.value.value == "local"
        for one in call.keywords
    )
