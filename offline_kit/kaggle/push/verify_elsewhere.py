"""Parts that lie in no dataset against the kit: the pinned version of a model, the output of a notebook."""

from collections.abc import Iterator
from dataclasses import replace

from offline_kit.kaggle.client.api_types import KaggleApi, RemoteFile
from offline_kit.kaggle.push import parts_elsewhere
from offline_kit.kaggle.push.dataset_plan import RemotePart
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import KitPart

PUSH = "run 'offline-kit push': it makes a version that holds this kit, and has the notebook attach it"
MAKE = "run 'offline-kit build' with the --on that made the packages, and --upgrade: it makes them there anew"


def inspect_part(part: KitPart, home: str, kaggle: KaggleApi) -> RemotePart:
    """Return what a notebook would get of a part; waits for nothing.

    `home` is "model:owner/model/framework/variation/version", with version 0 where none is pinned (then the
    newest is looked at), or "notebook:owner/slug", of which the newest output counts.
    """
    kind, _, ref = home.partition(":")
    return _inspect_model(ref, kaggle) if kind == "model" else _inspect_notebook(part, ref, kaggle)


def _inspect_model(source: str, kaggle: KaggleApi) -> RemotePart:
    ref, _, pinned = source.rpartition("/")
    missing = RemotePart(kind="model", ref=ref)
    model = kaggle.get_model("/".join(ref.split("/")[:2]))
    if model is None:
        return missing
    newest = kaggle.get_model_version(ref)
    version = int(pinned) or newest
    remote = replace(missing, private=model.private, url=model.url)
    if not version or version > newest:
        return remote
    files = kaggle.list_model_files(ref, version)
    part = parts_elsewhere.read_model_part(kaggle, ref, version)
    state = "ready" if files else "empty"
    return replace(remote, version=version, state=state, part=part, files=files)


def _inspect_notebook(part: KitPart, ref: str, kaggle: KaggleApi) -> RemotePart:
    missing = RemotePart(kind="notebook", ref=ref)
    notebook = kaggle.get_notebook(ref)
    if notebook is None:
        return missing
    remote = replace(missing, private=notebook.private, url=notebook.url)
    version = parts_elsewhere.find_attached_version(kaggle, ref, notebook.newest_version)
    if not version:
        run = kaggle.get_notebook_run(ref, notebook.newest_version)
        return replace(remote, version=notebook.newest_version, state=run.state if run else "hidden")
    held_part = parts_elsewhere.read_output_part(kaggle, ref, version)
    # Beside the part, a run leaves its log and what it wrote for us; none of it is in anybody's way.
    # Sizes of outputs Kaggle does not tell: the marker's stand for them, and whoever downloads sees the bytes.
    sizes = {
        entry.stored: entry.size
        for known_part in (part, held_part)
        if known_part
        for entry in known_part.entries
    } | {MARKER: 0}
    names = [name for name in kaggle.list_run_outputs(ref, version) if name in sizes]
    files = tuple(RemoteFile(name=name, size=sizes[name]) for name in names)
    return replace(remote, version=version, state="ready", part=held_part, files=files)


def find_problems(part: KitPart, home: str, remote: RemotePart) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a version as a whole, with what to do about it."""
    ref, number, remedy = f"'{remote.ref}'", remote.version, suggest_fix(remote)
    noun = "version of the model" if remote.kind == "model" else "notebook"
    pinned = int(home.rpartition("/")[2]) if remote.kind == "model" else 0
    if not number:
        yield f"there is no {noun} {ref}{f' {pinned}' * bool(pinned)} that this account may see", remedy
        return
    if not remote.private:
        page = f"make it private at once in the settings of {remote.url or 'its page'}"
        yield f"the {remote.kind} {ref} is PUBLIC: everybody sees this part of the kit", page
    if remote.kind == "model" and not pinned:
        yield f"the kit's notebook is pinned to no version of the model {ref}", remedy
    if remote.state != "ready":
        state = "shows no files" if remote.kind == "model" else f"has no output: its run is '{remote.state}'"
        yield f"{ref}: version {number} {state}", remedy
    elif remote.part is None:
        yield f"{ref}: version {number} holds no part of a kit", remedy
    elif remote.part.id != part.id:
        yield f"{ref}: version {number} holds the part {remote.part.id[:12]}, not {part.id[:12]}", remedy


def suggest_fix(remote: RemotePart) -> str:
    """Return what brings a part to where it should be."""
    return PUSH if remote.kind == "model" else MAKE
