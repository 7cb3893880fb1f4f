"""transformers: folders of save_pretrained, with their tokenizer or processor."""

from collections.abc import Iterator
from pathlib import Path

from offline_kit.checkpoints.file_downloads import read_settings
from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks.base import SURE, Framework, make_stop, make_warning, read_facts
from offline_kit.project.types import Finding, Member

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Large models are saved in shards with an index: https://huggingface.co/docs/transformers/big_models
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)


def _score_transformers(path: Path, _sniffed: ClassifiedFile) -> float:
    """Match folders with a configuration of transformers and weights."""
    if not any((path / name).is_file() for name in (*_WEIGHTS, *_INDEXES)):
        return 0.0
    return SURE if "model_type" in read_settings(path / "config.json") else 0.0


def _check_transformers(member: Member) -> Iterator[Finding]:
    """Report missing parts of the weights, own code that may not run, and a model without a head."""
    for index in sorted(member.path.glob("*.index.json")):
        weight_map = read_settings(index).get("weight_map")
        parts = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
        missing = sorted(name for name in parts if not (member.path / name).is_file())
        if missing:
            problem = f"lacks parts of its weights: {', '.join(missing[:3])}"
            yield make_stop(member, problem, "ship all files that save_pretrained wrote")
    if member.model:
        return  # the user's class loads it, with its own head and code
    config = read_settings(member.path / "config.json")
    if config.get("auto_map") and not member.params.get("trust_remote_code"):
        problem = "has code of its own (`auto_map`), which runs only if that is allowed"
        remedy = (
            "if you trust it, set trust_remote_code = true in the `params` of its `models` entry, or name your class: "
            'model = "src/model.py:Net"'
        )
        yield make_warning(member, problem, remedy)
    architecture = (config.get("architectures") or [""])[0]
    if "For" not in str(architecture):
        problem = f"is a {architecture or 'model'} without a head, which has no logits to predict with"
        remedy = 'name your class with the head: model = "src/model.py:Net" (with from_pretrained)'
        yield make_warning(member, problem, remedy)


TRANSFORMERS = Framework(
    **read_facts("transformers"),
    score_match=_score_transformers,
    check_member=_check_transformers,
    read_version=lambda path: str(read_settings(path / "config.json").get("transformers_version") or ""),
)
