"""Install the kit's packages offline into an overlay, and check that they import.

This file is part of offline-kit and is pasted into the notebooks that it renders. Nothing is resolved here: the
plan names exact files, which are installed without dependencies into a folder that comes first on sys.path.
Kaggle's image is not changed.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, OpenKit, Say, in_scoring_run

INSTALLERS = ("auto", "uv", "pip")
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


@dataclass(frozen=True)
class InstallChoice:
    """A package of the plan and the file that it is installed from."""

    name: str
    wheel: Path | None
    """The wheel that fits this Python; None if the sdist is built."""
    sdist: Path | None = None
    build: tuple[Path, ...] = ()
    """Wheels that the build of the sdist needs."""
    imports: tuple[str, ...] = ()
    own: bool = False
    """Whether it is the project's own."""


def install_packages(kit: OpenKit, installer: str = "", say: Say = print) -> Path:
    """Install the packages of the kit's plan, put them first on sys.path and PYTHONPATH, and return the overlay.

    `installer` is "uv", "pip" or "auto" (uv if it runs); the default is OFFLINE_KIT_INSTALLER. A second
    call, even after a restart of the kernel, changes nothing. Raises KitError.
    """
    packages = kit.folder / "packages"
    plan = json.loads((packages / "install.json").read_text(encoding="utf-8"))
    if plan.get("format") != 1:
        raise KitError(
            f"the install plan has format {plan.get('format')!r}, this notebook reads format 1",
            code="format-unsupported",
            hint="render the notebook again with the version of offline-kit that built the kit",
        )
    running_python = platform.python_version()
    if running_python.split(".")[:2] != str(plan["python"]).split(".")[:2]:
        say(f"warning: the kit was made for Python {plan['python']}, and this is Python {running_python}")
    overlay = kit.places.scratch / "site"
    choices = choose_files(plan, packages, [entry for entry in sys.path if entry != str(overlay)])
    warn_of_imported(choices, overlay, say)
    _fill_overlay(overlay, choices, installer or os.environ.get("OFFLINE_KIT_INSTALLER") or "auto", say)
    activate_overlay(overlay, [kit.folder / "code" / root for root in plan.get("roots", [])])
    names = {name for choice in choices for name in choice.imports}
    own = {name for choice in choices if choice.own for name in choice.imports}
    # Kits of before have no such list: whatever they carry counts as needed.
    imported = plan.get("imported", [name.partition(".")[0] for name in names])
    needed = own | {name for name in names if name.partition(".")[0] in imported}
    check_imports(overlay, sorted(names), say, needed=needed)
    return overlay


def choose_files(plan: Mapping[str, Any], packages: Path, path: Sequence[str]) -> list[InstallChoice]:
    """Return the file to install each package from; raises KitError with every package that is unavailable.

    `path` is sys.path without the overlay.
    """
    choices, problems = [], []
    for item in plan["install"]:
        wheel, sdist = item.get("wheel"), item.get("sdist")
        name, imports = f"{item['name']} {item['version']}", tuple(item.get("imports", ()))
        own = item.get("role") == "own"
        build = tuple(packages / file for file in item.get("build", ()))
        if wheel and fits_interpreter(wheel):
            choices.append(InstallChoice(name, packages / wheel, imports=imports, own=own))
        elif sdist:
            choices.append(InstallChoice(name, None, packages / sdist, build, imports))
        else:
            problems.append(
                f"{name}: '{wheel}' does not fit {_describe_python()}, and the kit has no sdist of it"
            )
    for item in plan.get("provided", ()):
        problem = check_provided(item, path)
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


def check_provided(item: Mapping[str, Any], path: Sequence[str]) -> str:
    """Return which requirement a package of the image does not meet; empty if it meets all."""
    askers = f", which {', '.join(item['asked_by'])} asked for" if item.get("asked_by") else ""
    distribution = next(iter(importlib.metadata.distributions(name=item["name"], path=list(path))), None)
    if distribution is None or not distribution.version:
        return f"{item['name']} {item['version']} is missing in this image{askers}"
    version = distribution.version
    unmet = [line for line in item.get("requires", ()) if not meets_requirement(version, line)]
    return f"{' and '.join(unmet)} is wanted, and this image has {version}{askers}" if unmet else ""


