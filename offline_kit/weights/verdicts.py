"""Which of the names that a pickle imports are dangerous: picklescan's list, and what that list cannot say.

A list of what is known to be bad is never complete, and one for the standard library need not be: a model
needs few of its names, so these are listed instead, and all others count as dangerous. For everything else
picklescan is asked, whose maintainers follow the published attacks.
"""

import io
import logging
import sys
from collections.abc import Iterable

from offline_kit.pickles import COMPUTED, words

_WHOLE = frozenset(
    {"array", "collections", "collections.abc", "datetime", "decimal", "fractions", "itertools", "math"}
    | {
        "numbers",
        "pathlib",
        "pathlib._local",
        "random",
        "enum",
        "ipaddress",
        "time",
        "zoneinfo",
        "__future__",
    }
)
"""Modules of the standard library whose public names a model may hold."""
_SINGLE = frozenset(
    f"builtins.{name}"
    for name in words("""
        bool bytearray bytes complex dict float frozenset int list object set slice str tuple type range NoneType
        Ellipsis NotImplemented abs len max min sum round sorted map filter zip enumerate reversed any all hash
        print property staticmethod classmethod repr pow divmod ord chr iter next isinstance callable
        ArithmeticError AttributeError Exception ImportError IndexError KeyError RuntimeError TypeError ValueError
    """)
) | {
    *(f"copyreg.{name}" for name in ("_reconstructor", "__newobj__", "__newobj_ex__")),
    *(f"{module}.{name}" for module in ("io", "_io") for name in ("BytesIO", "StringIO")),
    *(
        f"{module}.{name}"
        for module in ("_operator", "operator")
        for name in words("add sub mul truediv pow neg and_ or_ xor not_ eq lt gt le ge ne")
    ),
    *("_codecs.encode", "_codecs.decode", "array._array_reconstructor", "zoneinfo.ZoneInfo._unpickle"),
    *("functools.reduce", "types.SimpleNamespace", "types.MappingProxyType", "argparse.Namespace"),
    *("re._compile", "re.compile", "re.RegexFlag", "logging.getLogger", "logging.Logger", "inspect._empty"),
    *("copy.copy", "copy.deepcopy", "contextlib.nullcontext", "queue.Queue", "string.Template"),
    *("dataclasses.MISSING", "dataclasses._MISSING_TYPE", "weakref.WeakValueDictionary"),
    *(
        f"typing.{name}"
        for name in words(
            "Any Optional Union List Dict Tuple Set FrozenSet Type Callable Literal Sequence Mapping Iterable"
        )
    ),
    "types.GenericAlias",
    # These four picklescan names. Alone they reach nothing: what they are given has a name of its own.
    *("functools.partial", "operator.itemgetter", "_operator.itemgetter", "uuid.UUID"),
}
"""Single harmless names of the standard library."""
_OTHERS = {
    **dict.fromkeys(
        (
            *("joblib.load", "joblib.numpy_pickle.load", "numpy.load", "numpy.lib.npyio.load"),
            *("numpy.lib._npyio_impl.load", "pandas.read_pickle", "pandas.io.pickle.read_pickle"),
            *("torch.load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
        ),
        "loads another file",
    ),
    **dict.fromkeys(
        (
            f"dill._dill.{name}"
            for name in ("_create_function", "_create_code", "_import_module", "_eval_repr")
        ),
        "brings code of its own",
    ),
}
"""What neither picklescan nor the standard library's list covers."""
_POWERS = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "builtins", "__builtins__", "importlib", "shutil", "runpy"}
    | {"ctypes", "pty", "marshal", "socket", "commands"}
)
"""Modules that are reached through others that have imported them: "torch.hub" knows "os"."""


def dangerous(names: Iterable[str]) -> dict[str, str]:
    """Return those of the globals ("module.name") that may run or load something, each with its reason."""
    names = sorted(set(names))
    known = _named_by_picklescan(names)
    return {name: reason for name in names if (reason := _reason(name, known))}


def _reason(name: str, known: frozenset[str]) -> str:
    if name == COMPUTED:
        return "what it imports is hidden"
    if name in _OTHERS:
        return _OTHERS[name]
    if name in _SINGLE:
        return ""
    if name in known:
        return "picklescan lists it as dangerous"
    module, _, what = name.rpartition(".")
    if module.partition(".")[0] in sys.stdlib_module_names:
        harmless = module in _WHOLE and not what.startswith("_")
        return "" if harmless else "no model needs it from the standard library"
    return _through(name)


def _through(name: str) -> str:
    """Tell whether a name of a package leads into a module of the standard library: "torch.hub.os.system"."""
    first, *steps = name.split(".")
    for step in steps:
        if step in _POWERS:
            return f"it reaches Python's '{step}' through '{first}'"
    return ""


def _named_by_picklescan(names: list[str]) -> frozenset[str]:
    """Ask picklescan about names, as a pickle that imports them and nothing else; it is never loaded.

    Its own reading of a stream can be led astray by crafted memos, so it gets names that were read with the
    whole machine in mind.
    """
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    logging.getLogger("picklescan").setLevel(logging.CRITICAL)
    pairs = {(module, name[len(module) + 1 :]): name for name in names for module in _modules(name)}
    stream = b"".join(f"c{module}\n{what}\n".encode() for module, what in pairs) + b"."
    result = scan_pickle_bytes(io.BytesIO(stream), "names")
    return frozenset(
        pairs[(one.module, one.name)] for one in result.globals if one.safety is SafetyLevel.Dangerous
    )


def _modules(name: str) -> list[str]:
    """Return every way to part "a.b.c" into a module and a name; none for what is no name."""
    if not name.isascii() or not name.isprintable() or " " in name:
        return []  # nothing that could be found has such a name, and picklescan stops at it
    steps = name.split(".")
    return [".".join(steps[:at]) for at in range(1, len(steps))]
