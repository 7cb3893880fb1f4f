"""The kernel's side of a rehearsal: which Python, with what in it, and whether the kit can run on it."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging import tags
from packaging.tags import Tag

from offline_kit.errors import ProjectError
from offline_kit.image import Image
from offline_kit.model import Kit, Role
from offline_kit.rehearsal import environments, import_chains, imports, plan, pythons
from offline_kit.rehearsal.environments import Workshop
from offline_kit.rehearsal.plan import Plan
from offline_kit.rehearsal.pythons import Python
from offline_kit.sandboxes.box import Mount

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


def make_ready(kit: Kit, code: Sequence[Path], image: Image, shop: Workshop, *, current: bool) -> Ready:
    """Return the kernel for this kit: the running interpreter under `current`, else one made for the image.

    `code` is what runs in it besides the kit's own: the notebook, and what that is rehearsed with.
    Raises ProjectError where the kit's wheels cannot be installed on this machine or this Python.
    """
    install = plan.read(kit)
    used = _used(kit, install, code, image)
    running = current or image.local
    here = _tags(image, running=running)
    _can_run(install, image, here, running=running)
    ready = of_running(shop) if running else of_image(image, used, shop)
    built = plan.built_from_sdist(install, here)
    more = (
        [f"built from their sdists, since their wheels do not fit here: {', '.join(built)}"] if built else []
    )
    return replace(ready, used=used, notes=(*ready.notes, *more))


def of_image(image: Image, used: Iterable[str], shop: Workshop) -> Ready:
    """Return a kernel in an environment made for the image, with these of its packages."""
    names = tuple(used)
    python = pythons.look(environments.kernel(image, names, shop))
    launch = (str(python.path), "-m", "ipykernel_launcher")
    return Ready(python=python, launch=launch, mounts=(), used=names, notes=())


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


def _used(kit: Kit, install: Plan, code: Sequence[Path], image: Image) -> tuple[str, ...]:
    """Return what of the image the run needs.

    That is: provided pins, what the user's own code imports, what the kit's packages import undeclared.
    """
    archives = [path for entry, path in plan.files_of(kit) if entry.role in (Role.WHEEL, Role.SDIST)]
    found = imports.of_files([*code, *_own_code(kit, install)])
    found |= import_chains.unavoidable(archives, install.imports())
    found |= imports.of_formats(entry.original for entry, _ in plan.files_of(kit))
    own = install.top_levels() | frozenset(_own_names(kit))
    return tuple(sorted({*install.provided, *imports.distributions(found - own, image.packages)}))


def _own_code(kit: Kit, install: Plan) -> Iterator[Path]:
    wheels = {item.get("wheel") for item in install.install if item.get("role") == "own"}
    for entry, path in plan.files_of(kit):
        name = entry.original.rpartition("/")[2]
        if (entry.role is Role.SOURCE and name.endswith(".py")) or name in wheels:
            yield path


def _own_names(kit: Kit) -> Iterator[str]:
    for entry, _ in plan.files_of(kit):
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
    unfit = plan.unfit(install, here)
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
