"""Find what trained files would still download: model folders from a hub, and saved hyper-parameters.

The notebook has no internet. Of the folders of transformers, PEFT and sentence-transformers only the JSON is read:
`_name_or_path` is harmless history; code, tokenizers and base models on a hub are not. Of Lightning's checkpoints only
the opcodes of the pickle are read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.checkpoints.pickle_opcodes import walk_dicts
from offline_kit.checkpoints.pickle_streams import read_torch_object
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding, Severity

_WEIGHTS = frozenset({"model.safetensors", "pytorch_model.bin", "tf_model.h5", "model.ckpt.index"})
_TOKENIZER = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "merges.txt"}
    | {"sentencepiece.bpe.model", "tokenizer.model", "source.spm"}
)
_PROCESSOR = frozenset({"preprocessor_config.json", "processor_config.json"})
# Model types that take no text: they need an image processor instead of a tokenizer
_TEXT_FREE = (
    *("vit", "swin", "convnext", "beit", "deit", "resnet"),
    *("segformer", "detr", "dinov2", "timm", "wav2vec2"),
)
# Settings are small; an index of sharded weights can have some megabytes
_MAX_JSON_BYTES = 16 << 20
# Hyper-parameters that download weights if they are true
_SWITCHES = frozenset({"pretrained", "use_pretrained", "pretrained_backbone", "backbone_pretrained"})
# Hyper-parameters that name the weights to download
_WEIGHT_NAMES = frozenset({"encoder_weights", "backbone_weights", "pretrained_weights"})


def check_hub_folders(
    checkpoints: Sequence[Checkpoint], other_files: Sequence[Checkpoint] = ()
) -> tuple[Finding, ...]:
    """Return what the folders among the checkpoints would download; `other_files` are the preprocessing files."""
    folders: dict[PurePosixPath, dict[str, Path]] = {}
    for file in (*checkpoints, *other_files):
        path = PurePosixPath(file.original)
        folders.setdefault(path.parent, {})[path.name] = file.path
    all_names = {name for files in folders.values() for name in files}
    findings: list[Finding] = []
    for folder, files in sorted(folders.items()):
        for name in ("config.json", "adapter_config.json", "tokenizer_config.json"):
            findings += _check_settings(folder / name, read_settings(files.get(name)), files)
        findings += _check_model_folder(folder, read_settings(files.get("config.json")), files, all_names)
    return tuple(findings)


def check_hyper_parameters(
    checkpoints: Sequence[Checkpoint], params: Mapping[str, object]
) -> tuple[Finding, ...]:
    """Return a finding for each hyper-parameter of Lightning's checkpoints that downloads weights.

    The notebook's `params` override saved ones: what they switch off is no finding.
    """
    findings: dict[str, Finding] = {}
    for checkpoint in checkpoints:
        is_lightning = checkpoint.kind is CheckpointKind.LIGHTNING
        saved = _read_dicts(checkpoint) if is_lightning else ()
        items = [item for settings in saved for item in settings.items()]
        for key, value in items:
            if key and _fetches_weights(key, value) and params.get(key, True):
                remedy = f"set {key} = false in [tool.offline-kit.notebook.params]"
                if key in _WEIGHT_NAMES:
                    remedy = f'pass `{key} or None` in the model, and set {key} = "" in [tool.offline-kit.notebook.params]'
                what = f"was saved with the hyper-parameter {key} = {value!r}: creating the model would download weights"
                remedy = f"{remedy}; the checkpoint replaces them"
                # One finding for five folds of one training.
                findings.setdefault(f"{key}={value}", _warn(checkpoint.original, what, remedy))
    return tuple(findings.values())


def read_saved_names(checkpoint: Checkpoint) -> frozenset[str]:
    """Return all keys in a torch file, names of saved hyper-parameters included; none for other files."""
    return frozenset(key for settings in _read_dicts(checkpoint) for key in settings if key)


def _read_dicts(checkpoint: Checkpoint) -> list[dict[str | None, Any]]:
    is_torch = checkpoint.kind in (CheckpointKind.LIGHTNING, CheckpointKind.TORCH_ZIP)
    return list(walk_dicts(read_torch_object(checkpoint.path))) if is_torch else []


def is_hub_id(text: object) -> bool:
    """Whether a text can be a repository on a hub ("bert-base-uncased", "org/name") and is no path."""
    if not isinstance(text, str) or not text or text.startswith(("/", ".", "~", "\\")) or text.count("/") > 1:
        return False
    return not text.endswith("/") and all(sign.isalnum() or sign in "-_./" for sign in text)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        if path is None or path.stat().st_size > _MAX_JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _warn(about: str, what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.WARN, about=about, what=what, remedy=remedy)


def _check_settings(
    path: PurePosixPath, content: Mapping[str, Any], files: Mapping[str, Path]
) -> Iterator[Finding]:
    """Find code and base models on a hub that a settings file names."""
    mapped = content.get("auto_map")
    values = mapped.values() if isinstance(mapped, dict) else ()
    entries = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    # "org/name--modeling.Net" is code on the hub, "modeling.Net" code in the folder itself.
    texts = [entry.rpartition("--") for entry in entries if isinstance(entry, str) and "." in entry]
    for module, repository in sorted({(name.partition(".")[0], hub) for hub, _, name in texts}):
        if repository or f"{module}.py" not in files:
            origin = f"in '{module}.py', which is not in the folder"
            if repository:
                origin = f"on the hub, at '{repository}'"
            remedy = (
                f"copy '{module}.py' into the folder, write \"{module}.…\" without the hub's name into "
                "`auto_map`, and set trust_remote_code = true in the `params` of its `models` entry (code of yours: "
                f'from_pretrained(..., trust_remote_code=True)); or name your copy: model = "src/{module}.py:Class"'
            )
            yield _warn(path.as_posix(), f"uses code {origin} (`auto_map`)", remedy)
    base = content.get("base_model_name_or_path")
    if path.name == "adapter_config.json" and is_hub_id(base):
        remedy = (
            "merge it (model.merge_and_unload().save_pretrained(...)) and ship that folder, or ship the base "
            "model's folder too and load the adapter onto it"
        )
        what = f"is an adapter of '{base}', which would be downloaded from the hub"
        yield _warn(path.as_posix(), what, remedy)


def _check_model_folder(
    folder: PurePosixPath, config: Mapping[str, Any], files: Mapping[str, Path], anywhere: set[str]
) -> Iterator[Finding]:
    """Find what a model folder lacks and from_pretrained would download."""
    kind, location = str(config.get("model_type", "")), (folder / "config.json").as_posix()
    if not kind or not any(name in _WEIGHTS or ".safetensors" in name or ".bin" in name for name in files):
        return
    needed, title, saver = (_PROCESSOR, "processor", "image processor")
    if not kind.startswith(_TEXT_FREE):
        needed, title, saver = (_TOKENIZER, "tokenizer", "tokenizer")
    if not needed & anywhere:
        source = config.get("_name_or_path")
        what = f"has no {title} beside it; downloading one needs the internet"
        if is_hub_id(source):
            what = f"has no {title} beside it, which would be downloaded from the hub's '{source}'"
        remedy = f"save the {saver} into the same folder: {title}.save_pretrained('{folder}')"
        yield _warn(location, what, remedy)
    backbone = config.get("backbone")
    if config.get("use_pretrained_backbone") and is_hub_id(backbone):
        what = (
            f"downloads the weights of its backbone '{backbone}' when it is created (use_pretrained_backbone)"
        )
        remedy = "set use_pretrained_backbone to false in it: the folder's own weights replace them"
        yield _warn(location, what, remedy)


def _fetches_weights(key: str, value: Any) -> bool:
    if isinstance(value, str):
        names_weights = value.lower().startswith(("imagenet", "default"))
        return bool(value) and (key in _WEIGHT_NAMES or (key in _SWITCHES and names_weights))
    return value is True and key in _SWITCHES
