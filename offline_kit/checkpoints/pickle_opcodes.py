"""What a pickle would import and what lies at its top, told from its opcodes alone; nothing is executed.

Beside it stands what torch's `weights_only` reader takes, as facts of torch 2.13: torch itself is never
imported here, and a test compares the two.
"""

import lzma
import pickletools
import sys
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any


def split_words(text: str) -> list[str]:
    """Return the words of a text: long lists of names read better as one."""
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
"""Globals that torch.load(weights_only=True) takes without being asked to."""

WEIGHTS_ONLY_OPCODES: frozenset[str] = frozenset(
    split_words("""
    GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE
    NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE
    SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP
    """)
)
"""Opcodes that it knows: those of protocol 2."""

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
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MARK = object()
_NESTED = frozenset({b"PK", b"\x1f\x8b", *(bytes((0x80, protocol)) for protocol in range(6))})
_NESTED_TEXTS = frozenset(each.decode("latin1") for each in _NESTED)
_GETATTR = "builtins.getattr"
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
CALLED = "an object that it makes itself, called like a function"
"""Stands among the globals for a call of something else than what was imported."""
LOADER = "torch.storage._load_from_bytes"
"""How plain pickles hold torch's storages: as the bytes of another pickle."""
COMPUTED = "a name that is computed while loading"
"""Stands among the globals for an import whose name the opcodes do not tell."""


@dataclass(kw_only=True)
class PickleSurvey:
    """What the opcodes of one pickle say."""

    globals: set[str] = field(default_factory=set)
    """All that it imports, as "module.name", in Python 3's names."""
    opcodes: set[str] = field(default_factory=set)
    """The names of its opcodes."""
    protocol: int = 0
    """The protocol that it states; 0 without a statement."""
    keys: frozenset[str] = frozenset()
    """The keys that are texts, where the pickled object is a plain dict."""
    whole: bool = False
    """It was read to its end, and no opcode lacked its operands."""
    reached: set[str] = field(default_factory=set)
    """What it gets at by `getattr`, as the names that would import the same: nested classes, bound methods."""
    blind: bool = False
    """It uses `getattr` in a way that these opcodes do not tell."""
    called: bool = False
    """It calls something that it imported, its operands in order: no text is read as a pickle by chance."""
    nested: list[bytes] = field(default_factory=list)
    """Bytes in it that may be pickles or archives of their own."""


@dataclass(frozen=True)
class _Named:
    """Something imported, on the walker's stack."""

    name: str


@dataclass(frozen=True)
class _Made:
    """An object of something imported, on the walker's stack."""

    name: str


def survey_pickle(stream: IO[bytes], *, most: int = 5_000_000) -> PickleSurvey:
    """Read one pickle from the stream's place on and return what it says; never raises on bad bytes.

    At most `most` opcodes are read. Afterwards the stream stands behind the pickle if it was whole.
    """
    walker = _Walker()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            walker.step(opcode, argument)
            if count >= most:
                return walker.survey
    except (ValueError, OverflowError, MemoryError, UnicodeError):
        return walker.survey  # genops has met its end, an unknown opcode or a broken argument
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile):
        return walker.survey  # what it is packed into is damaged from here on
    walker.survey.whole = walker.sound
    return walker.survey


def list_refused(said: PickleSurvey) -> tuple[str, ...]:
    """Return what torch.load(weights_only=True) would refuse: sorted globals, then the protocol."""
    found = sorted(said.globals - WEIGHTS_ONLY_GLOBALS)
    foreign = said.opcodes - WEIGHTS_ONLY_OPCODES
    if foreign and said.protocol > 2:
        found.append(f"pickle protocol {said.protocol}")
    elif foreign:
        found.append(f"pickle opcode {min(foreign)}")
    return tuple(found)


