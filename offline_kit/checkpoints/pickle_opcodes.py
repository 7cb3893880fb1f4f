"""Survey what a pickle would import and call, and its top-level keys, from its opcodes alone.

Nothing is executed.
"""

import lzma
import math
import pickletools
import re
import sys
import tomllib
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, cast

from offline_kit.core import resources

PICKLE_NAMES = tomllib.loads(resources.data_file("pickle_names.toml").read_text(encoding="utf-8"))


def expand_names(*tables: str) -> frozenset[str]:
    """Return the full names ("module.name") in tables of names by their modules."""
    return frozenset(
        f"{module}.{name}"
        for table in tables
        for modules, names in PICKLE_NAMES[table].items()
        for module in modules.split()
        for name in names.split()
    )


WEIGHTS_ONLY_GLOBALS = expand_names("weights_only")
_WEIGHTS_ONLY_OPCODES = frozenset(PICKLE_NAMES["words"]["weights_only_opcodes"].split())

# Effects of all opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
_KEEPS_ITS_OBJECT = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
# EXT codes stand for names in copyreg's registry, which is filled at run time: they stay hidden.
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_MARK, _NONE = object(), object()
_CONSTANTS = {"NONE": _NONE, "NEWTRUE": True, "NEWFALSE": False}
_NESTED = frozenset({b"PK", b"\x1f\x8b", *(bytes((0x80, protocol)) for protocol in range(6))})
_NESTED_TEXTS = frozenset(start.decode("latin1") for start in _NESTED)
HIDDEN_CALL = "an object that it makes itself, called like a function"
"""Stands among the globals for a call of something else than what was imported."""
HIDDEN_IMPORT = "a name that is computed while loading"
"""Stands among the globals for an import whose name the opcodes do not tell."""
JOBLIB_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
"""Class whose object precedes the raw bytes of an array in a joblib file."""
_WRAPPER_FIELDS = frozenset(
    {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
)
_CHUNK = 1 << 20
# Bytes of a text that are not ASCII, plain or escaped
_NOT_ASCII = re.compile(rb"[\x80-\xff]|\\x[89a-fA-F][0-9a-fA-F]|\\[2367][0-7][0-7]")
_LARGE = 1 << 62  # a number that is larger is none of a length


@dataclass(kw_only=True)
class PickleSurvey:
    """What the opcodes of one pickle would do."""

    globals: set[str] = field(default_factory=set)  # imports as "module.name", in Python 3's names.
    opcodes: set[str] = field(default_factory=set)
    protocol: int = 0  # the protocol that it states; 0 without a statement
    value: Any = (
        None  # the pickled object: texts, numbers, tuples, dicts by their string keys, `CreatedObject`
    )
    is_whole: bool = False  # it was read to its end, and no opcode lacked its operands
    is_foreign: bool = False  # bytes that only begin like a pickle: no unpickler would import anything
    attributes: set[str] = field(default_factory=set)
    """What `getattr` returns, under the names that would import the same: nested classes, bound methods."""
    has_hidden_attributes: bool = False  # it uses `getattr` in a way that these opcodes do not tell
    has_calls: bool = False
    """It calls something that it imported, its operands in order: no text is read as a pickle by chance."""
    nested: list[bytes] = field(default_factory=list)
    """Bytes in it that may be pickles or archives of their own."""
    member: str = ""  # its member's name inside an archive; empty if a file itself is the pickle
    damage: str = ""
    """How it ends too early, if all of it was read: "the pickle ends in the middle, at byte 60000"."""

    @property
    def keys(self) -> frozenset[str]:
        """The string keys of the pickled object, if that is a plain dict."""
        return frozenset(self.value) - {None} if isinstance(self.value, dict) else frozenset()

    @property
    def names(self) -> set[str]:
        """What it imports, and what `getattr` returns of that."""
        # Old protocols name nested classes and methods by getattr: what it returns counts instead.
        harmless = set() if self.has_hidden_attributes else {"builtins.getattr"}
        return (self.globals - harmless) | self.attributes


@dataclass(frozen=True)
class _ImportedName:
    """Something imported, on the walker's stack."""

    name: str


@dataclass(eq=False)
class CreatedObject:
    """An object of something imported, with what is put into it."""

    name: str
    arguments: Any = ()
    state: Any = ()
    items: dict[str | None, Any] = field(default_factory=dict)


def survey_pickle(
    stream: IO[bytes], *, max_opcodes: int = 5_000_000, joblib_arrays: bool = False
) -> PickleSurvey:
    """Read one pickle from the stream's position on, without executing it; never raise on bad bytes.

    Afterwards the stream stands behind the pickle if it was whole. `joblib_arrays`: raw arrays follow the objects
    that describe them, as joblib writes them; they are skipped.
    """
    walker = _OpcodeWalker(stream, joblib_arrays=joblib_arrays)
    try:
        plain_lines = cast("IO[bytes]", _PlainLines(stream))
        for count, (opcode, argument, _) in enumerate(pickletools.genops(plain_lines)):
            walker.walk_opcode(opcode, argument)
            if count >= max_opcodes:
                return walker.survey
    except _FrameError:
        walker.survey.globals.add(HIDDEN_IMPORT)
        walker.survey.has_calls = True
        return walker.survey
    except (ValueError, OverflowError, MemoryError, IndexError) as error:
        # An empty stack or an unknown opcode stop every unpickler; what a broken argument hides is not known.
        stops_all = isinstance(error, IndexError) or str(error).endswith("unknown")
        walker.survey.is_foreign = stops_all and not walker.survey.globals
        return walker.survey
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile):
        return walker.survey  # what it is packed into is damaged from here on
    walker.survey.is_whole = walker.is_sound
    return walker.survey