def meets_requirement(version: str, requirement: str) -> bool:
    """Tell whether an installed version meets a requirement such as "numpy>=1.20,<3" (markers ignored)."""
    matched = re.match(r"\s*[\w.-]+\s*(?:\[[^]]*])?\s*([^;]*)", requirement)
    specifiers_text = matched.group(1).strip().strip("()") if matched else ""
    if not specifiers_text or specifiers_text.startswith("@"):
        return True
    # pip's copy first: packaging itself may be among the packages that the kit is about to replace.
    for library in ("pip._vendor.packaging.specifiers", "packaging.specifiers"):
        try:
            specifiers: Any = importlib.import_module(library)
        except ImportError:
            continue
        return bool(specifiers.SpecifierSet(specifiers_text).contains(version, prereleases=True))
    return all(_meets_clause(version, clause.strip()) for clause in specifiers_text.split(","))


def _meets_clause(version: str, clause: str) -> bool:
    # Only for environments without packaging and pip: release numbers alone, unknown operators pass.
    operator, bound = re.match(r"([<>=!~]*)\s*(.*)", clause).groups()  # type: ignore[union-attr]
    installed, required = _parse_release(version), _parse_release(bound)
    prefix = required if bound.endswith(".*") else required[:-1]
    width = max(len(installed), len(required))
    installed, required = (
        installed + (0,) * (width - len(installed)),
        required + (0,) * (width - len(required)),
    )
    in_series = installed[: len(prefix)] == prefix
    if operator == "~=":
        return installed >= required and in_series
    if bound.endswith(".*"):
        return in_series is (operator == "==")
    answers = {
        ">=": installed >= required,
        "<=": installed <= required,
        ">": installed > required,
        "<": installed < required,
    }
    return {**answers, "==": installed == required, "!=": installed != required}.get(operator, True)


def _parse_release(version: str) -> tuple[int, ...]:
    matched = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(int(number) for number in matched.group(1).split(".")) if matched else ()


def fits_interpreter(wheel: str) -> bool:
    """Tell by its name whether a wheel runs on this interpreter and system."""
    pythons, abis, platforms = (part.split(".") for part in wheel.removesuffix(".whl").split("-")[-3:])
    right_python = any(_fits_python(python, abi) for python in pythons for abi in abis)
    return right_python and any(_fits_platform(name) for name in platforms)


def _fits_python(python: str, abi: str) -> bool:
    matched = re.fullmatch(r"(py|cp)3(\d*)", python)
    if not matched:
        return False
    family, minor = matched.group(1), int(matched.group(2) or 0)
    running_minor = sys.version_info.minor
    if family == "py":
        return abi == "none" and minor <= running_minor
    free_threaded = bool(getattr(sys, "abiflags", "").count("t"))
    if abi == "abi3":
        return minor <= running_minor and not free_threaded
    return minor == running_minor and abi in ("none", f"cp3{running_minor}{'t' if free_threaded else ''}")


def _fits_platform(name: str) -> bool:
    if name == "any":
        return True
    old = {"manylinux1_": "2_5", "manylinux2010_": "2_12", "manylinux2014_": "2_17"}
    for prefix, glibc in old.items():
        name = name.replace(prefix, f"manylinux_{glibc}_")
    matched = re.fullmatch(r"manylinux_(\d+)_(\d+)_(\w+)", name)
    if not matched:
        return name == f"linux_{platform.machine()}"
    required_glibc = int(matched.group(1)), int(matched.group(2))
    library, version = platform.libc_ver()
    return (
        library == "glibc"
        and required_glibc <= _parse_release(version)[:2]
        and matched.group(3) == platform.machine()
    )


def _describe_python() -> str:
    return (
        f"Python {platform.python_version()} on {' '.join(platform.libc_ver()).strip()} {platform.machine()}"
    )


