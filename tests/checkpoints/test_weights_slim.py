"""Checkpoints without their training: lighter, the same weights bit for bit, the same bytes every time."""

import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline_kit.checkpoints import slim_worker
from offline_kit.checkpoints.prepare import slim_checkpoints
from offline_kit.checkpoints.slim_worker import TRAINING
from offline_kit.core.errors import ProjectError
from offline_kit.project.config import Config
from offline_kit.project.types import Checkpoint, Finding, Severity
from offline_kit.project.types import CheckpointKind as Kind
from tests.support.lazy_modules import torch
from tests.support.tabular_models import as_checkpoint
from tests.support.warm_python import link_environment, torch_python


def tied() -> Any:
    """Return a model whose last layer is its first one turned round, as language models have it."""
    embed, norm = torch.nn.Embedding(50, 16), torch.nn.BatchNorm1d(16)
    head = torch.nn.Linear(16, 50, bias=False)
    head.weight = embed.weight
    return torch.nn.Sequential(OrderedDict(embed=embed, norm=norm, head=head))


def trained() -> tuple[Any, dict[str, Any]]:
    """Return a model after a step of Adam, and its Lightning checkpoint."""
    torch.manual_seed(0)
    model = tied()
    adam = torch.optim.AdamW(model.parameters())
    plan = torch.optim.lr_scheduler.StepLR(adam, 3)
    model(torch.arange(50)).sum().backward()
    adam.step()
    return model, {
        "epoch": 3,
        "global_step": 7,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EarlyStopping": {"best": torch.tensor(1.0)}},
        "optimizer_states": [adam.state_dict()],
        "lr_schedulers": [plan.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "name": "tied"},
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a project whose environment has torch and starts at once."""
    folder = tmp_path_factory.mktemp("project")
    link_environment(folder, torch_python())
    return folder


def light(path: Path, project: Path, *, slim: bool = True) -> tuple[Checkpoint, tuple[Finding, ...]]:
    """Make one checkpoint light, with a cache beside it; return it and the findings."""
    config = Config(project=project, name="", version="", slim=slim)
    (new,), findings = slim_checkpoints([as_checkpoint(path)], config, cache=path.parent / "cache")
    return new, findings


def work(source: Path, target: Path, **wish: Any) -> dict[str, Any]:
    """Run the worker in this process."""
    request = {"trusted": False, "roots": [], **wish}
    return slim_worker.run_request({"source": str(source), "target": str(target), **request})


def predictions(weights: dict[str, Any]) -> Any:
    """Return what the model predicts with these weights."""
    model = tied().eval()
    model.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        return model(torch.arange(50))


def test_a_lightning_checkpoint_travels_without_its_training(tmp_path: Path, project: Path) -> None:
    """Optimizer, schedulers, callbacks and loops stay at home; the rest, and every prediction, is the same."""
    model, whole = trained()
    path = tmp_path / "best.ckpt"
    torch.save(whole, path)
    before = path.read_bytes()
    new, (finding,) = light(path, project)
    loaded = torch.load(new.path, weights_only=True)
    assert set(whole) - set(loaded) == {"loops", "callbacks", "optimizer_states", "lr_schedulers"}
    assert loaded["hyper_parameters"] == whole["hyper_parameters"]
    assert torch.equal(predictions(loaded["state_dict"]), predictions(model.state_dict()))
    assert loaded["state_dict"]["head.weight"].data_ptr() == loaded["state_dict"]["embed.weight"].data_ptr()
    assert new.size < 0.6 * len(before)
    assert (new.original, new.kind, path.read_bytes()) == ("best.ckpt", Kind.LIGHTNING, before)
    assert finding.severity is Severity.NOTE
    assert "without callbacks, loops, lr_schedulers, optimizer_states" in finding.what
    assert "bit for bit the same" in finding.what


def test_the_same_bytes_come_out_every_time(tmp_path: Path, project: Path) -> None:
    """Under another name, from another folder, without any memory: the same content gives the same bytes."""
    _, whole = trained()
    digests = set()
    for name in ("a/one.ckpt", "b/two.pt"):
        path = tmp_path / name
        path.parent.mkdir()
        torch.save(whole, path.parent / "weights")
        (path.parent / "weights").rename(path)
        digests.add(light(path, project)[0].sha256)
    assert len(digests) == 1


@pytest.fixture
def no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Give a function after which no interpreter has torch; it returns the only one that there is."""

    def taken() -> Path:
        bare = tmp_path / "venv" / "bin" / "python"
        bare.parent.mkdir(parents=True)
        bare.write_text("#!/bin/sh\nexit 3\n")
        bare.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(bare))
        monkeypatch.setenv("PATH", str(bare.parent))
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
            monkeypatch.delenv(name, raising=False)
        return bare

    return taken


