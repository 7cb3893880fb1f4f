"""Checkpoints: found by patterns, told apart without running them, wrong ones named all at once."""

import json
import os
import pickle
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from offline_kit.checkpoints.discovery import advise_loading, collect_checkpoints
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.core.errors import ProjectError
from offline_kit.core.files import sha256_of
from offline_kit.project.types import Checkpoint
from offline_kit.project.types import CheckpointKind as Kind
from tests.support import command_line
from tests.support.listener import Listener


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give an empty project folder whose name holds a bracket."""
    folder = tmp_path / "my [project]"
    folder.mkdir()
    return folder


@pytest.fixture
def find(project: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Give a function from patterns to the original names that they find."""
    return lambda *patterns: [
        c.original for c in collect_checkpoints(project, patterns, cache=tmp_path / "cache")
    ]


def make(project: Path, *names: str, data: bytes = b"weights") -> None:
    """Write files with these names."""
    for name in names:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(data)


def problems(project: Path, *patterns: str) -> tuple[str, ...]:
    """Return the lines of the error that these patterns give."""
    with pytest.raises(ProjectError) as caught:
        collect_checkpoints(project, patterns, cache=project.parent / "cache")
    return caught.value.details


def test_five_folds_of_one_name_stay_five(project: Path, find: Callable[..., list[str]]) -> None:
    """Files of one name in different folders keep their folders."""
    make(project, *(f"runs/fold{n}/best.ckpt" for n in range(5)))
    assert find("runs/**/best.ckpt") == [f"runs/fold{n}/best.ckpt" for n in range(5)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.ckpt", ["a.ckpt"]),
        ("*.ckpt", ["a.ckpt"]),
        ("**/*.ckpt", ["a.ckpt", "d/b=1.ckpt", "d/e/c.ckpt"]),
        ("d", ["d/b=1.ckpt", "d/e/c.ckpt", "d/e/config.json"]),
        ("./d/", ["d/b=1.ckpt", "d/e/c.ckpt", "d/e/config.json"]),
        ("d/b=1.ckpt", ["d/b=1.ckpt"]),
        ("d/*", ["d/b=1.ckpt"]),
        ("d/?", ["d/e/c.ckpt", "d/e/config.json"]),
        ("x[1].pt", ["x[1].pt"]),
        ("f[1]/*.pt", ["f[1]/b.pt"]),
        ("f[12]/*.pt", ["f1/a.pt"]),
        ("x[12].pt", ["x1.pt"]),
    ],
)
def test_patterns(project: Path, find: Callable[..., list[str]], pattern: str, names: list[str]) -> None:
    """Files, folders, globs and names with brackets are all patterns; hidden files stay at home."""
    make(
        project,
        "a.ckpt",
        "d/b=1.ckpt",
        "d/e/c.ckpt",
        "d/e/config.json",
        "d/.DS_Store",
        "x[1].pt",
        "x1.pt",
        "f1/a.pt",
        "f[1]/b.pt",
        ".h/x.ckpt",
    )
    assert find(pattern) == names


def test_a_file_named_twice_comes_once(project: Path, find: Callable[..., list[str]]) -> None:
    """Patterns may overlap."""
    make(project, "a.ckpt")
    assert find("*.ckpt", "a.ckpt", "*.ckpt", ".", f"../{project.name}/a.ckpt") == ["a.ckpt"]


def test_files_outside_the_project_lose_the_way_to_them(
    project: Path, find: Callable[..., list[str]]
) -> None:
    """A checkpoint beside the project keeps the folder that the user named, not this machine's paths."""
    make(project.parent, "runs/f0/best.ckpt", "runs/f1/best.ckpt", "one.ckpt")
    assert find("../runs/*/best.ckpt") == ["runs/f0/best.ckpt", "runs/f1/best.ckpt"]
    assert find(str(project.parent / "one.ckpt")) == ["one.ckpt"]
    assert find(str(project.parent / "runs")) == ["runs/f0/best.ckpt", "runs/f1/best.ckpt"]


