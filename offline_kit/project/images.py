"""Kaggle's images: Python, platform, installed packages, and those that must not be replaced."""

import fnmatch
import hashlib
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_kit.core.errors import UsageError, suggest_name
from offline_kit.project.package_lists import PackageList, normalize_name, read_package_list

if TYPE_CHECKING:
    from packaging.tags import Tag

NO_ACCELERATOR = frozenset({"", "none", "cpu"})  # names for a machine without accelerator
TORCH_FAMILY = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
"""Published with a local version per accelerator: "2.11.0+cpu" and "2.11.0+cu128" are one release."""
KAGGLE_CONTAINERS = {"none": "gcr.io/kaggle-images/python", "gpu": "gcr.io/kaggle-gpu-images/python"}
"""Kaggle's container images, the newest (https://github.com/Kaggle/docker-python#getting-started)."""
_DEFAULTS = {"none": "kaggle-2026-10-cpu", "gpu": "kaggle-2026-10-gpu"}
_KEYS = (
    *("accelerator", "accelerator_families", "confidence", "digest", "format", "glibc", "machine", "name"),
    *("packages", "protected", "provenance", "python", "title"),
)
_PYTHON = re.compile(r"3\.\d+\.\d+\w*")
_GLIBC = re.compile(r"2\.\d+")
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that kits are built for."""

    name: str  # "kaggle-2026-10-cpu", "local", or the name of the user's file
    title: str
    accelerator: str  # "none" or "gpu"
    python: str  # full version: "3.13.15"
    packages: Mapping[str, str]  # version of every installed package, by normalized name
    machine: str = "x86_64"  # as in PEP 508
    glibc: tuple[int, int] = (2, 35)
    """The lowest glibc to choose wheels for; (0, 0) if the running system has none."""
    digest: str = ""  # full docker reference, "gcr.io/...@sha256:..."; empty if unknown
    provenance: str = ""
    confidence: str = ""  # where the package list comes from, and how reliable it is
    protected: frozenset[str] = frozenset()
    """Packages that the kit must not replace unless the user allows it."""
    accelerator_families: tuple[str, ...] = ()
    """Patterns of packages that are useful only with an accelerator."""
    unversioned: tuple[str, ...] = ()  # packages that the list names without a version
    local: bool = False  # the running interpreter and its packages
    interpreter: Path | None = None  # set if `local`

    @cached_property
    def packages_hash(self) -> str:
        """What tells the image from others if its digest is not known; as `kit_capture.hash_packages` returns it in a run."""
        lines = "".join(f"{name}=={version}\n" for name, version in sorted(self.packages.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def python_minor(self) -> str:
        """The minor Python version: "3.13"."""
        return ".".join(self.python.split(".")[:2])

    @property
    def platform_for_uv(self) -> str:
        """The value of uv's --python-platform; empty for `local`, uv's default."""
        return "" if self.local else f"{self.machine}-manylinux_{self.glibc[0]}_{self.glibc[1]}"

    @cached_property
    def wheel_tags(self) -> "tuple[Tag, ...]":
        """The wheel tags that fit the image, best first (PEP 425, PEP 600)."""
        from packaging import tags

        # Another system than Linux has tags of its own.
        if self.local:
            return tuple(tags.sys_tags())
        platforms = []
        # PEP 600: a wheel for an older glibc runs on a newer one; 2.5 is the oldest that wheels are built for.
        for minor in range(self.glibc[1], 4, -1):
            platforms.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _LEGACY_MANYLINUX:
                platforms.append(f"{_LEGACY_MANYLINUX[minor]}_{self.machine}")
        platforms.append(f"linux_{self.machine}")
        return self.wheel_tags_for(platforms)

    @cached_property
    def _tag_positions(self) -> "dict[Tag, int]":
        return {tag: position for position, tag in enumerate(self.wheel_tags)}

    def find_tag_position(self, filename: str) -> int | None:
        """Return the position of a wheel's best tag among the image's tags; None if none fits."""
        from packaging.utils import InvalidWheelFilename, parse_wheel_filename
        from packaging.version import InvalidVersion

        try:
            tags = parse_wheel_filename(filename)[3]
        except (InvalidWheelFilename, InvalidVersion):
            return None
        return min((self._tag_positions[tag] for tag in tags if tag in self._tag_positions), default=None)

    def accepts_python(self, requires_python: str) -> bool:
        """Whether the image's full Python version is allowed; pip, too, ignores an invalid Requires-Python."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            # An image may have a pre-release of Python.
            return SpecifierSet(requires_python).contains(self.python, prereleases=True)
        except InvalidSpecifier:
            return True

    def describe_platform(self) -> str:
        """Return image, Python and platform for a message."""
        libc = f", glibc {self.glibc[0]}.{self.glibc[1]}" if self.glibc[0] else ""
        return f"'{self.name}' (Python {self.python}, {self.machine}{libc})"

    def wheel_tags_for(self, platforms: Sequence[str]) -> "tuple[Tag, ...]":
        """Return the wheel tags of the image's Python on these platforms, best first (PEP 425)."""
        from packaging import tags

        version = tuple(int(part) for part in self.python_minor.split("."))
        interpreter = f"cp{version[0]}{version[1]}"
        own = tags.cpython_tags(version, abis=[interpreter], platforms=platforms)
        return (*own, *tags.compatible_tags(version, interpreter, platforms))

    def marker_environment(self) -> dict[str, str]:
        """Return the values of the PEP 508 environment markers in the image."""
        if self.local:
            from packaging.markers import default_environment

            return {name: str(value) for name, value in default_environment().items()}
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": self.python_minor,
            "sys_platform": "linux",
        }

    def public_version(self, name: str) -> str:
        """Return the image's version without its local part; "" if the image lacks the package."""
        return self.packages.get(normalize_name(name), "").partition("+")[0]

    def is_protected(self, name: str) -> bool:
        """Whether the kit must not replace this package unless the user allows it."""
        return normalize_name(name) in self.protected

    def is_accelerator(self, name: str) -> bool:
        """Whether a package is useful only with an accelerator: "nvidia-nccl-cu12", "triton"."""
        return any(
            fnmatch.fnmatchcase(normalize_name(name), pattern) for pattern in self.accelerator_families
        )


