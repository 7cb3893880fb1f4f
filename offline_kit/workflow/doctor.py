"""The doctor: one table of checks of this machine, the project, the package index and the login to Kaggle."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import parse_wheel_filename

from offline_kit.adopt import recording
from offline_kit.adopt.recording import RecordedRun
from offline_kit.core import files, interpreters, processes, sandbox
from offline_kit.core.errors import OfflineKitError, UsageError
from offline_kit.core.redaction import redact_urls
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.retry import RetryPolicy
from offline_kit.core.sandboxes import containers
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.notebook.runtime.kit_install import check_provided, list_counted, list_moved
from offline_kit.notebook.runtime.kit_replay import list_replaced
from offline_kit.packages.freeze import freeze as freezing
from offline_kit.packages.freeze import freeze_file, lock_files, requirement_files
from offline_kit.packages.index import PackageIndex
from offline_kit.packages.pip_settings import read_pip_settings
from offline_kit.project import config as configuration
from offline_kit.project.images import Image, load_image
from offline_kit.project.types import Checkpoint, Kit, Role, Severity
from offline_kit.rehearsal import kernel, kit_facts
from offline_kit.workflow import build_remotely, model_files, pipeline, resolved_project

LEAST = 500_000_000  # free bytes that hardly any build succeeds without
COMFORTABLE = 5_000_000_000
"""Bytes that downloads, an environment of the image's versions, and a kit take together."""
_IMPATIENT = RetryPolicy(attempts=2, deadline=30.0)  # a person waits for the answer


