"""Templates of percent scripts: filled with jinja2, cut into cells, each proved to be Python."""

import ast
import base64
import io
import json
import re
import textwrap
import traceback
import zipfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.core import resources
from offline_kit.core.errors import ProjectError, UsageError, suggest_name
from offline_kit.kit.layout import RUNTIME_PACKAGE

if TYPE_CHECKING:
    import jinja2

SUFFIX = ".py.j2"
FROM_EXPRESSIONS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions that an expression in a template may raise besides jinja's own."""
JOBS = ("adopt", "record", "wheelhouse")  # templates of notebooks that nobody chooses by name
FRAMES = ("base", "bootstrap", "embedded", "models")  # what other templates extend and include
RUNTIME_IMPORTS = "# import here what the cells use of the runtime"  # replaced once the cells are rendered
WIDTH, INDENT, LINE_LENGTH = 90, "    ", 110


def built_in_templates() -> tuple[str, ...]:
    """Return the names of the built-in templates."""
    names = sorted(path.name.removesuffix(SUFFIX) for path in resources.templates_folder().glob(f"*{SUFFIX}"))
    return tuple(name for name in names if name not in (*FRAMES, *JOBS))


def check_template(template: str, project: Path) -> None:
    """Raise UsageError if there is no such template, built in or below the project."""
    names = built_in_templates()
    if template not in names and not (project / template).is_file():
        raise UsageError(
            f"there is no template '{template}'{suggest_name(template, names)}",
            code="template-not-found",
            hint=f"use one of {', '.join(map(repr, names))}, or the path of your own below the project",
        )


def fill_template(template: str, project: Path, facts: Mapping[str, Any]) -> str:
    """Fill a template, built in or a path below the project; raises ProjectError with the line that is wrong."""
    import jinja2

    name, folders = f"{template}{SUFFIX}", [resources.templates_folder()]
    if template not in (*built_in_templates(), *JOBS):
        check_template(template, project)
        own = project / template
        name, folders = own.name, [own.parent, *folders]
    try:
        environment = _template_environment(*folders)
        script = environment.get_template(name).render(facts, runtime_imports=RUNTIME_IMPORTS)
    except (jinja2.TemplateError, RecursionError, *FROM_EXPRESSIONS) as error:
        raise _template_error(error, template, folders) from error
    if len(folders) > 1:
        _check_blocks(environment, name, template)
    cells = cells_of(script)
    _check_cells(cells, template)
    return script.replace(RUNTIME_IMPORTS, _import_runtime_names(cells))


def _check_blocks(environment: "jinja2.Environment", name: str, template: str) -> None:
    """Raise ProjectError for a block that overrides nothing, because jinja silently drops its content."""
    from jinja2 import nodes

    trees: list[nodes.Template] = []
    while name and environment.loader:
        trees.append(environment.parse(environment.loader.get_source(environment, name)[0]))
        parent = trees[-1].find(nodes.Extends)
        name = parent.template.value if parent and isinstance(parent.template, nodes.Const) else ""
    own_blocks = {node.name for node in trees[0].body if isinstance(node, nodes.Block)}
    known_blocks = {node.name for tree in trees[1:] for node in tree.find_all(nodes.Block)}
    for block in sorted(own_blocks - known_blocks) if trees[1:] else ():
        raise ProjectError(
            f"the template '{template}' has a block '{block}', and what it extends has none to put it into"
            f"{suggest_name(block, known_blocks)}",
            code="template-block-unknown",
            hint=f"use one of its blocks: {', '.join(sorted(known_blocks))}",
        )


@cache
def _template_environment(*folders: Path) -> "jinja2.Environment":
    """Return what keeps the compiled templates of these folders."""
    import jinja2

    class LoudUndefined(jinja2.StrictUndefined):
        """A name that is not defined: its repr, too, is an error that names it."""

        __repr__ = jinja2.StrictUndefined.__str__

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders, encoding="utf-8"),
        undefined=LoudUndefined,
        # Lines of jinja alone leave no empty line behind.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the result is Python, and values go through the filter `py`
    )
    environment.filters |= {"py": python_literal, "flat": flat_literal, "line": one_line}
    return environment


def _import_runtime_names(cells: list[Any]) -> str:
    """Return the import statements for the names of the runtime that cells use and do not define themselves."""
    loaded, bound = set[str](), set[str]()
    for node in ast.walk(ast.parse("\n".join(c.source for c in cells if c.cell_type == "code"))):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    statements = []
    for module, public_names in _list_runtime_names().items():
        if names := ", ".join(sorted((loaded - bound) & public_names)):
            # A second statement, because a formatter would give each name in brackets a line.
            start = f"from {RUNTIME_PACKAGE}.{module} import "
            lines = textwrap.wrap(names, LINE_LENGTH - len(start), break_long_words=False)
            statements += [start + line.removesuffix(",") for line in lines]
    return "\n".join(statements)


