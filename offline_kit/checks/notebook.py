"""The notebook: its settings, its template, its names on Kaggle, and what its references lead to."""

from offline_kit import pipeline
from offline_kit.checks.nouns import Ground, Said, warning


def run(ground: Ground) -> Said:
    """Check what a build checks first; raises for what it would refuse."""
    config = ground.settings
    pipeline.check_notebook(config)
    if config.notebook.template == "plain":
        return warning(
            "the template 'plain' restores the kit and predicts nothing",
            "set model and data, or function, in [tool.offline-kit.notebook]",
        )
    if not config.competition:
        return warning(
            f"template '{config.notebook.template}', and no competition is named: its data will not be attached",
            'set competition = "slug", the last part of its address',
        )
    return Said(what=f"template '{config.notebook.template}' for '{config.competition}'")
