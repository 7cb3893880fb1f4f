"""PyTorch: whole models, pickled with torch.save(model), pickle or joblib; their code must be importable."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import file_probe, torch_pickles
from offline_kit.checkpoints.frameworks.base import SURE, Framework, always, globals_of, tops_of
from offline_kit.checkpoints.pickle_opcodes import packages_of
from offline_kit.project.types import CheckpointKind, Finding, Member

_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def claims(path: Path, sniffed: Sniffed) -> float:
    """Claim files in which a module itself is pickled, of Lightning's checkpoints none."""
    if path.is_dir() or torch_pickles.is_script(sniffed) or sniffed.kind is CheckpointKind.LIGHTNING:
        return 0.0
    plain = (
        sniffed.kind in torch_pickles.PICKLES and "torch" in tops_of(path) and "sklearn" not in tops_of(path)
    )
    if not plain and sniffed.kind not in torch_pickles.TORCH:
        return 0.0
    return SURE if torch_pickles.holds_module(path) else 0.0


def findings(member: Member) -> tuple[Finding, ...]:
    """Return that loading it runs code, where the user has not said so, and whose classes it needs."""
    trusted = member.params.get("weights_only") is False
    if not trusted:
        remedy = (
            "if you saved it yourself, set weights_only = false in the `params` of its `models` entry; better, "
            f'save its weights ({_SAVE}) and name its class: model = "src/model.py:Net"'
        )
        return (
            file_probe.stop(
                member, "is a whole model, and loading it may run any code that lies in it", remedy
            ),
        )
    strange = packages_of(globals_of(member.path))
    if not strange:
        return ()
    what = (
        f"needs its own code to load, from {', '.join(strange)}, at about the version that it was saved with"
    )
    return (
        file_probe.note(
            member, what, "name what is yours in `packages` or `modules`, the rest in the requirements"
        ),
    )


TORCH_MODULE = Framework(
    name="torch_module",
    title="PyTorch (whole model)",
    packages=("torch", "joblib"),
    library="torch",
    claims=claims,
    by_position=always,
    findings=findings,
    runtime=("kit_torch",),
    params=("activation", "weights_only", "weights"),
)
