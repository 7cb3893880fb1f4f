"""Which kit parts a notebook needs, and which datasets, models and notebook outputs hold them.

Kaggle mounts the newest version of a dataset even for an older notebook version, which can therefore
be submitted only while its datasets hold the parts that it needs.
"""

import ast
import re
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.retry import TransientError, retry_call
from offline_kit.kaggle.client.api_types import NotebookSources, RefusedError
from offline_kit.kaggle.client.calls import is_transient
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.notebook_equality import normalise_cells
from offline_kit.kaggle.push.poll_policy import GracePeriod, StatusLine, may_appear
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

FAILED_STATES = frozenset({"failed", "deleted"})
FINAL_STATES = FAILED_STATES | {"ready"}  # states of a dataset that do not change without another push
RESEND = "run 'offline-kit push --resend' to upload the same files as a new version (--resend-part NAME for one part)"
_SHOWN = 10
_ID = re.compile(r"[0-9a-f]{64}")
_MAX_MARKER = 64 << 20
_MAX_LOOK_BACK = 20  # versions of a notebook without output to skip


def parse_part_ids(text: str) -> dict[str, str]:
    """Return the part ids that a notebook needs, by part name; empty if the notebook is not ours."""
    for kind, source in normalise_cells(text):
        try:
            # Most cells of other notebooks are not even Python: magics, shell commands.
            statements = ast.parse(source).body if kind == "code" and "PARTS" in source else []
            for statement in statements:
                if isinstance(statement, ast.Assign) and "PARTS" in map(ast.unparse, statement.targets):
                    table: dict[str, str] = ast.literal_eval(statement.value)
                    # Whatever is not a table of ids raises TypeError or AttributeError.
                    if table and all(_ID.fullmatch(part_id) for part_id in table.values()):
                        return table
        except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return {}


@dataclass(frozen=True, kw_only=True)
class RemotePartState:
    """The state of a part's dataset, model or notebook on Kaggle; by default it does not exist."""

    ref: str
    version: int = 0  # 0 if there is none, for example because the first one failed
    state: str = ""  # processing state in lower case: "ready", "failed", ...; empty if there is no dataset
    private: bool = True
    part: KitPart | None = None  # what its marker file describes; None without a marker, or while not ready
    files: Mapping[str, int] = field(default_factory=dict)  # sizes by name, as Kaggle lists them
    url: str = ""
    kind: str = "dataset"  # "dataset", "model" or "notebook"
    version_notes: Mapping[int, str] = field(
        default_factory=dict
    )  # of a dataset, by version number; may be incomplete

    @property
    def exists(self) -> bool:
        """Whether the dataset exists, with or without a version."""
        return bool(self.version or self.state)


def map_listed_files(files: Mapping[str, int], known_paths: Collection[str]) -> dict[str, int]:
    """Return sizes by path; a bare name counts as the only known path that ends with it."""
    # Kaggle does not document whether listings contain paths or bare names.
    below: dict[str, list[str]] = {}
    for path in known_paths:
        below.setdefault(path.rpartition("/")[2], []).append(path)
    by_path = {}
    for name, size in files.items():
        paths = below.get(name, [])
        by_path[paths[0] if name not in known_paths and len(paths) == 1 else name] = size
    return by_path


def find_damage(part: KitPart, files: Mapping[str, int]) -> tuple[str, ...]:
    """Describe each file of the part that is missing on Kaggle or has another size."""
    kit_sizes = {entry.stored: entry.size for entry in part.entries}
    listed = map_listed_files(files, kit_sizes)
    missing = [f"'{name}' is missing" for name in sorted(kit_sizes.keys() - listed.keys())]
    other_sizes = [
        f"'{name}' has {listed[name]} bytes, not {size}"
        for name, size in sorted(kit_sizes.items())
        if name in listed and listed[name] != size
    ]
    return (*missing, *other_sizes)


def find_differences(part: KitPart, files: Mapping[str, int]) -> tuple[str, ...]:
    """Describe the damage, and each file on Kaggle that is not part of the kit."""
    kit_files = {entry.stored for entry in part.entries} | {MARKER}
    foreign_files = sorted(map_listed_files(files, kit_files).keys() - kit_files)
    return (*find_damage(part, files), *(f"'{name}' is not part of the kit" for name in foreign_files))