def warn_of_imported(choices: Sequence[InstallChoice], overlay: Path, say: Say) -> None:
    """Name what was imported from elsewhere before: only new processes see the kit's version."""
    for name in sorted({name for choice in choices for name in choice.imports}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and overlay not in Path(file).parents:
            say(
                f"warning: '{name}' was imported before the kit was installed; restart and run this cell first"
            )


def _fill_overlay(overlay: Path, choices: Sequence[InstallChoice], installer: str, say: Say) -> None:
    files = [str(choice.wheel or choice.sdist) for choice in choices]
    stamp = overlay / ".offline-kit"
    state = json.dumps([sys.version, sorted(_file_identity(Path(file)) for file in files)])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
        say(f"packages: all {len(files)} are already installed")
        return
    started = time.perf_counter()
    used = ""
    tools = find_installers(installer) if choices else []
    fresh = _empty_folder_beside(overlay)
    for tool in tools:
        try:
            wheels = [
                choice.wheel or build_wheel(choice, tool, overlay.parent / "build") for choice in choices
            ]
            _run_installer(
                _install_command(tool, fresh, wheels), "the packages of the kit could not be installed"
            )
        except KitError as error:
            if tool is tools[-1]:
                raise
            say(f"warning: {error}\ntrying the next installer")
            fresh = _empty_folder_beside(overlay)
        else:
            used = f" with {_tool_name(tool)}"
            break
    (fresh / stamp.name).write_text(state, encoding="utf-8")
    shutil.rmtree(overlay, ignore_errors=True)
    fresh.rename(overlay)
    say(f"packages: {len(choices)} installed{used} in {time.perf_counter() - started:.1f} s")


def _empty_folder_beside(overlay: Path) -> Path:
    folder = overlay.with_name("site.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _file_identity(file: Path) -> str:
    resolved, stat = file.resolve(), file.stat()
    return f"{file.name} {resolved} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def find_installers(requested: str) -> list[list[str]]:
    """Return the commands of the installers to try, the first of which runs; "auto" means uv, then pip."""
    if requested not in INSTALLERS:
        raise KitError(
            f"there is no installer '{requested}'",
            code="unknown-installer",
            hint=f"use one of {', '.join(INSTALLERS)}",
        )
    uv_beside_python = shutil.which("uv", path=str(Path(sys.executable).parent))
    commands = {"uv": [shutil.which("uv") or uv_beside_python or "uv"], "pip": [sys.executable, "-m", "pip"]}
    installers: list[list[str]] = []
    for name in ("uv", "pip") if requested == "auto" else (requested,):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if not installers:  # pip takes a second to say that it is there, and with uv is hardly ever asked
                subprocess.run([*commands[name], "--version"], check=True, capture_output=True, timeout=60)
            installers.append(commands[name])
    if not installers:
        raise KitError(
            f"no installer runs here (asked for: {requested})",
            code="installer-not-found",
            hint="install uv or pip, or ask for the other",
        )
    return installers


def _tool_name(tool: Sequence[str]) -> str:
    return "uv" if Path(tool[0]).stem == "uv" else "pip"


def _install_command(tool: Sequence[str], target: Path, wheels: Sequence[Path]) -> list[str]:
    # No byte-compiling: it takes most of an installer's time, and the proof compiles what is imported.
    target_options = ["--no-index", "--no-deps", "--target", str(target), *map(str, wheels)]
    if _tool_name(tool) == "uv":
        python = ["--python", sys.executable, "--no-python-downloads"]
        return [*tool, "pip", "install", "--offline", "--no-config", "--no-cache", *python, *target_options]
    quiet = ["--no-warn-script-location", "--disable-pip-version-check", "--no-cache-dir", "--no-input"]
    return [*tool, "--isolated", "install", "--no-compile", *quiet, *target_options]


def build_wheel(choice: InstallChoice, tool: Sequence[str], folder: Path) -> Path:
    """Build the wheel of an sdist in a temporary environment of the kit's build wheels."""
    assert choice.sdist is not None  # noqa: S101 - chosen only where there is one
    build_folder = folder / choice.name.replace(" ", "-")
    shutil.rmtree(build_folder, ignore_errors=True)
    (build_folder / "links").mkdir(parents=True)
    for wheel in choice.build:
        (build_folder / "links" / wheel.name).symlink_to(wheel.resolve())
    links, out = ["--no-index", "--find-links", str(build_folder / "links")], str(build_folder / "wheel")
    if _tool_name(tool) == "uv":
        python = ["--python", sys.executable, "--no-python-downloads"]
        build_options = [
            "build",
            "--wheel",
            "--offline",
            "--no-config",
            "--no-cache",
            *python,
            "--out-dir",
            out,
        ]
        command = [*tool, *build_options, *links, str(choice.sdist)]
    else:
        # Without --use-pep517 an old pip builds setup.py projects inside the image's own environment.
        build_options = [
            "--isolated",
            "wheel",
            "--use-pep517",
            "--no-deps",
            "--no-cache-dir",
            "--wheel-dir",
            out,
        ]
        command = [*tool, *build_options, "--disable-pip-version-check", *links, str(choice.sdist)]
    _run_installer(command, f"the sdist of {choice.name} could not be built offline")
    return next(Path(out).glob("*.whl"))


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
            hint="build the kit again, or set OFFLINE_KIT_INSTALLER to the other of 'uv' and 'pip'",
        )


def activate_overlay(overlay: Path, roots: Sequence[Path]) -> None:
    """Put the project's modules and then the overlay first on sys.path, for this process and its children.

    As with a script beside them, own modules take precedence over packages of the same name; so do modules
    that the notebook wrote into its working folder, if Jupyter has that on sys.path.
    """
    before = list(sys.path)
    site.addsitedir(str(overlay))  # unlike a plain sys.path entry, it runs the .pth files
    added = [entry for entry in sys.path if entry not in before]
    front = list(dict.fromkeys([*map(str, roots), str(overlay), *added]))
    working_entries = [entry for entry in before if entry in ("", str(Path.cwd()))]
    sys.path[:] = list(dict.fromkeys([*working_entries, *front, *sys.path]))
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(front + inherited))
    os.environ["PATH"] = os.pathsep.join(
        dict.fromkeys([str(overlay / "bin"), *os.environ.get("PATH", "").split(os.pathsep)])
    )
    importlib.invalidate_caches()
    for folder in overlay.iterdir():  # a package that is loaded already (`google` is) learns its new portion
        paths = getattr(sys.modules.get(folder.name), "__path__", None)
        is_portion = folder.is_dir() and not (folder / "__init__.py").exists()
        if isinstance(paths, list) and is_portion and str(folder) not in paths:
            paths.append(str(folder))


