"""Look at the running image, and build the wheelhouse in it: its pip downloads or builds what the image lacks.

These are the notebooks that run on Kaggle's machine before there is a kit. The image's facts become a file for
`offline-kit build --image`, without any network. The wheelhouse needs the internet: the offline notebook attaches
the output of that one, and checks every file against the manifest written here.
"""

import fnmatch
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROVENANCE_VARIABLES = (
    "BUILD_DATE",
    "GIT_COMMIT",
    "KAGGLE_DOCKER_IMAGE",
    "COLAB_RELEASE_TAG",
    "CUDA_VERSION",
)
"""Variables that identify the image; no other is read, because others may contain keys."""
PROVENANCE_FILES = ("/etc/git_commit", "/etc/build_date", "/etc/kaggle_image")
"""Files of Kaggle's image that identify it."""
WHEELHOUSE_PART = "wheelhouse"  # the name of the part of the kit that the output is
FACTS = "wheelhouse.json"
"""Facts about the wheels for the machine that builds the kit, which then need not download them."""
TIMEOUT = 6 * 3600  # seconds for one call of pip; a large sdist takes its time


def capture_image(name: str) -> dict[str, Any]:
    """Return the content of an image file as plain values."""
    library, version = platform.libc_ver()
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = platform.platform()
    try:
        from pip._vendor.packaging.tags import sys_tags

        tags = [str(tag) for tag, _ in zip(sys_tags(), range(5), strict=False)]
    except ImportError:
        tags = []
    provenance = {name: os.environ[name] for name in PROVENANCE_VARIABLES if os.environ.get(name)}
    for path in map(Path, PROVENANCE_FILES):
        if path.is_file():
            provenance[str(path)] = path.read_text(encoding="utf-8", errors="replace").strip()[:200]
    return {
        "name": name,
        "python": platform.python_version(),
        "accelerator": "gpu" if shutil.which("nvidia-smi") else "none",
        "machine": platform.machine(),
        "glibc": version if library == "glibc" else "",
        "system": system,
        "tags": tags,
        "told": provenance,
        "packages": list_packages(sys.path),
    }


def list_packages(path: Sequence[str]) -> dict[str, str]:
    """Return the version of each package in the folders of a path, sorted by normalized name."""
    # pip freeze is not enough: it names the addresses that packages came from in place of their versions.
    packages: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        metadata = distribution.metadata  # each access parses the file
        package, version = (metadata["Name"], metadata["Version"]) if metadata else (None, None)
        if package and version:  # the first one found is the one that imports
            packages.setdefault(normalize_name(package), version)
    return dict(sorted(packages.items()))


