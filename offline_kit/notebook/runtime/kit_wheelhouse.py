"""Build the wheelhouse in the notebook's own image: its pip downloads or builds what the image lacks.

This file is part of offline-kit and is pasted into the one notebook that it runs with the internet on. The
offline notebook attaches the output of that one, and checks every file against the manifest written here.
"""

import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PART = "wheelhouse"
"""The name of the part of the kit that the output is."""
FACTS = "wheelhouse.json"
"""Facts about the wheels for the machine that builds the kit, which then need not download them."""
TIMEOUT = 6 * 3600
"""Seconds for one call of pip; a large sdist takes its time."""
Say = Callable[[str], object]


class WheelhouseError(RuntimeError):
    """What is wrong, and what to do next."""


def match_protected(protected: Sequence[str], has: Mapping[str, str]) -> list[str]:
    """Return the packages of the image that must keep their versions; `protected` may contain patterns."""
    return [name for name in has if any(fnmatch.fnmatchcase(name, pattern) for pattern in protected)]


def pin_package(name: str, has: Mapping[str, str]) -> dict[str, str]:
    """Return a package of the image as one to include in the kit."""
    return {"name": name, "version": has[name], "url": "", "sha256": ""}


def find_missing(
    requirements: Sequence[str],
    constraints: Sequence[str],
    exclude: Sequence[str],
    scratch: Path,
    say: Say = print,
) -> list[dict[str, str]]:
    """Return what pip would install for the requirements in addition to the image, sorted by name.

    Each has "name", "version", "url" (empty for a package of the index) and "sha256" of its file. Nothing
    is installed.
    """
    if not requirements:
        return []
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    (scratch / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints), encoding="utf-8")
    report = scratch / "report.json"
    requirement_options = ["-r", str(scratch / "requirements.txt"), "-c", str(scratch / "constraints.txt")]
    _run_pip(
        ["install", "--dry-run", "--report", str(report), *requirement_options],
        "the requirements cannot be met in this image",
        "loosen a requirement, or let the kit replace the image's package with `replace`",
        say,
    )
    missing = []
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        name = _normalize_name(item["metadata"]["name"])
        info = item["download_info"]
        sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        direct = _direct_reference(info) if item.get("is_direct") else ""
        if name not in exclude:
            version = item["metadata"]["version"]
            missing.append({"name": name, "version": version, "url": direct, "sha256": sha256})
    return sorted(missing, key=lambda package: package["name"])


def fetch_wheels(
    packages: Sequence[Mapping[str, str]], folder: Path, scratch: Path, say: Say = print
) -> list[Path]:
    """Put a wheel of each package into a folder: downloaded from the index, or built here from its sdist."""
    folder.mkdir(parents=True, exist_ok=True)
    if not packages:
        return []
    pins = [f"{package['name']} @ {package['url']}" if package["url"] else f"{package['name']}=={package['version']}" for package in packages]  # fmt: skip
    (scratch / "pins.txt").write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    _run_pip(
        ["wheel", "--no-deps", "--wheel-dir", str(folder), "-r", str(scratch / "pins.txt")],
        "a package could not be downloaded or built",
        "read the compiler's words above; a newer version may have a wheel",
        say,
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != len(packages):
        raise WheelhouseError(
            f"{len(wheels)} wheels came of {len(packages)} packages: {[w.name for w in wheels]}"
        )
    return wheels


def write_part(folder: Path, packages: Sequence[Mapping[str, str]], say: Say = print) -> str:
    """Write the manifest of `folder`/packages, by which the offline notebook finds and checks it; return its id."""
    files, outlines = [], []
    for path in sorted((folder / "packages").glob("*.whl")):
        original, data = f"packages/{path.name}", path.read_bytes()
        stored = f"packages/{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)}"  # "+" does not survive everywhere
        outlines.append({"original": original, **outline_wheel(path)})
        path.rename(folder / stored)
        digest = hashlib.sha256(data).hexdigest()
        files.append(
            {"role": "wheel", "original": original, "stored": stored, "size": len(data), "sha256": digest}
        )
    lines = sorted("{original}\0{stored}\0{size}\0{sha256}\n".format(**file) for file in files)
    part_id = hashlib.sha256("".join(lines).encode()).hexdigest()
    manifest = {"format": 1, "part": PART, "id": part_id, "files": files}
    (folder / "offline-kit.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    facts = {"format": 1, "packages": list(packages), "wheels": outlines}
    (folder / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    say(
        f"wheelhouse: {len(files)} wheels, {sum(path.stat().st_size for path in (folder / 'packages').iterdir()) / 1e6:.1f} MB, id {part_id[:12]}"
    )
    return part_id


def outline_wheel(wheel: Path) -> dict[str, Any]:
    """Return what a kit needs of a wheel besides its bytes: headers of METADATA and names of code files.

    For compiled libraries also the CUDA runtimes that they link.
    """
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
            while chunk := stream.read(1 << 22):
                runtimes |= set(re.findall(rb"libcudart\.so\.\d+", overlap + chunk))
                overlap = chunk[-32:]
    return " ".join(sorted(runtime.decode() for runtime in runtimes))


def _run_pip(words: Sequence[str], failure: str, remedy: str, say: Say) -> None:
    """Run this Python's pip and show its output, without overlay and user site-packages."""
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
            say(output[-1])
        code = process.wait(TIMEOUT)
    if code:
        problems = [line for line in output if line.startswith("ERROR")] or output[-5:]
        if any("name resolution" in line or "NewConnectionError" in line for line in output):
            remedy = "see that the internet is on for this notebook (Settings), which needs a verified phone number"
        raise WheelhouseError("\n".join([failure, *problems[-10:], f"hint: {remedy}"]))


def _direct_reference(info: Mapping[str, Any]) -> str:
    """Return the address of a package that comes from no index, as a requirement names it."""
    vcs = info.get("vcs_info")
    return f"{vcs['vcs']}+{info['url']}@{vcs['commit_id']}" if vcs else str(info["url"])


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
