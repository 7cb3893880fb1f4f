"""One output file of a run, brought whole or not at all: an error page is never taken for it."""

from pathlib import Path, PurePosixPath

from offline_kit import files
from offline_kit.errors import OutsideError, UsageError
from offline_kit.kaggle_gateway.nouns import Kaggle, RemoteFile
from offline_kit.report import SILENT, Reporter

_ERROR_PAGE = (b"<!doctype", b"<html", b"<?xml", b'{"error"', b'{"code"')


def bring(
    run: tuple[str, int], file: RemoteFile, kaggle: Kaggle, folder: Path, report: Reporter = SILENT
) -> Path:
    """Put one output of a run ("owner/slug", version) below `folder` and return its place.

    It takes its name when it is whole: of the listed size, or the same twice. Raises OutsideError where what
    comes is an error page or never the same.
    """
    place = folder / file.name
    if ".." in PurePosixPath(file.name).parts or PurePosixPath(file.name).is_absolute():
        raise UsageError(f"'{file.name}' is no name of an output", hint="name a file below /kaggle/working")
    part = place.with_name(f".{place.name}.part")
    files.made(place.parent)
    seen: list[str] = []
    try:
        for _ in range(2):
            part.unlink(missing_ok=True)
            size = kaggle.fetch_output(*run, file.name, part)
            if _is_error_page(part, file.name):
                raise _not_the_file(file.name, f"an error page of {size} bytes came instead")
            if size == file.size:
                part.replace(place)
                return place
            seen.append(files.sha256_of(part))
        if seen[0] != seen[1]:
            raise _not_the_file(file.name, f"{size} bytes came, and Kaggle lists {file.size}")
        # Twice the same bytes: it is the listing that is wrong; transcripts of Kaggle's show sizes that cannot be.
        report.warn(f"'{file.name}' has {size} bytes, and Kaggle lists it with {file.size}")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return place


def _is_error_page(path: Path, name: str) -> bool:
    if name.lower().endswith((".html", ".htm", ".xml", ".svg", ".json")):
        return False
    with path.open("rb") as stream:
        return stream.read(64).lstrip().lower().startswith(_ERROR_PAGE)


def _not_the_file(name: str, why: str) -> OutsideError:
    return OutsideError(
        f"the output '{name}' could not be fetched: {why}",
        hint="run the same command again: it asks for a fresh link",
    )
