"""PyTorch's family: told from bytes, with findings and remedies; weights find their places in the notebook."""

import dataclasses
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints import members
from offline_kit.checkpoints.discovery import collect_checkpoints
from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.errors import ProjectError
from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.notebook.runtime.kit_torch import (
    as_tensors,
    build_from_checkpoint,
    compute_answer,
    find_weights,
    load_weights,
    prepare_model,
    strip_wrappers,
)
from offline_kit.project.config import load_config
from offline_kit.project.types import ModelSpec, NotebookSettings, Severity
from offline_kit.workflow.model_files import ModelFiles, advise_on_checkpoints
from tests.support.lazy_modules import torch
from tests.support.predicting import Stage
from tests.support.tabular_models import findings, seen

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, 3))

    def forward(self, rows):
        return self.layers(rows)
"""


def net() -> Any:
    """Return a small model as it is after a training: in training mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(), torch.nn.Linear(4, 3))


def exported(path: Path, rows: int | None = None) -> None:
    some = torch.zeros(rows or 5, 2)
    shapes = None if rows else ({0: torch.export.Dim("rows")},)
    with path.open("wb") as stream:
        torch.export.save(torch.export.export(net().eval(), (some,), dynamic_shapes=shapes), stream)


def as_safetensors(path: Path, weights: dict[str, Any]) -> None:
    """Write the format by hand: a length, a header, the numbers."""
    header, data = {}, b""
    for name, value in weights.items():
        raw = value.contiguous().numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def folder(path: Path, weights: str = "model.safetensors", **config: Any) -> None:
    path.mkdir()
    as_safetensors(path / weights, {"a": torch.zeros(1)})
    (path / "config.json").write_text(json.dumps(config))


def lightning(path: Path) -> None:
    weights = {f"net.{name}": value for name, value in net().state_dict().items()}
    saved = {"epoch": 3, "pytorch-lightning_version": "2.6.6", "state_dict": weights}
    torch.save(saved | {"hyper_parameters": {"width": 4}}, path)


SAVED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights.pt": (lambda path: torch.save(net().state_dict(), path), "torch_state_dict"),
    "weights.bin": (
        lambda path: torch.save({"model": net().state_dict(), "epoch": 1}, path),
        "torch_state_dict",
    ),
    "old.pth": (
        lambda path: torch.save(net().state_dict(), path, _use_new_zipfile_serialization=False),
        "torch_state_dict",
    ),
    "last.ckpt": (lightning, "lightning"),
    "whole.pt": (lambda path: torch.save(net(), path), "torch_module"),
    "old_whole.pt": (
        lambda path: torch.save(net(), path, _use_new_zipfile_serialization=False),
        "torch_module",
    ),
    "inside.pt": (lambda path: torch.save({"ema": None, "model": net()}, path), "torch_module"),
    "whole.pkl": (lambda path: path.write_bytes(pickle.dumps(net())), "torch_module"),
    "script.pt": (lambda path: torch.jit.script(net()).save(path), "torchscript"),
    "program.pt2": (exported, "torch_export"),
    "program.pt": (exported, "torch_export"),
    "w.safetensors": (lambda path: as_safetensors(path, net().state_dict()), "safetensors"),
    "bert": (lambda path: folder(path, model_type="bert", architectures=["BertModel"]), "transformers"),
    "resnet": (lambda path: folder(path, architecture="resnet18", num_classes=3), "timm"),
}
"""A file or folder of each kind, and its framework."""


@pytest.mark.parametrize("name", SAVED)
def test_bytes_tell_the_framework(name: str, tmp_path: Path) -> None:
    """Weights, whole models, scripts and programs are told apart under whatever name."""
    SAVED[name][0](tmp_path / name)
    assert seen(tmp_path / name).framework == SAVED[name][1]


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    """Folders without weights, and zips of anything else, belong to none of them."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "config.json").write_text('{"model_type": "bert"}')
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("model.json", "{}")
    assert framework_table.match_framework(tmp_path / "some") is None
    assert framework_table.match_framework(tmp_path / "x.pt2") is None


def test_versions_are_read_where_files_state_them(tmp_path: Path) -> None:
    """Of programs, of Lightning's checkpoints, of transformers' folders; a newer one than the notebook's is warned of."""
    exported(tmp_path / "m.pt2")
    lightning(tmp_path / "l.ckpt")
    folder(
        tmp_path / "b", model_type="bert", architectures=["BertForMaskedLM"], transformers_version="5.15.0"
    )
    program, checkpoint, bert = (seen(tmp_path / name) for name in ("m.pt2", "l.ckpt", "b"))
    assert program.version == torch.__version__.partition("+")[0]
    assert (checkpoint.version, bert.version) == ("2.6.6", "5.15.0")
    there = {"torch": "2.3.0", "pytorch-lightning": "2.6.6", "transformers": "4.57.0"}
    found = framework_table.compare_versions([program, checkpoint, bert], there)
    assert [each.severity for each in found] == [Severity.WARN, Severity.WARN]
    assert {"m.pt2", "b"} == {each.about for each in found}