def walk_dicts(value: Any) -> Iterator[dict[str | None, Any]]:
    """Yield every dict in a pickled object, and the attributes of what is in it."""
    pending, visited = [value], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, CreatedObject):
            pending += [node.state, node.items]
        elif isinstance(node, tuple):
            pending += node
        elif isinstance(node, dict):
            yield node
            pending += node.values()


def list_refused(survey: PickleSurvey) -> tuple[str, ...]:
    """Return what torch.load(weights_only=True) would refuse: sorted globals, then the protocol."""
    refused = sorted(survey.globals - WEIGHTS_ONLY_GLOBALS)
    if unknown_opcodes := survey.opcodes - _WEIGHTS_ONLY_OPCODES:
        protocol = f"protocol {survey.protocol}" if survey.protocol > 2 else f"opcode {min(unknown_opcodes)}"
        refused.append(f"pickle {protocol}")
    return tuple(refused)


def list_packages(names: Iterable[str]) -> tuple[str, ...]:
    """Return the top-level packages that these globals come from, without torch and the standard library.

    Names of `__main__` come from no package: a script gives them (`main_from`).
    """
    tops = {name.partition(".")[0] for name in names if "." in name and " " not in name}
    return tuple(sorted(tops - set(sys.stdlib_module_names) - {"__main__", "torch"}))


class _FrameError(ValueError):
    """An opcode crosses the end of a frame: unpicklers disagree on what comes next, and picklers never write it."""


