"""Checks of the doctor that look at the project: its configuration, requirements, checkpoints, notebook and code."""

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.files import format_size
from offline_kit.packages.freeze import freeze_file, lock_files, requirement_files
from offline_kit.project import config, images
from offline_kit.project.types import Finding, NotebookSettings, Severity
from offline_kit.workflow import freeze_request, model_files, pipeline
from offline_kit.workflow.check_types import CheckContext, CheckResult, CheckState, warn_result


def check_configuration(context: CheckContext) -> CheckResult:
    """Tell where the configuration comes from; raises what loading it raises."""
    loaded = context.config or config.load_config(context.project, {})
    if loaded.source is None:
        return warn_result(
            "there is no configuration, only what is found", "write one with 'offline-kit init'"
        )
    return CheckResult(what=f"'{loaded.source}' loads: project '{loaded.name}', dataset '{loaded.dataset}'")


def check_image(context: CheckContext) -> CheckResult:
    """Tell the image and how far to trust its list; raises for one that is not known."""
    configured_image = context.image or images.load_image(
        context.loaded_config.image, accelerator=context.loaded_config.accelerator, project=context.project
    )
    message = f"'{configured_image.name}': Python {configured_image.python}, {len(configured_image.packages)} packages"
    return CheckResult(
        what=message, details=(configured_image.confidence,) if configured_image.confidence else ()
    )


def check_requirements(context: CheckContext) -> CheckResult:
    """Read what the project asks for, without asking an index; raises for lines that cannot be read."""
    config = context.loaded_config
    plain = [path for path in config.requirements if not lock_files.is_lock_file(path)]
    inputs = requirement_files.read_requirement_files(
        plain, freeze_request.of_project(config), project=config.project, env=context.env
    )
    lock_files.read_lock_files(
        [*config.locks, *inputs.compiled_files], context.loaded_image.marker_environment()
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


def check_checkpoints(context: CheckContext) -> CheckResult:
    """Look into every trained file as a build does, executing nothing; raises for those that would stop it."""
    config = context.loaded_config
    if not config.checkpoints:
        return warn_result(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    inspected = model_files.inspect_model_files(
        context.config_without_slimming,
        context.loaded_image,
        cache=files.make_folder(context.cache),
        report=context.report,
    )
    details = [
        *model_files.advise_on_checkpoints(inspected),
        *(_describe_file(finding) for finding in inspected.findings if finding.severity is not Severity.NOTE),
    ]
    kinds = ", ".join(sorted({str(checkpoint.kind) for checkpoint in inspected.checkpoints}))
    size = format_size(sum(checkpoint.size for checkpoint in inspected.checkpoints))
    message = f"{len(inspected.checkpoints)} of kind {kinds}, {size}"
    return (
        warn_result(message, "see each line: it may not load as it is", *details)
        if details
        else CheckResult(what=message)
    )


def _describe_file(found: Finding) -> str:
    return f"'{found.about}' {found.what}" + (f": {found.remedy}" if found.remedy else "")


def check_notebook(context: CheckContext) -> CheckResult:
    """Check what a build checks first; raises for what it would refuse.

    The template is the one that a build uses: where none is named, the checkpoints decide.
    """
    config = context.loaded_config
    pipeline.check_notebook(config)
    if config.notebook.source:
        subject = f"adopted from '{config.notebook.source}'"
    else:
        settings = _settings_of_build(context)
        if settings is None:
            return CheckResult(
                what="the checkpoints decide its template, once they are in order", state=CheckState.SKIPPED
            )
        if settings.template == "plain":
            return warn_result(
                "the template 'plain' restores the kit and predicts nothing",
                'set task = "tabular", "images" or "text" for models that a framework loads, or model and data, '
                f"or function, in {context.notebook_table}",
            )
        subject = f"template '{settings.template}'"
    if not config.competition:
        return warn_result(
            f"{subject}, and no competition is named: its data will not be attached",
            'set competition = "slug", the last part of its address',
        )
    return CheckResult(what=f"{subject} for '{config.competition}'")


def _settings_of_build(context: CheckContext) -> NotebookSettings | None:
    """Return the notebook's settings with the template of a build; None if unsound checkpoints would decide it."""
    config = context.loaded_config
    if not config.checkpoints or config.notebook.template != "plain" or not config.notebook.automatic:
        return config.notebook
    try:
        model_files_found = model_files.inspect_model_files(
            context.config_without_slimming, context.loaded_image, cache=files.make_folder(context.cache)
        )
    except OfflineKitError:
        return None  # K204 says why
    return model_files_found.config.notebook


def check_freeze(context: CheckContext) -> CheckResult:
    """Compare the freeze with the requirements and the image.

    Where own packages have to be built to know what they ask for, only the image is compared, unless the
    network may be asked.
    """
    config = context.loaded_config
    name = config.lock.name
    if not config.lock.is_file():
        return warn_result(f"there is no '{name}' yet", "run 'offline-kit build' and commit it")
    head = freeze_file.read_header(config.lock.read_text(encoding="utf-8", errors="replace"))
    made_for = (head.get("image", ""), head.get("python", ""))
    stale = "run 'offline-kit build' to update it, then commit it"
    if context.loaded_image.name not in made_for[0]:
        return warn_result(
            f"'{name}' was made for {made_for[0] or 'another image'}, not '{context.loaded_image.name}'",
            stale,
        )
    if config.packages and not context.online:
        message = f"'{name}' is for '{context.loaded_image.name}'; what the own packages ask for is compared with --online"
        return CheckResult(what=message, state=CheckState.SKIPPED)
    if not pipeline.freeze_is_current(config, context.report):
        return warn_result(
            f"'{name}' is of other requirements or another image list than there are now", stale
        )
    return CheckResult(what=f"'{name}' is current")


def check_own_code(context: CheckContext) -> CheckResult:
    """Read the code that travels, as a build does; nothing is imported or built."""
    try:
        findings = pipeline.static_findings(context.loaded_config)
    except OfflineKitError:
        return CheckResult(
            what="not before its references are in order", state=CheckState.SKIPPED
        )  # K205 says why
    if not findings:
        return CheckResult(
            what="nothing in it needs the internet, and the data class keeps the template's contract"
        )
    lines = tuple(f"'{finding.about}' {finding.what}" for finding in findings)
    remedies = "; ".join(dict.fromkeys(finding.remedy for finding in findings if finding.remedy))
    return warn_result(
        lines[0] if len(lines) == 1 else f"{len(lines)} problems", remedies, *lines[1 - (len(lines) > 1) :]
    )
