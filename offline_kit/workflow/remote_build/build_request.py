"""What the notebook that makes the wheelhouse is asked for: text alone, and nothing that is a secret."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze import direct_references
from offline_kit.packages.freeze.freeze_inputs import FreezeInputs, FreezeRequest, gather_inputs
from offline_kit.packages.freeze.requirement_files import RequirementLine
from offline_kit.packages.pip_settings import PYPI, IndexSettings, redact_urls
from offline_kit.project.images import Image

_VARIABLE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """What is to be made of which requirements."""

    requirements: tuple[str, ...]
    """Lines of a requirements file: options of the index first, then the project's and its packages' own."""
    constraints: tuple[str, ...]
    """Lines of a constraints file."""
    preferred: tuple[tuple[str, str], ...]
    """Versions of a lock file by name; they count where the image has no such package."""
    protected: tuple[str, ...]
    """Packages of the image, or patterns of such, that stay as they are."""
    include: tuple[str, ...]
    """Packages that travel although the image has them."""
    exclude: tuple[str, ...]
    """Packages that do not travel."""

    @property
    def request_digest(self) -> str:
        """The hex digest of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def build_request(request: FreezeRequest, image: Image, own: tuple[str, ...]) -> RemoteRequest:
    """Return what to ask for; `image` is the one that is assumed, `own` names the project's own packages.

    Raises ProjectError with every requirement that cannot travel as text: a path on this machine, an
    address with a password or a query, a variable that is not set.
    """
    read = gather_inputs(request, image, own)
    problems = [
        *_index_problems(read),
        *(line for requirement in read.direct_references for line in _line_problems(requirement)),
    ]
    if problems:
        raise ProjectError(
            "some requirements cannot go to Kaggle as text",
            code="requirements-not-remote",
            hint="name folders under `packages` and wheels as packages of an index, or build here, without --on",
            details=problems,
        )
    replace = read.policy.replace | read.policy.include
    return RemoteRequest(
        requirements=(*_index_options(read), *sorted({*_requirement_lines(read, request.project)})),
        constraints=tuple(sorted(requirement.requirement for requirement in read.constraints)),
        preferred=tuple((name, pin.version) for name, pin in sorted(read.lock.pins.items())),
        protected=tuple(sorted({*image.protected, *image.accelerator_families} - replace)),
        include=tuple(sorted(read.policy.include)),
        exclude=tuple(sorted(read.policy.exclude | read.policy.own)),
    )


def index_note(settings: IndexSettings) -> str:
    """Return what to say about an index of this machine that the run on Kaggle does not have; "" for none."""
    if settings.index_url.rstrip("/") == PYPI and not settings.extra_index_urls and not settings.find_links:
        return ""
    return (
        "the indexes and folders of this machine's pip configuration do not go along: on Kaggle pip asks pypi.org;"
        " name a public index in a requirements file (--index-url), or build here for packages of a private one"
    )


def _requirement_lines(read: FreezeInputs, project: Path) -> Iterator[str]:
    # pip there has no way to leave out what a package asks for; what the files ask for it need not see.
    yield from (
        requirement.requirement
        for requirement in read.requirements
        if requirement.name not in read.policy.exclude
    )
    for requirement in read.direct_references:
        if requirement.direct:
            extras = f"[{','.join(requirement.direct.extras)}]" if requirement.direct.extras else ""
            name = requirement.direct.name + extras if requirement.direct.name else ""
            reference = direct_references.format_reference(requirement.direct, project)
            yield (f"{name} @ {reference}" if name else reference) + (
                f" ; {requirement.direct.marker}" if requirement.direct.marker else ""
            )


def _index_options(read: FreezeInputs) -> Iterator[str]:
    options = read.index_options
    if options.index_url:
        yield f"--index-url {options.index_url}"
    yield from (f"--extra-index-url {url}" for url in options.extra_index_urls)
    yield from (f"--find-links {link}" for link in options.find_links)


def _index_problems(read: FreezeInputs) -> Iterator[str]:
    options = read.index_options
    for address in (options.index_url, *options.extra_index_urls, *options.find_links):
        shown_address = direct_references.strip_credentials(address)
        if problem := _secret_in_address(address):
            yield f"the index '{shown_address}' {problem}"
        elif address and not address.startswith(("https://", "http://")):
            yield f"'{address}' is a folder of this machine"


def _line_problems(requirement: RequirementLine) -> Iterator[str]:
    if requirement.direct is None:
        return
    if requirement.direct.kind not in ("git", "url") or requirement.direct.location.startswith("file:"):
        yield f"{requirement.position}: a {requirement.direct.kind} on this machine"
    elif problem := _secret_in_address(requirement.direct.location):
        yield f"{requirement.position}: '{direct_references.strip_credentials(requirement.direct.location)}' {problem}"


def _secret_in_address(address: str) -> str:
    """Return why an address may not go to Kaggle; "" if nothing in it can be a secret."""
    if unset := _VARIABLE.search(address):
        return f"names the variable {unset[0]}, which is not set here"
    if redact_urls(address.partition("?")[0]) != address.partition("?")[0]:
        return "has a password, which is never written into a notebook"
    if urlsplit(address).query:
        return "has a query ('?'), which may be a key, and is never written into a notebook"
    return ""
