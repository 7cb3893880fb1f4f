"""The kernel's side of a rehearsal: which Python, with what in it, and whether the kit can run on it."""

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
from offline_kit.rehearsal.environments import Workshop
from offline_kit.rehearsal.execution import Bench, Ran
from offline_kit.rehearsal.kit_facts import KitFile, Plan
from offline_kit.rehearsal.missing_packages import LackedBefore
from offline_kit.rehearsal.pythons import Python

_RUNS = 4
"""Times that a run is begun at most, each with what the one before lacked."""
_LAYERED = (
    "import sys; sys.path.append({!r}); from ipykernel import kernelapp; kernelapp.launch_new_instance()"
)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A kernel that can be started."""

    python: Python
    """Its interpreter."""
    launch: tuple[str, ...]
    """The words that start it, before its connection file."""
    mounts: tuple[Mount, ...]
    """Folders that it needs besides the interpreter's."""
    used: tuple[str, ...]
    """Normalized names of the image packages that the notebook builds on."""
    notes: tuple[str, ...]
    """What is worth knowing about it."""
    of_image: bool = False
    """Whether its environment was made for the image."""
    derived: tuple[str, ...] = ()
    """What of `used` the kit and its code say, before a run showed more."""


def make_ready(
    kit_files: Sequence[KitFile], code: Sequence[Path], image: Image, shop: Workshop, *, current: bool
) -> Ready:
    """Return the kernel for a kit: the running interpreter under `current`, else one made for the image.

    `code` is what runs in it besides the kit's own: the notebook, and what that is rehearsed with. The same files
    and code get the same environment, in a rehearsal and at the local Kaggle.
    Raises ProjectError where the kit's wheels cannot be installed on this machine or this Python.
    """
    install = kit_facts.read(kit_files)
    used = _used(kit_files, install, code, image)
    running = current or image.local
    derived = used
    if not running:
        used = tuple(sorted({*used, *LackedBefore(shop.cache, image.name, used).names()} & {*image.packages}))
    here = _tags(image, running=running)
    _can_run(install, image, here, running=running)
    ready = of_running(shop) if running else of_image(image, used, shop)
    built = kit_facts.built_from_sdist(install, here)
    more = (
        [f"built from their sdists, since their wheels do not fit here: {', '.join(built)}"] if built else []
    )
    return replace(ready, used=used, derived=derived, notes=(*ready.notes, *more))


def of_image(image: Image, used: Iterable[str], shop: Workshop) -> Ready:
    """Return a kernel in an environment made for the image, with these of its packages."""
    names = tuple(used)
    python = pythons.look(environments.kernel(image, names, shop))
    launch = (str(python.path), "-m", "ipykernel_launcher")
    return Ready(python=python, launch=launch, mounts=(), used=names, notes=(), of_image=True)


def of_running(shop: Workshop) -> Ready:
    """Return a kernel in the running environment; ipykernel is laid behind its packages where it has none."""
    python = pythons.look(Path(sys.executable))
    launch = (str(python.path), "-m", "ipykernel_launcher")
    mounts: tuple[Mount, ...] = ()
    notes = [f"run in the running environment, '{sys.prefix}'"]
    if "ipykernel" not in python.packages:
        layer = environments.layer(["ipykernel"], Path(sys.executable), shop)
        launch = (str(python.path), "-c", _LAYERED.format(str(layer)))
        mounts = (Mount(inside=str(layer), source=layer),)
        notes.append("ipykernel was laid behind its own packages, since it has none")
    return Ready(python=python, launch=launch, mounts=mounts, used=(), notes=tuple(notes))


def with_kernel(bench: Bench, ready: Ready) -> Bench:
    """Return the bench with a kernel and all that it needs to be shown."""
    return replace(
        bench,
        kernel=ready.launch,
        shown=(*ready.python.mounts, *ready.mounts, *bench.shown),
        links={**bench.links, **ready.python.links},
    )


