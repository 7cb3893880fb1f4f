"""Allow the names that models import when they are unpickled; everything else counts as dangerous.

A list of bad names is never complete: every function of every library that reads, writes or runs something would be
on it (https://docs.python.org/3/library/pickle.html#restricting-globals). So classes in the estimator modules of
the usual libraries are allowed, functions by name, and the project's own code.
"""

import re
import sys
from collections.abc import Collection, Iterable

from offline_kit.checkpoints.pickle_opcodes import (
    HIDDEN_CALL,
    HIDDEN_IMPORT,
    TORCH_BYTES_LOADER,
    WEIGHTS_ONLY_GLOBALS,
    split_words,
)

_SAFE_MODULES = frozenset(
    {"array", "collections", "collections.abc", "datetime", "decimal", "fractions", "itertools", "math"}
    | {
        "numbers",
        "pathlib",
        "pathlib._local",  # where Python 3.13 defines the classes of pathlib
        "random",
        "enum",
        "ipaddress",
        "time",
        "zoneinfo",
        "__future__",
    }
)
"""Modules of the standard library whose public names are allowed."""
_SAFE_NAMES = frozenset(
    f"builtins.{name}"
    for name in split_words("""
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
        for name in split_words("add sub mul truediv pow neg and_ or_ xor not_ eq lt gt le ge ne")
    ),
    *("_codecs.encode", "_codecs.decode", "array._array_reconstructor", "zoneinfo.ZoneInfo._unpickle"),
    *("functools.reduce", "types.SimpleNamespace", "types.MappingProxyType", "argparse.Namespace"),
    *("re._compile", "re.compile", "re.RegexFlag", "logging.getLogger", "logging.Logger", "inspect._empty"),
    *("copy.copy", "copy.deepcopy", "contextlib.nullcontext", "queue.Queue", "string.Template"),
    *("dataclasses.MISSING", "dataclasses._MISSING_TYPE", "weakref.WeakValueDictionary"),
    *(
        f"typing.{name}"
        for name in split_words(
            "Any Optional Union List Dict Tuple Set FrozenSet Type Callable Literal Sequence Mapping Iterable"
        )
    ),
    "types.GenericAlias",
    # Alone they do nothing: what they call is imported by its own name.
    *("functools.partial", "operator.itemgetter", "_operator.itemgetter", "uuid.UUID"),
}
"""Single harmless names of the standard library."""
_ESTIMATORS = {
    "sklearn": "pipeline compose preprocessing impute feature_extraction feature_selection decomposition linear_model svm "
    "random_projection tree ensemble neighbors naive_bayes discriminant_analysis cluster mixture gaussian_process metrics "
    "neural_network kernel_ridge kernel_approximation isotonic calibration multiclass multioutput semi_supervised base "
    "cross_decomposition covariance manifold model_selection dummy _loss frozen utils",
    "numpy": "dtypes random polynomial ma core _core matrixlib lib",
    "pandas": "core _libs arrays",
    "scipy": "sparse spatial interpolate optimize",
    "torch": "nn optim distributions torch_version storage",
    "torchvision": "models ops transforms",
    "timm": "models layers",
    "transformers": "models activations configuration_utils tokenization_utils_base tokenization_utils_fast generation "
    "training_args trainer_utils modeling_utils integrations",
    "tokenizers": "Tokenizer AddedToken models normalizers pre_tokenizers processors decoders",
    "lightgbm": "basic sklearn callback",
    "xgboost": "core sklearn callback",
    "catboost": "core _catboost",
    "lightning": "fabric pytorch",
    "pytorch_lightning": "utilities callbacks core",
    "lightning_fabric": "utilities",
}
"""Packages, and their modules whose classes are allowed."""
_OTHER_ESTIMATORS = frozenset(
    split_words("""
    boruta category_encoders feature_engine gensim hdbscan imblearn lifelines mlxtend ngboost nltk omegaconf pmdarima
    polars pygam pytorch_tabnet sklearn_pandas sklego skopt skorch sktime surprise torchmetrics umap
    """)
)
"""Smaller packages of estimators, whose classes are allowed."""
_UNSAFE_PARTS = frozenset(
    split_words("""
    tests test testing _testing conftest datasets dataset io hub jit package cpp_extension computation externals dask
    spark distributed multiprocessing parallel loggers profilers downloader eval f2py ctypeslib memmap _datasource npyio
    _npyio_impl DataSource Repository NpzFile ExcelFile HDFStore ExcelWriter SummaryWriter FileBaton GraphModule Memory
    """)
)
"""Modules and classes in these packages that read, write, send or run something."""
_NUMPY_FUNCTIONS = split_words("""
    abs absolute exp exp2 expm1 log log1p log2 log10 sqrt cbrt square power sign sin cos tan arcsin arccos arctan sinh
    cosh tanh clip where nan_to_num mean median std var sum max min amax amin argmax argmin argsort sort ravel round
    around floor ceil rint isnan isfinite reciprocal add subtract multiply divide true_divide maximum minimum mod
    logical_not logical_and logical_or concatenate hstack vstack stack reshape asarray array float32 float64 int8 int16
    int32 int64 uint8 uint16 uint32 uint64 float16 bool_ bool str_ object_ bytes_ complex64 complex128 datetime64
    timedelta64 intc longlong ulonglong longdouble void dtype ndarray matrix recarray record poly1d ufunc number
""")
_ACTIVATIONS = split_words("""
    relu relu6 gelu silu mish elu celu selu leaky_relu sigmoid logsigmoid tanh softmax log_softmax softplus hardtanh
    hardswish hardsigmoid cross_entropy mse_loss l1_loss binary_cross_entropy_with_logits nll_loss normalize
""")
# numpy 2 renamed numpy.core to numpy._core: https://numpy.org/doc/stable/numpy_2_0_migration_guide.html
_SAFE_FUNCTIONS = frozenset(
    {
        *(f"numpy.{name}" for name in _NUMPY_FUNCTIONS),
        *(
            f"numpy.{core}.{name}"
            for core in ("core.fromnumeric", "_core.fromnumeric")
            for name in _NUMPY_FUNCTIONS
        ),
        *(
            f"numpy.{core}.{name}"
            for core in ("core.records", "_core.records", "rec")
            for name in ("recarray", "record")
        ),
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")
            for name in split_words("multiarray._reconstruct multiarray.scalar numeric._frombuffer")
        ),
        *(
            "numpy.ma.core._mareconstruct",
            "numpy.lib.function_base.poly1d",
            "numpy.matrixlib.defmatrix.matrix",
        ),
        *(
            f"numpy.random._pickle.{name}"
            for name in split_words("__randomstate_ctor __generator_ctor __bit_generator_ctor")
        ),
        *("pandas.core.indexes.base._new_Index", "pandas.core.indexes.datetimes._new_DatetimeIndex"),
        *("pandas.core.indexes.period._new_PeriodIndex", "pandas.core.internals.blocks.new_block"),
        *(
            f"pandas._libs.{name}"
            for name in split_words("""internals._unpickle_block tslibs.timestamps._unpickle_timestamp missing.NA
            tslibs.timedeltas._timedelta_unpickle tslibs.nattype._nat_unpickle tslibs.nattype.__nat_unpickle
            tslibs.period._unpickle_period""")
        ),
        *(
            "scipy.spatial._ckdtree.cKDTree",
            "scipy.spatial.ckdtree.cKDTree",
            "scipy.interpolate._interpolate.interp1d",
        ),
        *("scipy.interpolate.interpolate.interp1d", "scipy.stats._kde.gaussian_kde"),
        *("scipy.special._ufuncs.expit", "scipy.special._ufuncs.logit", "scipy.special._ufuncs.log1p"),
        *(
            f"sklearn.{name}.newObj"
            for name in ("neighbors._kd_tree", "neighbors._ball_tree", "metrics._dist_metrics")
        ),
        *(
            "sklearn.compose._column_transformer.make_column_selector",
            "sklearn.metrics._scorer._passthrough_scorer",
        ),
        *(
            f"sklearn.feature_selection._{name}"
            for name in split_words("""univariate_selection.f_classif univariate_selection.f_regression univariate_selection.chi2
            univariate_selection.r_regression mutual_info.mutual_info_classif mutual_info.mutual_info_regression""")
        ),
        *(f"torch.nn.functional.{name}" for name in _ACTIVATIONS),
        *(f"torch.{name}" for name in (*_ACTIVATIONS, "Generator")),
        *(
            "torch._C._nn.gelu",
            "torch._C._nn.silu",
            TORCH_BYTES_LOADER,
            "torch.distributed._mesh_layout._FlatLayout",
        ),
        *(
            "joblib.numpy_pickle.NumpyArrayWrapper",
            "pyarrow.lib.type_for_alias",
            "pyarrow.lib._restore_array",
            "pyarrow.lib.py_buffer",
            "pandas.NA",
            "scipy._lib.array_api_compat.numpy._aliases.asarray",
            "sklearn.cluster._kmeans._kmeans_single_lloyd",
            "sklearn.cluster._kmeans._kmeans_single_elkan",
            "pyarrow.lib.StringType",
        ),
    }
)
"""Functions, and classes with lower-case names, that models of these packages need."""
_METRICS = re.compile(r"sklearn\.metrics\.[\w.]+_(?:score|loss|error|distances?|kernel)")
_INTERPOLATION = re.compile(r"scipy\.interpolate\.(?:_?interpolate)\.interp1d\._call_\w+")
_SPARSE = re.compile(r"scipy\.sparse\.[\w.]*(?:bsr|coo|csc|csr|dia|dok|lil)_(?:matrix|array)")
_CYTHON = re.compile(r"(?:numpy\.random|pandas\._libs|sklearn|catboost|lightgbm)\.[\w.]*__pyx_unpickle_\w+")
"""How Cython unpickles its own classes."""
_TORCHSCRIPT = re.compile(r"__torch__\.[\w.]+|torch\.jit\._pickle\.(?:build_\w+|restore_type_tag)")
"""Classes that a TorchScript archive defines itself, for torch's C++ alone: Python has no module `__torch__`."""
_POWERFUL_MODULES = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "builtins", "__builtins__", "importlib", "shutil", "runpy"}
    | {"ctypes", "pty", "marshal", "socket", "commands", "pickle", "tempfile", "inspect", "copyreg", "codecs"}
    | {
        "urllib",
        "http",
        "zipfile",
        "tarfile",
        "threading",
        "webbrowser",
        "pydoc",
        "timeit",
        "functools",
        "glob",
    }
    | {
        "torch",
        "joblib",
        "pandas",
        "np",
        "pd",
        "cloudpickle",
        "dill",
        "warnings",
        "logging",
        "pathlib",
        "typing",
    }
)
"""Modules that others import and so give access to: "torch.hub.os"."""