def test_a_second_build_needs_no_torch(tmp_path: Path, no_torch: Callable[[], Path]) -> None:
    """What was made once comes from the cache: the second time no interpreter is asked for."""
    torch.save(trained()[1], tmp_path / "best.ckpt")
    first = light(tmp_path / "best.ckpt", tmp_path)
    no_torch()
    assert light(tmp_path / "best.ckpt", tmp_path) == first


def test_no_interpreter_with_torch(tmp_path: Path, no_torch: Callable[[], Path]) -> None:
    """Without torch anywhere the error says who needs it, what was tried, and what to do."""
    torch.save(trained()[1], tmp_path / "best.ckpt")
    bare = no_torch()
    with pytest.raises(ProjectError, match="`slim` needs an interpreter with torch") as caught:
        light(tmp_path / "best.ckpt", tmp_path)
    assert caught.value.details == (f"'{bare}' has no torch",)
    assert caught.value.code == "torch-not-found"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_plain_dict_of_a_training_loop(tmp_path: Path, legacy: bool) -> None:
    """{"model": ..., "optimizer": ...} keeps model, ema, epoch and arguments."""
    model, whole = trained()
    loop = {
        "model": model.state_dict(),
        "model_ema": model.state_dict(),
        "optimizer": whole["optimizer_states"][0],
        "lr_scheduler": whole["lr_schedulers"][0],
        "scaler": {"scale": 1.0},
        "rng_state": {"torch": [1]},
        "epoch": 3,
        "args": {"lr": 0.1},
    }
    torch.save(loop, tmp_path / "loop.pth", _use_new_zipfile_serialization=not legacy)
    answer = work(tmp_path / "loop.pth", tmp_path / "new.pt")
    assert answer["dropped"] == ["lr_scheduler", "optimizer", "rng_state", "scaler"]
    loaded = torch.load(tmp_path / "new.pt", weights_only=True)
    assert list(loaded) == ["model", "model_ema", "epoch", "args"]
    assert torch.equal(predictions(loaded["model"]), predictions(model.state_dict()))


def test_a_scaler_of_the_data_stays(tmp_path: Path) -> None:
    """Mean and deviation under "scaler" are wanted for predicting; the state of a GradScaler is not."""
    weights = {"w": torch.zeros(2)}
    loop = {
        "model": weights,
        "scaler": {"mean": torch.ones(3), "std": torch.ones(3)},
        "scalers": [[0.5, 2.0]],
    }
    torch.save(loop | {"optimizer": {}}, tmp_path / "data.pth")
    assert work(tmp_path / "data.pth", tmp_path / "new.pt")["dropped"] == ["optimizer"]
    assert list(torch.load(tmp_path / "new.pt", weights_only=True)) == ["model", "scaler", "scalers"]
    scaling = torch.amp.GradScaler("cpu").state_dict()
    torch.save(
        {"model": weights, "scaler": scaling, "scaler_state_dict": scaling, "scalers": [scaling, {}]},
        tmp_path / "grad.pth",
    )
    answer = work(tmp_path / "grad.pth", tmp_path / "new.pt")
    assert answer["dropped"] == ["scaler", "scaler_state_dict", "scalers"]


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    """A slice of something larger is written as itself."""
    large = torch.zeros(100_000)
    torch.save(
        {"state_dict": {"w": large[:10], "same": large[:10], "other": large[10:12]}}, tmp_path / "a.pt"
    )
    answer = work(tmp_path / "a.pt", tmp_path / "new.pt")
    assert answer["size"] < 5000 < (tmp_path / "a.pt").stat().st_size
    assert (tmp_path / "new.pt").stat().st_size == answer["size"]


def test_not_a_number_is_no_difference(tmp_path: Path) -> None:
    """Bits are compared, so a NaN equals itself, and 0.0 is not -0.0."""
    torch.save({"w": torch.tensor([float("nan"), -0.0, float("inf")])}, tmp_path / "odd.pt")
    assert work(tmp_path / "odd.pt", tmp_path / "new.pt")["tensors"] == 1


