"""Render the notebook of a kit, and the metadata that Kaggle needs with it.

The output depends only on the arguments and on the version of this package: no time, no local path, and cell
ids from the cells' titles.
"""

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit import __version__
from offline_kit.checkpoints.main_aliases import NO_ALIASES, MainAliases
from offline_kit.core import files
from offline_kit.core.errors import UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook import predict_settings, scripts
from offline_kit.project import kaggle_names
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.images import Image
from offline_kit.project.kaggle_names import (
    SOURCES,
    TITLE_LENGTH,
    check_slug,
    check_title,
    is_source_reference,
    make_slug,
)
from offline_kit.project.types import FileEntry, Kit, KitPart, Member, NotebookSettings, Role

CODE_FILE, SCRIPT_FILE = "inference.ipynb", "inference.py"
METADATA_FILE = "kernel-metadata.json"
RENDERED_FILE = "rendered.sha256"
"""Beside the notebook: the digest of its cells as they were rendered, by which an edited one is known."""
_EDITED = "inference.edited"  # prefix of the file names under which edited notebooks are kept
NEEDED = {"lightning": ("model", "data"), "function": ("function",), "server": ("function",)}
"""The settings that a built-in template cannot do without."""


@dataclass(frozen=True, kw_only=True)
class NotebookTarget:
    """What the notebook belongs to, and where it will run."""

    project: Path  # the project's folder; a template of the user's is looked up below it
    name: str = ""  # the project's name; empty takes the folder's
    version: str = ""
    competition: str = ""
    dataset: str = ""  # the kit's dataset, "slug" or "owner/slug"; split kits add the part's name
    time_limit: int = 9 * 3600  # seconds of a session
    accelerator: str = "none"  # "none" (CPU), one of Kaggle's machine shapes, or an alias of one
    members: tuple[Member, ...] = ()
    lent: MainAliases = NO_ALIASES
    """The names of `__main__` that pickles look up, and the file that gives them."""
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    """Paths in the kit by the name that cells use: "scaler.joblib"."""
    part_locations: Mapping[str, str] = field(default_factory=dict)
    """Where parts of the kit are that are no datasets, by the part's name: "notebook:owner/slug", "model:..."."""

    @property
    def project_name(self) -> str:
        """The project's name on one line."""
        return " ".join((self.name or self.project.resolve().name).split())


@dataclass(frozen=True, kw_only=True)
class RenderedNotebook:
    """A notebook's JSON and its metadata, ready to be written."""

    text: str
    metadata: Mapping[str, Any]
    """The content of kernel-metadata.json; its `id` and dataset lack the owner until the push knows it."""

    @property
    def code_file(self) -> str:
        """The name of the notebook's or script's file."""
        return str(self.metadata["code_file"])

    def file_texts(self) -> dict[str, str]:
        """Return the files by name."""
        return {
            METADATA_FILE: json.dumps(self.metadata, indent=2) + "\n",
            self.code_file: self.text,
            RENDERED_FILE: _cells_digest(self.text) + "\n",
        }

    def write_files(self, folder: Path, report: Reporter = SILENT) -> Path:
        """Write the files into the folder, keep edited notebooks, and return the notebook's path."""
        # A folder of the user's may hold files of these names that are not ours.
        is_ours, old_code = (folder / RENDERED_FILE).is_file(), _find_code_file(folder)
        for name, text in (self.file_texts() | keep_edited(folder, self, report)).items():
            files.write_atomic(folder / name, text)
        if is_ours and old_code != self.code_file:
            files.remove_path(folder / old_code)
        return folder / self.code_file


def remove_stale_code(folder: Path, settings: NotebookSettings) -> None:
    """Remove from a kit's folder the notebook or script that was rendered before `kernel_type` changed."""
    files.remove_path(folder / (CODE_FILE if settings.is_script else SCRIPT_FILE))


def _find_code_file(folder: Path) -> str:
    """Return the name of the notebook or script that was rendered to a folder."""
    try:
        name = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))["code_file"]
    except (OSError, ValueError, KeyError, TypeError):
        return CODE_FILE
    return SCRIPT_FILE if name == SCRIPT_FILE else CODE_FILE


