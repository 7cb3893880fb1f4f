"""PyTorch: whole models, pickled with torch.save(model), pickle or joblib; their code must be importable."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe, torch_pickles
from offline_kit.checkpoints.frameworks.base import (
    SURE,
    Framework,
    answer_yes,
    read_globals,
    read_top_modules,
)
from offline_kit.checkpoints.pickle_opcodes import list_packages
from offline_kit.project.types import CheckpointKind, Finding, Member

_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Claim files in which a module itself is pickled, of Lightning's checkpoints none."""
    if path.is_dir() or torch_pickles.is_script(sniffed) or sniffed.kind is CheckpointKind.LIGHTNING:
        return 0.0
    plain = (
        sniffed.kind in torch_pickles.PICKLES
        and "torch" in read_top_modules(path)
        and "sklearn" not in read_top_modules(path)
    )
    if not plain and sniffed.kind not in torch_pickles.TORCH:
        return 0.0
    return SURE if torch_pickles.holds_module(path) else 0.0


def check_member(member: Member) -> tuple[Finding, ...]:
    """Return that loading it runs code, where the user has not said so, and whose classes it needs."""
    trusted = member.params.get("weights_only") is False
    if not trusted:
        remedy = (
            "if you saved it yourself, set weights_only = false in the `params` of its `models` entry; better, "
            f'save its weights ({_SAVE}) and name its class: model = "src/model.py:Net"'
        )
        return (
            file_probe.make_stop(
                member, "is a whole model, and loading it may run any code that lies in it", remedy
            ),
        )
    strange = list_packages(read_globals(member.path))
    if not strange:
        return ()
    what = (
        f"needs its own code to load, from {', '.join(strange)}, at about the version that it was saved with"
    )
    return (
        file_probe.make_note(
            member, what, "name what is yours in `packages` or `modules`, the rest in the requirements"
        ),
    )


TORCH_MODULE = Framework(
    name="torch_module",
    title="PyTorch (whole model)",
    packages=("torch", "joblib"),
    library="torch",
    score_match=score_match,
    uses_column_order=answer_yes,
    check_member=check_member,
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
)
