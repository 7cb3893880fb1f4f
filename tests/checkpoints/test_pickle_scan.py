"""Pickles that would run something are found wherever they hide, and no honest model is taken for one."""

import bz2
import collections
import gzip
import importlib
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_kit.checkpoints.pickle_opcodes import survey_pickle
from offline_kit.checkpoints.pickle_scan import classify_globals, scan_checkpoints
from offline_kit.core.errors import ProjectError
from tests.support.lazy_modules import torch
from tests.support.tabular_models import as_checkpoint


class Poison:
    """Runs something when it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch poisoned",)


def scanned(*paths: Path, trust: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Scan files with a cache beside them."""
    return scan_checkpoints(
        [as_checkpoint(path) for path in paths], trust=trust, cache=paths[0].parent / "cache"
    )


def refusal(*paths: Path, trust: tuple[str, ...] = ()) -> ProjectError:
    """Return the error that these files give."""
    with pytest.raises(ProjectError) as caught:
        scanned(*paths, trust=trust)
    return caught.value


def _saved(save: Callable[[Any, Path], Any], name: str) -> Any:
    return pytest.param(save, name, id=name)


def _dumped(protocol: int) -> Callable[[Any, Path], Any]:
    return lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=protocol))


def _tarred(thing: Any, path: Path) -> None:
    data = pickle.dumps(thing)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def _second(thing: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}) + pickle.dumps(thing))


def _legacy(thing: Any, path: Path) -> None:
    torch.save({"w": torch.zeros(3), "x": thing}, path, _use_new_zipfile_serialization=False)


PLACES = [
    *(_saved(_dumped(protocol), f"p{protocol}.pkl") for protocol in range(6)),
    _saved(_dumped(4), "no_suffix"),
    _saved(_second, "second.pkl"),
    _saved(lambda thing, path: joblib.dump([np.zeros((3, 2)), thing], path), "plain.joblib"),
    _saved(lambda thing, path: joblib.dump([np.zeros(5), thing], path, compress=3), "zlib.joblib"),
    _saved(lambda thing, path: joblib.dump(thing, path, compress=("gzip", 3)), "gzip.pkl"),
    _saved(lambda thing, path: joblib.dump(thing, path, compress=("bz2", 3)), "bz2.pkl"),
    _saved(lambda thing, path: joblib.dump(thing, path, compress=("lzma", 3)), "lzma.pkl"),
    _saved(lambda thing, path: joblib.dump(thing, path, compress=("xz", 3)), "xz.pkl"),
    _saved(lambda thing, path: joblib.dump([np.array([thing, 1], dtype=object)], path), "inside.joblib"),
    _saved(lambda thing, path: path.write_bytes(gzip.compress(pickle.dumps(thing))), "a.pkl.gz"),
    _saved(lambda thing, path: path.write_bytes(bz2.compress(pickle.dumps(thing))), "a.pkl.bz2"),
    _saved(lambda thing, path: np.save(path, np.array([thing], dtype=object)), "array.npy"),
    _saved(lambda thing, path: np.savez(path, a=np.zeros(2), b=np.array([thing])), "arrays.npz"),
    _saved(lambda thing, path: torch.save({"w": torch.zeros(3), "x": thing}, path), "model.pt"),
    _saved(_legacy, "legacy.pth"),
    _saved(_tarred, "oldest.tar"),
]


@pytest.mark.parametrize(("save", "name"), PLACES)
def test_poison_is_found_wherever_a_pickle_hides(
    tmp_path: Path, save: Callable[[Any, Path], Any], name: str
) -> None:
    """A pickle that runs a program stops the build, and the error names file, global and remedy."""
    save(Poison(), tmp_path / name)
    error = refusal(tmp_path / name)
    assert f"'{name}' imports 'posix.system'" in error.what
    assert f'trust = ["{name}"]' in error.hint
    assert "delete" in error.hint
    assert not (tmp_path / "poisoned").exists()


@pytest.mark.parametrize(("save", "name"), PLACES)
def test_the_same_places_are_clean_without_poison(
    tmp_path: Path, save: Callable[[Any, Path], Any], name: str
) -> None:
    """Numbers, texts and dates in the same formats pass."""
    save(collections.OrderedDict(a=1, b=np.float64(2), c=slice(3)), tmp_path / name)
    assert scanned(tmp_path / name)


