"""How offline_kit reads to a stranger: size, names, comments, copies and depth, measured from its source alone.

python bench/house.py [REV] [--root FOLDER] [--json]

Without REV the working tree is measured, else that git revision. Measure the default suite apart, on an idle
machine, because it takes minutes: `bash -c 'time python -m pytest -q'` (real is wall, user + sys is CPU).
"""

import argparse
import ast
import io
import json
import statistics
import subprocess
import tarfile
import tempfile
import tokenize
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "offline_kit"
RUN = 6  # lines that make two pieces of code copies of each other
FAMILIES = {"frameworks", "checks", "commands"}  # folders whose modules use the same names on purpose
NOTHING = """found each one said told seen asked place places there here made known wanted what done more where named
shown whole kept rest others other chosen given taken held lacking same about beside why how now again settled ours
mine ran have into look thing things it this that these which who gone got had both none every some any elsewhere say
says asking way ways"""
GENERIC = frozenset(NOTHING.split())
Definition = ast.FunctionDef | ast.AsyncFunctionDef
Trees = dict[str, ast.Module]  # by the module's full name
Graph = dict[str, set[str]]


def function_words(nodes: list[ast.AST]) -> float:
    """Return the mean number of words in a function's name; dunder and test functions are left out."""
    names = [node.name for node in nodes if isinstance(node, Definition)]
    counts = [len(name.strip("_").split("_")) for name in names if not name.startswith(("__", "test_"))]
    return statistics.mean(counts or [0])


def generic_share(nodes: list[ast.AST]) -> float:
    """Return the percentage of bindings (=, for, with, :=, comprehensions) with a name that says nothing."""
    bound = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return 100 * sum(name.strip("_").lower() in GENERIC for name in bound) / max(1, len(bound))


def duplicate_classes(trees: Trees) -> list[str]:
    """Return the class names that several modules have, leading underscores and families aside."""
    owners: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        folder = module.rpartition(".")[0]
        owner = folder if folder.rpartition(".")[2] in FAMILIES else module
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                owners[node.name.lstrip("_")].add(owner)
    return sorted(name for name, modules in owners.items() if len(modules) > 1)


def comment_share(sources: dict[str, str]) -> float:
    """Return the comments per 100 lines of code; `noqa` and the like, blank lines and docstrings do not count."""
    comments = code = 0
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for source in sources.values():
        lines: set[int] = set()
        after_statement = True
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments += not token.string.startswith(("# noqa", "# type:"))
            elif token.type not in layout and not (token.type == tokenize.STRING and after_statement):
                lines.update(range(token.start[0], token.end[0] + 1))
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                after_statement = token.type in layout
        code += len(lines)
    return 100 * comments / max(1, code)


def identical_runs(sources: dict[str, str], trees: Trees) -> list[str]:
    """Return where RUN or more lines repeat earlier ones, blank lines and imports aside."""
    windows: set[tuple[str, ...]] = set()
    runs = []
    for module, source in sources.items():
        imports = [node for node in ast.walk(trees[module]) if isinstance(node, ast.Import | ast.ImportFrom)]
        skipped = {number for node in imports for number in range(node.lineno, node.end_lineno + 1)}
        numbered = enumerate(source.splitlines(), 1)
        lines = [(number, text) for number, text in numbered if text.strip() and number not in skipped]
        end = 0  # of the copy that the lines are in
        for start in range(len(lines) - RUN + 1):
            window = tuple(text for _, text in lines[start : start + RUN])
            if window in windows:
                runs += [f"{module}:{lines[start][0]}"] if start >= end else []
                end = start + RUN
            windows.add(window)
    return runs


def call_graph(trees: Trees) -> Graph:
    """Return the calls f(), module.f(), self.f() and Class() between functions and methods of the package."""
    functions: dict[str, tuple[str, str, ast.AST]] = {}
    for module, tree in trees.items():
        classes = [
            ("", tree),
            *((f"{node.name}.", node) for node in tree.body if isinstance(node, ast.ClassDef)),
        ]
        for owner, body in classes:
            named = (node for node in body.body if isinstance(node, Definition))
            functions |= {f"{module}:{owner}{node.name}": (module, owner, node) for node in named}
    imported: dict[str, dict[str, str]] = {}
    for module, tree in trees.items():
        lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        pairs = [
            (alias.asname or alias.name, line.module, alias.name) for line in lines for alias in line.names
        ]
        as_modules = {
            name: f"{parent}.{child}:" for name, parent, child in pairs if f"{parent}.{child}" in trees
        }
        imported[module] = {name: f"{parent}:{child}" for name, parent, child in pairs} | as_modules
    graph: Graph = {}
    for caller, (module, owner, function) in functions.items():
        callees = set()
        for call in (node.func for node in ast.walk(function) if isinstance(node, ast.Call)):
            match call:
                case ast.Name(id=name):
                    callees.add(imported[module].get(name, f"{module}:{name}"))
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if owner:
                    callees.add(f"{module}:{owner}{name}")
                case ast.Attribute(value=ast.Name(id=base), attr=name):
                    callees.add(imported[module].get(base, "") + name)
        graph[caller] = (callees | {f"{callee}.__init__" for callee in callees}) & functions.keys()
    return graph


def longest_chain(graph: Graph) -> list[str]:
    """Return the longest path of calls; functions that call each other in a circle count as one."""
    while True:
        try:
            order = list(TopologicalSorter(graph).static_order())
            break
        except CycleError as error:
            circle = set(error.args[1])
            merged = min(circle)
            callees = set().union(*(graph.pop(name) for name in circle)) - circle
            graph = {name: {merged if c in circle else c for c in called} for name, called in graph.items()}
            graph[merged] = callees
    chains: dict[str, list[str]] = {}
    for name in order:  # callees come first
        chains[name] = [name, *max((chains[callee] for callee in sorted(graph[name])), key=len, default=[])]
    return max(chains.values(), key=len, default=[])


def measure(root: Path) -> dict[str, object]:
    """Return the figures of the package below `root`."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    sources = {".".join(p.relative_to(root).with_suffix("").parts): p.read_text("utf-8") for p in paths}
    trees = {module: ast.parse(source) for module, source in sources.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    sizes = Counter({module: len(source.splitlines()) for module, source in sources.items()})
    (longest_file, longest), *_ = sizes.most_common(1)
    classes, runs = duplicate_classes(trees), identical_runs(sources, trees)
    chain = longest_chain(call_graph(trees))
    return {
        "lines": sizes.total(),
        "files": len(sizes),
        "top_level_modules": sum(module.count(".") == 1 for module in sizes),
        "words_per_function_name": round(function_words(nodes), 2),
        "generic_names_percent": round(generic_share(nodes), 1),
        "duplicate_classes": len(classes),
        "comments_per_100_lines": round(comment_share(sources), 1),
        "identical_runs": len(runs),
        "median_file": statistics.median(sizes.values()),
        "longest_file": longest,
        "longest_call_chain": len(chain),
        "details": {"classes": classes, "runs": runs, "longest_file": longest_file, "call_chain": chain},
    }


def main() -> None:
    """Measure the working tree or a revision and print the figures."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("rev", nargs="?", help="a git revision instead of the working tree")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the project")
    parser.add_argument("--json", action="store_true", help="print JSON, with the names behind the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder) if options.rev else options.root
        if options.rev:
            command = ["git", "-C", options.root, "archive", options.rev, PACKAGE]
            archive = subprocess.run(command, check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(root, filter="data")
        figures = measure(root)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    del figures["details"]
    for name, figure in figures.items():
        print(f"{name:<24}{figure:>9}")


if __name__ == "__main__":
    main()