def _image_folder() -> Traversable:
    return resources.files("offline_kit") / "data" / "images"


def list_image_names() -> tuple[str, ...]:
    """Return the names of the built-in images, sorted."""
    names = [entry.name for entry in _image_folder().iterdir() if entry.name.endswith(".toml")]
    return tuple(sorted(name.removesuffix(".toml") for name in names))


def load_built_in_images() -> tuple[Image, ...]:
    """Return the built-in images, sorted by name."""
    return tuple(_load_built_in(name) for name in list_image_names())


def choose_default_image(accelerator: str) -> str:
    """Return the name of Kaggle's current image for an accelerator: "none", "NvidiaTeslaT4", "t4x2"..."""
    return _DEFAULTS[_classify_accelerator(accelerator)]


def load_image(name_or_file: str, *, accelerator: str, project: Path) -> Image:
    """Load a built-in image, "local", or a file (relative to the project); empty: the accelerator's default.

    A file has the output of `pip list --format=json` or `pip freeze`, or offline-kit's own TOML format.

    Raises UsageError if there is no such image, or its file is invalid.
    """
    name = name_or_file or choose_default_image(accelerator)
    if name == "local":
        return _describe_running_python()
    if name in list_image_names():
        return _load_built_in(name)
    if problem := find_name_problem(name, project):
        raise UsageError(problem, hint=_list_choices(), code="image-not-found")
    path = project / Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the image file '{name}': {error}",
            hint=_list_choices(),
            code="image-file-unreadable",
        ) from error
    if path.suffix == ".toml":
        return _parse_image_file(text, source=name)
    package_list = read_package_list(text, source=name)
    facts: dict[str, Any] = {"accelerator": accelerator, **package_list.comments}
    if "python" not in facts:
        # `pip freeze` names no Python; Kaggle changes it with its base image (https://github.com/Kaggle/docker-python).
        python = _load_built_in(choose_default_image(facts["accelerator"])).python
        assumption = (
            "add a line '# python: 3.13.5' to the freeze text, or use the output of 'python -m pip inspect'"
        )
        facts |= {"python": python, "confidence": f"assumed Python {python}; {assumption}"}
    return _make_image(facts, package_list, name)


def find_name_problem(name: str, project: Path) -> str:
    """Return the problem of an image's name that is neither built in nor a file; "" if it has none."""
    if name in ("", "local", *list_image_names()) or (project / Path(name).expanduser()).is_file():
        return ""
    return f"there is no image '{name}'{suggest_name(name, list_image_names())}"


def find_package(image: Image, name: str) -> str:
    """Return the normalized name of an image's package; raise UsageError if the image lacks it."""
    normalized_name = normalize_name(name)
    if normalized_name not in image.packages and normalized_name not in image.unversioned:
        raise UsageError(
            f"'{image.name}' has no package '{name}'{suggest_name(normalized_name, image.packages)}",
            hint=f"list its packages with 'offline-kit image show {image.name}'",
            code="package-not-in-image",
        )
    return normalized_name