def keep_edited(folder: Path, rendered: RenderedNotebook, report: Reporter = SILENT) -> dict[str, str]:
    """Return the edited notebooks in `folder`, the one that `rendered` would replace included, by the names to keep."""
    # Saving a notebook in Jupyter, or running it, is no edit: only the cells count.
    copies = {path.name: _read_text(path) for path in sorted(folder.glob(f"{_EDITED}*"))}
    code_file = _find_code_file(folder)  # after a change of `kernel_type` not the name of the new one
    text, recorded = _read_text(folder / code_file), _read_text(folder / RENDERED_FILE).strip()
    # A copy that is kept already is not kept twice.
    unedited = ("", recorded, _cells_digest(rendered.text), *map(_cells_digest, copies.values()))
    if not (text and recorded) or _cells_digest(text) in unedited:
        return copies
    suffix = Path(code_file).suffix
    name = f"{_EDITED}{suffix}"
    while name in copies:
        name = f"{_EDITED}-{len(copies) + 1}{suffix}"
    report.warn(
        f"'{code_file}' was edited after it was rendered; your version is kept as '{folder / name}'. To use it"
        f" once, copy it over '{code_file}' and run 'offline-kit push --no-build'; to use it from now on, copy it"
        f' into the project and set source = "{name}" instead of a template in [tool.offline-kit.notebook]'
    )
    return copies | {name: text}


def is_edited(folder: Path) -> bool:
    """Return whether the notebook in `folder` has other cells than were rendered."""
    text, recorded = _read_text(folder / _find_code_file(folder)), _read_text(folder / RENDERED_FILE).strip()
    return bool(text and recorded) and _cells_digest(text) != recorded


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cells_digest(text: str) -> str:
    """Return the SHA-256 of a notebook's cells without outputs, or of the text if it is no notebook."""
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def render_notebook(
    kit: Kit, settings: NotebookSettings, image: Image, target: NotebookTarget, *, report: Reporter = SILENT
) -> RenderedNotebook:
    """Render the notebook of a kit; raises UsageError for bad settings, ProjectError for a bad template of the user."""
    report.step(f"Rendering the notebook from the template '{settings.template}'")
    metadata = kernel_metadata(kit, settings, image, target)
    script = scripts.fill_template(
        settings.template, target.project, template_facts(kit, settings, image, target, metadata["title"])
    )
    # A percent script is plain Python: its markers and Markdown cells are comments.
    return RenderedNotebook(
        text=script if settings.is_script else scripts.to_notebook(script), metadata=metadata
    )


def check_rendering(
    settings: NotebookSettings, image: Image, target: NotebookTarget, *, weights: bool
) -> None:
    """Raise what `render_notebook` would raise for any kit (`weights`: with checkpoints), before hours of downloads."""
    # A draft of a kit: the checks only ask whether there are checkpoints.
    entries = (
        FileEntry(role=Role.CHECKPOINT, original="checkpoints/x", stored="checkpoints/x", size=0, sha256=""),
    )
    draft = Kit(folder=target.project, id="", parts=(KitPart(name="kit", id="", entries=entries * weights),))
    title = kernel_metadata(draft, settings, image, target)["title"]
    if settings.source:
        return
    scripts.check_template(settings.template, target.project)
    facts = template_facts(draft, settings, image, target, title)
    if settings.template not in scripts.built_in_templates():
        scripts.fill_template(settings.template, target.project, facts)


def template_facts(
    kit: Kit, settings: NotebookSettings, image: Image, target: NotebookTarget, title: str
) -> dict[str, Any]:
    """Return the variables that a template can use; raises UsageError for settings it cannot work with."""
    entries = [entry for part in kit.parts for entry in part.entries]
    weights = [entry for entry in entries if entry.role is Role.CHECKPOINT]
    _check_settings(settings, has_weights=bool(weights))
    predicts = predict_settings.predict_facts(settings, target.members, target.preprocessing, target.project)
    return {
        "title": title,
        "project": f"{target.project_name} {target.version}".strip(),
        "tool_version": __version__,
        "image": image,
        "accelerator": find_machine_shape(target.accelerator) or "none",
        "competition": target.competition,
        "settings": settings,
        "time_limit": target.time_limit,
        "kit_id": kit.id,
        "parts": kit.parts,
        "lent": target.lent,
        "part_ids": {part.name: part.id for part in kit.parts},
        "runtime_part": next(
            (part.id for part in kit.parts for entry in part.entries if entry.role is Role.RUNTIME), ""
        ),
        "packages": _package_names(entries),
        "checkpoints": [
            f"`{entry.original.partition('/')[2]}` ({files.format_size(entry.size)})" for entry in weights
        ],
        **predicts,
    }