def test_a_whole_model_loads_only_where_it_is_trusted(tmp_path: Path) -> None:
    """It stops the build with what to set, and what to save instead."""
    torch.save(net(), tmp_path / "m.pt")
    (found,) = findings(seen(tmp_path / "m.pt"))
    assert found.severity is Severity.STOP
    assert "weights_only = false" in found.remedy
    assert "state_dict" in found.remedy
    assert not findings(seen(tmp_path / "m.pt", params={"weights_only": False}))


def test_whose_classes_a_whole_model_needs_is_told(tmp_path: Path) -> None:
    """Packages other than torch must be importable in the notebook."""
    path = tmp_path / "m.pkl"
    state = b"(X\x0b\x00\x00\x00_parametersX\x08\x00\x00\x00_modulesX\x0f\x00\x00\x00_backward_hooksl."
    path.write_bytes(b"\x80\x02cmynets.head\nHead\nctorch.nn.modules.linear\nLinear\n" + state)
    (found,) = findings(seen(path, params={"weights_only": False}))
    assert "mynets" in found.what
    assert "torch" not in found.what


def test_a_program_of_a_fixed_size_is_warned_of(tmp_path: Path) -> None:
    """The rows at export are the only ones that it takes."""
    exported(tmp_path / "free.pt2")
    exported(tmp_path / "fixed.pt2", rows=8)
    assert not findings(seen(tmp_path / "free.pt2"))
    (found,) = findings(seen(tmp_path / "fixed.pt2"))
    assert "exactly 8 rows" in found.what
    assert "torch.export.Dim" in found.remedy


def test_what_would_not_load_stops_the_build(tmp_path: Path) -> None:
    """A program compiled for one machine, and a folder that lacks parts of its weights."""
    with zipfile.ZipFile(tmp_path / "c.pt2", "w") as archive:
        archive.writestr("c/data/aotinductor/model/model.so", "")
    folder(tmp_path / "b", model_type="bert", architectures=["BertForMaskedLM"])
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "b" / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, told in {"c.pt2": "AOTInductor", "b": "model-00001-of-00002"}.items():
        (found,) = findings(seen(tmp_path / name))
        assert (found.severity, told in found.what) == (Severity.STOP, True)


def test_a_model_without_a_head_is_warned_of(tmp_path: Path) -> None:
    """It has no logits, unless a class of the user's brings them."""
    folder(tmp_path / "b", model_type="bert", architectures=["BertModel"])
    (found,) = findings(seen(tmp_path / "b"))
    assert "without a head" in found.what
    assert not findings(seen(tmp_path / "b", model="net.py:WithHead"))


def test_code_in_a_folder_of_transformers_is_told(tmp_path: Path) -> None:
    """It runs only where that is allowed: by a param, or as a class of the user's."""
    own = {"AutoConfig": "net.Settings", "AutoModelForSequenceClassification": "net.NetForRows"}
    folder(tmp_path / "b", model_type="mine", architectures=["NetForRows"], auto_map=own)
    (found,) = findings(seen(tmp_path / "b"))
    assert (found.severity, "trust_remote_code = true" in found.remedy) == (Severity.WARN, True)
    assert not findings(seen(tmp_path / "b", params={"trust_remote_code": True}))
    assert not findings(seen(tmp_path / "b", model="src/net.py:NetForRows"))


def test_weights_alone_ask_for_the_class(tmp_path: Path) -> None:
    """The key to set is named; an architecture of timm is one way, without code."""
    stage = Stage(tmp_path)
    (stage.project / "models").mkdir()
    torch.save(net().state_dict(), stage.project / "models" / "w.pt")
    weights = stage.found("models/*")
    with pytest.raises(ProjectError) as caught:
        members.resolve_members(NotebookSettings(template="predict"), weights)
    assert "needs `model`" in "".join(caught.value.details)
    (own,) = members.resolve_members(NotebookSettings(template="predict", model="net.py:Net"), weights)
    (timm,) = members.resolve_members(NotebookSettings(template="predict", model="timm:resnet18"), weights)
    assert (own.framework, timm.framework) == ("torch_state_dict", "timm")


