"""Requirements and locks: whether every line can be read."""

from offline_kit import asking
from offline_kit.checks.nouns import Ground, Said, warning
from offline_kit.freeze import inputs, locks


def run(ground: Ground) -> Said:
    """Read what the project asks for, without asking an index; raises for lines that cannot be read."""
    config = ground.settings
    plain = [path for path in config.requirements if not locks.is_lock(path)]
    found = inputs.read(plain, asking.of_project(config), project=config.project, env=ground.env)
    locks.read([*config.locks, *found.compiled], ground.target.environment())
    if not found.wanted and not config.packages and not config.locks:
        return warning(
            "nothing is asked for: the kit would hold own code and checkpoints alone",
            'name what predicting needs, like requirements = ["requirements.in"]',
        )
    sources = [inputs.shown(path, config.project) for path in (*config.requirements, *config.locks)]
    sources += ["[project].dependencies"] * config.project_dependencies
    sources += ["what the own packages ask for"] * bool(config.packages)
    number = len(found.wanted)
    return Said(what=f"{number} requirement{'s' * (number != 1)}: {', '.join(sources) or 'none'}")
