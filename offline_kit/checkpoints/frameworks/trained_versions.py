"""Compare the versions that models and pickles were saved with to the notebook's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from packaging.version import InvalidVersion, Version

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.pickle_streams import read_top_modules
from offline_kit.project.types import Checkpoint, Finding, Member, Severity

_PICKLED = frozenset({"sklearn", "lightgbm", "xgboost", "catboost"})
"""Frameworks with the name of their module, whose objects may be in any pickle."""


def compare_versions(
    members: Sequence[Member],
    available: Mapping[str, str],
    image: str = "",
    other_files: Iterable[Checkpoint] = (),
) -> tuple[Finding, ...]:
    """Return a finding for each library whose versions at training and in the notebook are incompatible.

    `available` are the notebook's versions, by normalized name. Files of one library and version share a finding, which
    names the first of them. `image` is named in the remedy. `other_files` are other pickles that the notebook may load.
    """
    members = (*members, *_find_pickled_models(members, other_files))
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        framework = framework_table.find_framework(member.framework)
        if framework and member.version and available.get(framework.library):
            groups.setdefault((framework.name, member.version), []).append(member)
    findings = (
        _compare_group(framework_table.find_framework(name), version, group, available, image)
        for (name, version), group in groups.items()
    )
    formats = (
        finding
        for member in members
        if (framework := framework_table.find_framework(member.framework))
        for finding in framework.check_versions(member, available)
    )
    return tuple(finding for finding in (*findings, *formats) if finding)


def _find_pickled_models(members: Sequence[Member], other_files: Iterable[Checkpoint]) -> Iterator[Member]:
    """Yield objects in pickles that another framework loads as members: a scaler, a pipeline's last step."""
    pickles = [(member.framework, file) for member in members for file in member.files]
    known_paths = {file.path for _, file in pickles}
    pickles += [("", file) for file in other_files if file.path not in known_paths]
    for claimant, file in pickles:
        for framework in framework_table.FRAMEWORKS:
            if framework.name == claimant or framework.name not in _PICKLED & read_top_modules(file.path):
                continue
            pickled = Member(
                name=file.original,
                framework=framework.name,
                path=file.path,
                kit_path=file.original,
                files=(file,),
            )
            version = framework.read_version(pickled)
            yield replace(pickled, version=version, version_said=bool(version))


def _compare_group(
    framework: Framework | None, trained: str, group: list[Member], available: Mapping[str, str], image: str
) -> Finding | None:
    if framework is None:
        return None
    installed = available[framework.library]
    try:
        severity = framework.judge_version(Version(trained), Version(installed))
    except InvalidVersion:
        return None
    if severity is None:
        return None
    first, library = group[0], framework.library
    group_suffix = f" and {len(group) - 1} more" if len(group) > 1 else ""
    if not first.version_said:
        # The version is that of this environment; the file states none.
        severity = Severity.NOTE
    verb = "were" if group_suffix else "was"
    origin = (
        f"{verb} saved with" if first.version_said else f"{verb}, if made in this environment, saved with"
    )
    return Finding(
        severity=severity,
        about=f"{first.name}",
        what=f"{group_suffix.lstrip()} {origin} {library} {trained}, and the notebook has {installed}".strip(),
        remedy=f'fit and save it again with {library}=={installed}, or include the other version: "{library}=={trained}" in the '
        f'requirements, and replace = ["{library}"]{_suggest_constraints(image)}',
    )


def _suggest_constraints(image: str) -> str:
    return f"; all of the image's versions: 'offline-kit image show {image} --constraints'" if image else ""
