"""Install the kit's packages offline into an overlay, and check that they import.

Nothing is resolved here: the plan names exact files, which are installed without dependencies into a folder that
comes first on sys.path. Kaggle's image is not changed.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kit_runtime
from .kit_report import report_at_end
from .kit_runtime import KitError, OpenKit

INSTALLERS = ("auto", "uv", "pip")
UV_OPTIONS = ["--offline", "--no-config", "--no-cache", "--python", sys.executable, "--no-python-downloads"]
PIP_OPTIONS = ["--no-cache-dir", "--disable-pip-version-check"]
IMPORT_CHECK = """
import importlib, json, os, site, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # packages that print while they are imported do not print among the answers
site.addsitedir(sys.argv[1])
for name in sys.argv[2:]:
    print(json.dumps([name, "ended the whole process"]), file=answers, flush=True)
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(json.dumps([name, traceback.format_exception_only(error)[-1].strip()]), file=answers, flush=True)
    else:
        print(json.dumps([name, ""]), file=answers, flush=True)
"""
"""Code of the subprocess; it prints one line before and one after each import, so that a crash has a name too."""
LACKS_MODULE = re.compile(
    r"^(ModuleNotFoundError|ImportError)|\.so\b|shared object|undefined symbol|cannot load library|\.dll\b"
)
"""How an import fails that lacks a module or a library of the system."""


class RestoredKit(OpenKit):
    """A kit whose packages can be installed."""

    def install(self) -> None:
        """Install the kit's packages, and point libraries at its download caches; safe to call again."""
        install_packages(self)
        kit_runtime.use_caches(self)


def restore_kit(parts: Mapping[str, str]) -> RestoredKit:
    """Switch libraries to offline mode, and find, check and restore the parts (name: id)."""
    kit_runtime.report_failures()
    kit_runtime.go_offline()
    kit = kit_runtime.open_kit(parts)
    return RestoredKit(kit.folder, kit.places, kit.checkpoints, kit.parts)


@dataclass(frozen=True)
class InstallChoice:
    """A package of the plan and the file that it is installed from."""

    name: str
    wheel: Path | None
    """The wheel that fits this Python; None if the sdist is built, with the wheels of `build`."""
    sdist: Path | None = None
    build: tuple[Path, ...] = ()
    imports: tuple[str, ...] = ()
    own: bool = False


def install_packages(kit: OpenKit, installer: str = "") -> Path:
    """Install the packages of the kit's plan, put them first on sys.path and PYTHONPATH, and return the overlay.

    `installer` is "uv", "pip" or "auto" (uv if it runs); the default is OFFLINE_KIT_INSTALLER. A second
    call, even after a restart of the kernel, changes nothing. Raises KitError.
    """
    packages = kit.folder / "packages"
    plan = json.loads((packages / "install.json").read_text(encoding="utf-8"))
    kit_runtime.check_format(plan, "packages/install.json")
    running_python = platform.python_version()
    if running_python.split(".")[:2] != str(plan["python"]).split(".")[:2]:
        print(f"warning: the kit was made for Python {plan['python']}, and this is Python {running_python}")
    overlay = kit.places.scratch / "site"
    path = [entry for entry in sys.path if entry != str(overlay)]
    choices = choose_files(plan, packages, path)
    counted = list_counted(plan)
    moved = list_moved(counted, find_versions(counted, path))
    if moved:
        print(f"note: not the versions that the kit was built for: {', '.join(moved)}")
    names = {name for choice in choices for name in choice.imports}
    for name in sorted(names):  # only new processes see the kit's version of what was imported before
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and overlay not in Path(file).parents:
            print(
                f"warning: '{name}' was imported before the kit was installed; restart and run this cell first"
            )
    used = _fill_overlay(overlay, choices, installer or os.environ.get("OFFLINE_KIT_INSTALLER") or "auto")
    report_at_end(kit.places, {"parts": kit.parts, "moved": moved, "installer": used}, path)
    activate_overlay(overlay, [kit.folder / "code" / root for root in plan.get("roots", [])])
    # Kits of before have no list of what the user's code imports: whatever they carry counts as needed.
    imported = plan.get("imported", [name.partition(".")[0] for name in names])
    needed = {name for choice in choices if choice.own for name in choice.imports}
    needed |= {name for name in names if name.partition(".")[0] in imported}
    check_imports(overlay, sorted(names), needed=needed)
    return overlay


