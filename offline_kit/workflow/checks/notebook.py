"""The notebook: its settings, its template, its names on Kaggle, and what its references lead to."""

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError
from offline_kit.project.types import NotebookSettings
from offline_kit.workflow import model_files, pipeline
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, CheckState, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Check what a build checks first; raises for what it would refuse.

    The template is the one that a build uses: where none is named, the checkpoints decide.
    """
    config = ground.loaded_config
    pipeline.check_notebook(config)
    if config.notebook.source:
        subject = f"adopted from '{config.notebook.source}'"
    else:
        settings = _settings_of_build(ground)
        if settings is None:
            return CheckResult(
                what="the checkpoints decide its template, once they are in order", state=CheckState.SKIPPED
            )
        if settings.template == "plain":
            return warn_result(
                "the template 'plain' restores the kit and predicts nothing",
                'set task = "tabular", "images" or "text" for models that a framework loads, or model and data, '
                f"or function, in {ground.notebook_table}",
            )
        subject = f"template '{settings.template}'"
    if not config.competition:
        return warn_result(
            f"{subject}, and no competition is named: its data will not be attached",
            'set competition = "slug", the last part of its address',
        )
    return CheckResult(what=f"{subject} for '{config.competition}'")


def _settings_of_build(ground: CheckContext) -> NotebookSettings | None:
    """Return the notebook's settings with the template of a build; None where unsound checkpoints would decide it."""
    config = ground.loaded_config
    if not config.checkpoints or config.notebook.template != "plain" or not config.notebook.automatic:
        return config.notebook
    try:
        model_files_found = model_files.inspect_model_files(
            ground.config_without_slimming, ground.loaded_image, cache=files.make_folder(ground.cache)
        )
    except OfflineKitError:
        return None  # K204 says why
    return model_files_found.config.notebook
