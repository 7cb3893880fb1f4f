"""Wheels as files: made the same bytes everywhere, read without installing them."""

import base64
import csv
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.packages.distribution_metadata import find_dist_info_member

EPOCH = 315619200
"""SOURCE_DATE_EPOCH of our builds: 2 January 1980, the first day that a zip file can hold in every time zone."""

_DATE = (1980, 1, 2, 0, 0, 0)
_UNIX = 3


def normalize_wheel(path: Path) -> str:
    """Rewrite a wheel so that equal contents are equal bytes, and return its sha256.

    Order, dates, modes, system and compression are fixed and RECORD is made anew; signatures of the old
    RECORD go. Members are stored, not deflated: zlib's output differs between its versions, and a kit
    must keep its id on a colleague's machine. Raises ProjectError for what is no wheel.
    """
    members = _read_members(path)
    record = find_dist_info_member(members, "RECORD")
    if record is None:
        raise ProjectError(f"'{path.name}' has no RECORD, so it is no wheel", hint="build it again")
    folder = record.removesuffix("RECORD")
    for name_to_drop in ("RECORD", "RECORD.jws", "RECORD.p7s"):
        members.pop(folder + name_to_drop, None)
    # dist-info last, RECORD at the very end: where the wheel specification recommends them.
    names = sorted(members, key=lambda name: (name.startswith(folder), name))
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                data, executable = members[name]
                archive.writestr(_make_entry(name, executable=executable), data)
            archive.writestr(_make_entry(record, executable=False), _render_record(members, names, record))
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return sha256_of(path)


def _read_members(path: Path) -> dict[str, tuple[bytes, bool]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # The owner's bit alone: the others are the umask's, not the package's.
            return {
                info.filename: (archive.read(info), bool(info.external_attr >> 16 & 0o100))
                for info in archive.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise ProjectError(
            f"'{path.name}' cannot be read as a wheel: {error}", hint="build it again"
        ) from error


def _make_entry(name: str, *, executable: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = _UNIX
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_STORED
    return entry


def _render_record(members: dict[str, tuple[bytes, bool]], names: list[str], record: str) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in names:
        data = members[name][0]
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(data)])
    rows.writerow([record, "", ""])
    return text.getvalue()
