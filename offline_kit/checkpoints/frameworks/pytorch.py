"""PyTorch: weights alone (torch.save, safetensors), Lightning's checkpoints, whole models and TorchScript."""

import re
import zipfile
from functools import lru_cache, partial
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import LIKELY, SURE, Framework, answer_yes
from offline_kit.checkpoints.pickle_opcodes import list_packages
from offline_kit.checkpoints.pickle_streams import read_archive_pickle, read_globals, read_top_modules
from offline_kit.core.files import fingerprint
from offline_kit.project.types import CheckpointKind, Finding, Member

_TORCH = frozenset({CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY, CheckpointKind.LIGHTNING})
"""Kinds that torch.load reads."""
_PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_MODULE_STATE = (b"_backward_hooks", b"_modules", b"_parameters")
"""Names in the state of every nn.Module."""
_LIGHTNING_VERSION = re.compile(
    rb"pytorch-lightning_version(?:q.|r.{4}|\x94)?(?:X(.)\x00\x00\x00|\x8c(.))", re.DOTALL
)
"""The key, its memo opcode, and the length of the string that is its value."""
_MAX_BYTES = 256 << 20
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def _is_script(known_class: ClassifiedFile) -> bool:
    return any("TorchScript" in reason for reason in known_class.refused)


def _holds_module(path: Path) -> bool:
    """Whether a model itself is pickled in a file, and not only its weights."""
    return _find_module_state(path, fingerprint(path))


@lru_cache(maxsize=512)
def _find_module_state(path: Path, _fingerprint: tuple[str, ...]) -> bool:
    content = _read_pickle(path)
    return all(name in content for name in _MODULE_STATE)


def _read_pickle(path: Path) -> bytes:
    """Return the pickle inside of torch's format, at most its first part; nothing for damaged files."""
    if zipfile.is_zipfile(path):
        return read_archive_pickle(path, _MAX_BYTES)
    with path.open("rb") as stream:
        return stream.read(_MAX_BYTES)


def _read_lightning_version(member: Member) -> str:
    content = _read_pickle(member.path)
    match = _LIGHTNING_VERSION.search(content)
    if match is None:
        return ""
    length = (match[1] or match[2])[0]
    return content[match.end() : match.end() + length].decode("utf-8", "replace")


def _score_kind(kind: CheckpointKind, score: float, _path: Path, known_class: ClassifiedFile) -> float:
    return score if known_class.kind is kind else 0.0


def _score_script(_path: Path, known_class: ClassifiedFile) -> float:
    return SURE if _is_script(known_class) else 0.0


def _score_module(path: Path, known_class: ClassifiedFile) -> float:
    if path.is_dir() or _is_script(known_class) or known_class.kind is CheckpointKind.LIGHTNING:
        return 0.0
    modules = read_top_modules(path) if known_class.kind in _PICKLES else frozenset()
    is_plain_pickle = "torch" in modules and "sklearn" not in modules
    if not is_plain_pickle and known_class.kind not in _TORCH:
        return 0.0
    return SURE if _holds_module(path) else 0.0


def _score_state_dict(path: Path, known_class: ClassifiedFile) -> float:
    if path.is_dir() or known_class.kind not in _TORCH or _is_script(known_class):
        return 0.0
    return 0.0 if _holds_module(path) else LIKELY


def _check_module(member: Member) -> tuple[Finding, ...]:
    """Require `weights_only = false` for a whole model, and name the packages that it needs."""
    if member.params.get("weights_only") is not False:
        return (
            file_probe.make_stop(
                member,
                "is a whole model, and loading it may run any code in the file",
                "if you saved it yourself, set weights_only = false in the `params` of its `models` entry; better, "
                f'save its weights ({_SAVE}) and name its class: model = "src/model.py:Net"',
            ),
        )
    packages = list_packages(read_globals(member.path))
    if not packages:
        return ()
    return (
        file_probe.make_note(
            member,
            f"needs its own code to load, from {', '.join(packages)}, at about the version that it was saved with",
            "add your own code to `packages` or `modules`, and the rest to the requirements",
        ),
    )


_with_weights = partial(
    Framework,
    uses_column_order=answer_yes,
    required_keys=("model",),
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
    takes_model=True,
    takes_arguments=answer_yes,
)
"""Frameworks whose files hold weights alone: the user's code builds the model."""

LIGHTNING = _with_weights(
    name="lightning",
    title="Lightning",
    packages=("torch",),
    library="pytorch-lightning",
    score_match=partial(_score_kind, CheckpointKind.LIGHTNING, SURE),
    read_version=_read_lightning_version,
)
# Files in the folder of a library that knows how to load them are the folder's: likely, not sure.
SAFETENSORS = _with_weights(
    name="safetensors",
    title="safetensors",
    packages=("safetensors", "torch"),
    score_match=partial(_score_kind, CheckpointKind.SAFETENSORS, LIKELY),
)
TORCH_STATE_DICT = _with_weights(
    name="torch_state_dict",
    title="PyTorch (state_dict)",
    packages=("torch",),
    score_match=_score_state_dict,
)
TORCH_MODULE = Framework(
    name="torch_module",
    title="PyTorch (whole model)",
    packages=("torch", "joblib"),
    library="torch",
    score_match=_score_module,
    uses_column_order=answer_yes,
    check_member=_check_module,
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
)
TORCHSCRIPT = Framework(
    name="torchscript",
    title="TorchScript",
    packages=("torch",),
    library="torch",
    score_match=_score_script,
    uses_column_order=answer_yes,
    runtime=("kit_torch",),
    param_names=("activation",),
)
