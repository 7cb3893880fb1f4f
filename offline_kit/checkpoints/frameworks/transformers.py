"""transformers: folders of save_pretrained, with their tokenizer or processor."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.hub_folders import settings_of
from offline_kit.project.types import Finding, Member

_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def claims(path: Path, _sniffed: Sniffed) -> float:
    """Claim folders with a configuration of transformers and weights beside it."""
    if not path.is_dir() or not any((path / name).is_file() for name in _WEIGHTS):
        return 0.0
    return SURE if "model_type" in settings_of(path / "config.json") else 0.0


def version(member: Member) -> str:
    """Return the version of transformers that saved it."""
    return str(settings_of(member.path / "config.json").get("transformers_version") or "")


def findings(member: Member) -> tuple[Finding, ...]:
    """Return parts of the weights that are missing, and a model without a head."""
    found = []
    for index in sorted(member.path.glob("*.index.json")):
        said = settings_of(index).get("weight_map")
        parts = set(map(str, said.values())) if isinstance(said, dict) else set()
        lacking = sorted(name for name in parts if not (member.path / name).is_file())
        if lacking:
            what = f"lacks parts of its weights: {', '.join(lacking[:3])}"
            found.append(file_probe.stop(member, what, "ship all files that save_pretrained wrote"))
    found += _own_code(member)
    architectures = settings_of(member.path / "config.json").get("architectures") or [""]
    if "For" not in str(architectures[0]) and not member.model:
        what = f"is a {architectures[0] or 'model'} without a head, which has no logits to predict with"
        remedy = 'name your class with the head: model = "src/model.py:Net" (with from_pretrained)'
        found.append(file_probe.warn(member, what, remedy))
    return tuple(found)


def _own_code(member: Member) -> tuple[Finding, ...]:
    """Return that the folder brings code of its own, and nothing says that it may run."""
    if (
        not settings_of(member.path / "config.json").get("auto_map")
        or member.model
        or member.params.get("trust_remote_code")
    ):
        return ()
    remedy = (
        "if you trust it, set trust_remote_code = true in the `params` of its `models` entry, or name your class: "
        'model = "src/model.py:Net"'
    )
    return (
        file_probe.warn(
            member, "brings code of its own (`auto_map`), which runs only where that is allowed", remedy
        ),
    )


TRANSFORMERS = Framework(
    name="transformers",
    title="transformers",
    packages=("torch", "transformers"),
    library="transformers",
    claims=claims,
    findings=findings,
    version=version,
    runtime=("kit_torch",),
    params=("activation", "trust_remote_code", "tokenizer", "max_length"),
    takes_model=True,
)
