"""Choose the Python of a rehearsal and its packages, and check that the kit can run on it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging import tags
from packaging.tags import Tag

from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.core.sandboxes.box import Mount
from offline_kit.notebook import imports
from offline_kit.project.images import Image
from offline_kit.project.types import Role
from offline_kit.rehearsal import environments, import_chains, kit_facts, missing_packages, pythons
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.execution import KernelRun, RehearsalEnvironment
from offline_kit.rehearsal.kit_facts import InstallPlan, KitFile
from offline_kit.rehearsal.missing_packages import MissingPackageCache
from offline_kit.rehearsal.pythons import Interpreter

_MAX_RUNS = 4  # each with the packages that the one before lacked
_LAYERED = (
    "import sys; sys.path.append({!r}); from ipykernel import kernelapp; kernelapp.launch_new_instance()"
)


@dataclass(frozen=True, kw_only=True)
class KernelSetup:
    """A kernel that is ready to start."""

    python: Interpreter
    launch: tuple[str, ...]
    """Command that starts it, before its connection file."""
    mounts: tuple[Mount, ...]
    """Folders that it needs in addition to the interpreter's."""
    used: tuple[str, ...]
    """Normalized names of the image packages that the notebook needs."""
    notes: tuple[str, ...]
    of_image: bool = False
    """The environment was made for the image."""
    derived: tuple[str, ...] = ()
    """The part of `used` that was read from the kit and its code, before any run failed."""


def prepare_kernel(
    kit_files: Sequence[KitFile],
    code: Sequence[Path],
    image: Image,
    options: EnvironmentOptions,
    *,
    current: bool,
) -> KernelSetup:
    """Return the kernel for a kit: the running interpreter if `current`, else one made for the image.

    `code` has the files that run in addition to the kit's own code: the notebook, and those of a gateway. A rehearsal
    and the local Kaggle get the same environment for the same files.

    Raises:
        ProjectError: wheels of the kit cannot be installed on this machine or this Python.

    """
    install = kit_facts.read_install_plan(kit_files)
    used = _find_used_packages(kit_files, install, code, image)
    running = current or image.local
    derived = used
    if not running:
        used = tuple(
            sorted(
                {*used, *MissingPackageCache(options.cache, image.name, used).read_names()}
                & {*image.packages}
            )
        )
    wheel_tags = _list_wheel_tags(image, running=running)
    _check_wheels_fit(install, image, wheel_tags, running=running)
    ready = make_running_kernel(options) if running else make_image_kernel(image, used, options)
    built_packages = kit_facts.find_sdist_builds(install, wheel_tags)
    build_notes = (
        [f"built from sdists, because their wheels do not fit this machine: {', '.join(built_packages)}"]
        if built_packages
        else []
    )
    return replace(ready, used=used, derived=derived, notes=(*ready.notes, *build_notes))


def make_image_kernel(image: Image, used: Iterable[str], options: EnvironmentOptions) -> KernelSetup:
    """Return a kernel in an environment made for the image, with these packages of it."""
    names = tuple(used)
    python = pythons.inspect_interpreter(environments.make_kernel_environment(image, names, options))
    launch = (str(python.path), "-m", "ipykernel_launcher")
    return KernelSetup(python=python, launch=launch, mounts=(), used=names, notes=(), of_image=True)


def make_running_kernel(options: EnvironmentOptions) -> KernelSetup:
    """Return a kernel in the running environment; if it has no ipykernel, add one behind its own packages."""
    python = pythons.inspect_interpreter(Path(sys.executable))
    launch = (str(python.path), "-m", "ipykernel_launcher")
    mounts: tuple[Mount, ...] = ()
    notes = [f"used the running environment, '{sys.prefix}'"]
    if "ipykernel" not in python.packages:
        layer = environments.make_layer(["ipykernel"], Path(sys.executable), options)
        launch = (str(python.path), "-c", _LAYERED.format(str(layer)))
        mounts = (Mount(inside=str(layer), source=layer),)
        notes.append("added ipykernel behind its own packages, because it has none")
    return KernelSetup(python=python, launch=launch, mounts=mounts, used=(), notes=tuple(notes))


def set_kernel(environment: RehearsalEnvironment, kernel: KernelSetup) -> RehearsalEnvironment:
    """Return the environment with this kernel and the folders that it needs."""
    return replace(
        environment,
        kernel=kernel.launch,
        python_mounts=(*kernel.python.mounts, *kernel.mounts, *environment.python_mounts),
        links={**environment.links, **kernel.python.links},
    )