def inspect_part(location: str, kaggle: KaggleClient) -> RemotePartState:
    """Return the state of a part as a notebook would mount it, without waiting.

    `location` is a dataset's "owner/slug", "model:owner/model/framework/variation/version", with version 0 if none is
    pinned (then the newest counts), or "notebook:owner/slug", whose newest output counts.
    """
    kind, _, ref = location.rpartition(":")
    if kind == "notebook":
        return _inspect_notebook(ref, kaggle)
    if kind == "model":
        return _inspect_model(ref, kaggle)
    return _inspect_dataset(ref, kaggle)


def inspect_settled(location: str, context: PushContext, *, expected: bool = False) -> RemotePartState:
    """Return the state of a part, for a dataset after waiting while it is processed.

    If a new version is `expected`, wait until its files are listed. Raises OutsideError if any of it times out.
    """
    kaggle, poll_policy = context.kaggle, context.poll
    if ":" in location:
        return inspect_part(location, kaggle)
    if kaggle.get_dataset(location) is None:
        return RemotePartState(ref=location)
    listing_wait, hidden_wait = (GracePeriod(n * poll_policy.visibility_timeout) for n in (1, 2))

    def read_settled() -> RemotePartState:
        remote = inspect_part(location, kaggle)
        if remote.exists and remote.state not in FINAL_STATES:
            line.update_status(remote.state or "hidden")
            raise TransientError(f"it is in the state '{remote.state or 'hidden'}'")
        is_incomplete = expected and remote.part and find_damage(remote.part, remote.files)
        if is_incomplete and not listing_wait.is_over():
            line.update_status("not all of its files are visible yet")
            raise TransientError("not all of its files are visible yet")
        return remote

    def may_pass(error: Exception) -> bool:
        return may_appear(error, line.update_status) and (is_transient(error) or not hidden_wait.is_over())

    with StatusLine(context.report, f"{context.server_name} processes '{location}'") as line:
        return retry_call(
            read_settled,
            poll_policy.until_processed,
            may_pass=may_pass,
            give_up=lambda trouble: build_not_ready_error(location, trouble),
        )


def build_not_ready_error(ref: str, trouble: Exception) -> OutsideError:
    """Return the error for a dataset or a variation of a model that is processed for too long."""
    return OutsideError(
        f"'{ref}' was not ready in time: {trouble}",
        code="model-not-ready" if ref.count("/") > 1 else "dataset-not-ready",
        hint="run the same command again later: it continues to wait, and nothing is sent twice",
    )


def _inspect_dataset(ref: str, kaggle: KaggleClient) -> RemotePartState:
    dataset = kaggle.get_dataset(ref)
    if dataset is None:
        return RemotePartState(ref=ref)
    version, state = dataset.version, kaggle.get_dataset_status(ref)
    remote = RemotePartState(
        ref=ref,
        version=version,
        state=state,
        private=dataset.private,
        url=dataset.url,
        version_notes=dataset.version_notes,
    )
    if state != "ready":
        return remote
    files = kaggle.list_dataset_files(ref, version)
    part = _read_dataset_part(kaggle, ref, files)
    if part and (damage := find_damage(part, files)):
        # Kaggle's flat listing may lack files below folders; the listing by folder has them.
        try:
            deeper = kaggle.list_dataset_files(ref, version, by_folder=True)
        except RefusedError as refusal:
            if refusal.is_temporary:
                raise
        else:
            files = deeper if len(find_damage(part, deeper)) < len(damage) else files
    return replace(remote, part=part, files=files)


def _read_dataset_part(kaggle: KaggleClient, ref: str, files: Collection[str]) -> KitPart | None:
    # A notebook mounts the current version, so no version number is requested.
    return _read_marker(ref, files, lambda path: kaggle.download_dataset_file(ref, None, MARKER, path))


