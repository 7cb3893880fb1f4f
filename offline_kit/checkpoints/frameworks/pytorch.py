"""PyTorch: weights alone (torch.save, safetensors), Lightning, whole models, TorchScript, exports, timm, transformers.

A timm folder is as it is saved for the hub; its architectures fill weights alone too, by their names. Folders of
transformers are those of save_pretrained, with their tokenizer or processor.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline_kit.checkpoints.downloads import read_settings
from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import base
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.pickle_opcodes import list_packages
from offline_kit.checkpoints.pickle_streams import (
    list_archive,
    once_per_content,
    read_archive_json,
    read_archive_member,
    read_globals,
    read_top_modules,
    read_torch_object,
)
from offline_kit.project.types import CheckpointKind, Finding, Member

TIMM_PREFIX = "timm:"  # how `model` names an architecture of timm: "timm:resnet18"
_TORCH = frozenset({CheckpointKind.TORCH_ZIP, CheckpointKind.TORCH_LEGACY, CheckpointKind.LIGHTNING})
_MODULE_STATE = (b"_backward_hooks", b"_modules", b"_parameters")
_MAX_BYTES = 256 << 20
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
# The name of an exported program in archives of older and newer torch
_PROGRAMS = ("serialized_exported_program.json", "models/model.json")
_COMPILED = "data/aotinductor/"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Large models are saved in shards with an index: https://huggingface.co/docs/transformers/big_models
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)


def _is_script(known_class: ClassifiedFile) -> bool:
    return any("TorchScript" in reason for reason in known_class.refused)


@once_per_content
def _holds_module(path: Path) -> bool:
    """Whether a model itself is pickled in a file, and not only its weights."""
    # torch.save writes a zip since 1.6; before, pickles lie at the file's begin
    if zipfile.is_zipfile(path):
        content = read_archive_member(path, "data.pkl", max_bytes=_MAX_BYTES)
    else:
        content = base.read_head(path, _MAX_BYTES)
    return all(name in content for name in _MODULE_STATE)


def _read_fixed_rows(program: dict[str, Any]) -> int:
    """Return the fixed number of rows of a program's first input; 0 if it is dynamic.

    The schema: https://github.com/pytorch/pytorch/blob/main/torch/_export/serde/schema.py
    """
    try:
        graph = program["graph_module"]
        specs = [spec["user_input"] for spec in graph["signature"]["input_specs"] if "user_input" in spec]
        name = next(spec["arg"]["as_tensor"]["name"] for spec in specs if "as_tensor" in spec["arg"])
        rows = graph["graph"]["tensor_values"][name]["sizes"][0].get("as_int")
    except (LookupError, TypeError, AttributeError, StopIteration):
        return 0
    return rows if isinstance(rows, int) else 0


class _Lightning(Framework):
    def score_match(self, _path: Path, known_class: ClassifiedFile) -> float:
        return SURE if known_class.kind is CheckpointKind.LIGHTNING else 0.0

    def read_version(self, path: Path) -> str:
        checkpoint = read_torch_object(path)
        return str(checkpoint.get("pytorch-lightning_version", "")) if isinstance(checkpoint, dict) else ""


class _Safetensors(Framework):
    def score_match(self, _path: Path, known_class: ClassifiedFile) -> float:
        # Files in the folder of a library that knows how to load them are the folder's: likely, not sure.
        return base.LIKELY if known_class.kind is CheckpointKind.SAFETENSORS else 0.0


class _StateDict(Framework):
    def score_match(self, path: Path, known_class: ClassifiedFile) -> float:
        if path.is_dir() or known_class.kind not in _TORCH or _is_script(known_class):
            return 0.0
        return 0.0 if _holds_module(path) else base.LIKELY


class _TorchModule(Framework):
    def score_match(self, path: Path, known_class: ClassifiedFile) -> float:
        if path.is_dir() or _is_script(known_class) or known_class.kind is CheckpointKind.LIGHTNING:
            return 0.0
        modules = read_top_modules(path) if known_class.kind in base.PICKLES else frozenset()
        is_plain_pickle = "torch" in modules and "sklearn" not in modules
        if not is_plain_pickle and known_class.kind not in _TORCH:
            return 0.0
        return SURE if _holds_module(path) else 0.0

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Require `weights_only = false` for a whole model, and name the packages that it needs."""
        if member.params.get("weights_only") is not False:
            problem = "is a whole model, and loading it may run any code in the file"
            remedy = (
                "if you saved it yourself, set weights_only = false in the `params` of its `models` entry; better, "
                f'save its weights ({_SAVE}) and name its class: model = "src/model.py:Net"'
            )
            yield base.make_stop(member, problem, remedy)
        elif packages := ", ".join(list_packages(read_globals(member.path))):
            problem = (
                f"needs its own code to load, from {packages}, at about the version that it was saved with"
            )
            remedy = "add your own code to `packages` or `modules`, and the rest to the requirements"
            yield base.make_note(member, problem, remedy)