def classify_globals(names: Iterable[str], own_modules: Collection[str] = ()) -> dict[str, str]:
    """Return the globals ("module.name") that are not allowed, each with its reason.

    `own_modules` are the top-level modules of the project's own code.
    """
    return {
        name: reason for name in sorted(set(names)) if (reason := _find_reason(name, frozenset(own_modules)))
    }


def _find_reason(name: str, own_modules: frozenset[str]) -> str:
    if name == HIDDEN_IMPORT:
        return "what it imports is hidden"
    if name == HIDDEN_CALL:
        return "what it calls is hidden"
    if (
        name in _SAFE_NAMES
        or name in WEIGHTS_ONLY_GLOBALS
        or name in _SAFE_FUNCTIONS
        or _TORCHSCRIPT.fullmatch(name)
    ):
        return ""
    module, _, last_name = name.rpartition(".")
    top = name.partition(".")[0]
    if top in ("__main__", "__mp_main__") or (top in own_modules and top not in sys.stdlib_module_names):
        return _find_bypass(name)
    if top in sys.stdlib_module_names:
        harmless = module in _SAFE_MODULES and not last_name.startswith("_")
        return "" if harmless else "no model needs it from the standard library"
    if reason := _find_bypass(name):
        return reason
    if any(pattern.fullmatch(name) for pattern in (_METRICS, _SPARSE, _CYTHON, _INTERPOLATION)):
        return ""
    if _UNSAFE_PARTS & set(name.split(".")):
        return f"it is a part of '{top}' that reads, writes or runs something"
    if _is_class_name(name) and (top in _OTHER_ESTIMATORS or _is_estimator(name, top)):
        return ""
    is_known = top in _ESTIMATORS or top in _OTHER_ESTIMATORS or top in ("joblib", "dill", "cloudpickle")
    return (
        f"models are not made of this part of '{top}'"
        if is_known
        else f"'{top}' is neither a known library nor your own code"
    )


def _is_class_name(name: str) -> bool:
    """Whether the last part is capitalized like a class: "Pipeline", "_BinMapper", "C_NA"."""
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


def _is_estimator(name: str, top: str) -> bool:
    steps = name.split(".")
    if top == "pandas" and len(steps) == 2:
        return True  # pandas.DataFrame, pandas.CategoricalDtype
    return top in _ESTIMATORS and steps[1] in _ESTIMATORS[top].split()


def _find_bypass(name: str) -> str:
    """Return why a name is refused if it leads into a module of another package: "torch.hub.os.system"."""
    first, *steps = name.split(".")
    for step in steps[:-1]:
        if step in _POWERFUL_MODULES:
            return f"it reaches Python's '{step}' through '{first}'"
    return (
        f"it reaches Python's '{steps[-1]}' through '{first}'"
        if steps and steps[-1] in _POWERFUL_MODULES
        else ""
    )
