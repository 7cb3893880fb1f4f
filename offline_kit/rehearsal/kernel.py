"""Choose the Python of a rehearsal and its packages, check that the kit can run on it, and compare it with the image."""

import itertools
import platform
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging import tags
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from offline_kit.core.cache import Cache, cache_key
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook import imports
from offline_kit.packages.file_choice import is_same_version
from offline_kit.project.images import Image
from offline_kit.project.types import Role
from offline_kit.rehearsal import environments, execution, kit_facts
from offline_kit.rehearsal.environments import EnvironmentOptions, Interpreter
from offline_kit.rehearsal.execution import KernelRun, KernelSetup, RehearsalEnvironment
from offline_kit.rehearsal.kit_facts import InstallPlan, KitFile

_MAX_RUNS = 6  # each with the packages that the one before lacked
_LAYERED = (
    "import sys; sys.path.append({!r}); from ipykernel import kernelapp; kernelapp.launch_new_instance()"
)
_LAUNCH = ("-m", "ipykernel_launcher")
_MISSING_PACKAGES = "missing-packages"  # kind of cache record
_FAILED_IMPORT = re.compile(r"(?:[\w.]+\.)?(?:ModuleNotFoundError|ImportError|OptionalDependencyError)\b")
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"No module named '({_WORD})'",
        rf"Missing optional dependency '({_WORD})'",  # pandas
        rf"tried using: ('{_WORD}'(?:, '{_WORD}')*)",  # pandas: any of these engines
        rf"(?:pip3?|conda) install (?:-\S+ )*['\"`]?({_WORD})",
        rf"[Pp]lease install (?:the )?['\"`]?({_WORD})",
        rf"['\"`]?({_WORD})['\"`]? (?:package|library )?(?:is|was) (?:not installed|not found|required|needed)",
        rf"requires? (?:the )?['\"`]?({_WORD})['\"`]?",
    )
)


def prepare_kernel(
    kit_files: Sequence[KitFile],
    code: Sequence[Path],
    image: Image,
    options: EnvironmentOptions,
    *,
    current: bool,
    more: Iterable[str] = (),
) -> KernelSetup:
    """Return the kernel for a kit: the running interpreter if `current`, else one made for the image.

    `code` has the files that run in addition to the kit's own code: the notebook, and those of a gateway; `more` names
    packages of the image that no code imports. A rehearsal and the local Kaggle get the same environment for the same
    files. Raises ProjectError if wheels of the kit cannot be
    installed on this machine or this Python.
    """
    running = current or image.local
    wheel_tags = tags.sys_tags() if running else image.wheel_tags_for(list(tags.platform_tags()))
    unfit_wheels, built_packages = find_unfit_wheels(kit_facts.read_install_plan(kit_files), wheel_tags)
    if unfit_wheels:
        raise _unfit_error(unfit_wheels, image, running=running)
    derived = tuple(sorted({*find_used_packages(kit_files, code, image), *more}))
    if running:
        used, setup = derived, make_running_kernel(options)
    else:
        record = Cache(options.cache).read_record(_MISSING_PACKAGES, cache_key(image.name, derived)) or {}
        used = tuple(sorted({*derived, *record} & {*image.packages}))
        setup = _make_image_kernel(image, used, options)
    built = f"built from sdists, because their wheels do not fit this machine: {', '.join(built_packages)}"
    notes = (*setup.notes, built) if built_packages else setup.notes
    return replace(setup, used=used, derived=derived, notes=notes)