WRAPPED = {
    "DataParallel": ({"module.a": 1, "module.b": 2}, "'module.'"),
    "compile": ({"_orig_mod.a": 1, "_orig_mod.b": 2}, "'_orig_mod.'"),
    "both": ({"module._orig_mod.a": 1, "module._orig_mod.b": 2}, "'_orig_mod.'"),
    "Lightning, with a loss": ({"model.a": 1, "model.b": 2, "loss.weight": 3}, "1 without it"),
    "averages": ({"n_averaged": 9, "module.a": 1, "module.b": 2}, "'module.'"),
    "nothing": ({"a": 1, "b": 2}, ""),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_what_wrappers_put_before_names_is_taken_off_and_told(
    capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """The weights come under the model's own names."""
    assert strip_wrappers(WRAPPED[case][0], {"a", "b"}) == {"a": 1, "b": 2}
    said = capsys.readouterr().out.splitlines()
    assert WRAPPED[case][1] in "\n".join(said)


def test_a_model_that_is_named_like_a_wrapper_keeps_its_names() -> None:
    """Of a model with a part called "model" nothing is taken off; a compiled part is found inside."""
    assert strip_wrappers({"model.a": 1}, {"model.a"}) == {"model.a": 1}
    assert strip_wrappers({"model._orig_mod.a": 1}, {"model.a"}) == {"model.a": 1}


def test_weights_that_are_missing_or_too_many_are_named() -> None:
    """Nothing is left to chance: each weight has its place, or the notebook ends with the names."""
    weights = net().state_dict()
    weights["2.gain"] = weights.pop("2.bias")
    with pytest.raises(KitError, match=r"'w\.pt' does not fit 'Sequential'") as caught:
        load_weights(net(), weights, "w.pt")
    assert "in the model only: 2.bias" in str(caught.value)
    assert "in the checkpoint only: 2.gain" in str(caught.value)
    with pytest.raises(KitError, match="size mismatch"):
        load_weights(
            torch.nn.Sequential(torch.nn.Linear(2, 5)),
            {**torch.nn.Sequential(torch.nn.Linear(2, 4)).state_dict()},
        )


def test_weights_are_found_in_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the usual keys, or the one that is named; averaged ones are told of, and nothing is guessed."""
    weights, averaged = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    said: list[str] = []
    checkpoint = {"epoch": 3, "state_dict": weights, "state_dict_ema": averaged}
    assert find_weights(checkpoint, "") == weights
    said += capsys.readouterr().out.splitlines()
    assert 'weights = "state_dict_ema"' in "\n".join(said)
    assert find_weights(checkpoint, "state_dict_ema") == averaged
    said += capsys.readouterr().out.splitlines()
    assert find_weights({"model": {"state_dict": weights}}, "") == weights
    said += capsys.readouterr().out.splitlines()
    assert find_weights(weights, "") == weights
    said += capsys.readouterr().out.splitlines()
    with pytest.raises(KitError, match="no 'best'"):
        find_weights(checkpoint, "best")
    with pytest.raises(KitError, match="no weights under any usual name") as caught:
        find_weights({"epoch": 1, "stuff": weights})
    assert "stuff" in str(caught.value)


def test_builders_get_hyper_parameters_and_params() -> None:
    """Arguments win; of the notebook's params those that it takes by name; a typing error is told."""

    def build(width: int, depth: int = 1) -> tuple[int, int]:
        return width, depth

    checkpoint = {"hyper_parameters": {"width": 3, "lr": 0.1}}
    assert build_from_checkpoint(build, checkpoint, {"depth": 2}, {"weights_only": False, "width": 4}) == (
        4,
        2,
    )
    assert build_from_checkpoint(build, checkpoint, {"depth": 2}, {"depth": 4, "other": 1}) == (3, 2)
    assert build_from_checkpoint(build, {}, {"width": 5}) == (5, 1)
    with pytest.raises(KitError, match="widht"):
        build_from_checkpoint(build, checkpoint, {"widht": 5})


def test_batches_become_tensors() -> None:
    """Tables in single precision, arrays as they are but doubles, mappings by name; texts and words are refused."""
    import numpy as np
    import pandas as pd

    assert as_tensors(pd.DataFrame({"a": [1, 2], "b": [0.5, 1]}), "cpu").dtype == torch.float32
    assert as_tensors(np.zeros((2, 3)), "cpu").dtype == torch.float32
    assert as_tensors({"ids": np.zeros((2, 3), dtype=np.int64)}, "cpu")["ids"].dtype == torch.int64
    with pytest.raises(KitError, match="hold none: city"):
        as_tensors(pd.DataFrame({"a": [1], "city": ["x"]}), "cpu")
    with pytest.raises(KitError) as caught:
        as_tensors(["a text"], "cpu")
    assert caught.value.code == "batch-not-tensor"


def test_answers_are_logits_or_probabilities() -> None:
    """The first output or the logits of whatever a model returns."""
    rows = torch.tensor([[0.0, 1.0]])
    for model in (lambda x: x, lambda x: (x, "more"), lambda x: {"logits": x}):
        assert torch.equal(compute_answer(model, rows), rows)
    with pytest.raises(KitError, match="answers with a dict"):
        compute_answer(lambda x: {"boxes": x}, rows)


def test_a_lightning_module_answers_with_its_predict_step() -> None:
    """In whatever file its weights came: softmax in there is not lost with the format."""

    class Lit(torch.nn.Module):  # type: ignore[misc]
        def predict_step(self, batch: Any, _index: int) -> Any:
            return batch + 1

    assert torch.equal(compute_answer(Lit(), torch.zeros(1, 1)), torch.ones(1, 1))


def test_half_precision_becomes_single_on_the_cpu() -> None:
    """A model in bfloat16 predicts there, and is no longer in training mode."""
    model = prepare_model(net().bfloat16(), "cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training


def test_all_kinds_of_one_model_predict_the_same(tmp_path: Path) -> None:
    """Six files of one network in one notebook: their mean is what the network in memory says."""
    stage = Stage(tmp_path)
    stage.code["net.py"] = NET
    scope: dict[str, Any] = {"__name__": "net"}
    exec(NET, scope)
    model = scope["Net"](width=6).eval()
    place = stage.project / "models"
    place.mkdir()
    some = torch.zeros(5, 2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, place / "a.pt")
    torch.save(model.layers, place / "b.pth")
    torch.jit.trace(model, some).save(place / "c.pt")
    with (place / "d.pt2").open("wb") as stream:
        torch.export.save(
            torch.export.export(model, (some,), dynamic_shapes=({0: torch.export.Dim("rows")},)), stream
        )
    saved = {"pytorch-lightning_version": "2.6.6", "state_dict": model.state_dict()}
    torch.save(saved | {"hyper_parameters": {"width": 6, "lr": 0.1}}, place / "e.ckpt")
    (stage.data / "test.csv").write_text("id,a,b\n" + "".join(f"{n},{n / 10},{n % 3}\n" for n in range(9)))
    (stage.data / "sample_submission.csv").write_text(
        "id,x,y,z\n" + "".join(f"{n},0,0,0\n" for n in range(9))
    )
    entries: list[dict[str, Any]] = [
        {"files": "models/a.pt", "model": "net.py:Net", "params": {"width": 6}},
        {"files": "models/b.pth", "params": {"weights_only": False}},
        {"files": "models/[cd].*"},
        {"files": "models/e.ckpt", "model": "net.py:Net"},
    ]
    said = stage.run(
        stage.notebook(
            task="tabular",
            models=tuple(ModelSpec(**each) for each in entries),
            params={"activation": "softmax"},
        )
    )
    assert "weights: removed the prefix 'module.'" in said
    rows = torch.tensor([[n / 10, n % 3] for n in range(9)])
    with torch.inference_mode():
        expected = torch.softmax(model(rows), dim=-1).numpy()
    assert stage.submission()[["x", "y", "z"]].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_a_script_gets_no_advice_for_torch_load(tmp_path: Path) -> None:
    """What its framework loads is no trouble; as a file of nobody's it is told of."""
    torch.jit.trace(net().eval(), torch.zeros(1, 2)).save(tmp_path / "m.pt")
    found = collect_checkpoints(tmp_path, ["m.pt"], cache=tmp_path / "cache")
    plain = ModelFiles(config=load_config(tmp_path, {}), checkpoints=found, preprocessing=())
    resolved = members.resolve_members(NotebookSettings(template="predict"), found)
    assert "torch.jit.load" in "".join(advise_on_checkpoints(plain))
    assert not advise_on_checkpoints(dataclasses.replace(plain, members=resolved))


def test_timm_never_fetches(tmp_path: Path) -> None:
    """`pretrained` is off whatever the params say."""
    stage = Stage(tmp_path)
    (stage.project / "models").mkdir()
    torch.save(net().state_dict(), stage.project / "models" / "w.pt")
    text = stage.notebook(task="images", model="timm:resnet18", params={"pretrained": True}).text
    assert text.count("create_model") == 1
    assert '| {\\"pretrained\\": False}' in text