def run_until_complete(
    kernel: KernelSetup, image: Image, options: EnvironmentOptions, run: Callable[[KernelSetup], KernelRun]
) -> tuple[KernelSetup, KernelRun]:
    """Run the notebook, again if it lacked packages of the image; return the last run and its kernel.

    A package that cannot be installed ends this: the run that failed without it is then judged.
    """
    result = run(kernel)
    for _ in range(_MAX_RUNS - 1):
        missing = (
            missing_packages.find_missing_packages(result, image.packages, kernel.python.packages)
            if kernel.of_image
            else ()
        )
        if not missing:
            break
        names = ", ".join(missing)
        try:
            new_kernel = make_image_kernel(image, sorted({*kernel.used, *missing}), options)
        except OfflineKitError as error:
            options.report.warn(f"the image has {names}, but adding it failed: {error.what}")
            break
        note = f"added {names}: the image has it, and no code imports it by name"
        options.report.note(f"{note}; running the notebook again")
        MissingPackageCache(options.cache, image.name, kernel.derived).add_names(missing)
        kernel = replace(new_kernel, derived=kernel.derived, notes=(*kernel.notes, note))
        result = run(kernel)
    return kernel, result


def _find_used_packages(
    kit_files: Sequence[KitFile], install: InstallPlan, code: Sequence[Path], image: Image
) -> tuple[str, ...]:
    """Return the image packages that the run needs.

    Those are provided pins, imports of the user's own code, and undeclared imports of the kit's packages.
    """
    archives = [path for entry, path in kit_files if entry.role in (Role.WHEEL, Role.SDIST)]
    import_names = imports.find_file_imports([*code, *_list_own_code(kit_files, install)])
    import_names |= import_chains.find_unavoidable_imports(archives, install.proof_imports())
    import_names |= imports.format_imports(entry.original for entry, _ in kit_files)
    own = install.top_level_names() | frozenset(_list_own_names(kit_files))
    return tuple(
        sorted({*install.provided, *imports.match_distributions(import_names - own, image.packages)})
    )


def _list_own_code(kit_files: Sequence[KitFile], install: InstallPlan) -> Iterator[Path]:
    wheels = {item.get("wheel") for item in install.install if item.get("role") == "own"}
    for entry, path in kit_files:
        name = entry.original.rpartition("/")[2]
        if (entry.role is Role.SOURCE and name.endswith(".py")) or name in wheels:
            yield path


def _list_own_names(kit_files: Sequence[KitFile]) -> Iterator[str]:
    for entry, _ in kit_files:
        if entry.role is Role.SOURCE:
            yield from Path(entry.original).with_suffix("").parts


def _list_wheel_tags(image: Image, *, running: bool) -> tuple[Tag, ...]:
    """Return the wheel tags that the kernel's Python accepts on this machine (PEP 425)."""
    if running:
        return tuple(tags.sys_tags())
    version = tuple(int(word) for word in image.python_minor.split("."))
    interpreter = "cp{}{}".format(*version)
    platforms = list(tags.platform_tags())
    own = tags.cpython_tags(version, abis=[interpreter], platforms=platforms)
    return (*own, *tags.compatible_tags(version, interpreter, platforms))


def _check_wheels_fit(
    install: InstallPlan, image: Image, wheel_tags: Iterable[Tag], *, running: bool
) -> None:
    unfit = kit_facts.find_unfit_wheels(install, wheel_tags)
    if not unfit:
        return
    if sys.platform != "linux":
        problem = f"{len(unfit)} wheels of the kit are for Linux and cannot be installed on this system"
        hint = "rehearse in Docker or WSL2 (Linux, x86_64), or on a Linux machine"
    elif running:
        minor = "{}.{}".format(*sys.version_info)
        problem = f"{len(unfit)} wheels of the kit do not fit the running Python {minor} ({image.name} has {image.python_minor})"
        hint = f"rehearse with --env matching, or from a Python {image.python_minor}"
    else:
        problem = f"{len(unfit)} wheels of the kit do not fit this machine"
        glibc = "{}.{}".format(*image.glibc)
        hint = (
            f"rehearse on a Linux {image.machine} machine with glibc {glibc} or newer, or in Docker"
            " (--platform linux/amd64)"
        )
    raise ProjectError(problem, hint=hint, code="wheels-do-not-fit", details=unfit)