def choose_files(plan: Mapping[str, Any], packages: Path, path: Sequence[str]) -> list[InstallChoice]:
    """Return the file to install each package from; `path` is sys.path without the overlay."""
    choices, problems = [], []
    for item in plan["install"]:
        wheel, sdist = item.get("wheel"), item.get("sdist")
        name, imports = f"{item['name']} {item['version']}", tuple(item.get("imports", ()))
        if wheel and fits_interpreter(wheel):
            own = item.get("role") == "own"
            choices.append(InstallChoice(name, packages / wheel, imports=imports, own=own))
        elif sdist:
            build = tuple(packages / file for file in item.get("build", ()))
            choices.append(InstallChoice(name, None, packages / sdist, build, imports))
        else:
            system = f"{' '.join(platform.libc_ver()).strip()} {platform.machine()}"
            problems.append(
                f"{name}: '{wheel}' does not fit Python {platform.python_version()} on {system}, and the kit has no "
                "sdist of it"
            )
    for item in plan.get("provided", ()):
        problem = check_provided(item, find_versions([item["name"]], path).get(item["name"], ""))
        if problem and item.get("spare") and fits_interpreter(item["spare"]):
            choices.append(InstallChoice(f"{item['name']} {item['version']}", packages / item["spare"]))
        elif problem:
            problems.append(problem)
    if problems:
        raise KitError(
            "this image is not the one that the kit was made for",
            problems,
            code="image-mismatch",
            hint=f"build the kit for this image (it was made for '{plan['image']}', Python {plan['python']}), "
            "or pin the image with `pin_image = true`",
        )
    return choices


