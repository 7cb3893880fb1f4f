"""transformers: folders of save_pretrained, with their tokenizer or processor."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.hub_folders import read_settings
from offline_kit.project.types import Finding, Member

_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def score_match(path: Path, _sniffed: ClassifiedFile) -> float:
    """Match folders with a configuration of transformers and weights."""
    if not path.is_dir() or not any((path / name).is_file() for name in _WEIGHTS):
        return 0.0
    return SURE if "model_type" in read_settings(path / "config.json") else 0.0


def read_version(member: Member) -> str:
    """Return the version of transformers that saved it."""
    return str(read_settings(member.path / "config.json").get("transformers_version") or "")


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report missing parts of the weights, own code, and a model without a head."""
    findings = []
    # Large models are saved in shards with an index: https://huggingface.co/docs/transformers/big_models
    for index in sorted(member.path.glob("*.index.json")):
        weight_map = read_settings(index).get("weight_map")
        parts = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
        missing = sorted(name for name in parts if not (member.path / name).is_file())
        if missing:
            problem = f"lacks parts of its weights: {', '.join(missing[:3])}"
            findings.append(
                file_probe.make_stop(member, problem, "ship all files that save_pretrained wrote")
            )
    findings += _check_own_code(member)
    architectures = read_settings(member.path / "config.json").get("architectures") or [""]
    if "For" not in str(architectures[0]) and not member.model:
        problem = f"is a {architectures[0] or 'model'} without a head, which has no logits to predict with"
        remedy = 'name your class with the head: model = "src/model.py:Net" (with from_pretrained)'
        findings.append(file_probe.make_warning(member, problem, remedy))
    return tuple(findings)


def _check_own_code(member: Member) -> tuple[Finding, ...]:
    """Warn of code in the folder that is not allowed to run."""
    if (
        not read_settings(member.path / "config.json").get("auto_map")
        or member.model
        or member.params.get("trust_remote_code")
    ):
        return ()
    remedy = (
        "if you trust it, set trust_remote_code = true in the `params` of its `models` entry, or name your class: "
        'model = "src/model.py:Net"'
    )
    return (
        file_probe.make_warning(
            member, "has code of its own (`auto_map`), which runs only if that is allowed", remedy
        ),
    )


TRANSFORMERS = Framework(
    name="transformers",
    title="transformers",
    packages=("torch", "transformers"),
    library="transformers",
    score_match=score_match,
    check_member=check_member,
    read_version=read_version,
    runtime=("kit_torch",),
    param_names=("activation", "trust_remote_code", "tokenizer", "max_length"),
    takes_model=True,
)