def _list_choices() -> str:
    return (
        f"choose one of {', '.join(list_image_names())}, 'local' for the running Python, or a file written in the image "
        "with 'python -m pip list --format=json'"
    )


def _read_built_in(name: str) -> str:
    return (_image_folder() / f"{name}.toml").read_text(encoding="utf-8")


def _load_built_in(name: str) -> Image:
    return _parse_image_file(_read_built_in(name), source=name)


def _parse_image_file(text: str, *, source: str) -> Image:
    try:
        data = tomllib.loads(text)
        listed = data.get("packages", "")
        if isinstance(listed, dict):
            listed = "\n".join(f"{name}=={version}" for name, version in listed.items())
        package_list = read_package_list(str(listed), source=source)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"the image file '{source}' is not valid TOML: {error}", hint=_list_choices(), code="toml-invalid"
        ) from error
    return _make_image(data, package_list, source)


def _make_image(data: Mapping[str, Any], package_list: PackageList, source: str) -> Image:
    """Check the facts of an image and make it of them; what is missing is assumed."""
    python, glibc = data.get("python"), str(data.get("glibc", "2.35"))
    problems = [f"unknown key '{key}'{suggest_name(key, _KEYS)}" for key in data if key not in _KEYS]
    if data.get("format", 1) != 1:
        problems.append(f"format is {data['format']!r}, but this version reads format 1")
    if not _PYTHON.fullmatch(str(python)):
        problems.append(f'python is {python!r}, expected a full version such as "3.13.5"')
    if not _GLIBC.fullmatch(glibc):
        problems.append(f'glibc is {glibc!r}, expected such as "2.35"')
    for key in ("protected", "accelerator_families"):
        value = data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            problems.append(f"{key} is not a list of names")
    if problems:
        raise UsageError(
            f"the image file '{source}' has problems",
            code="image-file-invalid",
            hint=f"compare it with a built-in one: {_image_folder()}",
            details=problems,
        )
    defaults = {
        "name": Path(source).stem,
        "title": f"image file {source}",
        "provenance": f"read from {source}",
        "confidence": "as you gave it",
        "machine": "x86_64",
        "digest": "",
    }
    texts: dict[str, Any] = {key: str(data.get(key, default)) for key, default in defaults.items()}
    bare = Image(
        **texts,
        accelerator=_classify_accelerator(str(data.get("accelerator", "none"))),
        python=str(python),
        packages=package_list.packages,
        unversioned=package_list.unversioned,
        glibc=_parse_glibc(glibc),
    )
    return _add_package_policies(bare, data.get("protected"), data.get("accelerator_families"))


def _describe_running_python() -> Image:
    """Describe the running interpreter and what is installed in it."""
    import platform
    from importlib.metadata import distributions

    installed: dict[str, str] = {}
    for distribution in distributions():
        # if a distribution is installed twice, Python imports the first on sys.path
        name = distribution.metadata["Name"]
        if name:
            installed.setdefault(normalize_name(name), distribution.version)
    libc, version = platform.libc_ver()
    bare = Image(
        name="local",
        title=f"the running Python {platform.python_version()} and its packages",
        accelerator="gpu" if any(name.startswith("nvidia-cuda") for name in installed) else "none",
        python=platform.python_version(),
        machine=platform.machine(),
        packages=installed,
        glibc=_parse_glibc(version) if libc == "glibc" else (0, 0),
        provenance=f"read from {sys.prefix}",
        confidence="exact for this machine, not for Kaggle",
        local=True,
        interpreter=Path(sys.executable),
    )
    return _add_package_policies(bare)


def _classify_accelerator(accelerator: str) -> str:
    return "none" if accelerator.lower() in NO_ACCELERATOR else "gpu"


def _parse_glibc(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _add_package_policies(
    image: Image, protected: list[str] | None = None, families: list[str] | None = None
) -> Image:
    """Add the protected packages and the accelerator families; by default those of the default image."""
    if protected is None or families is None:
        data = tomllib.loads(_read_built_in(_DEFAULTS[image.accelerator]))
        protected = data["protected"] if protected is None else protected
        families = data["accelerator_families"] if families is None else families
    names: set[str] = set()
    for pattern in protected:
        # A name counts as it is, a pattern for the installed packages that it matches.
        names |= {*fnmatch.filter(image.packages, pattern)} if "*" in pattern else {normalize_name(pattern)}
    return replace(image, protected=frozenset(names), accelerator_families=tuple(families))
