"""Which kit parts a notebook needs, and which datasets, models and notebook outputs hold them.

Kaggle mounts the newest version of a dataset even for an older notebook version, which can therefore
be submitted only while its datasets hold the parts that it needs.
"""

import ast
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.retry import TransientError, retry_call
from offline_kit.kaggle.client.api_types import NotebookSources, RefusedError, RemoteDataset, RemoteFile
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push.journal import PushContext
from offline_kit.kaggle.push.notebook_equality import normalise_cells
from offline_kit.kaggle.push.poll_policy import StatusLine, ignore_transient
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
    sources = [source for kind, source in normalise_cells(text) if kind == "code"]
    for source in sources:
        try:
            # Most cells of other notebooks are not even Python: magics, shell commands.
            statements = ast.parse(source).body if "PARTS" in source else []
            for statement in statements:
                if isinstance(statement, ast.Assign) and "PARTS" in map(ast.unparse, statement.targets):
                    table: dict[str, str] = ast.literal_eval(statement.value)
                    # Whatever is not a table of ids raises TypeError or AttributeError.
                    if table and all(
                        _ID.fullmatch(part_id) and name.strip() for name, part_id in table.items()
                    ):
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
    part: KitPart | None = None
    """The part that its marker file describes; None without a marker, or while not ready."""
    files: tuple[RemoteFile, ...] = ()
    url: str = ""
    kind: str = "dataset"  # "dataset", "model" or "notebook"

    @property
    def exists(self) -> bool:
        """Whether the dataset exists, with or without a version."""
        return bool(self.version or self.state)


def map_listed_files(files: Iterable[RemoteFile], known_paths: Collection[str]) -> dict[str, RemoteFile]:
    """Return files by path; a bare name counts as the only known path that ends with it."""
    # Kaggle does not document whether listings contain paths or bare names.
    below: dict[str, list[str]] = {}
    for path in known_paths:
        below.setdefault(path.rpartition("/")[2], []).append(path)
    by_path = {}
    for file in files:
        paths = below.get(file.name, [])
        by_path[paths[0] if file.name not in known_paths and len(paths) == 1 else file.name] = file
    return by_path


def find_damage(part: KitPart, files: Iterable[RemoteFile]) -> tuple[str, ...]:
    """Describe each file of the part that is missing on Kaggle or has another size."""
    kit_sizes = {entry.stored: entry.size for entry in part.entries}
    listed = map_listed_files(files, kit_sizes)
    missing = [f"'{name}' is missing" for name in sorted(kit_sizes.keys() - listed.keys())]
    other_sizes = [
        f"'{name}' has {listed[name].size} bytes, not {size}"
        for name, size in sorted(kit_sizes.items())
        if name in listed and listed[name].size != size
    ]
    return (*missing, *other_sizes)


def find_differences(part: KitPart, files: Iterable[RemoteFile]) -> tuple[str, ...]:
    """Describe the damage, and each file on Kaggle that is not part of the kit."""
    files = tuple(files)
    kit_files = {entry.stored for entry in part.entries} | {MARKER}
    foreign_files = sorted(map_listed_files(files, kit_files).keys() - kit_files)
    return (*find_damage(part, files), *(f"'{name}' is not part of the kit" for name in foreign_files))


def inspect_dataset(ref: str, context: PushContext, *, expected: bool = False) -> RemotePartState:
    """Return a dataset's state, after waiting while it is being processed.

    If a new version is `expected`, wait until its files are listed. Raises OutsideError if any
    of it times out.
    """
    kaggle, poll_policy = context.kaggle, context.poll
    if kaggle.get_dataset(ref) is None:
        return RemotePartState(ref=ref)
    with StatusLine(context.report, f"{context.server_name} processes '{ref}'") as line:

        def read_state() -> str:
            state = kaggle.get_dataset_status(ref)
            if state not in FINAL_STATES:
                line.update_status(state or "hidden")
                raise TransientError(f"it is in the state '{state or 'hidden'}'")
            return state

        state = retry_call(
            ignore_transient(read_state, line.update_status),
            poll_policy.until_processed,
            give_up=lambda trouble: build_not_ready_error(ref, trouble),
        )
        dataset = kaggle.get_dataset(ref)
        if dataset is None:
            return RemotePartState(ref=ref)
        until = time.monotonic() + poll_policy.visibility_timeout if expected else 0.0

        def read_files() -> RemotePartState:
            remote = read_dataset(kaggle, dataset, state)
            if remote.part and find_damage(remote.part, remote.files) and time.monotonic() < until:
                line.update_status("not all of its files are visible yet")
                raise TransientError("not all of its files are visible yet")
            return remote

        return retry_call(
            ignore_transient(read_files, line.update_status),
            poll_policy.retry_policy(2 * poll_policy.visibility_timeout),
        )


