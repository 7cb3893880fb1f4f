"""The version that a model or a pickle was saved with, compared with the one that the notebook will have."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.version import InvalidVersion, Version

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.checkpoints.frameworks.base import Framework, tops_of
from offline_kit.project.types import Checkpoint, Finding, Member, Severity

_PICKLED = frozenset({"sklearn", "lightgbm", "xgboost", "catboost"})
"""Frameworks whose objects lie in pickles of any kind, and that are called like their module."""


def compare(
    members: Sequence[Member],
    there: Mapping[str, str],
    image: str = "",
    beside: Iterable[Checkpoint] = (),
) -> tuple[Finding, ...]:
    """Return a finding for each library whose version at training and in the notebook do not go together.

    `there` are the versions of the notebook, by normalized name. Files of one library and version share
    a finding, which names the first of them. `image` is the image's name, whose versions can be installed. `beside`
    are further files that the notebook may load: preprocessing, pickles that code of the user's reads.
    """
    members = (*members, *_held(members, beside))
    found: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        framework = framework_table.named(member.framework)
        if framework and member.version and there.get(framework.library):
            found.setdefault((framework.name, member.version), []).append(member)
    findings = (
        _finding(framework_table.named(name), version, group, there, image)
        for (name, version), group in found.items()
    )
    formats = (
        each
        for member in members
        if (framework := framework_table.named(member.framework))
        for each in framework.fits(member, there)
    )
    return tuple(each for each in (*findings, *formats) if each)


def _held(members: Sequence[Member], beside: Iterable[Checkpoint]) -> Iterator[Member]:
    """Yield what pickles hold of a library that did not claim them, as models of it: a scaler, a pipeline's last step."""
    pickles = [(each.framework, file) for each in members for file in each.files]
    known = {file.path for _, file in pickles}
    pickles += [("", file) for file in beside if file.path not in known]
    for claimant, file in pickles:
        for framework in framework_table.FRAMEWORKS:
            if framework.name == claimant or framework.name not in _PICKLED & tops_of(file.path):
                continue
            held = Member(
                name=file.original,
                framework=framework.name,
                path=file.path,
                kit_path=file.original,
                files=(file,),
            )
            stated = framework.version(held)
            yield replace(held, version=stated, version_said=bool(stated))


def _finding(
    framework: Framework | None, trained: str, group: list[Member], there: Mapping[str, str], image: str
) -> Finding | None:
    if framework is None:
        return None
    has = there[framework.library]
    try:
        severity = framework.judge(Version(trained), Version(has))
    except InvalidVersion:
        return None
    if severity is None:
        return None
    first, library = group[0], framework.library
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    if not first.version_said:
        # Beside the tool lies this version; whether the model was saved with it nobody knows.
        severity = Severity.NOTE
    verb = "were" if more else "was"
    how = f"{verb} saved with" if first.version_said else f"{verb}, if made in this environment, saved with"
    return Finding(
        severity=severity,
        about=f"{first.name}",
        what=f"{more.lstrip()} {how} {library} {trained}, and the notebook has {has}".strip(),
        remedy=f'fit and save it again with {library}=={has}, or take the other version along: "{library}=={trained}" in the '
        f'requirements, and replace = ["{library}"]{_all_of(image)}',
    )


def _all_of(image: str) -> str:
    return f"; all of the image's versions: 'offline-kit image show {image} --constraints'" if image else ""
