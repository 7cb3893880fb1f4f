"""The package index: whether it answers."""

from offline_kit.checks.nouns import Ground, Said
from offline_kit.freeze.stage import index_settings
from offline_kit.index import Index
from offline_kit.patience import Patience
from offline_kit.pip_settings import read
from offline_kit.redaction import redact

_BRISK = Patience(attempts=2, deadline=30.0)
"""A person waits for the answer."""


def run(ground: Ground) -> Said:
    """Ask every index and find-links folder for one small project; raises where one does not answer."""
    config = ground.config
    settings = read(ground.env)
    if config:
        settings = index_settings(config.requirements, config.project, settings)
    Index(settings, cache=ground.cache, patience=_BRISK).files("pip")
    places = [redact(place) for place in (*settings.index_urls(), *settings.find_links)]
    return Said(what=f"answers: {', '.join(places) or 'none is configured'}")