def build_not_ready_error(ref: str, trouble: Exception) -> OutsideError:
    """Return the error for a dataset or a variation of a model that is processed for too long."""
    return OutsideError(
        f"'{ref}' was not ready in time: {trouble}",
        code="model-not-ready" if ref.count("/") > 1 else "dataset-not-ready",
        hint="run the same command again later: it continues to wait, and nothing is sent twice",
    )


def read_dataset(kaggle: KaggleClient, dataset: RemoteDataset, state: str) -> RemotePartState:
    """Return a dataset with the files and the part of its current version, if that is ready; waits for nothing."""
    remote = RemotePartState(
        ref=dataset.ref, version=dataset.version, state=state, private=dataset.private, url=dataset.url
    )
    if state != "ready":
        return remote
    files = kaggle.list_dataset_files(dataset.ref, dataset.version)
    part = _read_dataset_part(kaggle, dataset.ref, files)
    if part and (damage := find_damage(part, files)):
        # Kaggle's flat listing may lack files below folders; the listing by folder has them.
        try:
            deeper = kaggle.list_dataset_files(dataset.ref, dataset.version, by_folder=True)
        except RefusedError as refusal:
            if refusal.is_temporary:
                raise
        else:
            files = deeper if len(find_damage(part, deeper)) < len(damage) else files
    return replace(remote, part=part, files=files)


def _read_dataset_part(kaggle: KaggleClient, ref: str, files: Iterable[RemoteFile]) -> KitPart | None:
    if not any(file.name == MARKER for file in files):
        return None
    # A notebook mounts the current version, so no version number is requested.
    return _read_marker(ref, lambda path: kaggle.download_dataset_file(ref, None, MARKER, path))


def _read_marker(ref: str, download: Callable[[Path], int], *, may_be_hidden: bool = False) -> KitPart | None:
    """Return the part that a marker describes; None if the marker is invalid, or hidden although it is listed."""
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        try:
            if download(path) > _MAX_MARKER:
                return None
            content = path.read_bytes()
            # Kaggle zips some downloads, such as large text files.
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as wrapped:
                    content = wrapped.read(wrapped.namelist()[0])
            return manifest.parse_manifest(content.decode("utf-8"), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError, zipfile.BadZipFile):
            return None
        except RefusedError as refusal:
            if not may_be_hidden or refusal.status != 404:
                raise
            return None


def read_model_part(
    kaggle: KaggleClient, ref: str, version: int, files: Iterable[RemoteFile] | None = None
) -> KitPart | None:
    """Return the part in a version of "owner/model/framework/variation", None if it holds none."""
    files = kaggle.list_model_files(ref, version) if files is None else files
    if not any(file.name == MARKER for file in files):
        return None
    return _read_marker(
        ref, lambda path: kaggle.download_model_file(ref, version, MARKER, path), may_be_hidden=True
    )


def read_notebook_part(kaggle: KaggleClient, ref: str, version: int | None = None) -> KitPart | None:
    """Return the part in the output of "owner/slug", None if it holds none; by default in the attached version."""
    if version is None:
        notebook = kaggle.get_notebook(ref)
        version = find_attached_version(kaggle, ref, notebook.newest_version) if notebook else 0
    if not version or MARKER not in kaggle.list_run_outputs(ref, version):
        return None
    return _read_marker(
        ref, lambda path: kaggle.download_run_output(ref, version, MARKER, path), may_be_hidden=True
    )


