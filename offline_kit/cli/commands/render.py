"""The command that renders only the notebook."""

from pathlib import Path
from typing import Any

import click

from offline_kit.cli.help_format import HelpCommand
from offline_kit.cli.options import (
    PATH,
    RENDER_OPTIONS,
    common_options,
    console_of,
    load_config,
    project_argument,
)


@click.command(
    cls=HelpCommand,
    short_help="Render the notebook of the existing kit again.",
    examples=(
        "offline-kit notebook --dry-run",
        "offline-kit notebook --template inference.py.j2 --into notebooks",
    ),
)
@project_argument
@RENDER_OPTIONS
@click.option("--into", type=PATH, metavar="DIR", help="Folder to write to; default notebook/ in the kit.")
@click.option("--dry-run", is_flag=True, help="Report whether it would change, without writing.")
@common_options
def notebook(
    project: Path, *, quiet: bool, as_json: bool, dry_run: bool, into: Path | None, **flags: Any
) -> None:
    """Render the notebook of the existing kit again, after the template or its params changed."""
    from offline_kit.core.files import hold_lock
    from offline_kit.workflow import pipeline

    console = console_of(quiet=quiet, as_json=as_json)
    config = load_config(project, flags)
    pipeline.kit_of(config)  # before the lock creates the folder of a missing kit
    with hold_lock(config.out.parent / f".{config.out.name}.lock"):
        kit, rendered = pipeline.render_notebook(config, report=console)
        folder = into.absolute() if into else config.out / "notebook"
        before = {name: _read_text(folder / name) for name in rendered.file_texts()}
        changed = before != rendered.file_texts()
        if changed and not dry_run:
            rendered.write_files(folder, console)
    notebook_path = folder / "inference.ipynb"
    words = "would change" if dry_run else "written"
    console.step(f"'{notebook_path}' {words if changed else 'is unchanged'}")
    console.print_result(
        {"ok": True, "notebook": str(notebook_path), "changed": changed, "dry_run": dry_run, "kit": kit.id}
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