class _Walker:
    """The pickle machine's stack and memo, holding only what matters: texts, globals and dict keys."""

    def __init__(self) -> None:
        self.survey = PickleSurvey()
        self.sound = True
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        self.survey.opcodes.add(name)
        if name == "PROTO":
            self.survey.protocol = argument
        elif name in _GETS:
            self.sound &= argument in self.memo
            self.stack.append(self.memo.get(argument))
        elif name in _PUTS or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
        elif name == "DUP":
            self.stack.append(self.top())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "STOP":
            top = self.top()
            self.survey.keys = frozenset(top) if isinstance(top, set) else frozenset()
        else:
            self.operate(opcode, argument)

    def operate(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take the operands off the stack and put on what matters of the result."""
        operands = self.taken(opcode)
        name = opcode.name
        if name in _IMPORTS:
            self.stack += [self.imports(name, argument, operands)]
        elif name in _KEEPS_ITS_OBJECT:
            self.stack += operands[:1]
            if operands and isinstance(operands[0], set) and name.startswith("SETITEM"):
                operands[0].update(key for key in operands[1::2] if isinstance(key, str))
        elif name in ("EMPTY_DICT", "DICT"):
            self.stack.append({key for key in operands[::2] if isinstance(key, str)})
        elif name.startswith("TUPLE"):
            self.stack.append(tuple(operands))
        elif name == "REDUCE":
            self.stack.append(self.called(*operands))
            return
        elif name == "BINPERSID":
            pid: Any = operands[0] if operands else None
            # torch's old format names the classes of whole modules so: ("module", class, file, source).
            named = isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module"
            self.stack.append(pid[1] if named and isinstance(pid[1], _Named) else None)
        elif name in ("NEWOBJ", "NEWOBJ_EX", "OBJ"):
            self.stack.append(self.constructed(operands[0] if operands else None))
        else:
            plain = argument if isinstance(argument, str | bytes | bytearray) else None
            self.note_nested(plain)
            self.stack += [plain] * len(opcode.stack_after)
        self.survey.blind |= _Named(_GETATTR) in operands

    def taken(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        wanted = [kind.name for kind in opcode.stack_before]
        operands: list[Any] = []
        if "mark" in wanted:
            while self.stack and self.stack[-1] is not _MARK:
                operands.append(self.stack.pop())
            self.pop()
            wanted = wanted[: wanted.index("mark")]
        operands += [self.pop() for _ in wanted]
        return operands[::-1]

    def imports(self, opcode: str, argument: Any, operands: list[Any]) -> _Named | None:
        """Note what is imported and return it; None for what INST makes of it, and for a hidden name."""
        texts = argument.split(" ", 1) if isinstance(argument, str) else operands[:2]
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            self.survey.globals.add(COMPUTED)
            return None
        name = python3_name(*texts)
        self.survey.globals.add(name)
        if opcode == "INST":
            self.survey.called |= self.sound
            return None
        return _Named(name)

    def constructed(self, kind: Any) -> _Made | None:
        """Note that a class is called, and return what it makes."""
        if not isinstance(kind, _Named):
            self.survey.globals.add(CALLED)
            return None
        self.survey.called |= self.sound
        return _Made(kind.name)

    def note_nested(self, data: str | bytes | bytearray | None) -> None:
        """Keep bytes that begin as pickles and archives do; protocols below 3 write them as texts."""
        raw = nested_bytes(data)
        if raw:
            self.survey.nested.append(raw)

    def called(self, function: Any = None, arguments: Any = None) -> Any:
        """Note what a call gets at, and return what it makes as far as that is told."""
        if not isinstance(function, _Named):
            self.survey.globals.add(CALLED)
            return None
        self.survey.called |= self.sound and isinstance(arguments, tuple)
        if function.name == LOADER and not (
            isinstance(arguments, tuple) and len(arguments) == 1 and isinstance(arguments[0], bytes)
        ):
            self.survey.globals.add(COMPUTED)
        if function.name == "_codecs.encode" and isinstance(arguments, tuple) and len(arguments) == 2:
            return encoded(*arguments)
        if function != _Named(_GETATTR):
            return _Made(function.name)
        thing, attribute = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (None, None)
        if not isinstance(attribute, str) or attribute.startswith("__"):
            self.survey.blind = True
        elif isinstance(thing, _Named | _Made):
            self.survey.reached.add(f"{thing.name}.{attribute}")
            return _Named(f"{thing.name}.{attribute}")
        else:
            self.survey.blind = True
        return None

    def top(self) -> Any:
        self.sound &= bool(self.stack)
        return self.stack[-1] if self.stack else None

    def pop(self) -> Any:
        self.sound &= bool(self.stack)
        return self.stack.pop() if self.stack else None


def nested_bytes(data: object) -> bytes:
    """Return the bytes of a text or bytes that begin as a pickle or an archive does; else nothing."""
    if isinstance(data, str):
        data = encoded(data, "latin1") if data[:2] in _NESTED_TEXTS else None
    if not isinstance(data, bytes | bytearray) or len(data) < 6:
        return b""
    return bytes(data) if bytes(data[:2]) in _NESTED else b""


def encoded(text: object, encoding: object) -> bytes | None:
    """Return what `_codecs.encode` makes of a text, as pickles of protocol 2 write bytes; None for other uses."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        return None
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        return None


def python3_name(module: str, name: str) -> str:
    """Return "module.name" as Python 3 would look it up: old pickles hold Python 2's names."""
    old = f"{module}.{name}"
    return _OLD_NAMES.get(old, f"{_OLD_MODULES.get(module, module)}.{name}")


def list_packages(names: Iterable[str]) -> tuple[str, ...]:
    """Return the top-level packages that these globals come from, without torch and the standard library.

    Names of `__main__` come from no package: a script gives them (`main_from`).
    """
    tops = {name.partition(".")[0] for name in names if "." in name and " " not in name}
    return tuple(sorted(tops - set(sys.stdlib_module_names) - {"__main__", "torch"}))