def test_trust_lets_a_file_of_your_own_travel(tmp_path: Path) -> None:
    """A glob of `trust` lets a file pass, and only that one."""
    for name in ("mine.pkl", "other.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Poison()))
    error = refusal(tmp_path / "mine.pkl", tmp_path / "other.pkl", trust=("mine.*",))
    assert "'other.pkl'" in error.what
    assert scanned(tmp_path / "mine.pkl", trust=("mine.*",))


def test_trust_takes_the_name_that_a_refusal_tells(tmp_path: Path) -> None:
    """A name with brackets means that file before it means a pattern."""
    for name in ("mine[1].pkl", "mine1.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Poison()))
    assert scanned(tmp_path / "mine[1].pkl", trust=("mine[1].pkl",))
    assert "'mine[1].pkl'" in refusal(tmp_path / "mine[1].pkl", trust=("mine[2].pkl",)).what


def test_all_poisoned_files_are_named_at_once(tmp_path: Path) -> None:
    """Two files and all that they would run stand in one error."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Poison()))
    (tmp_path / "b.pkl").write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    error = refusal(tmp_path / "a.pkl", tmp_path / "b.pkl")
    assert [line.split("'")[1:4:2] for line in error.details] == [
        ["a.pkl", "posix.system"],
        ["b.pkl", "builtins.eval"],
    ]


def test_a_second_build_remembers(tmp_path: Path) -> None:
    """A file that was scanned is not read again, poisoned or not."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Poison()))
    known = as_checkpoint(path)
    refusal(path)
    path.unlink()
    with pytest.raises(ProjectError, match=r"posix\.system"):
        scan_checkpoints([known], cache=tmp_path / "cache")


def _memo_desync() -> bytes:
    """Return a pickle whose memo a reader that looks at neighbours gets wrong."""
    module, name = b"\x8c\x05posix", b"\x8c\x06system"
    return b"\x80\x04" + module + b"\x94" + name + b"\x940h\x00\x94h\x01\x9400h\x02h\x03\x93."


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_memo_desync(), id="memo desync"),
        pytest.param(b"(S'echo'\niposix\nsystem\n.", id="INST"),
        pytest.param(b"\x80\x04\x8c\x09torch.hub\x8c\x09os.system\x93.", id="through a package"),
        pytest.param(b"\x80\x04\x8c\x09importlib\x8c\x0dimport_module\x93.", id="importlib"),
        pytest.param(b"\x80\x02cmarshal\nloads\n.", id="marshal"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension code"),
        pytest.param(b"\x80\x04cposix\nsystem\n" + b"\xff" * 40, id="damaged behind"),
        pytest.param(
            b"\x80\x02cbuiltins\ngetattr\nctorch\nhub\nX\x02\0\0\0os\x86R.", id="getattr to a module"
        ),
        pytest.param(
            b"\x80\x02cbuiltins\ngetattr\nca\nb\nX\x0b\0\0\0__globals__\x86R.", id="getattr to dunders"
        ),
        pytest.param(b"\x80\x02cfunctools\npartial\ncbuiltins\ngetattr\n\x85R.", id="getattr handed on"),
        pytest.param(b"\x80\x04\x8c\x02os\x85\x8c\x06system\x93.", id="name from a tuple"),
        pytest.param(b"\x80\x02I0x10\n0cposix\nsystem\n(S'true'\ntR.", id="number of another base"),
        pytest.param(b"L0x10L\n0cposix\nsystem\n(S'true'\ntR.", id="the same without a protocol"),
        pytest.param(b"I0x" + b"f" * 9000 + b"\n0cposix\nsystem\n(S'true'\ntR.", id="large number"),
        pytest.param(b"\x80\x02S'\xc3\xa9'\n0cposix\nsystem\n(S'true'\ntR.", id="text that is not ASCII"),
        pytest.param(
            b"\x80\x04\x95\5" + bytes(7) + b"G" + bytes(8) + b"V\\a0cposix\nsystem\n(S'true'\ntR.",
            id="beyond a frame",
        ),
        pytest.param(b"\x80\x02F1\x00.\n0cposix\nsystem\n(S'true'\ntR.", id="zero in a number"),
        pytest.param(b"S'\\xc3\\xa9\\351'\n0cposix\nsystem\n(S'true'\ntR.", id="the same escaped"),
    ],
)
def test_published_tricks_do_not_pass(tmp_path: Path, data: bytes) -> None:
    """What is known to lead scanners astray is refused."""
    (tmp_path / "trick.pkl").write_bytes(data)
    assert refusal(tmp_path / "trick.pkl")


