"""The contract of model and data classes: what is asked of them, and what is said when they do not keep it."""

import argparse
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.notebook.runtime.kit_torch import (
    build_data,
    build_model,
    check_params,
    find_loader,
    load_checkpoint,
    predict_loader,
    to_device,
)
from tests.support.lazy_modules import LazyModule, torch

models: Any = LazyModule("tests.support.lightning_models")


def saved(tmp_path: Path, model: Any, **more: Any) -> Path:
    torch.save({"state_dict": model.state_dict(), **more}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_a_model_is_rebuilt_from_its_checkpoint(tmp_path: Path) -> None:
    """Hyper-parameters make the model, those its constructor does not take are left out, params win."""
    path = saved(tmp_path, models.Model(3), hyper_parameters={"width": 3, "shift": 1.0, "lr": 0.1})
    model = build_model(models.Model, load_checkpoint(path), {"shift": 5.0, "weights_only": True}, "cpu")
    assert (model.layer.out_features, model.shift, model.training) == (3, 5.0, False)


def test_a_plain_state_dict_does_too(tmp_path: Path) -> None:
    """A file of weights alone is a checkpoint, with the params as its hyper-parameters."""
    torch.save(models.Model(4).state_dict(), tmp_path / "weights.pth")
    assert (
        build_model(
            models.Model, load_checkpoint(tmp_path / "weights.pth"), {"width": 4}, "cpu"
        ).layer.out_features
        == 4
    )


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>log in</html>", pickle.dumps({"a": 1}, 4)])
def test_a_file_that_torch_did_not_write_is_called_so(tmp_path: Path, content: bytes) -> None:
    """A saved login page gets no advice to load it unsafely."""
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(KitError, match="no checkpoint that PyTorch wrote") as caught:
        load_checkpoint(tmp_path / "best.ckpt")
    assert "weights_only" not in str(caught.value)


def test_safetensors_are_weights_too(tmp_path: Path) -> None:
    """They load without pickle."""
    path = tmp_path / "best.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 2.5))
    assert load_checkpoint(path)["a"].tolist() == [2.5]


def test_pickled_classes_are_refused_by_name(tmp_path: Path) -> None:
    """A safe load names the class, and the setting that allows it, which then works."""
    path = saved(tmp_path, models.Model(), hyper_parameters=argparse.Namespace(width=2))
    with pytest.raises(KitError, match=r"argparse\.Namespace") as caught:
        load_checkpoint(path)
    assert "weights_only = false" in str(caught.value)
    assert load_checkpoint(path, weights_only=False)["hyper_parameters"].width == 2


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    """Empty and foreign files end in our error with the file's name."""
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(KitError, match=r"'best\.ckpt'"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_a_saved_object_is_no_checkpoint(tmp_path: Path) -> None:
    """A tensor or list is not taken for weights."""
    torch.save([1, 2], tmp_path / "best.ckpt")
    with pytest.raises(KitError, match="holds a list"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Missing and unexpected weights, and other shapes, are told."""
    weights = models.Model().state_dict()
    weights["head.weight"] = weights.pop("layer.weight")
    with pytest.raises(KitError, match=r"in the model only: layer\.weight") as caught:
        build_model(models.Model, {"state_dict": weights}, {}, "cpu")
    assert "in the checkpoint only: head.weight" in str(caught.value)
    with pytest.raises(KitError, match="size mismatch"):
        build_model(models.Model, {"state_dict": models.Model(3).state_dict()}, {}, "cpu")


def test_a_model_without_its_hyper_parameters_is_told() -> None:
    """A constructor that wants more than there is says which, before it is called."""

    class Needs(models.Model):  # type: ignore[misc]
        def __init__(self, backbone: str) -> None:
            super().__init__()

    with pytest.raises(KitError, match="'Needs' cannot be made: missing a required argument: 'backbone'"):
        build_model(Needs, {"state_dict": {}}, {}, "cpu")


def test_typing_errors_in_params_are_told() -> None:
    """A param that neither the template, the model nor the data takes is an error."""
    check_params({"batch_size": 4, "shift": 1, "weights_only": False}, {}, [models.Model, models.Data])
    check_params({"lr": 4}, {"hyper_parameters": {"lr": 1}}, [models.Model, models.Data])
    with pytest.raises(KitError, match="there is no param 'batchsize'"):
        check_params({"batchsize": 4}, {}, [models.Model, models.Data])


def test_a_model_with_kwargs_gets_what_was_saved() -> None:
    """Params that are the data's do not reach a model that would take anything."""

    class Loose(models.Model):  # type: ignore[misc]
        def __init__(self, width: int = 2, **more: Any) -> None:
            super().__init__(width)
            self.more = more

    checkpoint = {
        "state_dict": models.Model().state_dict(),
        "hyper_parameters": {"pretrained": True, "drop": 0.1},
    }
    model = build_model(Loose, checkpoint, {"pretrained": False, "batch_size": 4}, "cpu")
    assert model.more == {"pretrained": False, "drop": 0.1}


def test_data_gets_the_folder_and_what_it_was_trained_with(tmp_path: Path) -> None:
    """The first parameter is the folder, in the type that it is annotated with; the rest come by name."""
    checkpoint = {
        "datamodule_hyper_parameters": {"where": "/home/me", "size": 16, "batch_size": 64, "other": 1}
    }
    data = build_data(models.Data, tmp_path, checkpoint, {"batch_size": 3})
    assert (data.where, data.size, data.batch_size) == (str(tmp_path), 16, 3)


def test_data_is_set_up_for_prediction(tmp_path: Path) -> None:
    """`setup` is called with the stage, or without where it takes none; only if it is the class's own."""

    class Stage(models.Data):  # type: ignore[misc]
        stage = ""

        def setup(self, stage: str = "") -> None:
            self.stage = stage

    class Bare(Stage):
        def setup(self) -> None:  # type: ignore[override]
            self.stage = "bare"

    assert build_data(Stage, tmp_path, {}, {}).stage == "predict"
    assert build_data(Bare, tmp_path, {}, {}).stage == "bare"


def test_data_that_breaks_the_contract_is_told(tmp_path: Path) -> None:
    """No submission method, no folder, required parameters, no loader: each is an error with what to do."""

    class Mute:
        """No submission, no loader."""

    class Greedy(models.Data):  # type: ignore[misc]
        def __init__(self, root: Path, fold: int) -> None:
            pass

    class Loaderless(models.LightningDataModule):  # type: ignore[misc]
        pass

    with pytest.raises(KitError, match="'Mute' has no method submission"):
        build_data(Mute, tmp_path, {}, {})
    with pytest.raises(KitError, match="needs the competition's folder as 'where'"):
        build_data(models.Data, None, {}, {})
    with pytest.raises(KitError, match="'fold'"):
        build_data(Greedy, tmp_path, {}, {})
    with pytest.raises(KitError, match="neither predict_dataloader nor test_dataloader"):
        find_loader(Loaderless())


def test_a_list_of_one_loader_is_that_loader(tmp_path: Path) -> None:
    """Lightning allows lists of loaders; one is fine, two are not."""

    class Lists(models.Data):  # type: ignore[misc]
        loaders = 1

        def predict_dataloader(self) -> Any:
            return [range(3)] * self.loaders

    data = Lists("x")
    assert find_loader(data) == range(3)
    data.loaders = 2
    with pytest.raises(KitError, match="returns 2 loaders"):
        find_loader(data)


def test_predictions_come_in_the_loaders_order(capsys: pytest.CaptureFixture[str]) -> None:
    """forward gets the first item of a batch; the answers are one tensor."""
    model = build_model(models.Model, models.Model().state_dict(), {}, "cpu")
    answer = predict_loader(model, find_loader(models.Data("x")), "cpu", "best.ckpt")
    said = capsys.readouterr().out.splitlines()
    expected = model(torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(answer, expected)
    assert said[0].startswith("best.ckpt: 2 batches in")


def test_an_own_predict_step_is_used() -> None:
    """The model's own predict_step gets the whole batch; half precision comes back single."""
    model = build_model(models.Probabilities, models.Model().state_dict(), {}, "cpu")
    answer = predict_loader(model, [{"x": torch.zeros(3, 2), "name": ["a", "b", "c"]}], "cpu", "x")
    assert answer.shape == (3, 2)
    assert answer.dtype == torch.float32


def test_an_empty_loader_and_strange_answers_are_told() -> None:
    """No batch, or no tensor, is an error that says what to look at."""
    with pytest.raises(KitError, match="yields no batch"):
        predict_loader(torch.nn.Identity(), [], "cpu", "x")
    with pytest.raises(KitError, match="answers with a dict"):
        predict_loader(torch.nn.Identity(), [{"x": 1}], "cpu", "x")


def test_batches_move_whole() -> None:
    """Tensors are moved however deep they lie, and all else is left alone."""
    moved = to_device({"x": [torch.zeros(1)], "name": "a", "pair": (torch.zeros(1), 3)}, "meta")
    assert (moved["x"][0].device.type, moved["name"], moved["pair"][0].device.type) == ("meta", "a", "meta")
