"""The package index: whether it answers."""

from offline_kit.core.redaction import redact_urls
from offline_kit.core.retry import RetryPolicy
from offline_kit.packages.freeze.freeze import read_index_settings
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import read_pip_settings
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult

_BRISK = RetryPolicy(attempts=2, deadline=30.0)
"""A person waits for the answer."""


def run_check(ground: CheckContext) -> CheckResult:
    """Ask every index and find-links folder for one small project; raises where one does not answer."""
    config = ground.config
    settings = read_pip_settings(ground.env)
    if config:
        settings = read_index_settings(config.requirements, config.project, settings)
    PackageIndex(settings, cache=ground.cache, patience=_BRISK).list_files("pip")
    places = [redact_urls(place) for place in (*settings.list_index_urls(), *settings.find_links)]
    return CheckResult(what=f"answers: {', '.join(places) or 'none is configured'}")
