"""Find saved hyper-parameters that would make a model download weights, in the pickle's opcodes alone."""

import io
import pickletools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offline_kit.checkpoints.pickle_streams import read_archive_pickle
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

_SWITCHES = frozenset({"pretrained", "use_pretrained", "pretrained_backbone", "backbone_pretrained"})
"""Hyper-parameters that download weights if they are true."""
_WEIGHT_NAMES = frozenset({"encoder_weights", "backbone_weights", "pretrained_weights"})
"""Hyper-parameters that name the weights to download."""
_MAX_BYTES = 64 << 20
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


def check_hyper_parameters(
    checkpoints: Sequence[Checkpoint], params: Mapping[str, object]
) -> tuple[Finding, ...]:
    """Return a finding for each hyper-parameter of Lightning's checkpoints that downloads weights.

    The notebook's `params` override saved ones: what they switch off is no finding.
    """
    findings: dict[str, Finding] = {}
    for checkpoint in checkpoints:
        if checkpoint.kind is CheckpointKind.LIGHTNING:
            for key, value in _find_fetching(checkpoint):
                if params.get(key, True):
                    # one line for five folds of one training
                    findings.setdefault(f"{key}={value}", _make_finding(checkpoint, key, value))
    return tuple(findings.values())


def read_pickle_texts(checkpoint: Checkpoint) -> frozenset[str] | None:
    """Return all strings in a torch file, names of saved hyper-parameters included; None for other files."""
    data = read_archive_pickle(checkpoint.path, _MAX_BYTES)
    return frozenset(value for value in _read_values(data) if isinstance(value, str)) if data else None


def _make_finding(checkpoint: Checkpoint, key: str, value: Any) -> Finding:
    remedy = f"set {key} = false in [tool.offline-kit.notebook.params]"
    if key in _WEIGHT_NAMES:
        remedy = (
            f'pass `{key} or None` in the model, and set {key} = "" in [tool.offline-kit.notebook.params]'
        )
    return Finding(
        severity=Severity.WARN,
        about=checkpoint.original,
        what=f"was saved with the hyper-parameter {key} = {value!r}: creating the model would download weights",
        remedy=f"{remedy}; the checkpoint replaces them",
    )


def _find_fetching(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    key = ""
    for value in _read_values(read_archive_pickle(checkpoint.path, _MAX_BYTES)):
        if key and _fetches_weights(key, value):
            yield key, value
        key = value if isinstance(value, str) and value in _SWITCHES | _WEIGHT_NAMES and not key else ""


def _fetches_weights(key: str, value: Any) -> bool:
    if isinstance(value, str):
        # The opcodes alone do not tell keys from values: a switch counts only with what a switch may say.
        return bool(value) and (key in _WEIGHT_NAMES or value.lower().startswith(("imagenet", "default")))
    return value is True and key in _SWITCHES


def _read_values(data: bytes) -> Iterator[Any]:
    """Yield what the opcodes push, in order: strings, booleans, None for the rest."""
    memo: dict[Any, Any] = {}
    last: Any = None
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name in _PUTS:
                memo[len(memo) if opcode.name == "MEMOIZE" else argument] = last
                continue
            if opcode.name in _GETS:
                last = memo.get(argument)
            elif "UNICODE" in opcode.name or "STRING" in opcode.name:
                last = argument
            else:
                last = {"NEWTRUE": True, "NEWFALSE": False}.get(opcode.name)
            yield last
    except (ValueError, OverflowError, UnicodeError):
        return