def run_complete(
    ready: Ready, image: Image, shop: Workshop, run: Callable[[Ready], Ran]
) -> tuple[Ready, Ran]:
    """Run, and run again with what the image has and the run lacked; returns the last run and its kernel.

    What cannot be installed is left to the verdict on the run that failed.
    """
    ran = run(ready)
    for _ in range(_RUNS - 1):
        missing = (
            missing_packages.lacked(ran, image.packages, ready.python.packages) if ready.of_image else ()
        )
        if not missing:
            break
        shown = ", ".join(missing)
        try:
            more = of_image(image, sorted({*ready.used, *missing}), shop)
        except OfflineKitError as error:
            shop.report.warn(f"the image has {shown}, which could not be added here: {error.what}")
            break
        note = f"added {shown}: the image has it, and nothing that was read imports it by name"
        shop.report.note(f"{note}; running the notebook again")
        LackedBefore(shop.cache, image.name, ready.derived).add(missing)
        ready = replace(more, derived=ready.derived, notes=(*ready.notes, note))
        ran = run(ready)
    return ready, ran


def _used(kit_files: Sequence[KitFile], install: Plan, code: Sequence[Path], image: Image) -> tuple[str, ...]:
    """Return what of the image the run needs.

    That is: provided pins, what the user's own code imports, what the kit's packages import undeclared.
    """
    archives = [path for entry, path in kit_files if entry.role in (Role.WHEEL, Role.SDIST)]
    found = imports.of_files([*code, *_own_code(kit_files, install)])
    found |= import_chains.unavoidable(archives, install.imports())
    found |= imports.of_formats(entry.original for entry, _ in kit_files)
    own = install.top_levels() | frozenset(_own_names(kit_files))
    return tuple(sorted({*install.provided, *imports.distributions(found - own, image.packages)}))


def _own_code(kit_files: Sequence[KitFile], install: Plan) -> Iterator[Path]:
    wheels = {item.get("wheel") for item in install.install if item.get("role") == "own"}
    for entry, path in kit_files:
        name = entry.original.rpartition("/")[2]
        if (entry.role is Role.SOURCE and name.endswith(".py")) or name in wheels:
            yield path


def _own_names(kit_files: Sequence[KitFile]) -> Iterator[str]:
    for entry, _ in kit_files:
        if entry.role is Role.SOURCE:
            yield from Path(entry.original).with_suffix("").parts


def _tags(image: Image, *, running: bool) -> tuple[Tag, ...]:
    """Return the wheel tags of the Python that the kernel will run on, on this machine."""
    if running:
        return tuple(tags.sys_tags())
    version = tuple(int(word) for word in image.python_minor.split("."))
    interpreter = "cp{}{}".format(*version)
    platforms = list(tags.platform_tags())
    own = tags.cpython_tags(version, abis=[interpreter], platforms=platforms)
    return (*own, *tags.compatible_tags(version, interpreter, platforms))


def _can_run(install: Plan, image: Image, here: Iterable[Tag], *, running: bool) -> None:
    unfit = kit_facts.unfit(install, here)
    if not unfit:
        return
    if sys.platform != "linux":
        what = f"{len(unfit)} wheels of the kit are for Kaggle's Linux and cannot be installed on this system"
        hint = "rehearse in docker or WSL2 (Linux, x86_64), or on a Linux machine"
    elif running:
        minor = "{}.{}".format(*sys.version_info)
        what = f"{len(unfit)} wheels of the kit do not fit the running Python {minor} ({image.name} has {image.python_minor})"
        hint = f"rehearse with --env matching, or from a Python {image.python_minor}"
    else:
        what = f"{len(unfit)} wheels of the kit do not fit this machine"
        glibc = "{}.{}".format(*image.glibc)
        hint = (
            f"rehearse on a Linux {image.machine} machine with glibc {glibc} or newer, or in docker"
            " (--platform linux/amd64)"
        )
    raise ProjectError(what, hint=hint, details=unfit)