class Settings:
    """Hyper-parameters of a class, which a safe load refuses."""


def test_a_refused_checkpoint_is_left_unless_trusted(tmp_path: Path) -> None:
    """What a safe load refuses is not loaded here either, until `trust` names it."""
    _, whole = trained()
    torch.save({**whole, "hyper_parameters": Settings()}, tmp_path / "best.ckpt")
    left = work(tmp_path / "best.ckpt", tmp_path / "new.pt")["left"]
    assert "weights_only" in left
    assert "Settings" in left
    answer = work(tmp_path / "best.ckpt", tmp_path / "new.pt", trusted=True)
    assert "optimizer_states" in answer["dropped"]


def test_names_of_the_script_need_no_script(tmp_path: Path) -> None:
    """Objects of classes that the training script defined keep their attributes, and are pickled under its name again."""
    code = (
        "import sys, torch\nclass ScriptCfg: pass\ncfg = ScriptCfg()\ncfg.width = 8\n"
        "torch.save({'model': {'w': torch.zeros(3)}, 'cfg': cfg, 'kind': ScriptCfg, 'optimizer': {}}, sys.argv[1])"
    )
    subprocess.run([torch_python(), "-c", code, str(tmp_path / "a.pth")], check=True)
    answer = work(tmp_path / "a.pth", tmp_path / "new.pth", trusted=True)
    assert answer["dropped"] == ["optimizer"]
    look = (
        "import sys, torch\nclass ScriptCfg: pass\nold = torch.load(sys.argv[1], weights_only=False)\n"
        "assert old['kind'] is ScriptCfg; print(old['cfg'].width)"
    )
    done = subprocess.run(
        [torch_python(), "-c", look, str(tmp_path / "new.pth")], check=True, capture_output=True
    )
    assert done.stdout.split() == [b"8"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: [torch.zeros(2)], "holds a list"),
        (lambda: {"optimizer": {"state": {}}, "epoch": 1}, "no weights"),
    ],
)
def test_what_is_no_checkpoint_is_left(tmp_path: Path, make: Callable[[], Any], reason: str) -> None:
    """Things without weights by name are not touched."""
    torch.save(make(), tmp_path / "a.pt")
    assert reason in work(tmp_path / "a.pt", tmp_path / "new.pt")["left"]


def test_the_folder_of_a_library_is_left_alone(tmp_path: Path, project: Path) -> None:
    """transformers and timm save weights alone, and load the folder as a whole."""
    torch.save({"w": torch.zeros(100_000)[:10]}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    originals = tuple(
        as_checkpoint(tmp_path / name, f"b/{name}") for name in ("config.json", "pytorch_model.bin")
    )
    config = Config(project=project, name="", version="", slim=True)
    assert slim_checkpoints(originals, config, cache=tmp_path / "cache") == (originals, ())


def test_nothing_wished_nothing_done(tmp_path: Path, project: Path) -> None:
    """Without a wish, and for other formats, files go as they are."""
    (tmp_path / "model.json").write_text("{}")
    torch.save(trained()[1], tmp_path / "best.ckpt")
    assert light(tmp_path / "best.ckpt", project, slim=False)[1] == ()
    assert light(tmp_path / "model.json", project)[0].path == tmp_path / "model.json"


@pytest.mark.parametrize(
    ("key", "is_training"),
    [
        *(
            (key, True)
            for key in ("optimizer", "optim", "optimizer_state_dict", "optimizer_states", "scheduler")
        ),
        *(
            (key, True)
            for key in ("lr_scheduler_state_dict", "scaler", "amp_scaler", "rng_states", "callbacks")
        ),
        *((key, False) for key in ("state_dict", "model", "model_ema", "optimizer.weight", "args", "epoch")),
        *((key, False) for key in ("hyper_parameters", "scaler_mean", "state_dict_ema", "classes")),
    ],
)
def test_keys_of_trainings(key: str, is_training: bool) -> None:
    """Usual names of what only a training needs are known, and nothing else is taken for one."""
    assert bool(TRAINING.fullmatch(key)) is is_training


def test_the_worker_needs_no_package_of_ours(tmp_path: Path) -> None:
    """It runs in a bare interpreter: another environment has none of our packages."""
    code = f"import runpy; runpy.run_path({slim_worker.__file__!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, cwd=tmp_path)