def test_a_compressed_file_that_ends_early_tells_what_it_held(tmp_path: Path) -> None:
    """Half a gzip, whose first half would run already, is refused with its global."""
    whole = gzip.compress(pickle.dumps([Poison(), os.urandom(200_000)]), 1)
    (tmp_path / "half.pkl.gz").write_bytes(whole[: len(whole) // 2])
    assert "posix.system" in refusal(tmp_path / "half.pkl.gz").what


def test_a_file_that_is_cut_off_is_damaged_and_no_matter_of_trust(tmp_path: Path) -> None:
    """Where it ends, and to save or copy it again; what its first half would run is told before."""
    whole = pickle.dumps({"a": list(range(90_000)), "b": Decimal(1)})
    path = tmp_path / "half.pkl"
    path.write_bytes(whole[:60_000])
    error = refusal(path)
    assert error.what == "'half.pkl' is cut off or damaged: the pickle ends in the middle, at byte 60000"
    assert error.hint == "save or copy it again"
    path.write_bytes(gzip.compress(whole)[:9000])
    assert "is cut off or damaged: what it is packed in ends in the middle" in refusal(path).what
    torch.save(torch.nn.Linear(40, 40).state_dict(), tmp_path / "net.pt")
    path.write_bytes((tmp_path / "net.pt").read_bytes()[:3000])
    assert "is cut off or damaged: the archive is not whole" in refusal(path).what
    path.write_bytes(pickle.dumps([Poison(), whole])[:9000])
    assert "posix.system" in refusal(path).what
    path.write_bytes(pickle.dumps([Poison(), Poison()])[:-1] + b"\xff" * 40)
    assert "trust" in refusal(path).hint


def test_files_that_are_no_pickles_pass(tmp_path: Path) -> None:
    """Texts, tables, pictures, boosters' own files and archives of them are not taken for pickles."""
    for name, data in {
        "model.txt": b"tree\nversion=v4\n",
        "config.json": b"{}",
        "x^.csv": b"x^2,y\n1,2\n",
        "data.csv.gz": gzip.compress(b"a,b\n1,2\n"),
        "odd.bin": b"\x80\x02\xff\xff\xff rest",
        "empty.model": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"\x89PNG")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for path in sorted(tmp_path.iterdir()):
        assert scanned(path), path.name


def test_honest_models_pass(tmp_path: Path) -> None:
    """Pipelines with everything usual in them, whole modules and Lightning's hyper-parameters are clean."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    x, y = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    texts = TfidfVectorizer().fit(["some words", "other words"])
    scale = ColumnTransformer([("one", StandardScaler(), [0, 1]), ("two", OneHotEncoder(), [2])])
    forest = make_pipeline(FunctionTransformer(np.log1p), RandomForestClassifier(5)).fit(x, y)
    boosted = HistGradientBoostingClassifier(max_iter=3).fit(x, y)
    rest = [
        partial(np.clip, a_min=0),
        np.random.RandomState(1),
        np.random.default_rng(2),
        Path("a"),
        texts,
        scale,
    ]
    joblib.dump([forest, boosted, rest], tmp_path / "models.joblib")
    (tmp_path / "models.pkl").write_bytes(pickle.dumps([forest, boosted, rest]))
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), tmp_path / "whole.pt")
    for path in sorted(tmp_path.iterdir()):
        assert scanned(path), path.name


def test_torchscript_archives_pass(tmp_path: Path) -> None:
    """The classes that a TorchScript archive defines itself are no imports of Python's."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    jit: Any = torch.jit
    jit.script(model).save(str(tmp_path / "script.pt"))
    jit.trace(model, torch.zeros(1, 3, 3, 3)).save(str(tmp_path / "trace.pt"))
    assert scanned(tmp_path / "script.pt", tmp_path / "trace.pt")
    assert classify_globals(
        ["__torch__x.system", "torch.jit._pickle.os.system", "torch.jit.load"]
    ).keys() == {
        "__torch__x.system",
        "torch.jit._pickle.os.system",
        "torch.jit.load",
    }


def test_names_of_main_are_told(tmp_path: Path) -> None:
    """Classes and functions of the training script are found in pickles, joblib files and torch's archives."""
    script = tmp_path / "train.py"
    script.write_text(
        "import pickle, joblib, torch\n"
        "class Cleaner:\n    class Inner: pass\n    def __init__(self): self.inner = Cleaner.Inner()\n"
        "def price(x): return x\n"
        "pickle.dump([Cleaner(), price], open('a.pkl', 'wb'))\n"
        "joblib.dump([torch.zeros(2).numpy(), price], 'b.joblib')\n"
        "torch.save({'c': Cleaner()}, 'c.pt')\n"
    )
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
    found = scanned(*(tmp_path / name for name in ("a.pkl", "b.joblib", "c.pt")))
    assert [*found.values()] == [["Cleaner", "price"], ["price"], ["Cleaner"]]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 5))