def _check_settings(settings: NotebookSettings, *, has_weights: bool) -> None:
    missing = [name for name in NEEDED.get(settings.template, ()) if not getattr(settings, name)]
    if missing and not (settings.template == "server" and settings.models):
        raise UsageError(
            f"the template '{settings.template}' needs {' and '.join(map(repr, missing))}",
            code="template-setting-missing",
            hint=f'set {missing[0]} = "package.module:Name" or "file.py:Name" in [tool.offline-kit.notebook]',
        )
    if not re.fullmatch(r"[\w-][\w.-]*", settings.submission):
        raise UsageError(
            f"submission = '{settings.submission}' is not a plain file name",
            code="submission-name-invalid",
            hint="write only the name, such as 'submission.csv': it goes into Kaggle's output folder",
        )
    # TOML has dates, inf and nan, which Python's source has no literal for.
    for params in (settings.params, *(model.params for model in settings.models)):
        for name, value in params.items():
            try:
                is_literal = ast.literal_eval(repr(value)) == value
            except (ValueError, SyntaxError):
                is_literal = False
            if not is_literal:
                raise UsageError(
                    f"the param '{name}' has a value that a notebook cannot hold: {value!r}",
                    code="param-not-literal",
                    hint="use strings, whole and decimal numbers, true and false, lists and tables",
                )
    if settings.template == "lightning" and not has_weights:
        raise UsageError(
            "the template 'lightning' needs a checkpoint, and the kit has none",
            code="checkpoint-missing",
            hint="name one with `checkpoints` (-c), or use the template 'function'",
        )


def _check_time_reserve(settings: NotebookSettings, time_limit: int) -> None:
    reason = ""
    if settings.source:
        reason = "a notebook of your own decides itself when to stop"
    elif settings.template == "plain":
        reason = "the template predicts nothing"
    elif settings.template == "server" and not settings.function:
        reason = "a server of models answers every batch"
    elif settings.time_reserve >= time_limit:
        reason = f"it is not less than the {time_limit} s of `time_limit`"
    if settings.time_reserve and reason:
        raise UsageError(
            f"`time_reserve` has no effect: {reason}",
            code="time-reserve-without-effect",
            hint="remove it from [tool.offline-kit.notebook], or correct `time_limit`",
        )


def _package_names(entries: Sequence[FileEntry]) -> list[str]:
    names = set()
    for entry in entries:
        if entry.role in (Role.WHEEL, Role.SDIST):
            name, _, rest = entry.original.rpartition("/")[2].partition("-")
            version = rest.partition("-")[0].removesuffix(".tar.gz").removesuffix(".zip")
            if version:  # a name without a version says nothing
                names.add(f"{name.replace('_', '-').lower()} {version}")
    return sorted(names)