def find_attached_version(kaggle: KaggleClient, ref: str, newest: int) -> int:
    """Return the version of "owner/slug" whose output is mounted: the newest with a complete run; 0 for none."""
    for version in range(newest, max(0, newest - _MAX_LOOK_BACK), -1):
        run = kaggle.get_notebook_run(ref, version)
        if run and run.state == "complete":
            return version
    return 0


def inspect_part(part: KitPart, location: str, kaggle: KaggleClient) -> RemotePartState:
    """Return the state of a part as a notebook would mount it, without waiting.

    `location` is a dataset's "owner/slug", "model:owner/model/framework/variation/version", with version 0 if none is
    pinned (then the newest counts), or "notebook:owner/slug", whose newest output counts.
    """
    kind, _, ref = location.rpartition(":")
    if kind == "notebook":
        return _inspect_notebook(part, ref, kaggle)
    if kind == "model":
        variation, _, pinned = ref.rpartition("/")
        return inspect_model(variation, kaggle, pinned=int(pinned))
    dataset = kaggle.get_dataset(ref)
    if dataset is None:
        return RemotePartState(ref=ref)
    return read_dataset(kaggle, dataset, kaggle.get_dataset_status(ref))


def inspect_model(ref: str, kaggle: KaggleClient, *, pinned: int = 0) -> RemotePartState:
    """Return the state of a version of "owner/model/framework/variation", by default the newest."""
    model = kaggle.get_model("/".join(ref.split("/")[:2]))
    if model is None:
        return RemotePartState(kind="model", ref=ref)
    remote = RemotePartState(kind="model", ref=ref, private=model.private, url=model.url)
    newest = kaggle.get_model_version(ref)
    version = pinned or newest
    if not version or version > newest:
        return remote
    files = kaggle.list_model_files(ref, version)
    part = read_model_part(kaggle, ref, version, files)
    return replace(remote, version=version, state="ready" if files else "empty", part=part, files=files)


def _inspect_notebook(part: KitPart, ref: str, kaggle: KaggleClient) -> RemotePartState:
    notebook = kaggle.get_notebook(ref)
    if notebook is None:
        return RemotePartState(kind="notebook", ref=ref)
    remote = RemotePartState(kind="notebook", ref=ref, private=notebook.private, url=notebook.url)
    version = find_attached_version(kaggle, ref, notebook.newest_version)
    if not version:
        run = kaggle.get_notebook_run(ref, notebook.newest_version)
        return replace(remote, version=notebook.newest_version, state=run.state if run else "hidden")
    held_part = read_notebook_part(kaggle, ref, version)
    # Kaggle does not list the sizes of outputs: those of the marker are used; `deep` compares digests.
    sizes = {entry.stored: entry.size for entry in part.entries}
    if held_part:
        sizes |= {entry.stored: entry.size for entry in held_part.entries}
    sizes[MARKER] = 0
    # The output may contain other files besides the part, such as the log.
    names = [name for name in kaggle.list_run_outputs(ref, version) if name in sizes]
    files = tuple(RemoteFile(name=name, size=sizes[name]) for name in names)
    return replace(remote, version=version, state="ready", part=held_part, files=files)


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
        is_own = ref.partition("/")[0].lower() == username
        yield inspect_dataset(ref, context).part if is_own else _read_foreign_part(kaggle, ref)
    for source in sources.models:
        ref, _, version = source.rpartition("/")
        if ref.count("/") == 3 and version.isdecimal():
            yield read_model_part(kaggle, ref, int(version))
    for source in sources.notebooks:
        yield read_notebook_part(kaggle, "/".join(source.split("/")[:2]))


def _read_foreign_part(kaggle: KaggleClient, ref: str) -> KitPart | None:
    """Return the part in someone else's dataset, such as a teammate's, without waiting for it."""
    try:
        return _read_dataset_part(kaggle, ref, kaggle.list_dataset_files(ref))
    except RefusedError as refusal:
        if refusal.is_temporary:
            raise
        return None


def build_incomplete_error(ref: str, version: int, wrong: Sequence[str]) -> OutsideError:
    """Return the error for a version that has a part's marker but not all of its files."""
    return OutsideError(
        f"version {version} of '{ref}' has this kit's marker, but not all of its files",
        code="dataset-incomplete",
        hint=f"check its page, then {RESEND}",
        details=wrong[:_SHOWN],
    )
