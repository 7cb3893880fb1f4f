"""Find what model folders of transformers, PEFT and sentence-transformers would still download from a hub.

Only their JSON is read. `_name_or_path` is harmless history; code, tokenizers and base models on a hub are not: the
notebook has no internet.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from offline_kit.project.types import Checkpoint, Finding, Severity

_WEIGHTS = frozenset({"model.safetensors", "pytorch_model.bin", "tf_model.h5", "model.ckpt.index"})
_TOKENIZER = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "merges.txt"}
    | {"sentencepiece.bpe.model", "tokenizer.model", "source.spm"}
)
_PROCESSOR = frozenset({"preprocessor_config.json", "processor_config.json"})
_TEXT_FREE = (
    "vit",
    "swin",
    "convnext",
    "beit",
    "deit",
    "resnet",
    "segformer",
    "detr",
    "dinov2",
    "timm",
    "wav2vec2",
)
"""Model types that take no text: they need an image processor instead of a tokenizer."""
_MAX_BYTES = 16 << 20
"""Settings are small; an index of sharded weights can have some megabytes."""


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
            content = read_settings(files.get(name))
            findings += _check_settings((folder / name).as_posix(), name, content, files)
        findings += _check_model_folder(folder, read_settings(files.get("config.json")), files, all_names)
    return tuple(findings)


def is_hub_id(text: object) -> bool:
    """Whether a text can be a repository on a hub ("bert-base-uncased", "org/name") and is no path."""
    if not isinstance(text, str) or not text or text.startswith(("/", ".", "~", "\\")) or text.count("/") > 1:
        return False
    return not text.endswith("/") and all(sign.isalnum() or sign in "-_./" for sign in text)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        if path is None or path.stat().st_size > _MAX_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_settings(
    location: str, name: str, content: Mapping[str, Any], files: Mapping[str, Path]
) -> Iterator[Finding]:
    """Find code and base models on a hub that a settings file names."""
    for module, repository in _list_remote_code(content):
        if repository or f"{module}.py" not in files:
            origin = (
                f"on the hub, at '{repository}'"
                if repository
                else f"in '{module}.py', which is not in the folder"
            )
            yield Finding(
                severity=Severity.WARN,
                about=location,
                what=f"uses code {origin} (`auto_map`)",
                remedy=f"copy '{module}.py' into the folder, write \"{module}.…\" without the hub's name into "
                "`auto_map`, and set trust_remote_code = true in the `params` of its `models` entry (code of yours: "
                f'from_pretrained(..., trust_remote_code=True)); or name your copy: model = "src/{module}.py:Class"',
            )
    base = content.get("base_model_name_or_path")
    if name == "adapter_config.json" and is_hub_id(base):
        yield Finding(
            severity=Severity.WARN,
            about=location,
            what=f"is an adapter of '{base}', which would be downloaded from the hub",
            remedy="merge it (model.merge_and_unload().save_pretrained(...)) and ship that folder, or ship the base "
            "model's folder too and load the adapter onto it",
        )


def _list_remote_code(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield module and hub repository (empty for the folder itself) of what `auto_map` names."""
    references: set[tuple[str, str]] = set()
    mapped = content.get("auto_map")
    for value in mapped.values() if isinstance(mapped, dict) else ():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str) and "." in entry:
                repository, _, name = entry.rpartition("--")
                references.add((name.partition(".")[0], repository))
    yield from sorted(references)


def _check_model_folder(
    folder: PurePosixPath, config: Mapping[str, Any], files: Mapping[str, Path], anywhere: set[str]
) -> Iterator[Finding]:
    """Find what a model folder lacks and from_pretrained would download."""
    kind, location = str(config.get("model_type", "")), (folder / "config.json").as_posix()
    if not kind or not any(name in _WEIGHTS or ".safetensors" in name or ".bin" in name for name in files):
        return
    source = config.get("_name_or_path")
    hub = f" '{source}'" if is_hub_id(source) else ""
    needed, title, saver = (_PROCESSOR, "processor", "image processor")
    if not kind.startswith(_TEXT_FREE):
        needed, title, saver = (_TOKENIZER, "tokenizer", "tokenizer")
    if not needed & anywhere:
        yield Finding(
            severity=Severity.WARN,
            about=location,
            what=f"has no {title} beside it, which would be downloaded from the hub's{hub}"
            if hub
            else f"has no {title} beside it; downloading one needs the internet",
            remedy=f"save the {saver} into the same folder: {title}.save_pretrained('{folder}')",
        )
    backbone = config.get("backbone")
    if config.get("use_pretrained_backbone") and is_hub_id(backbone):
        yield Finding(
            severity=Severity.WARN,
            about=location,
            what=f"downloads the weights of its backbone '{backbone}' when it is created (use_pretrained_backbone)",
            remedy="set use_pretrained_backbone to false in it: the folder's own weights replace them",
        )