class _TorchScript(Framework):
    def score_match(self, _path: Path, known_class: ClassifiedFile) -> float:
        return SURE if _is_script(known_class) else 0.0


class _TorchExport(Framework):
    def score_match(self, path: Path, _sniffed: ClassifiedFile) -> float:
        """Match archives with an exported program, or with what a compiler made of one (to explain it)."""
        names = list_archive(path)
        return SURE if any(name.endswith(_PROGRAMS) or _COMPILED in name for name in names) else 0.0

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report a program that is compiled for one machine, or a fixed number of rows."""
        program = read_archive_json(member.path, *_PROGRAMS)
        if not program and any(_COMPILED in name for name in list_archive(member.path)):
            remedy = (
                "export it for any machine: torch.export.save(torch.export.export(model, args), 'model.pt2')"
            )
            yield base.make_stop(member, "is compiled for the machine of the training (AOTInductor)", remedy)
        elif rows := _read_fixed_rows(program):
            remedy = (
                'export it with a dynamic first axis, dynamic_shapes=({0: torch.export.Dim("rows")},), '
                f"or set batch_size = {rows} if the test set's rows are a multiple of it"
            )
            yield base.make_warning(member, f"takes exactly {rows} row{'s' * (rows > 1)} at a time", remedy)

    def read_version(self, path: Path) -> str:
        """Return the version of torch in the program, without its build."""
        return (
            str(read_archive_json(path, *_PROGRAMS).get("torch_version") or "")
            .partition("+")[0]
            .removeprefix("<")
        )


class _Timm(Framework):
    def score_match(self, path: Path, _sniffed: ClassifiedFile) -> float:
        """Match folders whose configuration names an architecture of timm; for files, `model` decides."""
        if not any((path / name).is_file() for name in _WEIGHTS):
            return 0.0
        settings = read_settings(path / "config.json")
        return SURE if "architecture" in settings and "model_type" not in settings else 0.0

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Require an architecture if neither the folder nor the configuration names one."""
        if not (member.path.is_dir() or member.model or member.params.get("architecture")):
            remedy = 'set model = "timm:resnet18", or architecture = "resnet18" in the `params` of its `models` entry'
            yield base.make_stop(member, "holds weights alone, and no architecture of timm is named", remedy)


class _Transformers(Framework):
    def score_match(self, path: Path, _sniffed: ClassifiedFile) -> float:
        """Match folders with a configuration of transformers and weights."""
        if not any((path / name).is_file() for name in (*_WEIGHTS, *_INDEXES)):
            return 0.0
        return SURE if "model_type" in read_settings(path / "config.json") else 0.0

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report missing parts of the weights, own code that may not run, and a model without a head."""
        for index in sorted(member.path.glob("*.index.json")):
            weight_map = read_settings(index).get("weight_map")
            parts = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
            missing = sorted(name for name in parts if not (member.path / name).is_file())
            if missing:
                problem = f"lacks parts of its weights: {', '.join(missing[:3])}"
                yield base.make_stop(member, problem, "ship all files that save_pretrained wrote")
        if member.model:
            return  # the user's class loads it, with its own head and code
        config = read_settings(member.path / "config.json")
        if config.get("auto_map") and not member.params.get("trust_remote_code"):
            problem = "has code of its own (`auto_map`), which runs only if that is allowed"
            remedy = (
                "if you trust it, set trust_remote_code = true in the `params` of its `models` entry, or name your class: "
                'model = "src/model.py:Net"'
            )
            yield base.make_warning(member, problem, remedy)
        architecture = (config.get("architectures") or [""])[0]
        if "For" not in str(architecture):
            problem = f"is a {architecture or 'model'} without a head, which has no logits to predict with"
            remedy = 'name your class with the head: model = "src/model.py:Net" (with from_pretrained)'
            yield base.make_warning(member, problem, remedy)

    def read_version(self, path: Path) -> str:
        return str(read_settings(path / "config.json").get("transformers_version") or "")


LIGHTNING = _Lightning("lightning")
SAFETENSORS = _Safetensors("safetensors")
TORCH_STATE_DICT = _StateDict("torch_state_dict")
TORCH_MODULE = _TorchModule("torch_module")
TORCHSCRIPT = _TorchScript("torchscript")
TORCH_EXPORT = _TorchExport("torch_export")
TIMM = _Timm("timm")
TRANSFORMERS = _Transformers("transformers")