class _PlainLines:
    """What pickletools can read: unpicklers also take numbers of any base, and texts that are not ASCII."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._code = stream, b""
        self._position, self._frame_end = 0, 0
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        data = self._stream.read(count)
        self._move(len(data))
        if self._code == b"\x95" and count == 8:  # the length of a frame
            end = self._position + int.from_bytes(data, "little")
            if self._position < self._frame_end < end:
                raise _FrameError
            self._frame_end = max(self._frame_end, end)
        self._code = data  # of an opcode whose argument is a line, the last byte before it
        return data

    def readline(self) -> bytes:
        line = self._stream.readline()
        self._move(len(line))
        if self._code == b"S":
            return _NOT_ASCII.sub(b"?", line)
        if self._code in (b"I", b"L", b"F", b"g", b"p") and line.endswith(b"\n"):
            line = line.partition(b"\0")[0].rstrip(b"\n") + b"\n"  # a text in C ends at a zero
        if self._code in (b"I", b"L") and line not in (b"00\n", b"01\n"):  # these are False and True
            with suppress(ValueError):
                # For C, the empty text before a zero is one, too.
                number = int(line.strip().removesuffix(b"L") or b"0", 0)
                return b"%d\n" % max(-_LARGE, min(number, _LARGE))
        return line

    def _move(self, count: int) -> None:
        start, self._position = self._position, self._position + count
        if start < self._frame_end < self._position:
            raise _FrameError


class _OpcodeWalker:
    """The pickle machine's stack and memo, holding only what matters: texts, numbers, globals and dicts.

    An opcode that takes more from the stack than there is raises IndexError: every unpickler stops there.
    """

    def __init__(self, stream: IO[bytes], *, joblib_arrays: bool) -> None:
        self.survey = PickleSurvey()
        self.is_sound = True
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.stream = stream
        self.joblib_arrays = joblib_arrays
        self.frame_end = 0

    def walk_opcode(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        self.survey.opcodes.add(name)
        if name == "PROTO":
            self.survey.protocol = argument
        elif name in _GETS:
            # An Unpickler that loads several pickles keeps its memo: such a stream may continue, but is not complete.
            self.is_sound &= argument in self.memo
            self.stack.append(self.memo.get(argument))
        elif name in _PUTS:
            # MEMOIZE takes the memo's size as its index: https://peps.python.org/pep-3154/
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "STOP":
            self.survey.value = self.stack[-1]
        else:
            self.apply_opcode(opcode, argument)

    def apply_opcode(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take the operands off the stack and push what matters of the result."""
        operands = self.take_operands(opcode)
        name = opcode.name
        if self.joblib_arrays:
            self.check_joblib(name, argument, operands)
        if name in _IMPORTS:
            self.stack.append(self.import_name(name, argument, operands))
        elif name in _KEEPS_ITS_OBJECT:
            self.stack += operands[:1]
            _put_into(name, *operands)
        elif name in ("EMPTY_DICT", "DICT"):
            self.stack.append(_read_items(operands))
        elif "TUPLE" in name:
            self.stack.append(tuple(operands))
        elif name == "REDUCE":
            self.stack.append(self.call_function(*operands))
            return
        elif name == "BINPERSID":
            # torch's old format names a whole module's class so: ("module", class, file, source).
            kind, named, *_ = (*operands[0], None, None) if isinstance(operands[0], tuple) else (None, None)
            self.stack.append(named if kind == "module" and isinstance(named, _ImportedName) else None)
        elif name in ("NEWOBJ", "NEWOBJ_EX", "OBJ"):
            self.stack.append(self.create_object(operands[0] if operands else None))
        else:
            is_plain = isinstance(argument, str | bytes | bytearray | int)
            plain = argument if is_plain else _CONSTANTS.get(name)
            self.survey.nested += _find_nested_pickles(plain)
            self.stack += [plain] * len(opcode.stack_after)
        self.survey.has_hidden_attributes |= _ImportedName("builtins.getattr") in operands

    def take_operands(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        kinds = [kind.name for kind in opcode.stack_before]
        operands: list[Any] = []
        if "mark" in kinds:
            while self.stack and self.stack[-1] is not _MARK:
                operands.append(self.stack.pop())
            self.stack.pop()
            kinds = kinds[: kinds.index("mark")]
        operands += [self.stack.pop() for _ in kinds]
        return operands[::-1]

    def import_name(self, opcode: str, argument: Any, operands: list[Any]) -> Any:
        """Record an import and return its name, or for INST the object that it creates; None for a hidden name."""
        texts = argument.split(" ", 1) if isinstance(argument, str) else operands[:2]
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            self.survey.globals.add(HIDDEN_IMPORT)
            return None
        # Old pickles hold Python 2's names, which the unpickler and torch translate by this table.
        module, name = NAME_MAPPING.get((texts[0], texts[1]), (texts[0], texts[1]))
        imported = _ImportedName(f"{IMPORT_MAPPING.get(module, module)}.{name}")
        self.survey.globals.add(imported.name)
        return self.create_object(imported) if opcode == "INST" else imported

    def create_object(self, kind: Any) -> CreatedObject | None:
        """Record that a class is called, and return what it creates."""
        if not isinstance(kind, _ImportedName):
            self.survey.globals.add(HIDDEN_CALL)
            return None
        self.survey.has_calls |= self.is_sound
        return CreatedObject(kind.name)

    def call_function(self, function: Any = None, arguments: Any = None) -> Any:
        """Record a call, and return what it creates as far as that is told."""
        if not isinstance(function, _ImportedName):
            self.survey.globals.add(HIDDEN_CALL)
            return None
        if isinstance(arguments, tuple):
            self.survey.has_calls |= self.is_sound
        else:
            arguments = ()
        # Plain pickles hold torch's storages as the bytes of another pickle, so the scan must be able to read them.
        has_bytes = len(arguments) == 1 and isinstance(arguments[0], bytes)
        if function.name == "torch.storage._load_from_bytes" and not has_bytes:
            self.survey.globals.add(HIDDEN_IMPORT)
        # Protocols below 3 have no bytes: they pickle a call of _codecs.encode(text, "latin1").
        if function.name == "_codecs.encode" and len(arguments) == 2:
            return _encode_latin1(*arguments)
        if function.name == "builtins.getattr":
            owner, attribute = arguments if len(arguments) == 2 else (None, None)
            is_told = isinstance(attribute, str) and not attribute.startswith("__")
            if is_told and isinstance(owner, _ImportedName | CreatedObject):
                self.survey.attributes.add(f"{owner.name}.{attribute}")
                return _ImportedName(f"{owner.name}.{attribute}")
            self.survey.has_hidden_attributes = True
            return None
        return CreatedObject(function.name, arguments if function.name == "numpy.dtype" else ())

    def check_joblib(self, opcode: str, argument: Any, operands: list[Any]) -> None:
        """Skip the array behind an object that describes one; raise ValueError for what joblib does not write."""
        if opcode == "FRAME":
            # The unpickler reads a frame into memory: an array inside of one would lie behind it for joblib.
            self.frame_end = self.stream.tell() + int(argument)
        is_named = isinstance(argument, str) and argument.replace(" ", ".") == JOBLIB_WRAPPER
        allowed = "GLOBAL" if is_named else "NEWOBJ"
        if (is_named or _ImportedName(JOBLIB_WRAPPER) in operands) and opcode != allowed:
            raise ValueError("an array is announced in a way that joblib does not use")
        if opcode != "BUILD" or not isinstance(operands[0], CreatedObject):
            return
        if operands[0].name == "numpy.dtype":
            if operands[0].state:
                raise ValueError("a type is changed after it was made")
        elif operands[0].name == JOBLIB_WRAPPER:
            self.skip_array(operands[1])

    def skip_array(self, wrapper: Any) -> None:
        """Skip an array by its type and shape; one of objects is a pickle of its own, which counts."""
        if not isinstance(wrapper, dict) or not wrapper.keys() <= _WRAPPER_FIELDS:
            raise ValueError("an array with fields that joblib does not write")
        if self.stream.tell() < self.frame_end:
            raise ValueError("an array inside of a frame")
        shape, alignment = wrapper.get("shape"), wrapper.get("numpy_array_alignment_bytes", _NONE)
        if not isinstance(shape, tuple) or not all(isinstance(length, int) for length in shape):
            raise ValueError("an array of an unknown shape")
        item_size = _measure_item(wrapper.get("dtype"))
        if item_size is None:
            inner = survey_pickle(self.stream)
            self.survey.globals |= inner.globals
            self.survey.attributes |= inner.attributes
            self.survey.has_hidden_attributes |= inner.has_hidden_attributes
            self.survey.nested += inner.nested
            if not inner.is_whole:
                raise EOFError("the pickle of an object array ends early")
            return
        remaining = math.prod(shape) * item_size
        # joblib 1.2 and newer align arrays for memory maps: the first byte counts the others.
        # https://github.com/joblib/joblib/blob/1.5.1/joblib/numpy_pickle.py (NumpyArrayWrapper.write_array)
        if alignment is not _NONE:
            padding = self.stream.read(1)
            if not isinstance(alignment, int) or not padding:
                raise ValueError("an array of an unknown alignment")
            remaining = max(remaining, 0) + padding[0]
        while remaining > 0:
            length = len(self.stream.read(min(remaining, _CHUNK)))
            if not length:
                raise EOFError("an array ends early")
            remaining -= length


def _put_into(opcode: str, target: Any = None, *operands: Any) -> None:
    """Keep what an opcode puts into a dict or an object; lists are not kept."""
    if isinstance(target, CreatedObject) and opcode == "BUILD":
        target.state = operands[0]
    elif isinstance(target, dict | CreatedObject) and opcode.startswith("SETITEM"):
        items = target if isinstance(target, dict) else target.items
        items.update(_read_items(operands))


def _read_items(operands: Sequence[Any]) -> dict[str | None, Any]:
    """Return keys and values as a dict; all keys that are no strings become None."""
    keys = (key if isinstance(key, str) else None for key in operands[::2])
    return dict(zip(keys, operands[1::2], strict=False))


def _measure_item(dtype: Any) -> int | None:
    """Return the bytes of one item of a numpy type: "f8", "<U12", "V16", "b1"; None for pickled objects."""
    is_known = isinstance(dtype, CreatedObject) and dtype.arguments and isinstance(dtype.arguments[0], str)
    if not is_known:
        raise ValueError("an array of an unknown type")
    # joblib pickles an array if its type is `object` or has a field of it.
    pending: list[Any] = [dtype]
    visited: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        if isinstance(part, CreatedObject):
            if str((*part.arguments, "")[0]).lstrip("<>|=").startswith("O"):
                return None
            pending.append(part.state)
        elif isinstance(part, tuple | dict):
            pending += part.values() if isinstance(part, dict) else part
    code = dtype.arguments[0].lstrip("<>|=") or "?"
    size = int(code[1:]) * (4 if code[0] == "U" else 1)
    stated = dtype.state[5] if isinstance(dtype.state, tuple) and len(dtype.state) > 5 else -1
    if stated not in (-1, size):
        raise ValueError("an array whose items are of another size than their type")
    return size


def _find_nested_pickles(data: object) -> list[bytes]:
    """Return the bytes of a text or bytes that begin as a pickle or an archive does; else nothing.

    Protocols below 3 write bytes as texts.
    """
    if isinstance(data, str):
        data = _encode_latin1(data, "latin1") if data[:2] in _NESTED_TEXTS else None
    if not isinstance(data, bytes | bytearray) or len(data) < 6:
        return []
    return [bytes(data)] if bytes(data[:2]) in _NESTED else []


def _encode_latin1(text: object, encoding: object) -> bytes | None:
    """Return what `_codecs.encode` makes of a text, as pickles of protocol 2 write bytes; None for other uses."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        return None
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        return None