def check_imports(
    overlay: Path, names: Sequence[str], say: Say = print, *, needed: Collection[str] | None = None
) -> None:
    """Import the names in a fresh process; raises KitError with every failure and its reason.

    Other failures than a missing module or library (kaggle logs in when it is imported) are only reported,
    unless the name is in `needed`. Kaggle's scoring run only reports: a package that is really needed fails
    where it is used.
    """
    if not names:
        return
    started = time.perf_counter()
    answers = _try_imports(overlay, names)
    problems = [f"{name}: {answer}" for name, answer in answers.items() if answer]
    if problems and in_scoring_run():
        say(
            f"note: {len(problems)} of {len(names)} packages of the kit cannot be imported: {'; '.join(problems)}"
        )
        return
    needed_names = set(names if needed is None else needed)
    failures = [
        f"{name}: {answer}"
        for name, answer in answers.items()
        if answer and (name in needed_names or _LACKS_MODULE.search(answer))
    ]
    for problem in sorted(set(problems) - set(failures)):
        say(f"warning: this import fails, and your own code does not use it: {problem}")
    if failures:
        raise KitError(
            f"{len(failures)} of {len(names)} packages of the kit cannot be imported",
            failures,
            code="import-check-failed",
            hint="see the first line: add a missing module to the requirements (or `include`), and build again"
            if any("No module named" in problem_line for problem_line in failures)
            else "see the first line: use another version of that package, or `exclude` it if you do not need it",
        )
    say(f"imports: {len(names)} checked in {time.perf_counter() - started:.1f} s")


_LACKS_MODULE = re.compile(
    r"^(ModuleNotFoundError|ImportError)|\.so\b|shared object|undefined symbol|cannot load library|\.dll\b"
)
"""How an import fails that lacks a module or a library of the system."""


def _try_imports(overlay: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the import error of each name, "" for none; after a crash, a new process continues with the rest."""
    answers: dict[str, str] = {}
    while len(answers) < len(names):
        left = [name for name in names if name not in answers]
        command = [sys.executable, "-c", IMPORT_CHECK, str(overlay), *left]
        completed = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", cwd=overlay
        )
        reported = dict(json.loads(line) for line in completed.stdout.splitlines())
        if not reported:
            return answers | dict.fromkeys(left, f"not reached (code {completed.returncode})")
        answers |= reported
    return answers
