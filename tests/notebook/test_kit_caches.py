"""Caches of libraries travel in the kit and are found by the libraries themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from offline_kit.checkpoints.discovery import collect_checkpoints
from offline_kit.checkpoints.prepare import drop_cache_blobs
from offline_kit.kit import layout
from offline_kit.notebook.runtime.kit_runtime import OpenKit, SessionFolders, use_caches


def hub_cache(project: Path) -> None:
    """Write a cache as huggingface_hub keeps it: blobs, and snapshots that link to them."""
    model = project / "caches" / "huggingface" / "hub" / "models--org--net"
    (model / "blobs").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    (model / "blobs" / "1234").write_text('{"model_type": "bert"}')
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(Path("../../blobs/1234"))


def test_the_caches_of_a_kit_are_set(tmp_path: Path) -> None:
    """The variables of those caches that are there, and of no other."""
    folder = tmp_path / "checkpoints" / "preprocessing" / "caches"
    for name in ("torch", "nltk_data"):
        (folder / name).mkdir(parents=True)
    environ: dict[str, str] = {}
    use_caches(OpenKit(tmp_path, SessionFolders()), environ)
    assert environ == {"TORCH_HOME": str(folder / "torch"), "NLTK_DATA": str(folder / "nltk_data")}


def test_a_hubs_cache_travels_once(tmp_path: Path) -> None:
    """Snapshots go along as files, the blobs behind them do not, and no cell lists any of them."""
    hub_cache(tmp_path)
    found = drop_cache_blobs(collect_checkpoints(tmp_path, ["caches"], cache=tmp_path.parent / "memory"))
    names = [each.original.partition("models--org--net/")[2] for each in found]
    assert names == ["refs/main", "snapshots/abc/config.json"]
    assert layout.name_preprocessing_files(found) == {}


def test_torch_finds_its_files_there(tmp_path: Path) -> None:
    """What torch.hub would fetch is read from the cache, without a network."""
    pytest.importorskip("torch")
    place = tmp_path / "checkpoints" / "preprocessing" / "caches" / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    code = (
        "import torch, sys\n"
        "from pathlib import Path\n"
        "torch.save({'w': torch.ones(2)}, sys.argv[2] + '/net.pth')\n"
        "from offline_kit.notebook.runtime.kit_runtime import use_caches\n"
        "from offline_kit.notebook.runtime.kit_runtime import OpenKit, SessionFolders\n"
        "use_caches(OpenKit(Path(sys.argv[1]), SessionFolders()))\n"
        "print(torch.hub.load_state_dict_from_url('https://nowhere.invalid/net.pth')['w'].sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(place)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("\n2.0\n")