def test_a_relative_project_is_taken_as_such(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside the project, "." gives the same names as its full path."""
    make(project, "d/a.ckpt")
    make(project.parent, "b.ckpt")
    monkeypatch.chdir(project)
    found = collect_checkpoints(Path(), ["d/*.ckpt", "../b.ckpt"], cache=tmp_path / "cache")
    assert [each.original for each in found] == ["b.ckpt", "d/a.ckpt"]


def test_two_outside_files_of_one_name_are_refused(project: Path) -> None:
    """Names must be unique in the kit; both paths are told."""
    make(project.parent, "a/best.ckpt", "b/best.ckpt")
    (line,) = problems(project, "../a/best.ckpt", "../b/best.ckpt")
    assert "would both be 'best.ckpt'" in line


def test_no_patterns_no_checkpoints(find: Callable[..., list[str]]) -> None:
    """A kit without checkpoints is legal."""
    assert find() == []


def test_every_problem_comes_at_once(project: Path) -> None:
    """Missing, empty, dangling, pointer and unmatched: one error with a line for each."""
    make(project, "zero.ckpt", data=b"")
    make(project, "lfs.ckpt", data=b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    make(project, "cut.pt", data=b"PK\x03\x04 and no end")
    make(project, "best.ckpt")
    (project / "nowhere.ckpt").symlink_to("gone.ckpt")
    (project / "hollow").mkdir()
    os.mkfifo(project / "pipe.ckpt")
    lines = problems(
        project,
        *(
            "zero.ckpt",
            "lfs.ckpt",
            "cut.pt",
            "nowhere.ckpt",
            "hollow",
            "bset.ckpt",
            "none/*.ckpt",
            "pipe.ckpt",
            "",
        ),
    )
    expected = (
        *("an empty pattern", "'bset.ckpt' does not exist; did you mean 'best.ckpt'?"),
        *(
            "'none/*.ckpt' matches no file",
            "the folder 'hollow' is empty",
            "link to nothing: 'gone.ckpt'",
        ),
        *("'zero.ckpt' is empty", "Git LFS pointer", "'cut.pt' is cut short", "'pipe.ckpt' is no plain file"),
    )
    assert all(any(text in line for line in lines) for text in expected), lines
    assert len(lines) == len(expected)


def test_a_dangling_link_under_a_glob_is_a_problem(project: Path) -> None:
    """A link to nothing is named, not passed over."""
    make(project, "a.ckpt")
    (project / "last.ckpt").symlink_to("gone.ckpt")
    (line,) = problems(project, "*.ckpt")
    assert "'last.ckpt' is a link to nothing" in line


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(project: Path) -> None:
    """A file without the right to read it is a line of the error."""
    make(project, "a.ckpt")
    (project / "a.ckpt").chmod(0)
    assert "cannot be read" in problems(project, "a.ckpt")[0]


def test_a_link_beside_its_target_does_not_travel_twice(
    project: Path, find: Callable[..., list[str]]
) -> None:
    """last.ckpt that links to best.ckpt is left out under a glob, kept when named, followed when alone."""
    make(project, "best.ckpt")
    (project / "last.ckpt").symlink_to("best.ckpt")
    assert find("*.ckpt") == ["best.ckpt"]
    assert find("*.ckpt", "last.ckpt") == ["best.ckpt", "last.ckpt"]
    assert find("last.ckpt") == ["last.ckpt"]


def test_a_ring_of_folders_ends(project: Path, find: Callable[..., list[str]]) -> None:
    """A link to a folder above is not walked in a folder pattern."""
    make(project, "d/a.ckpt")
    (project / "d" / "up").symlink_to(project)
    assert find("d") == ["d/a.ckpt"]


def test_a_second_build_does_not_hash_again(project: Path, tmp_path: Path) -> None:
    """Digest and kind are remembered until size, time or inode change."""
    make(project, "a.ckpt", data=b"x" * 1000)
    old = time.time() - 100
    os.utime(project / "a.ckpt", (old, old))
    time.sleep(0.2)
    reports = [Listener() for _ in range(4)]
    first = collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache", report=reports[0])
    second = collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache", report=reports[1])
    os.utime(project / "a.ckpt", (old + 1, old + 1))
    collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache", report=reports[2])
    make(project, "b.ckpt", data=b"y" * 1000)
    os.utime(project / "b.ckpt", (old, old))
    (project / "b.ckpt").replace(project / "a.ckpt")
    third = collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache", report=reports[3])
    assert [sum(total for total, _ in report.bars) for report in reports] == [1000, 0, 1000, 1000]
    assert first == second
    assert third[0].sha256 == sha256_of(project / "a.ckpt")


def test_a_young_file_is_not_remembered(project: Path, tmp_path: Path) -> None:
    """A file written a moment ago may change within its time's grain, so it is hashed again."""
    make(project, "a.ckpt")
    collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache")
    again = Listener()
    collect_checkpoints(project, ["a.ckpt"], cache=tmp_path / "cache", report=again)
    assert sum(total for total, _ in again.bars) == len(b"weights")


def kind(path: Path, data: bytes) -> Kind:
    """Return the kind of a file with these bytes."""
    path.write_bytes(data)
    return classify_file(path).kind


def zipped(path: Path, *names: str) -> Path:
    """Write a zip with these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return path


@pytest.mark.parametrize(
    ("where", "name"), [("both", "net.pt"), ("central", "net.npz"), ("local", "net.keras")]
)
def test_a_member_name_that_is_no_utf8_is_one_sentence(tmp_path: Path, where: str, name: str) -> None:
    """Zip says that its names are UTF-8, and they are not: every command says so or passes over the file."""
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    path = zipped(project / "models" / name, "net/data.pkl", "net/ÿÿ")
    data, good, bad = path.read_bytes(), "net/ÿÿ".encode(), b"net/\xff\xfe\xff\xfe"
    first = data.find(good)
    local, central = data[: first + len(good)], data[first + len(good) :]
    local = local.replace(good, bad) if where != "central" else local
    central = central.replace(good, bad) if where != "local" else central
    path.write_bytes(local + central)
    for words, codes in ((["init", "."], {0}), (["build", "."], {1}), (["doctor", "."], {1})):
        done = command_line.offline_kit(
            *words, cwd=project, env={**os.environ, "OFFLINE_KIT_CACHE": str(tmp_path / "cache")}
        )
        assert done.returncode in codes, (words, done.stdout, done.stderr)
    assert name in done.stdout


def safetensors(size: int) -> bytes:
    """Return a safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * size


ONNX = bytes([8, 8, 18, 2, 112, 116, 58, 3, 10, 1, 97, 66, 2, 16, 18])
"""ir_version 8, producer "pt", a graph, an operator set."""


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("m.safetensors", safetensors(10), Kind.SAFETENSORS),
        ("m.pkl", pickle.dumps({"a": [1, 2]}), Kind.PICKLE),
        ("m.pkl", pickle.dumps({"a": [1, 2]}, 0), Kind.PICKLE),
        ("m.bin", pickle.dumps({"a": [1, 2]}, 2), Kind.PICKLE),
        ("m.joblib", b"x\x9c compressed", Kind.JOBLIB),
        ("m.model", b"\x80\x04\x95....joblib.numpy_pickle....", Kind.JOBLIB),
        ("m.npy", b"\x93NUMPY\x01\x00", Kind.NUMPY),
        ("m.h5", b"\x89HDF\r\n\x1a\n...", Kind.HDF5),
        ("m.onnx", ONNX, Kind.ONNX),
        ("m.onnx", ONNX + b"\xff", Kind.OTHER),
        ("m.txt", b"tree\nversion=v4\nnum_class=1\n", Kind.OTHER),
        ("m.json", b'{"learner": {"attributes": {}}}', Kind.OTHER),
        ("m.pkl", b"hello, this is text", Kind.OTHER),
        ("m.bin", b"\x80\x99", Kind.OTHER),
    ],
)
def test_kinds(tmp_path: Path, name: str, data: bytes, expected: Kind) -> None:
    """The bytes tell the kind; what we do not know is OTHER and no fault."""
    assert kind(tmp_path / name, data) is expected
    assert classify_file(tmp_path / name).problem == ""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["arr_0.npy", "w.npy"], Kind.NUMPY),
        (["config.json", "metadata.json", "model.weights.h5"], Kind.KERAS),
        (["whatever"], Kind.OTHER),
    ],
)
def test_kinds_of_zips(tmp_path: Path, names: list[str], expected: Kind) -> None:
    """A zip is told by its members."""
    assert classify_file(zipped(tmp_path / "m", *names)).kind is expected