def test_no_bytes_break_the_scan(data: bytes, protocol: int) -> None:
    """Random bytes behind any beginning give an answer, never an exception."""
    head = pickle.dumps([importlib.import_module, 1], protocol=protocol)[:-1]
    survey_pickle(io.BytesIO(head + data), joblib_arrays=True)
    survey_pickle(io.BytesIO(data), joblib_arrays=True)


def _joblib_array(dtype: bytes, shape: bytes, after_state: bytes = b"") -> bytes:
    """Return the opcodes of an array in a joblib file, up to where its raw bytes begin; the dtype is on the stack."""
    wrapper = b"\x8c\x13joblib.numpy_pickle\x8c\x11NumpyArrayWrapper\x93)\x81"
    state = b"}(\x8c\x05dtype" + dtype + b"\x8c\x05shape" + shape + b"u"
    return wrapper + state + after_state + b"b"


_BYTES_TYPE = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02V8\x85R"
_OBJECT_FIELD = (
    b"(K\x03NN\x8c\x01a\x85}\x8c\x01a\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x85RK\0\x86sK\x08K\x08K\x10tb"
)
_RUNS = b"cposix\nsystem\n(S'true'\ntR"
_GARBAGE = b"\xff" * 8


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            _joblib_array(_BYTES_TYPE + _OBJECT_FIELD, b"K\x01\x85") + b"\x80\x02" + _RUNS + b".",
            id="object field",
        ),
        pytest.param(
            b"(ijoblib.numpy_pickle\nNumpyArrayWrapper\n}(\x8c\x05dtype"
            + _BYTES_TYPE
            + b"\x8c\x05shapeK\x01\x85ub"
            + _GARBAGE
            + _RUNS,
            id="INST",
        ),
        pytest.param(_joblib_array(_BYTES_TYPE, b"]\x85") + _RUNS, id="computed shape"),
        pytest.param(
            b"\x95"
            + (500).to_bytes(8, "little")
            + _joblib_array(_BYTES_TYPE, b"K\x20\x85")
            + _RUNS
            + b"0" * 400,
            id="inside a frame",
        ),
        pytest.param(
            _joblib_array(_BYTES_TYPE, b"K\x01\x85", b"\x8c\x04readNs") + _RUNS, id="another way to read"
        ),
    ],
)
def test_arrays_of_joblib_hide_nothing(tmp_path: Path, data: bytes) -> None:
    """What makes a scan skip other bytes than joblib does is refused, behind an array that ends a plain reading."""
    first = _joblib_array(_BYTES_TYPE, b"K\x01\x85") + _GARBAGE
    (tmp_path / "trick.joblib").write_bytes(b"\x80\x04" + first + b"0" + data + b".")
    assert refusal(tmp_path / "trick.joblib")


def test_an_honest_array_of_joblib_is_skipped(tmp_path: Path) -> None:
    """The opcodes that the tricks are made of are no danger by themselves."""
    array = _joblib_array(_BYTES_TYPE, b"K\x01\x85") + _GARBAGE
    (tmp_path / "good.joblib").write_bytes(b"\x80\x04" + array + b"0" + array + b".")
    assert scanned(tmp_path / "good.joblib")


