"""Requirements and locks: whether every line can be read."""

from offline_kit.packages.freeze import lock_files, requirement_files
from offline_kit.workflow import freeze_request
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, warn_result


def run_check(ground: CheckContext) -> CheckResult:
    """Read what the project asks for, without asking an index; raises for lines that cannot be read."""
    config = ground.loaded_config
    plain = [path for path in config.requirements if not lock_files.is_lock_file(path)]
    inputs = requirement_files.read_requirement_files(
        plain, freeze_request.of_project(config), project=config.project, env=ground.env
    )
    lock_files.read_lock_files(
        [*config.locks, *inputs.compiled_files], ground.loaded_image.marker_environment()
    )
    if not inputs.requirements and not config.packages and not config.locks:
        return warn_result(
            "nothing is asked for: the kit would hold own code and checkpoints alone",
            'name what predicting needs, like requirements = ["requirements.in"]',
        )
    sources = [
        requirement_files.display_path(path, config.project) for path in (*config.requirements, *config.locks)
    ]
    sources += ["[project].dependencies"] * config.project_dependencies
    sources += ["what the own packages ask for"] * bool(config.packages)
    number = len(inputs.requirements)
    return CheckResult(what=f"{number} requirement{'s' * (number != 1)}: {', '.join(sources) or 'none'}")
