"""One output file of a run, brought whole or not at all: an error page is never taken for it."""

from pathlib import Path, PurePosixPath

from offline_kit.core import files
from offline_kit.core.errors import OutsideError, UsageError
from offline_kit.kaggle.client.api_types import KaggleApi

_ERROR_PAGE = (b"<!doctype", b"<html", b"<?xml", b'{"error"', b'{"code"')


def fetch_output(run: tuple[str, int], name: str, kaggle: KaggleApi, folder: Path) -> Path:
    """Put one output of a run ("owner/slug", version) below `folder` and return its place.

    It takes its name when it has come to its end. Its size nobody tells beforehand: whoever knows what the
    file holds compares that. Raises OutsideError where what comes is an error page.
    """
    path = folder / name
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise UsageError(f"'{name}' is no name of an output", hint="name a file below /kaggle/working")
    part = path.with_name(f".{path.name}.part")
    files.make_folder(path.parent)
    try:
        part.unlink(missing_ok=True)
        size = kaggle.download_run_output(*run, name, part)
        if _is_error_page(part, name):
            raise OutsideError(
                f"the output '{name}' could not be fetched: an error page of {size} bytes came instead",
                hint="run the same command again: it asks for a fresh link",
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _is_error_page(path: Path, name: str) -> bool:
    if name.lower().endswith((".html", ".htm", ".xml", ".svg", ".json")):
        return False
    with path.open("rb") as stream:
        return stream.read(64).lstrip().lower().startswith(_ERROR_PAGE)
