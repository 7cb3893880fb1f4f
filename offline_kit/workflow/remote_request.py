"""What the notebook that builds the packages on Kaggle is asked for: text alone, and no secrets."""

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
from offline_kit.packages.pip_settings import PYPI, IndexSettings, redact_urls
from offline_kit.project.images import Image

_VARIABLE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """The packages that are to be built; the image's own pip decides there which wheels that comes to."""

    requirements: tuple[str, ...]
    """Lines of a requirements file: options of the index first, then the project's and its packages' own."""
    constraints: tuple[str, ...]
    """Lines of a constraints file."""
    preferred: tuple[tuple[str, str], ...]
    """Versions of a lock file by name; they count if the image has no such package."""
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
    inputs = gather_inputs(request, image, own)
    if problems := list(_find_problems(inputs)):
        raise ProjectError(
            "some requirements cannot go to Kaggle as text",
            code="requirements-not-remote",
            hint="name folders under `packages` and wheels as packages of an index, or build here, without --on",
            details=problems,
        )
    options, policy = inputs.index_options, inputs.policy
    index_lines = [
        *([f"--index-url {options.index_url}"] if options.index_url else []),
        *(f"--extra-index-url {url}" for url in options.extra_index_urls),
        *(f"--find-links {link}" for link in options.find_links),
    ]
    replace = policy.replace | policy.include
    return RemoteRequest(
        requirements=(*index_lines, *sorted({*_requirement_lines(inputs, request.project)})),
        constraints=tuple(sorted(requirement.requirement for requirement in inputs.constraints)),
        preferred=tuple((name, pin.version) for name, pin in sorted(inputs.lock.pins.items())),
        protected=tuple(sorted({*image.protected, *image.accelerator_families} - replace)),
        include=tuple(sorted(policy.include)),
        exclude=tuple(sorted(policy.exclude | policy.own)),
    )


def index_note(settings: IndexSettings) -> str:
    """Return a note about this machine's index settings, which the run on Kaggle lacks; "" without any."""
    if settings.index_url.rstrip("/") == PYPI and not settings.extra_index_urls and not settings.find_links:
        return ""
    return (
        "the indexes and folders of this machine's pip configuration do not go along: on Kaggle pip asks pypi.org;"
        " name a public index in a requirements file (--index-url), or build here for packages of a private one"
    )


def _requirement_lines(inputs: FreezeInputs, project: Path) -> Iterator[str]:
    for requirement in inputs.requirements:
        # pip cannot leave out a dependency; what the files themselves ask for is left out here.
        if requirement.name not in inputs.policy.exclude:
            yield requirement.requirement
    for direct in (requirement.direct for requirement in inputs.direct_references):
        if direct:
            reference = direct_references.format_reference(direct, project)
            if direct.name:
                extras = f"[{','.join(direct.extras)}]" if direct.extras else ""
                reference = f"{direct.name}{extras} @ {reference}"
            yield reference + (f" ; {direct.marker}" if direct.marker else "")


def _find_problems(inputs: FreezeInputs) -> Iterator[str]:
    options = inputs.index_options
    for address in (options.index_url, *options.extra_index_urls, *options.find_links):
        if problem := _describe_secret(address):
            yield f"the index '{direct_references.strip_credentials(address)}' {problem}"
        elif address and not address.startswith(("https://", "http://")):
            yield f"'{address}' is a folder of this machine"
    for requirement in inputs.direct_references:
        if (direct := requirement.direct) is None:
            continue
        if direct.kind not in ("git", "url") or direct.location.startswith("file:"):
            yield f"{requirement.position}: a {direct.kind} on this machine"
        elif problem := _describe_secret(direct.location):
            address = direct_references.strip_credentials(direct.location)
            yield f"{requirement.position}: '{address}' {problem}"


def _describe_secret(address: str) -> str:
    """Return why an address may not go to Kaggle; "" if nothing in it can be a secret."""
    if unset := _VARIABLE.search(address):
        return f"names the variable {unset[0]}, which is not set here"
    if redact_urls(address.partition("?")[0]) != address.partition("?")[0]:
        return "has a password, which is never written into a notebook"
    if urlsplit(address).query:
        return "has a query ('?'), which may be a key, and is never written into a notebook"
    return ""
