"""Survey what a pickle would import and call, and its top-level keys, from its opcodes alone.

Nothing is executed. The names that torch's `weights_only` reader accepts are those of torch 2.13
(https://github.com/pytorch/pytorch/blob/main/torch/_weights_only_unpickler.py); a test compares them to torch.
"""

import lzma
import math
import pickletools
import sys
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any


def split_words(text: str) -> list[str]:
    """Return the words of a text: long lists of names are easier to read as one."""
    return text.split()


_DTYPES = split_words("""
    bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32
    float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int1
    int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 qint32 qint8 quint2x4 quint4x2 quint8 uint1 uint16
    uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8 per_channel_affine
    per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric
""")
_NUMBERS = split_words("BFloat16 Byte Char Double Float Half Int Long Short")
_STORAGES = [*_NUMBERS, "Bool", "ComplexDouble", "ComplexFloat"]
_QUANTIZED = split_words("QInt32 QInt8 QUInt2x4 QUInt4x2 QUInt8")
_REBUILDERS = split_words("""
    device_tensor_from_cpu_tensor device_tensor_from_numpy meta_tensor_no_storage nested_tensor parameter
    parameter_with_state qtensor sparse_tensor tensor tensor_v2 tensor_v3 wrapper_subclass
""")
WEIGHTS_ONLY_GLOBALS: frozenset[str] = frozenset(
    {"_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set"}
    | {"collections.Counter", "collections.OrderedDict"}
    | {"torch.Size", "torch.Tensor", "torch.device", "torch.nn.parameter.Parameter"}
    | {"torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2"}
    | {"torch.storage.TypedStorage", "torch.storage.UntypedStorage"}
    | {
        "torch.nested._internal.nested_tensor.NestedTensor",
        "torch.nested._internal.nested_tensor._rebuild_njt",
    }
    | {"torch.distributed._mesh_layout._FlatLayout", "torch.distributed._mesh_layout._MeshLayout"}
    | {f"torch._utils._rebuild_{name}" for name in _REBUILDERS}
    | {f"torch.{name}" for name in _DTYPES}
    | {f"torch.{where}{name}Storage" for where in ("", "cuda.") for name in _STORAGES}
    | {f"torch.{name}Storage" for name in _QUANTIZED}
    | {f"torch.{where}{name}Tensor" for where in ("", "cuda.") for name in [*_NUMBERS, "Bool"]}
    | {f"torch.{where}sparse.{name}Tensor" for where in ("", "cuda.") for name in _NUMBERS}
)
"""Globals that torch.load(weights_only=True) accepts."""

WEIGHTS_ONLY_OPCODES: frozenset[str] = frozenset(
    split_words("""
    GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE
    NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE
    SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP
    """)
)
"""Opcodes that it accepts: those of protocol 2."""

# As `pickle` itself maps them: https://github.com/python/cpython/blob/main/Lib/_compat_pickle.py
_OLD_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "Queue": "queue",
    "repr": "reprlib",
    "_abcoll": "collections.abc",
    "whichdb": "dbm",
    "StringIO": "io",
    "cStringIO": "io",
    **dict.fromkeys(("UserDict", "UserList", "UserString"), "collections"),
}
_OLD_NAMES = {
    "__builtin__.xrange": "builtins.range",
    "__builtin__.reduce": "functools.reduce",
    "__builtin__.unichr": "builtins.chr",
    "__builtin__.unicode": "builtins.str",
    "__builtin__.basestring": "builtins.str",
    "__builtin__.long": "builtins.int",
}

