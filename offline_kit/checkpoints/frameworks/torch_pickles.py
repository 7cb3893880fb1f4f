"""What torch.save wrote, told from the pickle inside: weights, or whole models with their code's names."""

import re
import zipfile
from functools import lru_cache
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.core.files import fingerprint
from offline_kit.project.types import CheckpointKind

TORCH = frozenset({CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY, CheckpointKind.LIGHTNING})
"""Kinds that torch.load reads."""
PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_MODULE = (b"_backward_hooks", b"_modules", b"_parameters")
"""Names that the state of every nn.Module has."""
_LIGHTNING_VERSION = re.compile(
    rb"pytorch-lightning_version(?:q.|r.{4}|\x94)?(?:X(.)\x00\x00\x00|\x8c(.))", re.DOTALL
)
"""The key, where the pickle memorises it, and the length of the text that is its value."""
_MOST = 256 << 20


def is_script(sniffed: ClassifiedFile) -> bool:
    """Whether a file is a TorchScript archive."""
    return any("TorchScript" in what for what in sniffed.refused)


def holds_module(path: Path) -> bool:
    """Whether a model itself is pickled in a file, and not only its weights."""
    return _holds_module(path, fingerprint(path))


@lru_cache(maxsize=512)
def _holds_module(path: Path, _fingerprint: tuple[str, ...]) -> bool:
    content = pickled(path)
    return all(word in content for word in _MODULE)


def lightning_version(path: Path) -> str:
    """Return the version of Lightning that wrote a checkpoint; empty where it is not told."""
    content = pickled(path)
    found = _LIGHTNING_VERSION.search(content)
    if found is None:
        return ""
    length = (found[1] or found[2])[0]
    return content[found.end() : found.end() + length].decode("utf-8", "replace")


def pickled(path: Path) -> bytes:
    """Return the pickle inside of torch's format, at most its first part; nothing for damaged files."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                name = next(
                    (each for each in archive.namelist() if each.rpartition("/")[2] == "data.pkl"), ""
                )
                if not name:
                    return b""
                with archive.open(name) as stream:
                    return stream.read(_MOST)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
            return b""
    with path.open("rb") as plain:
        return plain.read(_MOST)