def test_a_cut_safetensors_file_is_a_problem(tmp_path: Path) -> None:
    """A header that promises more than there is means half a download."""
    (tmp_path / "m.safetensors").write_bytes(safetensors(10)[:-1])
    assert "cut short" in classify_file(tmp_path / "m.safetensors").problem


class Settings:
    """A class of the user's own, as they land in checkpoints."""


def torch_says(path: Path) -> str:
    """Return what torch itself says on loading with weights_only; empty when it loads."""
    torch = pytest.importorskip("torch")
    try:
        torch.load(path, weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever torch raises is its answer
        return str(error)
    return ""


def saved(path: Path, value: object, **options: object) -> Path:
    """Save with torch."""
    torch = pytest.importorskip("torch")
    torch.save(value, path, **options)
    return path


def values() -> dict[str, object]:
    """Return things that people save, each by what it shows."""
    import collections
    import datetime as dt

    torch = pytest.importorskip("torch")
    weights = torch.nn.Linear(2, 2).state_dict()
    lightning = {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 4,
        "state_dict": weights,
        "hyper_parameters": {},
    }
    return {
        "weights": weights,
        "lightning": lightning,
        "half": {"w": torch.zeros(2, dtype=torch.bfloat16), "n": 1 << 70, "s": {1, 2}, "d": torch.float32},
        "counter": collections.Counter("aab"),
        "parameter": torch.nn.Parameter(torch.zeros(1)),
        "sparse": torch.zeros(2, 2).to_sparse(),
        "settings": {**lightning, "hyper_parameters": Settings()},
        "date": {"state_dict": weights, "when": dt.datetime(2026, 1, 1)},
        "path": {"state_dict": weights, "from": Path("x")},
        "module": torch.nn.Linear(1, 1),
        "function": {"f": os.getcwd},
    }


VALUES = "weights lightning half counter parameter sparse settings date path module function".split()  # noqa: SIM905


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_the_static_check_agrees_with_torch(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """What we say would be refused is what torch refuses, in the zip, the old format and a newer protocol."""
    path = saved(tmp_path / "m.pt", values()[name], **options)
    found = classify_file(path)
    said = torch_says(path)
    assert bool(found.refused) is bool(said), (found, said)
    legacy = options.get("_use_new_zipfile_serialization") is False
    if name in ("lightning", "settings"):
        assert found.kind is Kind.LIGHTNING
    else:
        assert found.kind is (Kind.TORCH_LEGACY if legacy else Kind.TORCH_ZIP)


def test_the_refused_class_is_named(tmp_path: Path) -> None:
    """The class that stands in the way is named as it would have to be allowed."""
    found = classify_file(saved(tmp_path / "m.ckpt", values()["settings"]))
    assert found.refused == (f"{Settings.__module__}.Settings",)
    assert f"{Settings.__module__}.Settings" in torch_says(tmp_path / "m.ckpt")


def test_torchscript_is_told_from_weights(tmp_path: Path) -> None:
    """A scripted module is a torch zip that torch.load does not take."""
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), tmp_path / "m.pt")
    found = classify_file(tmp_path / "m.pt")
    assert found.kind is Kind.TORCH_ZIP
    assert "TorchScript" in found.refused[0]
    assert torch_says(tmp_path / "m.pt")


