"""List all frameworks, match files and folders to them, and compare the versions that models were saved with."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packaging.version import InvalidVersion, Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file
from offline_kit.checkpoints.frameworks import pytorch
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.frameworks.boosters import CATBOOST, LIGHTGBM, XGBOOST
from offline_kit.checkpoints.frameworks.keras import KERAS
from offline_kit.checkpoints.frameworks.onnx import ONNX
from offline_kit.checkpoints.frameworks.sklearn import SKLEARN, SKOPS
from offline_kit.checkpoints.pickle_streams import read_top_modules
from offline_kit.project.types import Checkpoint, Finding, Member, Severity

FRAMEWORKS: tuple[Framework, ...] = (
    *(SKLEARN, SKOPS, XGBOOST, LIGHTGBM, CATBOOST, ONNX, KERAS),
    *(pytorch.LIGHTNING, pytorch.TORCH_MODULE, pytorch.TORCHSCRIPT, pytorch.TORCH_EXPORT),
    *(pytorch.TRANSFORMERS, pytorch.TIMM, pytorch.SAFETENSORS, pytorch.TORCH_STATE_DICT),
)
"""The first one wins between equal scores."""
BY_NAME = {framework.name: framework for framework in FRAMEWORKS}
# Frameworks with the name of their module, whose objects may be in any pickle
_PICKLED = (SKLEARN, XGBOOST, LIGHTGBM, CATBOOST)


def match_framework(path: Path) -> Framework | None:
    """Return the framework with the highest score for a file or folder; None if all are 0."""
    classified = ClassifiedFile() if path.is_dir() else classify_file(path)
    if classified.problem:
        return None
    scores = [framework.score_match(path, classified) for framework in FRAMEWORKS]
    return FRAMEWORKS[scores.index(max(scores))] if any(scores) else None


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
    groups: dict[tuple[str, str], list[Member]] = {}
    findings: list[Finding] = []
    formats: list[Finding] = []
    for member in (*members, *_find_pickled_models(members, other_files)):
        framework = BY_NAME[member.framework]
        formats += framework.check_versions(member, available)
        # One finding for all folds of a training
        if member.version and available.get(framework.library):
            groups.setdefault((framework.name, member.version), []).append(member)
    for (name, trained), group in groups.items():
        library = BY_NAME[name].library
        with suppress(InvalidVersion):
            severity = BY_NAME[name].judge_version(Version(trained), Version(available[library]))
            if severity:
                findings.append(_describe_difference(library, severity, group, available[library], image))
    return (*findings, *formats)


def _find_pickled_models(members: Sequence[Member], other_files: Iterable[Checkpoint]) -> Iterator[Member]:
    """Yield objects in pickles that another framework loads as members: a scaler, a pipeline's last step."""
    pickles = [(member.framework, file) for member in members for file in member.files]
    known_paths = {file.path for _, file in pickles}
    pickles += [("", file) for file in other_files if file.path not in known_paths]
    for claimant, file in pickles:
        for framework in _PICKLED:
            if framework.name != claimant and framework.name in read_top_modules(file.path):
                version = framework.read_version(file.path)
                yield Member(
                    name=file.original,
                    framework=framework.name,
                    path=file.path,
                    kit_path=file.original,
                    files=(file,),
                    version=version,
                    version_said=bool(version),
                )


def _describe_difference(
    library: str, severity: Severity, group: list[Member], installed: str, image: str
) -> Finding:
    first, trained = group[0], group[0].version
    subject = f"and {len(group) - 1} more were" if len(group) > 1 else "was"
    # Without a statement in the file, the version is that of this environment.
    origin = " " if first.version_said else ", if made in this environment, "
    constraints = (
        f"; all of the image's versions: 'offline-kit image show {image} --constraints'" if image else ""
    )
    return Finding(
        severity=severity if first.version_said else Severity.NOTE,
        about=first.name,
        what=f"{subject}{origin}saved with {library} {trained}, and the notebook has {installed}",
        remedy=f'fit and save it again with {library}=={installed}, or include the other version: "{library}=={trained}" in the '
        f'requirements, and replace = ["{library}"]{constraints}',
    )