GOOD = re.findall(
    r"\S+",
    """
    numpy.random._pickle.__randomstate_ctor numpy.dtype functools.partial uuid.UUID
    sklearn.pipeline.Pipeline __main__.Cleaner torch._utils._rebuild_tensor_v2 collections.OrderedDict
    copyreg._reconstructor _codecs.encode pathlib.PosixPath pathlib._local.PosixPath datetime.datetime builtins.set
    zoneinfo.ZoneInfo._unpickle pandas._libs.tslibs.timestamps._unpickle_timestamp nltk.tokenize.punkt.X
    _operator.or_ types.GenericAlias typing.Literal functools.reduce
    lightning.fabric.utilities.data.AttributeDict omegaconf.dictconfig.DictConfig xgboost.core.Booster
""",
)
BAD = re.findall(
    r"\S+",
    """
    pandas.eval pandas.core.computation.eval.eval torch.utils.cpp_extension.load_inline sklearn.utils._testing.run
    numpy.core._ufunc_reconstruct scipy.stats._continuous_distns.norm_gen numpy.memmap pandas.DataFrame.eval nobody.Net
    sklearn.datasets.load_files torch.package.PackageImporter pandas.HDFStore pandas.read_csv numpy.loadtxt
    posix.system nt.system builtins.eval builtins.exec builtins.getattr builtins.__import__ importlib.import_module
    marshal.loads multiprocessing.util.spawnv_passfds torch.hub.os.system random._os io.open pathlib.Path.write_text
    mailcap.findmatch joblib.load numpy.f2py.crackfortran.getlincoef cloudpickle.cloudpickle._make_function
    types.FunctionType types.CodeType operator.attrgetter pkgutil.resolve_name webbrowser.open runpy._run_code
    subprocess.Popen urllib.request.urlopen timeit.timeit code.interact torch.load pandas.read_pickle bdb.Bdb.run
""",
)


def test_bytes_inside_are_pickles_of_their_own(tmp_path: Path) -> None:
    """A pickle in the bytes of another, one in a zip in a zip, a member that an archive holds twice: all are read."""
    inner = pickle.dumps(Poison())
    load = torch.storage._load_from_bytes

    class Outer:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def __reduce__(self) -> Any:
            return load, (self.data,)

    for number, data in enumerate((inner, pickle.dumps(Outer(inner)))):
        for protocol in range(6):
            (tmp_path / "a.pkl").write_bytes(pickle.dumps(Outer(data), protocol))
            assert "posix.system" in str(refusal(tmp_path / "a.pkl").what), (number, protocol)
        joblib.dump([np.zeros(3), Outer(data)], tmp_path / "a.joblib")
        assert "posix.system" in str(refusal(tmp_path / "a.joblib").what)
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("data.pkl", inner)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
    assert refusal(tmp_path / "outer.zip")
    with zipfile.ZipFile(tmp_path / "twice.pt", "w") as archive:
        archive.writestr("a/data.pkl", inner)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/data.pkl", pickle.dumps({}))
    assert refusal(tmp_path / "twice.pt")
    (tmp_path / "old.pt").write_bytes(b"cposix\nsystem\n(S'true'\ntR\xff\xff")
    assert "posix.system" in refusal(tmp_path / "old.pt").what
    torch_bytes = pickle.dumps(torch.zeros(300))
    (tmp_path / "good.pkl").write_bytes(torch_bytes)
    assert scanned(tmp_path / "good.pkl")


def test_a_method_of_an_object_is_no_way_around(tmp_path: Path) -> None:
    """DataFrame().eval by `getattr` on the object that the pickle makes is refused."""
    import pandas as pd

    class Frame:
        def __reduce__(self) -> Any:
            return pd.DataFrame().to_pickle, ("x",)

    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(Frame(), protocol))
        assert "to_pickle" in refusal(tmp_path / "a.pkl").what
    joblib.dump([np.zeros(3), Frame()], tmp_path / "a.joblib")
    assert refusal(tmp_path / "a.joblib")


def test_own_code_is_allowed() -> None:
    """What a module of the project defines may be in its pickles; what it imports may not be reached through it."""
    assert classify_globals(["mine.Net", "mine.build"], own_modules=("mine",)) == {}
    assert classify_globals(["mine.Net"])
    assert classify_globals(["mine.os.system", "mine.subprocess.Popen"], own_modules=("mine",)).keys() == {
        "mine.os.system",
        "mine.subprocess.Popen",
    }


@pytest.mark.parametrize("name", GOOD)
def test_names_of_honest_models(name: str) -> None:
    """What models are made of is no danger."""
    assert classify_globals([name]) == {}


@pytest.mark.parametrize("name", BAD)
def test_names_that_no_model_needs(name: str) -> None:
    """What runs, imports or loads something else is one, with a reason."""
    assert classify_globals([name])[name]