def find_versions(names: Iterable[str], path: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each distribution that is installed in one of these folders."""
    versions = {}
    for name in names:
        distribution = next(iter(importlib.metadata.distributions(name=name, path=list(path))), None)
        if distribution and distribution.version:
            versions[name] = distribution.version
    return versions


def list_counted(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the image that a kit counts on: what its requirements need, and what its code imports."""
    required = {item["name"]: item["version"] for item in plan.get("provided", ())}
    return {**plan.get("counted", {}), **required}


def list_moved(counted: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """Return each package that has another version than is counted on: "timm 1.0.19 -> 1.0.22"."""
    return [
        f"{name} {version or 'none'} -> {versions.get(name) or 'none'}"
        for name, version in sorted(counted.items())
        if not _is_same_release(version, versions.get(name, ""))
    ]


def _is_same_release(version: str, other: str) -> bool:
    public, other_public = version.partition("+")[0], other.partition("+")[0]  # "2.11.0+cpu" is 2.11.0
    try:
        return public == other_public or meets_requirement(other_public, f"name=={public}")
    except ValueError:  # not a version by PEP 440
        return False


def check_provided(item: Mapping[str, Any], version: str) -> str:
    """Return which requirement a package of the image does not meet in its version; empty if it meets all."""
    askers = f", which {', '.join(item['asked_by'])} asked for" if item.get("asked_by") else ""
    if not version:
        return f"{item['name']} {item['version']} is missing in this image{askers}"
    unmet = [line for line in item.get("requires", ()) if not meets_requirement(version, line)]
    return f"{' and '.join(unmet)} is wanted, and this image has {version}{askers}" if unmet else ""


def _import_packaging(module: str) -> Any:
    # pip's copy first: packaging itself may be among the packages that the kit is about to replace. An environment
    # without pip has packaging, because ipykernel needs it.
    try:
        return importlib.import_module(f"pip._vendor.packaging.{module}")
    except ImportError:
        return importlib.import_module(f"packaging.{module}")


def meets_requirement(version: str, requirement: str) -> bool:
    """Tell whether an installed version meets a requirement such as "numpy>=1.20,<3" (markers ignored)."""
    parsed = _import_packaging("requirements").Requirement(requirement)
    return bool(parsed.specifier.contains(version, prereleases=True))


def fits_interpreter(wheel: str) -> bool:
    """Tell by its name whether a wheel runs on this interpreter and system."""
    tags = _import_packaging("tags")
    wheel_tags = tags.parse_tag("-".join(wheel.removesuffix(".whl").split("-")[-3:]))
    # The packaging of pip 23 does not list cp311-none-any, although such wheels run.
    own_tag = tags.Tag(f"cp{sys.version_info.major}{sys.version_info.minor}", "none", "any")
    return own_tag in wheel_tags or not wheel_tags.isdisjoint(tags.sys_tags())


def _fill_overlay(overlay: Path, choices: Sequence[InstallChoice], installer: str) -> str:
    """Install the packages, unless they are; return the installer that did it, "" for none."""
    files = [choice.wheel or choice.sdist or Path() for choice in choices]
    stamp = overlay / ".offline-kit"
    stats = [(file.name, str(file.resolve()), file.stat()) for file in files]
    identities = [
        [name, path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, path, stat in stats
    ]
    state = json.dumps([sys.version, sorted(identities)])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
        print(f"packages: all {len(files)} are already installed")
        return ""
    started = time.perf_counter()
    used = ""
    tools = find_installers(installer) if choices else []
    fresh = _empty_folder_beside(overlay)
    for tool in tools:
        try:
            wheels = [
                choice.wheel or build_wheel(choice, tool, overlay.parent / "build") for choice in choices
            ]
            # No byte-compiling: it takes most of an installer's time, and the proof compiles what is imported.
            if _tool_name(tool) == "uv":
                command = [*tool, "pip", "install", *UV_OPTIONS]
            else:
                quiet = ["--no-warn-script-location", "--no-input"]
                command = [*tool, "--isolated", "install", "--no-compile", *quiet, *PIP_OPTIONS]
            command += ["--no-index", "--no-deps", "--target", str(fresh), *map(str, wheels)]
            _run_installer(command, "the packages of the kit could not be installed")
        except (KitError, OSError) as error:
            if tool is tools[-1]:
                raise
            print(f"warning: {error}\ntrying the next installer")
            fresh = _empty_folder_beside(overlay)
        else:
            used = _tool_name(tool)
            break
    (fresh / stamp.name).write_text(state, encoding="utf-8")
    shutil.rmtree(overlay, ignore_errors=True)
    fresh.rename(overlay)
    by = f" with {used}" if used else ""
    print(f"packages: {len(choices)} installed{by} in {time.perf_counter() - started:.1f} s")
    return used


def _empty_folder_beside(overlay: Path) -> Path:
    folder = overlay.with_name("site.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def find_installers(requested: str) -> list[list[str]]:
    """Return the commands of the installers to try; "auto" means uv, then pip."""
    if requested not in INSTALLERS:
        raise KitError(
            f"there is no installer '{requested}'",
            code="unknown-installer",
            hint=f"use one of {', '.join(INSTALLERS)}",
        )
    # pip takes a second to start, so it is looked for rather than asked for its version.
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    has_pip = importlib.util.find_spec("pip") is not None
    commands = {"uv": [uv] if uv else [], "pip": [sys.executable, "-m", "pip"] if has_pip else []}
    names = ("uv", "pip") if requested == "auto" else (requested,)
    installers = [commands[name] for name in names if commands[name]]
    if not installers:
        raise KitError(f"no installer runs here (asked for: {requested})", code="installer-not-found")
    return installers


def _tool_name(tool: Sequence[str]) -> str:
    return "uv" if Path(tool[0]).stem == "uv" else "pip"


def build_wheel(choice: InstallChoice, tool: Sequence[str], folder: Path) -> Path:
    """Build the wheel of an sdist in a temporary environment of the kit's build wheels."""
    build_folder = folder / choice.name.replace(" ", "-")
    links, output = build_folder / "links", build_folder / "wheel"
    shutil.rmtree(build_folder, ignore_errors=True)
    links.mkdir(parents=True)
    for wheel in choice.build:
        (links / wheel.name).symlink_to(wheel.resolve())
    if _tool_name(tool) == "uv":
        command = [*tool, "build", "--wheel", *UV_OPTIONS, "--out-dir", str(output)]
    else:
        # Without --use-pep517 an old pip builds setup.py projects inside the image's own environment.
        command = [
            *tool,
            "--isolated",
            "wheel",
            "--use-pep517",
            "--no-deps",
            *PIP_OPTIONS,
            "--wheel-dir",
            str(output),
        ]
    command += ["--no-index", "--find-links", str(links), str(choice.sdist)]
    _run_installer(command, f"the sdist of {choice.name} could not be built offline")
    return next(output.glob("*.whl"))


def _run_installer(command: Sequence[str], failure: str) -> None:
    # Neither the user's configuration nor our own overlay may reach into the installer.
    foreign = ("PIP_", "UV_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", UV_OFFLINE="1", UV_NO_CONFIG="1")
    completed = subprocess.run(
        command, env=env, check=False, capture_output=True, text=True, errors="replace"
    )
    if completed.returncode:
        words = [line for line in (completed.stderr + completed.stdout).splitlines() if line.strip()]
        raise KitError(
            f"{failure} ({_tool_name(command)} ended with code {completed.returncode})",
            words[-15:],
            code="install-failed",
        )


def activate_overlay(overlay: Path, roots: Sequence[Path]) -> None:
    """Put the project's modules and then the overlay first on sys.path, for this process and its children."""
    # As with a script beside them, own modules win over packages of the same name; so do modules that the notebook wrote
    # into its working folder, if Jupyter has that on sys.path.
    before = list(sys.path)
    site.addsitedir(str(overlay))  # unlike a plain sys.path entry, it runs the .pth files
    added = [entry for entry in sys.path if entry not in before]
    front = list(dict.fromkeys([*map(str, roots), str(overlay), *added]))
    working_entries = [entry for entry in before if entry in ("", str(Path.cwd()))]
    sys.path[:] = list(dict.fromkeys([*working_entries, *front, *sys.path]))
    for variable, first in (("PYTHONPATH", front), ("PATH", [str(overlay / "bin")])):
        inherited = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
        os.environ[variable] = os.pathsep.join(dict.fromkeys(first + inherited))
    importlib.invalidate_caches()
    for folder in overlay.iterdir():  # a package that is loaded already (`google` is) learns its new portion
        paths = getattr(sys.modules.get(folder.name), "__path__", None)
        is_portion = folder.is_dir() and not (folder / "__init__.py").exists()
        if isinstance(paths, list) and is_portion and str(folder) not in paths:
            paths.append(str(folder))


def check_imports(overlay: Path, names: Sequence[str], *, needed: Collection[str] | None = None) -> None:
    """Import the names in a fresh process; raises KitError with every failure and its reason.

    Other failures than a missing module or library (kaggle logs in when it is imported) are only reported,
    unless the name is in `needed`. Kaggle's scoring run only reports: a package that is really needed fails
    where it is used.
    """
    if not names:
        return
    started = time.perf_counter()
    answers = {name: answer for name, answer in _try_imports(overlay, names).items() if answer}
    if answers and kit_runtime.in_scoring_run():
        problems = "; ".join(f"{name}: {answer}" for name, answer in answers.items())
        print(f"note: {len(answers)} of {len(names)} packages of the kit cannot be imported: {problems}")
        return
    failures = []
    for name, answer in answers.items():
        if needed is None or name in needed or LACKS_MODULE.search(answer):
            failures.append(f"{name}: {answer}")
        else:
            print(f"warning: this import fails, and your own code does not use it: {name}: {answer}")
    if failures:
        raise KitError(
            f"{len(failures)} of {len(names)} packages of the kit cannot be imported",
            failures,
            code="import-check-failed",
            hint="see the first line: add a missing module to the requirements (or `include`), and build again"
            if any("No module named" in failure for failure in failures)
            else "see the first line: use another version of that package, or `exclude` it if you do not need it",
        )
    print(f"imports: {len(names)} checked in {time.perf_counter() - started:.1f} s")


def _try_imports(overlay: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the import error of each name, "" for none; after a crash, a new process continues with the rest."""
    answers: dict[str, str] = {}
    while left := [name for name in names if name not in answers]:
        command = [sys.executable, "-c", IMPORT_CHECK, str(overlay), *left]
        completed = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", cwd=overlay
        )
        reported = dict(json.loads(line) for line in completed.stdout.splitlines())
        answers |= reported or dict.fromkeys(left, f"not reached (code {completed.returncode})")
    return answers