class CheckState(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # something will not work that not everybody needs
    FAILED = "failed"  # a build or a rehearsal will not work
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check says."""

    what: str
    state: CheckState = CheckState.OK
    remedy: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """What the checks look at; what several need is found once."""

    folder: Path
    env: Mapping[str, str]
    cache: Path  # where downloads are kept; may not exist yet
    online: bool  # whether the network may be used
    report: Reporter
    other_image: str = ""  # image that the existing kit is compared with

    @cached_property
    def config(self) -> configuration.Config:
        """The configuration; raises what loading it raises."""
        return configuration.load_config(self.folder, {})

    @cached_property
    def image(self) -> Image:
        """The configured image; raises for one that is not known."""
        return resolved_project.configured_image(self.config)

    @cached_property
    def recorded(self) -> RecordedRun | None:
        """The recorded run of the notebook, if there is one; raises for a record that is damaged."""
        return recording.find_recorded(self.folder, self.config.notebook.source)

    @cached_property
    def project(self) -> resolved_project.ResolvedProject:
        """The project without what makes checkpoints lighter: that takes minutes and a torch, too long here."""
        return resolved_project.resolve_project(replace(self.config, slim=False), self.report)


def _result(state: CheckState, what: str, remedy: str = "", *details: str) -> CheckResult:
    return CheckResult(what=what, state=state, remedy=remedy, details=details)


_ok, _warn, _fail, _skip = (partial(_result, state) for state in CheckState)


# ------------------------------------------------------------------ this machine


def _check_uv(context: CheckContext) -> CheckResult:
    program = interpreters.uv_program()
    answer = processes.run_command([program, "--version"], env=context.env, check=False, timeout=30)
    if not answer.succeeded:
        return _fail(f"'{program}' does not run", "pip install --force-reinstall uv", *answer.last_lines(3))
    return _ok(answer.out.strip())


def _check_python(context: CheckContext) -> CheckResult:
    image = context.image
    if image.local:
        return _ok(f"the running Python {image.python} is the image's")
    interpreter = interpreters.find_interpreter(image.python_minor, context.env)
    if interpreter is None:
        return _warn(
            f"'{image.name}' runs Python {image.python_minor}, and this machine has none",
            f"uv python install {image.python_minor}, or rehearse in the running environment with --env current",
        )
    return _ok(f"Python {image.python_minor} of '{image.name}': {interpreter}")


def _check_sandbox(_context: CheckContext) -> CheckResult:
    working_sandbox = sandbox.find_sandbox()
    if working_sandbox.is_weak:
        # Ubuntu 24.04 forbids user namespaces to programs without an AppArmor profile.
        return _warn(
            "no real sandbox works here: a rehearsal would prove little",
            "on Linux install bubblewrap (`apt install bubblewrap`), or allow user namespaces"
            " (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`); elsewhere use docker or WSL2",
            *working_sandbox.refused,
        )
    return _ok(f"{working_sandbox.kind} works", "", *working_sandbox.refused)


def _check_containers(context: CheckContext) -> CheckResult:
    """Run the project's container image if it is on this machine; nothing is downloaded."""
    if not containers.find_engines():
        return _skip("neither podman nor docker is on this machine: rehearse --env image needs one")
    reference = resolved_project.find_container_reference(context.config, context.image)
    try:
        runner = sandbox.find_container(reference, online=context.online)
    except OfflineKitError as error:
        if error.code == "image-not-pulled":  # it need not be
            return _ok(error.what, "", f"for rehearse --env image {error.hint}")
        return _warn(error.what, error.hint, *error.details)
    return _ok(f"{Path(runner.command[0]).name} runs '{reference}'")


def _check_disk(context: CheckContext) -> CheckResult:
    """Check that the folders of the kit and of the cache are writable and have free space."""
    out = context.folder
    with suppress(OfflineKitError):  # K201 says why
        out = context.config.out
    folders = sorted(
        {next(above for above in (path, *path.parents) if above.exists()) for path in (context.cache, out)}
    )
    closed = [str(folder) for folder in folders if not folder.is_dir() or not os.access(folder, os.W_OK)]
    if closed:
        return _fail(
            f"cannot write below {', '.join(map(repr, closed))}",
            "make it writable, or choose another place with --out or OFFLINE_KIT_CACHE",
        )
    free, tightest = min((shutil.disk_usage(folder).free, str(folder)) for folder in folders)
    message = f"{files.format_size(free)} free below '{tightest}'"
    remedy = "free some space ('offline-kit cache prune' may help), or set OFFLINE_KIT_CACHE to another disk"
    if free < LEAST:
        return _fail(message, remedy)
    return _warn(f"only {message}", remedy) if free < COMFORTABLE else _ok(message)


# ------------------------------------------------------------------ the project


def _check_configuration(context: CheckContext) -> CheckResult:
    config = context.config
    if config.source is None:
        return _warn("there is no configuration, only what is found", "write one with 'offline-kit init'")
    return _ok(f"'{config.source}' loads: project '{config.name}', dataset '{config.dataset}'")


def _check_image(context: CheckContext) -> CheckResult:
    image = context.image
    message = f"'{image.name}': Python {image.python}, {len(image.packages)} packages"
    return _ok(message, "", *filter(None, [image.confidence]))


def _check_requirements(context: CheckContext) -> CheckResult:
    """Read what the project asks for, without asking an index; raises for lines that cannot be read."""
    config = context.config
    plain = [path for path in config.requirements if not lock_files.is_lock_file(path)]
    inputs = requirement_files.read_requirement_files(
        plain, resolved_project.list_project_requirements(config), project=config.project, env=context.env
    )
    locks = [*config.locks, *inputs.compiled_files]
    lock_files.read_lock_files(locks, context.image.marker_environment())
    if not inputs.requirements and not config.packages and not config.locks:
        return _warn(
            "nothing is asked for: the kit would hold own code and checkpoints alone",
            'name what predicting needs, like requirements = ["requirements.in"]',
        )
    named = (*config.requirements, *config.locks)
    sources = [requirement_files.display_path(path, config.project) for path in named]
    sources += ["[project].dependencies"] * config.project_dependencies
    sources += ["what the own packages ask for"] * bool(config.packages)
    number = len(inputs.requirements)
    return _ok(f"{number} requirement{'s' * (number != 1)}: {', '.join(sources) or 'none'}")


def _check_checkpoints(context: CheckContext) -> CheckResult:
    """Inspect every trained file as a build does, executing nothing; raises for those that would stop it."""
    if not context.config.checkpoints:
        return _warn(
            "no checkpoint is named", 'name what was trained, like checkpoints = ["checkpoints/*.ckpt"]'
        )
    files.make_folder(context.cache)
    models = context.project.models
    details = [*model_files.advise_on_checkpoints(models)]
    for finding in models.findings:
        if finding.severity is not Severity.NOTE:
            remedy = f": {finding.remedy}" if finding.remedy else ""
            details.append(f"'{finding.about}' {finding.what}{remedy}")
    kinds = ", ".join(sorted({str(checkpoint.kind) for checkpoint in models.checkpoints}))
    size = files.format_size(sum(checkpoint.size for checkpoint in models.checkpoints))
    message = f"{len(models.checkpoints)} of kind {kinds}, {size}"
    if details:
        return _warn(message, "see each line: it may not load as it is", *details)
    return _ok(message)


def _check_notebook(context: CheckContext) -> CheckResult:
    """Check what a build checks first; if no template is named, the checkpoints decide, as in a build."""
    config, settings = context.config, context.config.notebook
    context.project.check_notebook()
    subject = f"adopted from '{settings.source}'"
    if recorded := context.recorded:
        # Raises if the recording is not on this machine, or damaged.
        subject = f"recorded from '{settings.source}', {files.format_size(sum(e.size for e in recorded.part.entries))}"
        if recorded.has_changed():
            remedy = f"record it again: {recorded.rebuild_command}"
            return _warn(f"'{settings.source}' changed after it was recorded", remedy)
    if not settings.source:
        if config.checkpoints and settings.template == "plain" and settings.automatic:
            try:
                settings = context.project.config.notebook
            except OfflineKitError:  # K204 says why
                return _skip("the checkpoints decide its template, once they are in order")
        if settings.template == "plain":
            nested = not (context.folder / "offline-kit.toml").is_file()
            return _warn(
                "the template 'plain' restores the kit and predicts nothing",
                'set task = "tabular", "images" or "text" for models that a framework loads, or model and data, '
                f"or function, in {'[tool.offline-kit.notebook]' if nested else '[notebook]'}",
            )
        subject = f"template '{settings.template}'"
    if not config.competition:
        return _warn(
            f"{subject}, and no competition is named: its data will not be attached",
            'set competition = "slug", the last part of its address',
        )
    return _ok(f"{subject} for '{config.competition}'")


def _check_freeze(context: CheckContext) -> CheckResult:
    """Compare the freeze with requirements and image; what own packages require is asked for only online."""
    config, image = context.config, context.image
    name = config.lock.name
    if not config.lock.is_file():
        return _warn(f"there is no '{name}' yet", "run 'offline-kit build' and commit it")
    head = freeze_file.read_header(config.lock.read_text(encoding="utf-8", errors="replace"))
    update = "run 'offline-kit build' to update it, then commit it"
    if image.name not in head.get("image", ""):
        made_for = head.get("image") or "another image"
        return _warn(f"'{name}' was made for {made_for}, not '{image.name}'", update)
    if config.packages and not context.online:
        return _skip(
            f"'{name}' is for '{image.name}'; what the own packages ask for is compared with --online"
        )
    # As configured: a file that is converted may need another library.
    project = resolved_project.resolve_project(config, context.report)
    if not freezing.is_freeze_current(project.freeze_request(project.own), project.image):
        return _warn(f"'{name}' is of other requirements or another image list than there are now", update)
    return _ok(f"'{name}' is current")


def _check_own_code(context: CheckContext) -> CheckResult:
    """Read the code that travels, as a build does; nothing is imported or built."""
    try:
        project = context.project
        own, _ = project.collect_own_code(build=False)
        saved: tuple[Checkpoint, ...] = ()
        with suppress(OfflineKitError):  # K204 says why
            saved = project.models.checkpoints
        findings = (*project.check_bounds(own), *pipeline.check_code(context.config, own, saved))
    except OfflineKitError:  # K205 says why
        return _skip("not before its references are in order")
    if not findings:
        contract = ", and the data class keeps the template's contract" * bool(context.config.notebook.data)
        return _ok(f"nothing in it needs the internet{contract}")
    lines = [f"'{finding.about}' {finding.what}" for finding in findings]
    remedies = "; ".join(dict.fromkeys(finding.remedy for finding in findings if finding.remedy))
    if len(lines) == 1:
        return _warn(lines[0], remedies)
    return _warn(f"{len(lines)} problems", remedies, *lines)


def _check_other_image(context: CheckContext) -> CheckResult:
    """Compare the existing kit with the image of --image: Kaggle's newest one, before it gets there."""
    name, config = context.other_image, context.config
    if not name:
        return _skip("asked with --image")
    is_file = Path(name).is_file() or name.endswith((".toml", ".json", ".txt"))
    is_container = not is_file and bool({"/", ":"} & {*name})  # such as "gcr.io/kaggle-images/python"
    with TemporaryDirectory(prefix="offline-kit-") as folder:
        file = Path(folder) / "container.toml"
        if is_container:
            build_remotely.write_image(build_remotely.capture_container(name), file)
        reference = str(file) if is_container else name
        image = load_image(reference, accelerator=config.accelerator, project=Path.cwd())
    drift = compare_with_image(pipeline.read_kit(config), image)
    if drift.broken:
        remedy = "build for it with --image"
        if is_container:
            remedy = f"'offline-kit image capture --container {name}', then {remedy}"
        remedy += ", or keep the present one with `pin_image = true`" * bool(context.image.digest)
        return _fail(f"the kit does not run on '{image.name}'", remedy, *drift.broken, *drift.moved)
    if drift.moved:
        message = f"'{image.name}' meets all requirements, with other versions than the kit was built for"
        options = f"--env image --container {name}" if is_container else f"--image {name}"
        return _warn(message, f"offline-kit rehearse {options}", *drift.moved)
    return _ok(f"'{image.name}' has every version that the kit counts on")


@dataclass(frozen=True, kw_only=True)
class ImageDrift:
    """How an image differs from the one that a kit was built for."""

    broken: tuple[str, ...]  # what would stop the notebook's first cell
    moved: tuple[str, ...]  # versions that the kit counts on: "timm 1.0.19 -> 1.0.22"


def compare_with_image(kit: Kit, image: Image) -> ImageDrift:
    """Check a kit against an image as its notebook would there, without running anything."""
    kit_files = kit_facts.list_kit_files(kit)
    plan = kit_facts.read_install_plan(kit_files)
    unfit_wheels, _ = kernel.find_unfit_wheels(plan, image.wheel_tags)
    broken = [f"'{wheel}' does not fit Python {image.python_minor}" for wheel in unfit_wheels]
    moved: list[str] = []
    recording = kit_facts.find_recording(kit_files)
    documents = [path for entry, path in kit_files if entry.role is Role.LOCK]
    for document in map(files.read_json, [*documents, *([recording] if recording else [])]):
        python = ".".join(str(document.get("python", image.python)).split(".")[:2])
        recorded = "packages" in document
        counted = list_replaced(document, image.packages) if recorded else list_counted(document)
        known = {name: version for name, version in counted.items() if name not in image.unversioned}
        moved += list_moved({"Python": python, **known}, {"Python": image.python_minor, **image.packages})
        for item in document.get("provided", ()):
            spare, problem = item.get("spare"), check_provided(item, image.packages.get(item["name"], ""))
            fits = bool(spare) and not parse_wheel_filename(spare)[3].isdisjoint(image.wheel_tags)
            if problem and not fits and item["name"] not in image.unversioned:
                broken.append(problem)
    return ImageDrift(broken=tuple(broken), moved=tuple(moved))


# ------------------------------------------------------------------ outside


def _check_index(context: CheckContext) -> CheckResult:
    """Ask every index and find-links folder for one small project; raises if one does not answer."""
    settings = read_pip_settings(context.env)
    with suppress(OfflineKitError):  # K201 and K203 say why
        config = context.config
        plain = [path for path in config.requirements if not lock_files.is_lock_file(path)]
        inputs = requirement_files.read_requirement_files(plain, (), project=config.project, env=context.env)
        settings = settings.override(inputs.index_options)
    PackageIndex(settings, cache=context.cache, patience=_IMPATIENT).list_files("pip")
    indexes = [redact_urls(index) for index in (*settings.list_index_urls(), *settings.find_links)]
    return _ok(f"answers: {', '.join(indexes) or 'none is configured'}")


def _check_credentials(context: CheckContext) -> CheckResult:
    """Name the sources that Kaggle's client would find, in its order; online, log in and name the account."""
    sources = dict(_find_credentials(context.env))
    if not sources:
        return _warn(
            "no credentials for Kaggle were found",
            "make a token in Kaggle's settings and set KAGGLE_API_TOKEN, put kaggle.json into ~/.kaggle, or run"
            " 'kaggle auth login'; --to local needs none",
        )
    names = f"found in {', then '.join(sources)}"
    others = stat.S_IRGRP | stat.S_IROTH  # Windows has no such bits
    readable = [
        path for path in sources.values() if path and os.name != "nt" and path.stat().st_mode & others
    ]
    if readable:
        return _warn(
            f"{names}; others on this machine can read {', '.join(map(repr, map(str, readable)))}",
            f"chmod 600 {readable[0]}",
        )
    if not context.online:
        return _ok(f"{names}; whether Kaggle takes them is asked with --online")
    with KaggleClient(KaggleEndpoint(), env=context.env) as kaggle:
        account = kaggle.fetch_account()
    login = f"logged in as '{account.username}' ({account.auth_method})"
    if account.ignored_token_source:
        return _warn(
            f"{login}; Kaggle refused what is in {account.ignored_token_source}",
            f"renew or remove {account.ignored_token_source}",
        )
    return _ok(f"{login}; {names}")


def _find_credentials(env: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    """Yield each source of credentials, and its file if it has one, in the order of Kaggle's client."""
    home = Path(env.get("HOME") or Path.home())
    folder = home / ".kaggle"
    if env.get("KAGGLE_API_TOKEN"):
        yield "KAGGLE_API_TOKEN", None
    tokens = [path for path in (folder / "access_token", folder / "access_token.txt") if path.is_file()]
    yield from ((str(path), path) for path in tokens[:1])
    # A username and a key: variables win over the file, each for itself.
    legacy = folder if folder.is_dir() else Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    key_file = Path(env.get("KAGGLE_CONFIG_DIR") or legacy) / "kaggle.json"
    entries = files.read_json(key_file)
    sources = [
        f"KAGGLE_{name.upper()}"
        if env.get(f"KAGGLE_{name.upper()}")
        else str(key_file) * bool(entries.get(name))
        for name in ("username", "key")
    ]
    if all(sources):
        yield " and ".join(dict.fromkeys(sources)), key_file if str(key_file) in sources else None
    if (folder / "credentials.json").is_file():
        yield str(folder / "credentials.json"), folder / "credentials.json"


# ------------------------------------------------------------------ the table


_NEEDS = (("config", "not without a configuration that loads"), ("image", "not without a known image"))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    code: str  # stays the same from version to version: K1.. this machine, K2.. the project, K3.. outside
    title: str
    run: Callable[[CheckContext], CheckResult]  # what it raises is a failure
    needs: str = ""  # "config" or "image", which needs the former: skipped without
    of_contents: bool = False  # about what goes into a kit: skipped if a recording does instead
    online: bool = False  # skipped unless the network may be used


CHECKS = (
    Check(code="K101", title="uv", run=_check_uv),
    Check(code="K102", title="Python of the image", run=_check_python, needs="image"),
    Check(code="K103", title="sandbox", run=_check_sandbox),
    Check(code="K104", title="disk", run=_check_disk),
    Check(code="K105", title="container engine", run=_check_containers, needs="image"),
    Check(code="K201", title="configuration", run=_check_configuration),
    Check(code="K202", title="image", run=_check_image, needs="config"),
    Check(code="K203", title="requirements", run=_check_requirements, needs="image", of_contents=True),
    Check(code="K204", title="checkpoints", run=_check_checkpoints, needs="image", of_contents=True),
    Check(code="K205", title="notebook", run=_check_notebook, needs="image"),
    Check(code="K206", title="freeze", run=_check_freeze, needs="image", of_contents=True),
    Check(code="K207", title="own code", run=_check_own_code, needs="image", of_contents=True),
    Check(code="K208", title="other image", run=_check_other_image, needs="image"),
    Check(code="K301", title="package index", run=_check_index, online=True),
    Check(code="K302", title="Kaggle's credentials", run=_check_credentials),
)  # a new check is a function above, a line here with the next free code, and a test


def run_checks(
    project: Path,
    *,
    online: bool = False,
    ignore: Sequence[str] = (),
    image: str = "",
    report: Reporter = SILENT,
) -> list[tuple[Check, CheckResult]]:
    """Run every check that no code of `ignore` begins, and return what each said, in their order.

    Nothing is written but what a build would keep in the cache too; without `online` nothing leaves the machine.
    """
    folder = configuration.find_project_folder(project)
    codes = [check.code for check in CHECKS]
    if unknown := [start for start in ignore if not any(code.startswith(start) for code in codes)]:
        raise UsageError(
            f"no check begins with '{unknown[0]}'",
            code="check-unknown",
            hint=f"the codes are {', '.join(codes)}",
        )
    context = CheckContext(
        folder=folder,
        env=processes.copy_environment(),
        cache=files.cache_dir(),
        online=online,
        report=report,
        other_image=image,
    )
    selected = [check for check in CHECKS if not check.code.startswith(tuple(ignore))]
    return [(check, _run_check(check, context)) for check in selected]


def _run_check(check: Check, context: CheckContext) -> CheckResult:
    if check.online and not context.online:
        return _skip("asked with --online")
    for need, reason in _NEEDS[: ("", "config", "image").index(check.needs)]:
        try:
            getattr(context, need)
        except OfflineKitError:  # K201 or K202 says why
            return _skip(reason)
    try:
        if check.of_contents and context.recorded:
            return _skip(f"'{context.recorded.source}' was recorded: its recording is the kit")
        return check.run(context)
    except OfflineKitError as error:
        return _fail(error.what, error.hint, *error.details)
