"""What a pickle would import, told without loading it."""

import collections
import datetime as dt
import io
import pickle
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline_kit.checkpoints.pickle_opcodes import (
    WEIGHTS_ONLY_GLOBALS,
    list_packages,
    list_refused,
    survey_pickle,
)


class Marker:
    """A class of our own, pickled by reference."""


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Spy(pickle.Unpickler):
    """The real machine, telling what it imports."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.seen: set[str] = set()

    def find_class(self, module: str, name: str) -> object:
        self.seen.add(f"{module}.{name}")
        return super().find_class(module, name)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.just(Marker()) | st.just(Marker) | st.datetimes() | st.just(PurePosixPath("a/b")) | st.complex_numbers()
    | st.just(collections.Counter("aab")) | st.builds(bytearray, st.binary()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
    | st.builds(collections.OrderedDict, st.dictionaries(st.text(), inner)) | st.frozensets(st.integers()),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_the_walk_finds_what_the_machine_imports(value: object, protocol: int) -> None:
    """For any pickle of any protocol, the globals are those that pickle itself would import."""
    data = pickle.dumps(value, protocol)
    spy = Spy(data)
    spy.load()
    said = survey_pickle(io.BytesIO(data))
    assert said.is_whole
    # The names of Python 2 that protocols below 3 write are told in those of Python 3.
    if protocol >= 3:
        assert said.globals == spy.seen
    else:
        assert {name.rpartition(".")[2] for name in said.globals} == {n.rpartition(".")[2] for n in spy.seen}


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=5), st.sampled_from(PROTOCOLS))
def test_the_keys_of_the_top_are_told(value: dict[str, object], protocol: int) -> None:
    """The top-level keys are exact, however the rest nests."""
    assert survey_pickle(io.BytesIO(pickle.dumps(value, protocol))).keys == set(value)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    """Bytes that are no pickle give an answer, never a crash."""
    assert isinstance(survey_pickle(io.BytesIO(data)).is_whole, bool)


@settings(deadline=None)
@given(PLAIN, st.sampled_from(PROTOCOLS), st.data())
def test_damaged_pickles_are_survived(value: object, protocol: int, data: st.DataObject) -> None:
    """A pickle with a byte changed or an end cut off is read as far as it goes."""
    raw = bytearray(pickle.dumps(value, protocol))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    survey_pickle(io.BytesIO(bytes(raw)))
    assert not survey_pickle(io.BytesIO(pickle.dumps(value, protocol)[:-1])).is_whole


def test_nothing_is_executed() -> None:
    """A pickle that would run a command is told by name, and its command does not run."""
    said = survey_pickle(io.BytesIO(b"cos\nsystem\n(S'exit 1'\ntR."))
    assert said.is_whole
    assert list_refused(said) == ("os.system", "pickle opcode STRING")


def test_names_that_come_over_the_memo_are_found() -> None:
    """STACK_GLOBAL takes its words from the memo where a pickle repeats them."""
    value = [dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), dt.date]
    said = survey_pickle(io.BytesIO(pickle.dumps(value, 4)))
    assert said.globals == {"datetime.date", "datetime.datetime"}


def test_a_computed_name_is_not_passed_over() -> None:
    """A STACK_GLOBAL whose words are no plain texts counts as refused."""
    said = survey_pickle(io.BytesIO(b"\x80\x04N\x8c\x06system\x93."))
    assert "a name that is computed while loading" in list_refused(said)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"c__builtin__\nset\n.", "builtins.set"), (b"ccopy_reg\n_reconstructor\n.", "copyreg._reconstructor"),
     (b"c__builtin__\nunicode\n.", "builtins.str")],
)  # fmt: skip
def test_names_of_python_2_are_translated(old: bytes, new: str) -> None:
    """Old names are told as torch looks them up."""
    assert survey_pickle(io.BytesIO(old)).globals == {new}


def test_only_the_first_pickle_is_read() -> None:
    """The stream stands behind a whole pickle, where the next one begins."""
    stream = io.BytesIO(pickle.dumps({"a": 1}, 2) + pickle.dumps({"b": 1}, 2))
    assert [survey_pickle(stream).keys, survey_pickle(stream).keys] == [{"a"}, {"b"}]


def test_the_walk_can_be_bounded() -> None:
    """A bound on the opcodes ends the walk of a long pickle early."""
    said = survey_pickle(io.BytesIO(pickle.dumps(list(range(1000)))), max_opcodes=10)
    assert not said.is_whole


def test_impossible_pickles_are_left_at_once() -> None:
    """An opcode that takes more than there is ends the walk, as it ends every unpickler."""
    for byte in (b"0", b"1", b"2", b"R", b"q\0", b"."):
        stream = io.BytesIO(byte * 1_000_000)
        assert not survey_pickle(stream).is_whole
        assert stream.tell() <= 2


def test_packages_behind_names() -> None:
    """Only what would have to be installed is named."""
    assert list_packages(["omegaconf.DictConfig", "torch.Size", "os.system", "a name", "numpy.dtype"]) == (
        "numpy",
        "omegaconf",
    )


def test_the_list_is_torchs_own() -> None:
    """The copied facts are those of the torch that is installed here."""
    pytest.importorskip("torch", minversion="2.13")
    from torch import _weights_only_unpickler as unpickler

    assert set(unpickler._get_allowed_globals()) <= WEIGHTS_ONLY_GLOBALS
    allowed = set(unpickler._get_allowed_globals())
    rest = {name for name in WEIGHTS_ONLY_GLOBALS - allowed if "nested" not in name and "_mesh" not in name}
    assert not rest