@cache
def _list_runtime_names() -> dict[str, frozenset[str]]:
    """Return the public names that each module of the runtime defines."""
    defined: dict[str, frozenset[str]] = {}
    for file, source in resources.runtime_files().items():
        body = ast.parse(source).body
        names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        names |= {ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)}
        defined[file.removesuffix(".py")] = frozenset(name for name in names if not name.startswith("_"))
    return defined


def pack_runtime() -> str:
    """Return the runtime as a zip in base64, for notebooks that run before there is a kit to carry it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, source in resources.runtime_files().items():
            # The time of a file would make another notebook of the same runtime.
            archive.writestr(
                zipfile.ZipInfo(f"{RUNTIME_PACKAGE}/{file}", (1980, 1, 1, 0, 0, 0)),
                source,
                zipfile.ZIP_DEFLATED,
            )
    return base64.b64encode(packed.getvalue()).decode()


def python_literal(value: object, indent: str = "", width: int = WIDTH) -> str:
    """Return a value as Python source as a formatter would leave it, the same for the same value."""
    write_item = partial(python_literal, indent=indent + INDENT)
    if isinstance(value, str):
        return repr(value) if '"' in value else json.dumps(value, ensure_ascii=False)
    # Dictionaries and lists one item a line, with the comma that a formatter adds.
    if isinstance(value, Mapping):
        inner = [f"{python_literal(key)}: {write_item(item, width=width)}" for key, item in value.items()]
        return _format_brackets("{", inner, "}", indent, width)
    if isinstance(value, list):
        # An item of a list has nothing before it, so it may be as long as a line.
        item_width = max(width, LINE_LENGTH - 1)
        inner = [write_item(item, width=item_width) for item in value]
        return _format_brackets("[", inner, "]", indent, width)
    return repr(value)


def _format_brackets(opening: str, inner: list[str], closing: str, indent: str, width: int) -> str:
    flat = f"{opening}{', '.join(inner)}{closing}"
    if len(indent) + len(flat) <= width and "\n" not in flat:
        return flat
    lines = [f"{indent}{INDENT}{item}," for item in inner]
    return "\n".join([opening, *lines, indent + closing])


flat_literal = partial(python_literal, width=1 << 30)  # return a value as Python source on one line


def one_line(value: object) -> str:
    """Return a value as text that cannot leave its line or its table cell."""
    return " ".join(str(value).split()).replace("|", "/")


def _template_error(error: Exception, template: str, folders: list[Path]) -> ProjectError:
    import jinja2

    if isinstance(error, jinja2.TemplateSyntaxError):
        location = f"{Path(error.filename or template).name}, line {error.lineno}"
    else:
        # jinja2 rewrites tracebacks so that they name lines of the templates; the last is the closest.
        stack = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in stack if Path(frame.filename).parent in folders]
        location = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else template
    return ProjectError(
        f"the template '{template}' is wrong at {location}: {error}",
        code="template-invalid",
        hint="correct the template; the names that it may use stand at the top of the built-in base.py.j2",
    )


def cells_of(script: str) -> list[Any]:
    """Cut a percent script into cells (nbformat nodes)."""
    import jupytext

    form = {"extension": ".py", "format_name": "percent", "comment_magics": False}
    return list(jupytext.reads(script, fmt=form).cells)


def _check_cells(cells: list[Any], template: str) -> None:
    problems = []
    for number, cell in enumerate(cells, 1):
        try:
            ast.parse(cell.source if cell.cell_type == "code" else "")
        except SyntaxError as error:
            text = cell.source.splitlines()[(error.lineno or 1) - 1].strip()
            title = f" '{cell.metadata['title']}'" if cell.metadata.get("title") else ""
            problems.append(f"cell {number}{title}, line {error.lineno}: {error.msg}: {text}")
    if problems:
        raise ProjectError(
            f"the template '{template}' makes cells that are not Python",
            code="template-invalid",
            hint="correct the template; magics and shell lines (%, !) are not taken, use subprocess",
            details=problems,
        )


def to_notebook(script: str) -> str:
    """Turn a percent script into the JSON of a valid notebook, the same bytes for the same script."""
    import nbformat as untyped

    nbformat: Any = untyped
    cells = []
    for number, cell in enumerate(cells_of(script), 1):
        make_cell = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        title = str(cell.metadata.get("title") or cell.source.lstrip("# ").partition("\n")[0])
        # Ids follow from titles, so that a diff of two notebooks shows what has changed.
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40]
        metadata = {key: value for key, value in cell.metadata.items() if key != "lines_to_next_cell"}
        cells.append(make_cell(cell.source.rstrip(), id=f"{number:02d}-{slug}".strip("-"), metadata=metadata))
    # Without a kernelspec papermill, with which Kaggle runs notebooks, refuses to start.
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python", "file_extension": ".py"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)) + "\n"