def test_half_an_old_file_is_a_problem(tmp_path: Path) -> None:
    """A cut file of torch's old format is told as damaged."""
    path = saved(tmp_path / "m.pt", {"a": 1}, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:30])
    assert "cut short" in classify_file(path).problem


def checkpoint(kind: Kind, *refused: str) -> Checkpoint:
    """Return a checkpoint that is nowhere."""
    return Checkpoint(original="a.ckpt", path=Path("a"), size=1, sha256="0" * 64, kind=kind, refused=refused)


def test_advice_names_classes_packages_and_both_ways() -> None:
    """A refused checkpoint comes with the switch, the re-save, and what must be installed."""
    text = "\n".join(advise_loading(checkpoint(Kind.LIGHTNING, "omegaconf.dictconfig.DictConfig")))
    assert "refuses: omegaconf.dictconfig.DictConfig" in text
    assert "weights_only = false" in text
    assert "packages in the kit or the image: omegaconf" in text


def test_advice_that_was_taken_is_not_given_again() -> None:
    """Under weights_only = false only what must be installed is left to say."""
    refused = checkpoint(Kind.LIGHTNING, "omegaconf.dictconfig.DictConfig")
    assert advise_loading(refused, trusted=True) == (
        "'a.ckpt' needs these packages in the kit or the image: omegaconf",
    )
    assert advise_loading(checkpoint(Kind.LIGHTNING, "argparse.Namespace"), trusted=True) == ()


def test_a_script_is_no_package() -> None:
    """What `__main__` gave comes with `main_from`: it is not among the packages that are asked for."""
    own = checkpoint(Kind.LIGHTNING, "__main__.CFG", "omegaconf.dictconfig.DictConfig")
    assert advise_loading(own, trusted=True) == (
        "'a.ckpt' needs these packages in the kit or the image: omegaconf",
    )
    assert advise_loading(checkpoint(Kind.LIGHTNING, "__main__.CFG"), trusted=True) == ()
    assert "packages in the kit" not in "".join(advise_loading(checkpoint(Kind.LIGHTNING, "__main__.CFG")))


def test_the_advised_line_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that the advice gives makes a file that torch takes."""
    saved(tmp_path / "a.ckpt", values()["settings"])
    monkeypatch.chdir(tmp_path)
    line = next(line for line in advise_loading(checkpoint(Kind.LIGHTNING, "x.Y")) if "torch.save" in line)
    exec(line.partition(": ")[2], {"torch": pytest.importorskip("torch")})
    assert classify_file(tmp_path / "weights.ckpt").refused == ()
    assert torch_says(tmp_path / "weights.ckpt") == ""


def test_advice_is_silent_on_good_files_and_plain_on_pickles() -> None:
    """Good files need no word; pickles need their packages; TorchScript another loader."""
    assert advise_loading(checkpoint(Kind.LIGHTNING)) == ()
    assert "requirements" in advise_loading(checkpoint(Kind.PICKLE))[0]
    assert "no checkpoint of a known format" in advise_loading(checkpoint(Kind.OTHER))[0]
    assert "torch.jit.load" in advise_loading(checkpoint(Kind.TORCH_ZIP, "a TorchScript archive"))[0]