def hash_packages(packages: Mapping[str, str]) -> str:
    """Return what tells an image from others if its digest is not known."""
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(packages.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def format_image_file(facts: Mapping[str, Any], digest: str = "", platform_name: str = "Kaggle") -> str:
    """Return the image file: TOML that `--image` takes."""
    provenance = [
        f"captured in a run on {platform_name}, on {facts['system']}",
        *(f"{name}: {value}" for name, value in facts["told"].items()),
        *facts["tags"][:1],
    ]
    kind = "GPU" if facts["accelerator"] == "gpu" else "CPU"
    head = {
        "name": facts["name"],
        "title": f"{platform_name}: Python {facts['python']}, {kind}, {len(facts['packages'])} packages (captured)",
        "accelerator": facts["accelerator"],
        "python": facts["python"],
        "machine": facts["machine"],
        **({"glibc": facts["glibc"]} if facts["glibc"] else {}),
        "digest": digest,
        "provenance": "; ".join(provenance),
        "confidence": "captured: exact for the image of that run",
    }
    # JSON's strings are TOML's, too.
    lines = ["format = 1", *(f"{key} = {json.dumps(value)}" for key, value in head.items()), "", "[packages]"]
    lines += [f"{json.dumps(name)} = {json.dumps(version)}" for name, version in facts["packages"].items()]
    return "\n".join(lines) + "\n"


def write_image_files(facts: Mapping[str, Any], folder: Path, platform_name: str = "Kaggle") -> Path:
    """Write image.toml, and the facts as image.json, into a folder; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    path = folder / "image.toml"
    path.write_text(format_image_file(facts, platform_name=platform_name), encoding="utf-8")
    return path


class WheelhouseError(RuntimeError):
    """What is wrong, and what to do next."""


def match_protected(protected: Sequence[str], has: Mapping[str, str]) -> list[str]:
    """Return the packages of the image that must keep their versions; `protected` may contain patterns."""
    return [name for name in has if any(fnmatch.fnmatchcase(name, pattern) for pattern in protected)]


def pin_package(name: str, has: Mapping[str, str]) -> dict[str, str]:
    """Return a package of the image as one to include in the kit."""
    return {"name": name, "version": has[name], "url": "", "sha256": ""}


def find_missing(
    requirements: Sequence[str], constraints: Sequence[str], exclude: Sequence[str], scratch: Path
) -> list[dict[str, str]]:
    """Return what pip would install for the requirements in addition to the image, sorted by name.

    Each has "name", "version", "url" (empty for a package of the index) and "sha256" of its file. Nothing
    is installed.
    """
    if not requirements:
        return []
    scratch.mkdir(parents=True, exist_ok=True)
    report = scratch / "report.json"
    _run_pip(
        [
            *("install", "--dry-run", "--report", str(report)),
            *("-r", _write_lines(scratch / "requirements.txt", requirements)),
            *("-c", _write_lines(scratch / "constraints.txt", constraints)),
        ],
        "the requirements cannot be met in this image",
        "loosen a requirement, or let the kit replace the image's package with `replace`",
    )
    missing = []
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        info, metadata = item["download_info"], item["metadata"]
        url = ""
        if item.get("is_direct"):  # it comes from no index
            vcs = info.get("vcs_info")
            url = f"{vcs['vcs']}+{info['url']}@{vcs['commit_id']}" if vcs else str(info["url"])
        sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        name = normalize_name(metadata["name"])
        if name not in exclude:
            missing.append({"name": name, "version": metadata["version"], "url": url, "sha256": sha256})
    return sorted(missing, key=lambda package: package["name"])


def fetch_wheels(packages: Sequence[Mapping[str, str]], folder: Path, scratch: Path) -> list[Path]:
    """Put a wheel of each package into a folder: downloaded from the index, or built here from its sdist."""
    folder.mkdir(parents=True, exist_ok=True)
    if not packages:
        return []
    pins = [
        f"{package['name']} @ {package['url']}"
        if package["url"]
        else f"{package['name']}=={package['version']}"
        for package in packages
    ]
    _run_pip(
        ["wheel", "--no-deps", "--wheel-dir", str(folder), "-r", _write_lines(scratch / "pins.txt", pins)],
        "a package could not be downloaded or built",
        "read the compiler's words above; a newer version may have a wheel",
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != len(packages):
        names = [wheel.name for wheel in wheels]
        raise WheelhouseError(f"{len(wheels)} wheels came of {len(packages)} packages: {names}")
    return wheels


def write_part(folder: Path, packages: Sequence[Mapping[str, str]]) -> str:
    """Write the manifest of `folder`/packages, by which the offline notebook finds and checks it; return its id."""
    outlines, wheels = [], {}
    for path in sorted((folder / "packages").glob("*.whl")):
        original = f"packages/{path.name}"
        outlines.append({"original": original, **outline_wheel(path)})
        # "+" does not survive everywhere.
        wheels[original] = path.rename(path.with_name(re.sub(r"[^A-Za-z0-9._-]", "_", path.name)))
    part_id = write_manifest(
        folder, WHEELHOUSE_PART, [("wheel", original, path) for original, path in wheels.items()]
    )
    facts = {"format": 1, "packages": list(packages), "wheels": outlines}
    (folder / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in (folder / "packages").iterdir())
    print(f"wheelhouse: {len(wheels)} wheels, {total / 1e6:.1f} MB, id {part_id[:12]}")
    return part_id


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, part: str, files: Iterable[tuple[str, str, Path]]) -> str:
    """Write the manifest of a part, whose files are given as role, original name and path; return the part's id."""
    entries = []
    for role, original, path in files:
        stored, size = path.relative_to(folder).as_posix(), path.stat().st_size
        sha256 = hash_file(path)
        entries.append({"role": role, "original": original, "stored": stored, "size": size, "sha256": sha256})
    # The same digest as kit.manifest computes.
    lines = sorted("{original}\0{stored}\0{size}\0{sha256}\n".format(**entry) for entry in entries)
    part_id = hashlib.sha256("".join(lines).encode()).hexdigest()
    manifest = {"format": 1, "part": part, "id": part_id, "files": entries}
    (folder / "offline-kit.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return part_id


def outline_wheel(wheel: Path) -> dict[str, Any]:
    """Return what a kit needs of a wheel besides its bytes: METADATA, code files, and the CUDA runtimes they link."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".py", ".pyc", ".so", ".pyd"))]
        info = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        headers = archive.read(info[0]).decode("utf-8", errors="replace") if info else ""
        code = {name: _find_cuda_runtimes(archive, name) for name in names}
    metadata = re.split(r"\r?\n\r?\n", headers, maxsplit=1)[0]
    return {"info": info[0] if info else "", "metadata": f"{metadata}\n", "code": code}


def _find_cuda_runtimes(archive: zipfile.ZipFile, name: str) -> str:
    runtimes: set[bytes] = set()
    if name.endswith(".so"):
        with archive.open(name) as stream:
            overlap = b""
            while chunk := stream.read(1 << 22):  # libraries of torch have hundreds of megabytes
                runtimes |= set(re.findall(rb"libcudart\.so\.\d+", overlap + chunk))
                overlap = chunk[-32:]
    return " ".join(sorted(runtime.decode() for runtime in runtimes))


def _run_pip(words: Sequence[str], failure: str, remedy: str) -> None:
    """Run this Python's pip and show its output, without overlay and user site-packages."""
    # With them pip would look at, or install into, other folders than the image's.
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PIP_TARGET", "PIP_USER")
    }
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command = [sys.executable, "-m", "pip", *words, *quiet]
    output: list[str] = []
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            output.append(line.rstrip())
            print(output[-1])
        code = process.wait(TIMEOUT)
    if code:
        problems = [line for line in output if line.startswith("ERROR")] or output[-5:]
        if any("name resolution" in line or "NewConnectionError" in line for line in output):
            remedy = "see that the internet is on for this notebook (Settings), which needs a verified phone number"
        raise WheelhouseError("\n".join([failure, *problems[-10:], f"hint: {remedy}"]))


def _write_lines(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def normalize_name(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