def kernel_metadata(
    kit: Kit, settings: NotebookSettings, image: Image, target: NotebookTarget
) -> dict[str, Any]:
    """Return the content of kernel-metadata.json; raises UsageError for what Kaggle would refuse."""
    # Only the push knows the owner: `id` is the bare slug, and the datasets are as configured.
    _check_time_reserve(settings, target.time_limit)
    title, slug = title_and_slug(settings, target)
    shape = find_machine_shape(target.accelerator)
    parts = [part for part in kit.parts if part.name not in target.part_locations]
    datasets = [part_dataset(part, kit, target.dataset) for part in parts] if target.dataset else []
    competitions = [target.competition] if target.competition else []
    if slug in {dataset.rpartition("/")[2] for dataset in datasets}:
        raise UsageError(
            f"the notebook and the dataset would both be called '{slug}', which Kaggle refuses",
            code="notebook-name-conflict",
            hint="give the notebook another `slug` or `title` in [tool.offline-kit.notebook]",
        )
    _check_names(datasets, competitions)
    _check_sources(settings)
    # A part in a Kaggle Model has its version at the push only, and is attached there.
    locations = [location.partition(":") for location in target.part_locations.values()]
    notebooks = [ref for kind, _, ref in locations if kind == "notebook"]
    metadata: dict[str, Any] = {
        "id": slug,
        "title": title,
        "code_file": SCRIPT_FILE if settings.is_script else CODE_FILE,
        "language": "python",
        "kernel_type": "script" if settings.is_script else "notebook",
        "is_private": True,
        "enable_gpu": bool(shape),
        "enable_tpu": False,
        # Competitions with code refuse notebooks that have the internet on.
        "enable_internet": False,
        "keywords": [],
        "dataset_sources": list(dict.fromkeys([*datasets, *settings.dataset_sources])),
        "competition_sources": list(dict.fromkeys([*competitions, *settings.competition_sources])),
        "kernel_sources": list(dict.fromkeys([*settings.kernel_sources, *notebooks])),
        "model_sources": list(settings.model_sources),
    }
    if shape:
        metadata["machine_shape"] = shape
    if settings.pin_image:
        # Without a digest Kaggle runs its newest image, whatever the kit was made for; it takes only its own images.
        if not image.digest.startswith("gcr.io/kaggle-"):
            raise UsageError(
                f"`pin_image` is set, but no digest is known at Kaggle for the image '{image.name}'",
                code="image-digest-unknown",
                hint="remove `pin_image`, or use an image file with its digest, as 'offline-kit image capture' writes it",
            )
        metadata |= {"docker_image": image.digest, "docker_image_pinning_type": "original"}
    return metadata


def part_dataset(part: KitPart, kit: Kit, dataset: str) -> str:
    """Return the dataset of a part: the configured one, or with the part's name behind it in a split kit."""
    return dataset if len(kit.parts) == 1 or part.name == "kit" else f"{dataset}-{part.name}"


def title_and_slug(settings: NotebookSettings, target: NotebookTarget) -> tuple[str, str]:
    """Return the notebook's title and slug; one follows from the other, as on Kaggle."""
    suffix = " inference"
    title = settings.title.strip() or settings.slug.replace("-", " ")
    title = title or target.project_name[: TITLE_LENGTH[1] - len(suffix)].strip() + suffix
    slug = settings.slug or make_slug(title)
    problems = [*check_title(title), *check_slug(slug)]
    if not problems and make_slug(title) != slug:
        problems = [f"the title '{title}' makes the slug '{make_slug(title)}' on Kaggle, not '{slug}'"]
    if problems:
        raise UsageError(
            "Kaggle would refuse the notebook's name",
            code="notebook-name-invalid",
            hint="set `title` in [tool.offline-kit.notebook] and leave `slug` out: it follows",
            details=problems,
        )
    return title, slug


def _check_names(datasets: list[str], competitions: list[str]) -> None:
    problems = [line for dataset in datasets for line in check_slug(dataset.rpartition("/")[2])]
    problems += [
        f"the competition '{slug}' is no slug"
        for slug in competitions
        if not re.fullmatch(r"[a-z0-9-]+", slug)
    ]
    problems += [
        f"the dataset '{name}' is not 'slug' or 'owner/slug'" for name in datasets if name.count("/") > 1
    ]
    if problems:
        raise UsageError(
            "Kaggle would refuse the name of the dataset or the competition",
            code="kaggle-name-invalid",
            hint="set `dataset` (--dataset) and `competition` (--competition) to what stands in their addresses",
            details=problems,
        )


def _check_sources(settings: NotebookSettings) -> None:
    # Anything else Kaggle's client refuses, or worse, leaves out with a printed line.
    problems = []
    for kind, key in (*kaggle_names.METADATA_KEYS.items(), ("competition", "competition_sources")):
        for source in getattr(settings, key):
            # Of a notebook a version may be named, whose output is attached.
            bare = re.sub(r"(?<=[^/])/[1-9][0-9]*$", "", source) if kind == "notebook" else source
            if not is_source_reference(kind, source) and not is_source_reference(kind, bare):
                problems.append(f"{key}: '{source}' is not of the form '{SOURCES[kind][1]}'")
    if problems:
        raise UsageError(
            "Kaggle would refuse sources of the notebook",
            code="source-invalid",
            hint="correct them in [tool.offline-kit.notebook]; addresses and prefixes such as 'datasets/' are not taken",
            details=problems,
        )
