"""The notebook: its settings, its template, its names on Kaggle, and what its references lead to."""

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.types import NotebookSettings
from offline_kit.workflow import model_files, pipeline
from offline_kit.workflow.checks.check_types import Ground, Said, State, warning


def run(ground: Ground) -> Said:
    """Check what a build checks first; raises for what it would refuse.

    The template is the one that a build uses: where none is named, the checkpoints decide.
    """
    config = ground.settings
    pipeline.check_notebook(config)
    if config.notebook.source:
        what = f"adopted from '{config.notebook.source}'"
    else:
        settings = _decided(ground)
        if settings is None:
            return Said(
                what="the checkpoints decide its template, once they are in order", state=State.SKIPPED
            )
        if settings.template == "plain":
            return warning(
                "the template 'plain' restores the kit and predicts nothing",
                'set task = "tabular", "images" or "text" for models that a framework loads, or model and data, '
                f"or function, in {ground.notebook_table}",
            )
        what = f"template '{settings.template}'"
    if not config.competition:
        return warning(
            f"{what}, and no competition is named: its data will not be attached",
            'set competition = "slug", the last part of its address',
        )
    return Said(what=f"{what} for '{config.competition}'")


def _decided(ground: Ground) -> NotebookSettings | None:
    """Return the notebook's settings with the template of a build; None where unsound checkpoints would decide it."""
    config = ground.settings
    if not config.checkpoints or config.notebook.template != "plain" or not config.notebook.automatic:
        return config.notebook
    try:
        seen = model_files.look(ground.light, ground.target, cache=files.make_folder(ground.cache))
    except OfflineKitError:
        return None  # K204 says why
    return seen.config.notebook