def find_unfit_wheels(
    install: InstallPlan, wheel_tags: Iterable[Tag]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the wheels without an sdist that do not fit these tags, and the packages that are built from their sdist."""
    fitting_tags, unfit = frozenset(wheel_tags), list[Mapping[str, Any]]()
    for item in install.install:
        try:
            fits = not item.get("wheel") or bool(parse_wheel_filename(item["wheel"])[3] & fitting_tags)
        except InvalidWheelFilename:  # pip would refuse it as well
            fits = False
        unfit += [] if fits else [item]
    built_packages = tuple(str(item["name"]) for item in unfit if item.get("sdist"))
    return tuple(str(item["wheel"]) for item in unfit if not item.get("sdist")), built_packages


def _unfit_error(unfit_wheels: Sequence[str], image: Image, *, running: bool) -> ProjectError:
    minor, glibc = "{}.{}".format(*sys.version_info), "{}.{}".format(*image.glibc)
    if sys.platform != "linux":
        problem = "are for Linux and cannot be installed on this system"
        hint = "rehearse in Docker or WSL2 (Linux, x86_64), or on a Linux machine"
    elif running:
        problem = f"do not fit the running Python {minor} ({image.name} has {image.python_minor})"
        hint = f"rehearse with --env matching, or from a Python {image.python_minor}"
    else:
        problem = "do not fit this machine"
        hint = f"rehearse on a Linux {image.machine} machine with glibc {glibc} or newer, or in Docker (--platform linux/amd64)"
    problem = f"{len(unfit_wheels)} wheels of the kit {problem}"
    return ProjectError(problem, hint=hint, code="wheels-do-not-fit", details=unfit_wheels)


def find_used_packages(kit_files: Sequence[KitFile], code: Sequence[Path], image: Image) -> tuple[str, ...]:
    """Return the image packages that the run needs: provided pins, and imports of the user's own code."""
    install = kit_facts.read_install_plan(kit_files)
    own_wheels = {item.get("wheel") for item in install.install if item.get("role") == "own"}
    own_code = list(code)
    own_names = {name.partition(".")[0] for name in install.imports()}
    for entry, path in kit_files:
        name, is_source = entry.original.rpartition("/")[2], entry.role is Role.SOURCE
        if is_source:
            own_names.update(Path(entry.original).with_suffix("").parts)
        if name in own_wheels or (is_source and name.endswith(".py")):
            own_code.append(path)
    import_names = imports.find_file_imports(own_code)
    if any(entry.original.endswith(".safetensors") for entry, _ in kit_files):
        import_names |= {"safetensors"}  # which the runtime reads such files with
    matched = imports.match_distributions(import_names - own_names, image.packages)
    return tuple(sorted({*install.provided, *matched}))


def _make_image_kernel(image: Image, used: Sequence[str], options: EnvironmentOptions) -> KernelSetup:
    python = environments.make_kernel_environment(image, used, options)
    return KernelSetup(python=python, launch=(str(python.path), *_LAUNCH), used=tuple(used), of_image=True)


def make_running_kernel(options: EnvironmentOptions) -> KernelSetup:
    """Return a kernel in the running environment; if it has no ipykernel, add one behind its own packages."""
    python = environments.inspect_interpreter(Path(sys.executable))
    notes = (f"used the running environment, '{sys.prefix}'",)
    if "ipykernel" in python.packages:
        return KernelSetup(python=python, launch=(str(python.path), *_LAUNCH), notes=notes)
    layer = environments.make_layer(["ipykernel"], Path(sys.executable), options)
    return KernelSetup(
        python=python,
        launch=(str(python.path), "-c", _LAYERED.format(str(layer))),
        mounts=(Mount(inside=str(layer), source=layer),),
        notes=(*notes, "added ipykernel behind its own packages, because it has none"),
    )


def run_until_complete(
    environment: RehearsalEnvironment,
    image: Image,
    options: EnvironmentOptions,
    run: Callable[[RehearsalEnvironment], KernelRun],
) -> tuple[RehearsalEnvironment, KernelRun]:
    """Run the notebook, again if it lacked packages of the image; return the last run and its environment.

    The packages that a run needs are read from its code. Those that libraries import by themselves (the engine of a
    reader, the backend of a plot, an import that a package does not declare) show only when they are missing. The
    image has them, so the requirements are not at fault. A package that cannot be installed ends this: the run that
    failed without it is then judged.
    """
    result = run(environment)
    for _ in range(_MAX_RUNS - 1 if environment.kernel.of_image else 0):
        kernel = environment.kernel
        missing = _find_missing_packages(result, image.packages, kernel.python.packages)
        if not missing:
            break
        names = ", ".join(missing)
        try:
            new_kernel = _make_image_kernel(image, sorted({*kernel.used, *missing}), options)
        except OfflineKitError as error:
            options.report.warn(f"the image has {names}, but adding it failed: {error.what}")
            break
        note = f"added {names}: the image has it, and no code imports it by name"
        options.report.note(f"{note}; running the {result.kind} again")
        # Later runs with the same packages start with these as well.
        cache, key = Cache(options.cache), cache_key(image.name, kernel.derived)
        record = cache.read_record(_MISSING_PACKAGES, key) or {}
        cache.write_record(_MISSING_PACKAGES, key, record | dict.fromkeys(missing))
        new_kernel = replace(new_kernel, derived=kernel.derived, notes=(*kernel.notes, note))
        environment = replace(environment, kernel=new_kernel)
        result = run(environment)
    return environment, result


def _find_missing_packages(
    result: KernelRun, image: Mapping[str, str], installed: Container[str]
) -> tuple[str, ...]:
    """Return the image's distributions that the run's errors name as missing, without those `installed`."""
    # The errors of the failed cell, and of the scripts that it started.
    cell = execution.find_stopped_cell(result.cells)
    lines = cell.message.splitlines() if cell and _FAILED_IMPORT.search(cell.message) else []
    if result.log.is_file():
        with result.log.open(encoding="utf-8", errors="replace") as log:
            lines += [line for line in log if _FAILED_IMPORT.match(line)]
    missing: dict[str, None] = {}
    for line, pattern in itertools.product(lines, _NAMES):
        for text in pattern.findall(line):
            candidates: list[str] = []
            for word in (word.strip("' ") for word in text.split(",")):
                candidates += imports.match_distributions([word.partition(".")[0]], image)
                candidates.append(canonicalize_name(word))
            usable = [name for name in candidates if name in image and name not in installed]
            missing |= dict.fromkeys(usable[:1])  # pandas lists engines of which one is enough
    return tuple(missing)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a rehearsal differs from a run on the image."""

    subject: str  # a package, "Python", "GPU"
    here: str  # empty if it is missing
    image: str
    is_grave: bool  # whether the rehearsal is a stand-in because of it
    text: str = ""  # in other words than "<subject> <here> instead of <image>"

    def __str__(self) -> str:
        """Return it as a message."""
        return self.text or f"{self.subject} {self.here} instead of {self.image}".strip()


def measure_fidelity(image: Image, setup: KernelSetup) -> tuple[str, tuple[Difference, ...]]:
    """Return "image", "matching" or "stand-in", and all differences, even harmless ones (Python 3.13.0 instead of 3.13.5).

    "matching" requires the image's minor Python version, its versions of the packages that the run needs (without local
    parts such as "+cpu") and its platform; "image" a container, which may differ from the list that the kit was built for.
    """
    if image.local:
        return "image" if setup.container_path else "matching", ()
    differences = [*_compare_machine(image), *_compare_versions(image, setup.python, setup.used)]
    differences.sort(key=lambda difference: not difference.is_grave)
    is_stand_in = any(difference.is_grave for difference in differences)
    level = "stand-in" if is_stand_in else "matching"
    return "image" if setup.container_path else level, tuple(differences)


def _compare_machine(image: Image) -> Iterator[Difference]:
    system, machine = platform.system(), platform.machine()
    if sys.platform != "linux":
        yield Difference(subject="", here=system, image="Linux", is_grave=True)
    if machine.lower() not in (image.machine, "amd64"):
        yield Difference(subject="", here=machine, image=image.machine, is_grave=True)
    if image.accelerator != "none":
        text = "no GPU in the rehearsal: CUDA, GPU memory, half precision and speed are not tested"
        yield Difference(subject="GPU", here="", image=image.accelerator, is_grave=True, text=text)


def _compare_versions(image: Image, python: Interpreter, used: Iterable[str]) -> Iterator[Difference]:
    if python.version != image.python:
        is_grave = python.version.split(".")[:2] != image.python.split(".")[:2]
        yield Difference(subject="Python", here=python.version, image=image.python, is_grave=is_grave)
    for name in sorted(set(used) & {*image.packages}):
        run_version, image_version = python.packages.get(name), image.packages[name]
        if run_version is None:
            text = f"{name} {image_version} is missing"
            yield Difference(subject=name, here="", image=image_version, is_grave=True, text=text)
        elif run_version != image_version:
            # Another build of the same release: PyPI has "2.11.0", the image "2.11.0+cpu".
            same = is_same_version(run_version.partition("+")[0], image_version.partition("+")[0])
            yield Difference(subject=name, here=run_version, image=image_version, is_grave=not same)