_KEEPS_ITS_OBJECT = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
# Effects of all opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
# EXT codes stand for names in copyreg's registry, which is filled at run time: they stay hidden.
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_MARK, _NONE = object(), object()
_NESTED = frozenset({b"PK", b"\x1f\x8b", *(bytes((0x80, protocol)) for protocol in range(6))})
_NESTED_TEXTS = frozenset(start.decode("latin1") for start in _NESTED)
HIDDEN_CALL = "an object that it makes itself, called like a function"
"""Stands among the globals for a call of something else than what was imported."""
HIDDEN_IMPORT = "a name that is computed while loading"
"""Stands among the globals for an import whose name the opcodes do not tell."""
TORCH_BYTES_LOADER = "torch.storage._load_from_bytes"
"""How plain pickles hold torch's storages: as the bytes of another pickle."""
JOBLIB_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
"""Class whose object precedes the raw bytes of an array in a joblib file."""
_WRAPPER_FIELDS = frozenset(
    {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
)
_CHUNK = 1 << 20


@dataclass(kw_only=True)
class PickleSurvey:
    """What the opcodes of one pickle would do."""

    globals: set[str] = field(default_factory=set)
    """Imports as "module.name", in Python 3's names."""
    opcodes: set[str] = field(default_factory=set)
    protocol: int = 0
    """The protocol that it states; 0 without a statement."""
    keys: frozenset[str] = frozenset()
    """String keys of the pickled object, if that is a plain dict."""
    is_whole: bool = False
    """It was read to its end, and no opcode lacked its operands."""
    attributes: set[str] = field(default_factory=set)
    """What `getattr` returns, under the names that would import the same: nested classes, bound methods."""
    has_hidden_attributes: bool = False
    """It uses `getattr` in a way that these opcodes do not tell."""
    has_calls: bool = False
    """It calls something that it imported, its operands in order: no text is read as a pickle by chance."""
    nested: list[bytes] = field(default_factory=list)
    """Bytes in it that may be pickles or archives of their own."""

    def merge_inner(self, inner: "PickleSurvey") -> None:
        """Add what a pickle inside this one would do."""
        self.globals |= inner.globals
        self.attributes |= inner.attributes
        self.has_hidden_attributes |= inner.has_hidden_attributes
        self.nested += inner.nested


@dataclass(frozen=True)
class _ImportedName:
    """Something imported, on the walker's stack."""

    name: str


@dataclass(eq=False)
class _CreatedObject:
    """An object of something imported, on the walker's stack."""

    name: str
    arguments: Any = ()
    state: Any = ()


class _StackUnderflowError(Exception):
    """An opcode takes more from the stack than there is: every unpickler stops there."""


def survey_pickle(
    stream: IO[bytes], *, max_opcodes: int = 5_000_000, joblib_arrays: bool = False
) -> PickleSurvey:
    """Read one pickle from the stream's position on, without executing it; never raise on bad bytes.

    Afterwards the stream stands behind the pickle if it was whole. `joblib_arrays`: raw arrays follow the objects
    that describe them, as joblib writes them; they are skipped.
    """
    walker = _OpcodeWalker(stream, joblib_arrays=joblib_arrays)
    survey = walker.survey
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            walker.walk_opcode(opcode, argument)
            if count >= max_opcodes:
                return survey
    except (ValueError, OverflowError, MemoryError, UnicodeError, _StackUnderflowError):
        return survey  # the stream's end, an unknown opcode or a broken argument
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile):
        return survey  # what it is packed into is damaged from here on
    survey.is_whole = walker.is_sound
    return survey


def list_refused(survey: PickleSurvey) -> tuple[str, ...]:
    """Return what torch.load(weights_only=True) would refuse: sorted globals, then the protocol."""
    refused = sorted(survey.globals - WEIGHTS_ONLY_GLOBALS)
    unknown_opcodes = survey.opcodes - WEIGHTS_ONLY_OPCODES
    if unknown_opcodes and survey.protocol > 2:
        refused.append(f"pickle protocol {survey.protocol}")
    elif unknown_opcodes:
        refused.append(f"pickle opcode {min(unknown_opcodes)}")
    return tuple(refused)


