"""The weights before they travel: scanned, without the training's files, light where that is wished, and complete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.checkpoints import (
    hub_folders,
    hyper_parameters,
    main_names,
    pickle_scan,
    slim,
    training_leftovers,
)
from offline_kit.checkpoints.main_names import NOBODY, Lent
from offline_kit.core import files
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project import references
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Finding, ModelSpec, Severity


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What travels, and what was seen."""

    config: Config
    """The configuration, with the models' files under the names that they travel by."""
    checkpoints: tuple[Checkpoint, ...]
    """The checkpoints."""
    preprocessing: tuple[Checkpoint, ...]
    """What is loaded by name beside them."""
    lent: Lent
    """The names of `__main__` that their pickles look up."""
    findings: tuple[Finding, ...]
    """What was seen in them, and what was saved."""


def prepare(
    config: Config,
    checkpoints: Sequence[Checkpoint],
    preprocessing: Sequence[Checkpoint],
    *,
    cache: Path,
    report: Reporter = SILENT,
) -> Prepared:
    """Scan all files, leave out what only the training needs, make the checkpoints light.

    Raises ProjectError for pickles that run something, for names of `__main__` that no file gives, and
    where `slim` is wished and no interpreter has torch.
    """
    kept = training_leftovers.without_training(checkpoints, config.checkpoints, report=report)
    beside = training_leftovers.without_blobs(preprocessing)
    scanned = pickle_scan.scan(
        [*kept, *beside], trust=config.trust, own=own_modules(config), cache=cache, report=report
    )
    source = config.notebook.source
    known = main_names.defined_in_notebook(config.project / source) if source else set()
    lent = main_names.settle(config.project, config.main_from, scanned, known)
    wish = slim.Wish(slim=config.slim, precision=config.precision, weights_format=config.weights_format)
    fetched = [
        *hub_folders.findings(kept, beside),
        *hyper_parameters.findings(kept, config.notebook.params),
    ]
    lending = main_names.findings(config.project, lent)
    # A script that would train when it is imported stops the build, and is not imported for it.
    safe = NOBODY if any(each.severity is Severity.STOP for each in lending) else lent
    light = slim.slimmed(kept, wish, _yard(config, safe, cache), report=report)
    return Prepared(
        config=_renamed(config, light),
        checkpoints=light.checkpoints,
        preprocessing=beside,
        lent=lent,
        findings=(*lending, *fetched, *light.findings),
    )


def own_modules(config: Config) -> frozenset[str]:
    """Return the top-level modules of the project's own code, which the kit holds where a pickle needs them."""
    packages = (
        place for package in (*config.packages, config.project) for place in (package / "src", package)
    )
    loose = (place for module in config.modules for place in (module, module.parent) if place.is_dir())
    return frozenset(name for root in dict.fromkeys((*packages, *loose)) for name in references.tops(root))


def _yard(config: Config, lent: Lent, cache: Path) -> slim.Yard:
    anything = config.notebook.params.get("weights_only") is False
    return slim.Yard(
        project=config.project,
        cache=cache,
        trusted=lambda original: anything or pickle_scan.is_trusted(original, config.trust),
        main=config.project / lent.path if lent.path else None,
        main_names=lent.names,
    )


def _renamed(config: Config, light: slim.Slimmed) -> Config:
    """Follow files to their new names in the entries of the models: these name them as they lie in the project."""
    if not light.renamed or not config.notebook.models:
        return config
    old_names = {new: old for old, new in light.renamed}
    names = {each.original: old_names.get(each.original, each.original) for each in light.checkpoints}
    models = tuple(followed for spec in config.notebook.models for followed in _followed(spec, names))
    return replace(config, notebook=replace(config.notebook, models=models))


def _followed(spec: ModelSpec, names: Mapping[str, str]) -> tuple[ModelSpec, ...]:
    """Return an entry for each file that it named by its old name, or the entry itself where it still names them."""
    pattern = spec.files.removeprefix("./")
    meant = [new for new, old in names.items() if old == pattern or files.matches_glob(old, pattern)]
    if spec.origin or all(new == pattern or files.matches_glob(new, pattern) for new in meant):
        return (spec,)
    return tuple(replace(spec, files=new) for new in meant)