def _read_marker(ref: str, names: Collection[str], download: Callable[[Path], int]) -> KitPart | None:
    """Return the part that the marker among some files describes; None without a valid one."""
    if MARKER not in names:
        return None
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        if download(path) > _MAX_MARKER:
            return None
        try:
            content = path.read_bytes()
            # Kaggle zips some downloads, such as large text files.
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as wrapped:
                    content = wrapped.read(wrapped.namelist()[0])
            return manifest.parse_manifest(content.decode("utf-8"), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError, zipfile.BadZipFile):
            return None


def _inspect_model(location: str, kaggle: KaggleClient) -> RemotePartState:
    ref, _, pinned = location.rpartition("/")
    model = kaggle.get_model("/".join(ref.split("/")[:2]))
    if model is None:
        return RemotePartState(kind="model", ref=ref)
    remote = RemotePartState(kind="model", ref=ref, private=model.private, url=model.url)
    newest = kaggle.get_model_version(ref)
    version = int(pinned) or newest
    if not version or version > newest:
        return remote
    files = kaggle.list_model_files(ref, version)
    part = _read_marker(ref, files, lambda path: kaggle.download_model_file(ref, version, MARKER, path))
    return replace(remote, version=version, state="ready" if files else "empty", part=part, files=files)


def _inspect_notebook(ref: str, kaggle: KaggleClient) -> RemotePartState:
    notebook = kaggle.get_notebook(ref)
    if notebook is None:
        return RemotePartState(kind="notebook", ref=ref)
    remote = RemotePartState(kind="notebook", ref=ref, private=notebook.private, url=notebook.url)
    newest = notebook.newest_version
    # The newest version with a complete run is mounted.
    for version in range(newest, max(0, newest - _MAX_LOOK_BACK), -1):
        run = kaggle.get_notebook_run(ref, version)
        if run and run.state == "complete":
            break
    else:
        run = kaggle.get_notebook_run(ref, newest)
        return replace(remote, version=newest, state=run.state if run else "hidden")
    names = kaggle.list_run_outputs(ref, version)
    part = _read_marker(ref, names, lambda path: kaggle.download_run_output(ref, version, MARKER, path))
    # Kaggle does not list the sizes of outputs: those of the marker are used. Other outputs, such as the log, do not count.
    sizes = {MARKER: 0, **({entry.stored: entry.size for entry in part.entries} if part else {})}
    files = {name: sizes[name] for name in names if name in sizes}
    return replace(remote, version=version, state="ready", part=part, files=files)


def find_missing_parts(
    parts: Mapping[str, str], sources: NotebookSources, context: PushContext
) -> dict[str, str]:
    """Return the parts (id by name) that none of a notebook's sources holds.

    Waits for own datasets that are being processed; raises OutsideError if that takes too long.
    """
    missing = dict(parts)
    for part in _read_attached_parts(sources, context):
        if part:
            missing = {name: part_id for name, part_id in missing.items() if part_id != part.id}
        if not missing:
            break
    return missing


def _read_attached_parts(sources: NotebookSources, context: PushContext) -> Iterator[KitPart | None]:
    kaggle = context.kaggle
    username = kaggle.fetch_account().username.lower()
    for ref in sources.datasets:
        if ref.partition("/")[0].lower() == username:
            yield inspect_settled(ref, context).part
            continue
        try:  # someone else's, such as a teammate's: not waited for
            yield _read_dataset_part(kaggle, ref, kaggle.list_dataset_files(ref))
        except RefusedError as refusal:
            if refusal.is_temporary:
                raise
    for source in sources.models:
        if re.fullmatch(r"([^/]+/){4}\d+", source):
            yield inspect_part(f"model:{source}", kaggle).part
    for source in sources.notebooks:
        yield inspect_part(f"notebook:{'/'.join(source.split('/')[:2])}", kaggle).part


def build_incomplete_error(ref: str, version: int, wrong: Sequence[str]) -> OutsideError:
    """Return the error for a version that has a part's marker but not all of its files."""
    return OutsideError(
        f"version {version} of '{ref}' has this kit's marker, but not all of its files",
        code="dataset-incomplete",
        hint=f"check its page, then {RESEND}",
        details=wrong[:_SHOWN],
    )