class _OpcodeWalker:
    """The pickle machine's stack and memo, holding only what matters: texts, numbers, globals and dicts."""

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
        elif name in _PUTS or name == "MEMOIZE":
            # MEMOIZE takes the memo's size as its index: https://peps.python.org/pep-3154/
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.peek_stack()
        elif name == "DUP":
            self.stack.append(self.peek_stack())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "STOP":
            top = self.peek_stack()
            self.survey.keys = frozenset(top) - {None} if isinstance(top, dict) else frozenset()
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
            if operands and isinstance(operands[0], dict) and name.startswith("SETITEM"):
                operands[0].update(_read_items(operands[1:]))
        elif name in ("EMPTY_DICT", "DICT"):
            self.stack.append(_read_items(operands))
        elif "TUPLE" in name:
            self.stack.append(tuple(operands))
        elif name == "REDUCE":
            self.stack.append(self.call_function(*operands))
            return
        elif name == "BINPERSID":
            self.stack.append(_read_persistent_class(operands[0]))
        elif name in ("NEWOBJ", "NEWOBJ_EX", "OBJ"):
            self.stack.append(self.create_object(operands[0] if operands else None))
        else:
            is_plain = isinstance(argument, str | bytes | bytearray | int)
            plain = argument if is_plain else _NONE if name == "NONE" else None
            self.note_nested(plain)
            self.stack += [plain] * len(opcode.stack_after)
        self.survey.has_hidden_attributes |= _ImportedName("builtins.getattr") in operands

    def take_operands(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        kinds = [kind.name for kind in opcode.stack_before]
        operands: list[Any] = []
        if "mark" in kinds:
            while self.stack and self.stack[-1] is not _MARK:
                operands.append(self.stack.pop())
            self.pop_stack()
            kinds = kinds[: kinds.index("mark")]
        operands += [self.pop_stack() for _ in kinds]
        return operands[::-1]

    def import_name(self, opcode: str, argument: Any, operands: list[Any]) -> Any:
        """Record an import and return its name, or for INST the object that it creates; None for a hidden name."""
        texts = argument.split(" ", 1) if isinstance(argument, str) else operands[:2]
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            self.survey.globals.add(HIDDEN_IMPORT)
            return None
        name = _ImportedName(to_python3_name(*texts))
        self.survey.globals.add(name.name)
        return self.create_object(name) if opcode == "INST" else name

    def create_object(self, kind: Any) -> _CreatedObject | None:
        """Record that a class is called, and return what it creates."""
        if not isinstance(kind, _ImportedName):
            self.survey.globals.add(HIDDEN_CALL)
            return None
        self.survey.has_calls |= self.is_sound
        return _CreatedObject(kind.name)

    def note_nested(self, data: object) -> None:
        """Keep bytes that begin as pickles and archives do; protocols below 3 write them as texts."""
        nested = find_nested_pickle(data)
        if nested:
            self.survey.nested.append(nested)

    def call_function(self, function: Any = None, arguments: Any = None) -> Any:
        """Record a call, and return what it creates as far as that is told."""
        if not isinstance(function, _ImportedName):
            self.survey.globals.add(HIDDEN_CALL)
            return None
        if not isinstance(arguments, tuple):
            arguments = ()
        else:
            self.survey.has_calls |= self.is_sound
        # It unpickles its argument, so that must be bytes that the scan can read too.
        if function.name == TORCH_BYTES_LOADER and not (
            len(arguments) == 1 and isinstance(arguments[0], bytes)
        ):
            self.survey.globals.add(HIDDEN_IMPORT)
        # Protocols below 3 have no bytes: they pickle a call of _codecs.encode(text, "latin1").
        if function.name == "_codecs.encode" and len(arguments) == 2:
            return encode_latin1(*arguments)
        if function.name == "builtins.getattr":
            return self.get_attribute(*arguments) if len(arguments) == 2 else self.get_attribute(None, None)
        return _CreatedObject(function.name, arguments if function.name == "numpy.dtype" else ())

    def get_attribute(self, owner: Any, attribute: Any) -> _ImportedName | None:
        if (
            isinstance(attribute, str)
            and not attribute.startswith("__")
            and isinstance(owner, _ImportedName | _CreatedObject)
        ):
            name = f"{owner.name}.{attribute}"
            self.survey.attributes.add(name)
            return _ImportedName(name)
        self.survey.has_hidden_attributes = True
        return None

    def peek_stack(self) -> Any:
        if not self.stack:
            raise _StackUnderflowError
        return self.stack[-1]

    def pop_stack(self) -> Any:
        if not self.stack:
            raise _StackUnderflowError
        return self.stack.pop()

    def check_joblib(self, opcode: str, argument: Any, operands: list[Any]) -> None:
        """Skip the array behind an object that describes one; raise ValueError for what joblib does not write."""
        if opcode == "FRAME":
            # The unpickler reads a frame into memory: an array inside of one would lie behind it for joblib.
            self.frame_end = self.stream.tell() + int(argument)
        is_named = isinstance(argument, str) and argument.replace(" ", ".") == JOBLIB_WRAPPER
        allowed = ("GLOBAL",) if is_named else ("NEWOBJ",)
        if (is_named or _ImportedName(JOBLIB_WRAPPER) in operands) and opcode not in allowed:
            raise ValueError("an array is announced in a way that joblib does not use")
        if opcode != "BUILD" or not isinstance(operands[0], _CreatedObject):
            return
        if operands[0].name == "numpy.dtype":
            if operands[0].state:
                raise ValueError("a type is changed after it was made")
            operands[0].state = operands[1]
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
            self.survey.merge_inner(inner)
            if not inner.is_whole:
                raise EOFError("the pickle of an object array ends early")
            return
        # joblib 1.2 and newer align arrays for memory maps: the first byte counts the others.
        # https://github.com/joblib/joblib/blob/1.5.1/joblib/numpy_pickle.py (NumpyArrayWrapper.write_array)
        if alignment is not _NONE:
            padding = self.stream.read(1)
            if not isinstance(alignment, int) or not padding:
                raise ValueError("an array of an unknown alignment")
            self.skip_bytes(padding[0])
        self.skip_bytes(math.prod(shape) * item_size)

    def skip_bytes(self, count: int) -> None:
        while count > 0:
            length = len(self.stream.read(min(count, _CHUNK)))
            if not length:
                raise EOFError("an array ends early")
            count -= length


def _read_persistent_class(pid: Any) -> _ImportedName | None:
    """Return a whole module's class, which torch's old format names so: ("module", class, file, source)."""
    is_module = isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module"
    return pid[1] if is_module and isinstance(pid[1], _ImportedName) else None


def _read_items(operands: list[Any]) -> dict[str | None, Any]:
    """Return keys and values as a dict; all keys that are no strings become None."""
    keys = (key if isinstance(key, str) else None for key in operands[::2])
    return dict(zip(keys, operands[1::2], strict=False))


def _measure_item(dtype: Any) -> int | None:
    """Return the bytes of one item of a numpy type: "f8", "<U12", "V16", "b1"; None for pickled objects."""
    if (
        not isinstance(dtype, _CreatedObject)
        or not dtype.arguments
        or not isinstance(dtype.arguments[0], str)
    ):
        raise ValueError("an array of an unknown type")
    if _holds_objects(dtype):
        return None
    code = dtype.arguments[0].lstrip("<>|=") or "?"
    size = int(code[1:]) * (4 if code[0] == "U" else 1)
    stated = dtype.state[5] if isinstance(dtype.state, tuple) and len(dtype.state) > 5 else -1
    if stated not in (-1, size):
        raise ValueError("an array whose items are of another size than their type")
    return size


def _holds_objects(dtype: _CreatedObject) -> bool:
    """Whether a numpy type is `object` or has a field of it: joblib pickles such arrays."""
    pending: list[Any] = [dtype]
    visited: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        if isinstance(part, _CreatedObject):
            if str((*part.arguments, "")[0]).lstrip("<>|=").startswith("O"):
                return True
            pending.append(part.state)
        elif isinstance(part, tuple | dict):
            pending += part.values() if isinstance(part, dict) else part
    return False


def find_nested_pickle(data: object) -> bytes:
    """Return the bytes of a text or bytes that begin as a pickle or an archive does; else nothing."""
    if isinstance(data, str):
        data = encode_latin1(data, "latin1") if data[:2] in _NESTED_TEXTS else None
    if not isinstance(data, bytes | bytearray) or len(data) < 6:
        return b""
    return bytes(data) if bytes(data[:2]) in _NESTED else b""


def encode_latin1(text: object, encoding: object) -> bytes | None:
    """Return what `_codecs.encode` makes of a text, as pickles of protocol 2 write bytes; None for other uses."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        return None
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        return None


def to_python3_name(module: str, name: str) -> str:
    """Return "module.name" as Python 3 would look it up: old pickles hold Python 2's names."""
    old_name = f"{module}.{name}"
    return _OLD_NAMES.get(old_name, f"{_OLD_MODULES.get(module, module)}.{name}")


def list_packages(names: Iterable[str]) -> tuple[str, ...]:
    """Return the top-level packages that these globals come from, without torch and the standard library.

    Names of `__main__` come from no package: a script gives them (`main_from`).
    """
    tops = {name.partition(".")[0] for name in names if "." in name and " " not in name}
    return tuple(sorted(tops - set(sys.stdlib_module_names) - {"__main__", "torch"}))
