"""Known failures of a notebook without internet: the words of the error, its cause, and a remedy."""

import re
from dataclasses import dataclass

from offline_kit.checkpoints.slim_worker import TRAINING


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why something failed, and how to fix it; all fields are empty for an unknown failure."""

    code: str = ""
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class KnownFailure:
    """An error that users meet, and how to fix it."""

    code: str
    pattern: str  # searched in the error's text, ignoring case; the texts may use its groups as {0} and {1}
    cause: str
    remedy: str
    current_remedy: str = ""  # added to the remedy if the run used the running environment


KNOWN_FAILURES: tuple[KnownFailure, ...] = (
    KnownFailure(
        "checkpoint-refused",
        r"Weights only load failed|Unsupported (?:global|operand|class)|weights_only",
        # https://docs.pytorch.org/docs/stable/generated/torch.load.html
        "torch.load refuses an object in the checkpoint: since 2.6 it loads only tensors and plain containers",
        "save a plain state_dict (`torch.save(model.state_dict(), ...)`), or allow the classes with"
        " `torch.serialization.add_safe_globals`; `offline-kit build` lists them for each checkpoint",
    ),
    KnownFailure(
        "slim-removed-key",
        rf"KeyError: '({TRAINING.pattern})'",
        "there is no key '{0}'; with `slim = true` the build removes it from checkpoints as state of the training",
        "save it under another name, or remove `slim` from [tool.offline-kit], and build again",
    ),
    KnownFailure(
        "archive-unpacked",
        r"Is a directory: '([^']*)'",
        # https://github.com/Kaggle/kaggle-cli/issues/292; .pt and .pth are zip archives, and were unpacked at times
        "'{0}' is a folder: Kaggle unpacks archives in datasets, sometimes .pt and .pth too",
        "load files by the paths that the kit's cells return (they restore the original files), not by their names"
        " in /kaggle/input",
    ),
    KnownFailure(
        "cache-disk-full",
        r"no space left (?:below|while writing below) '([^']*)'",
        "the disk of '{0}' on this machine is full",
        "run 'offline-kit cache prune' to free space, or set OFFLINE_KIT_CACHE to a folder on another disk",
    ),
    KnownFailure(
        "remote-code-not-allowed",
        r"trust_remote_code=True",
        # https://huggingface.co/docs/transformers/custom_models
        "a model folder contains code of its own (`auto_map`), which runs only if it is allowed",
        "if you trust it, set trust_remote_code = true in the `params` of its `models` entry; in your own code, pass"
        " trust_remote_code=True",
    ),
    KnownFailure(
        "devices-differ",
        r"Expected all tensors to be on the same device|Input type \((?:torch\.)?\w*\.?\w*Tensor\) and weight type"
        r"|found at least two devices",
        "the model and its input are on different devices (CPU and GPU)",
        "move both to the same device: `model.to(device)` and `batch.to(device)`",
    ),
    KnownFailure(
        "image-not-read",
        r"_src\.empty\(\)|'NoneType' object has no attribute 'shape'",
        "an image was not read: cv2.imread returns None for a file that does not exist or is not an image",
        "check the path and suffix that are built from the id, and handle ids without an image: the hidden test set"
        " may contain some",
    ),
    KnownFailure(
        "package-shadowed",
        r"partially initialized module '([^']+)'",
        "a file named '{0}.py' is imported instead of the package '{0}', or two modules import each other",
        "rename the file with the package's name; if there is none, import inside the function that needs it",
    ),
    KnownFailure(
        "package-shadowed",
        r"cannot import name '([^']+)' from '([^']+)' \((?![^)]*(?:site|dist)-packages|[^)]*/lib/python3)([^)\n]+)\)",
        "'{1}' is imported from '{2}', which has no '{0}': that file hides a package of the same name",
        "rename '{2}', or leave it out of `modules`",
    ),
    KnownFailure(
        "gpu-out-of-memory",
        r"CUDA out of memory|OutOfMemoryError.*CUDA",
        "the GPU has too little memory for this model and batch size",
        "use smaller batches",
    ),
    KnownFailure(
        "gpu-not-available",
        r"Torch not compiled with CUDA|No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver"
        r"|deserialize object on a CUDA device|cannot find .*libcuda|no kernel image is available",
        # The last pattern is also what a P100 gives: torch no longer supports it, and Kaggle's image dropped it
        # (https://github.com/Kaggle/docker-python/pull/1560).
        "the code needs a GPU, and there is none: neither in a CPU notebook nor in a rehearsal",
        'load with `map_location="cpu"` and move the model to the available device; if it needs a GPU, set'
        " `accelerator`, but make it run on a CPU for rehearsals",
    ),
    KnownFailure(
        "kaggle-secret-unavailable",
        r"No module named 'kaggle_secrets'|kaggle_secrets\.py|kaggle_web_client|UserSecretsClient",
        "the code reads a secret of the Kaggle account, which needs internet access",
        "remove the secret and the login that uses it: offline, nothing needs an account",
    ),
    KnownFailure(
        "hub-not-reachable",
        r"LocalEntryNotFoundError|couldn't connect to 'https://huggingface|huggingface\.co|hf_hub|OfflineModeIsEnabled",
        "the code downloads a model or its configuration from the Hugging Face Hub, and there is no internet",
        "add the files to `checkpoints` and load them from that folder; pass `pretrained=False`"
        " (`weights=None`, `encoder_weights=None`) if a checkpoint replaces the weights anyway",
    ),
    KnownFailure(
        "pretrained-weights-not-reachable",
        r"download\.pytorch\.org|load_state_dict_from_url|torch\.hub",
        "the code downloads pretrained weights from PyTorch's server, and there is no internet",
        "pass `pretrained=False` (`weights=None`) if a checkpoint replaces the weights; otherwise add the file to"
        " `checkpoints`",
    ),
    KnownFailure(
        "network-not-available",
        r"Temporary failure in name resolution|Name or service not known|nodename nor servname|Network is unreachable"
        r"|Failed to establish a new connection|getaddrinfo failed|URLError|NameResolutionError|Max retries exceeded"
        r"|ConnectionError|Could not resolve host",
        "the code uses the network, and submissions run without it",
        "remove the call, or add what it downloads to the kit (`requirements`, `checkpoints`) or to another dataset",
    ),
    KnownFailure(
        "module-not-found",
        r"No module named '([^']+)'",
        "the module '{0}' is neither in the kit nor in the environment that the notebook ran in",
        "add its package to the requirements (or the project's own package to `packages`) and build again",
        "; with `--env current` it may be missing only here: `--env matching` has the image's packages",
    ),
    KnownFailure(
        "name-not-in-version",
        r"cannot import name '([^']+)' from '([^']+)'",
        "'{1}' has no '{0}' in the image's version",
        "require the version that you trained with (and list it in `replace` if the image's is protected)",
    ),
    KnownFailure(
        "binary-mismatch",
        r"numpy\.core\.multiarray failed to import|numpy\.dtype size changed|compiled using NumPy 1|_ARRAY_API not found"
        r"|undefined symbol|version `GLIBC|GLIBCXX",
        "a compiled package does not fit the versions around it",
        "use the image's version if you can; otherwise require a version that was built for the image's numpy, Python"
        " and glibc",
    ),
    KnownFailure(
        "version-conflict",
        r"ContextualVersionConflict|VersionConflict|is required.*but|requires .* but you have|mismatched Gencode"
        r"|MessageFactory",
        "two packages require versions that exclude each other",
        "loosen the requirement that replaces an image package; the build lists those packages",
    ),
    KnownFailure(
        "disk-full",
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        # https://www.kaggle.com/docs/notebooks
        "write less: /kaggle/working is limited to 20 GB; unpack in /tmp and delete the files afterwards",
    ),
    KnownFailure(
        "folder-read-only",
        r"Read-only file system: '([^']*)'|Permission denied: '(/kaggle/input[^']*)'|Read-only file system",
        "the code writes to a read-only folder: inputs and the image are read-only",
        "write to /kaggle/working (saved) or /tmp (not saved); copy files before you change them",
    ),
    KnownFailure(
        "file-not-executable",
        r"Permission denied: '([^']*)'|(\S+): Permission denied",
        "'{0}' cannot be run: Kaggle removes the executable bit from uploaded files",
        "copy it to /tmp and run `chmod +x` on the copy, or start it with its interpreter (`sh FILE`, `python FILE`)",
    ),
    KnownFailure(
        "input-not-mounted",
        r"No such file or directory: '?(/kaggle/input[^'\s]*)",
        "'{0}' is not mounted: its folder or file has another name",
        "search /kaggle/input instead of hard-coding the path (mounts are /kaggle/input/<slug> or"
        " /kaggle/input/competitions/<slug> and .../datasets/<owner>/<slug>), and check `competition_data`",
    ),
    KnownFailure(
        "file-beside-script",
        r"No such file or directory: '?(/kaggle/src/[^'\s]*)",
        "'{0}' does not exist: Kaggle runs a script alone, as /kaggle/src/script.py, so `__file__` leads to no other file",
        "read the file by a path relative to the script's folder, without `__file__`: `offline-kit adopt` ships it",
    ),
    KnownFailure(
        "file-not-in-kit",
        r"No such file or directory: '?([^'\n]*)",
        "'{0}' does not exist in the run: only the kit and the competition's data are mounted",
        "add the file to `checkpoints` or to the package's data, and use its path in the kit",
    ),
    KnownFailure(
        "weights-do-not-fit",
        r"size mismatch for|Missing key\(s\) in state_dict|Unexpected key\(s\) in state_dict",
        "the checkpoint does not fit the model that the code builds",
        "build the model with the same arguments as in training; check the versions of checkpoint and code in the kit",
    ),
    KnownFailure(
        "pandas-version-mismatch",
        r"NotImplementedError: \(?<?StringDtype|NDArrayBacked\.__setstate__|_unpickle_block|pandas\._libs\.internals",
        "a pickle contains pandas objects, and was written with another version of pandas",
        "train again with the image's versions: run `offline-kit image show NAME --constraints > constraints.txt` and"
        " `pip install -c constraints.txt pandas numpy scikit-learn`",
    ),
    KnownFailure(
        "columns-do-not-fit",
        r"Feature names (?:unseen at fit time|seen at fit time, yet now missing|must be in the same order)"
        r"|feature[ _]names (?:should match|mismatch)",
        "a model or scaler gets other columns than in training, or in another order",
        "set `columns` to the columns of training, or select them in `transform`:"
        ' `piece[scaler.feature_names_in_]`; the error lists surplus ("unseen at fit time") and missing columns',
    ),
    KnownFailure(
        "kernel-died",
        r"DeadKernelError|Kernel died|kernel .*died|Cannot allocate memory|MemoryError|DefaultCPUAllocator"
        r"|allocate more memory than is available",
        "the kernel was killed or ran out of memory",
        "use smaller batches, free memory that is no longer needed, read less at once; a rehearsal reports the peak",
    ),
    KnownFailure(
        "time-limit-reached",
        r"exceeded the max allowed execution duration|Notebook Timeout|Timeout Exceeded",
        "the notebook takes longer than Kaggle allows: 12 hours, or the competition's limit, often 9 hours",
        "make it faster (larger batches, an accelerator, fewer models), and estimate the time of all rows with"
        " `rehearse --rows`",
    ),
    KnownFailure(
        "compute-limit-exceeded",
        r"Exceeded Allowed Compute",
        # https://www.kaggle.com/code-competition-debugging
        "the notebook uses more memory, disk or kinds of sources than the competition allows",
        "use smaller batches, write less to /kaggle/working, and check the competition's rules for sources",
    ),
    KnownFailure(
        "shared-memory-full",
        r"unable to open shared memory object|bus error|/dev/shm",
        "the workers of a DataLoader ran out of shared memory",
        # https://docs.pytorch.org/docs/stable/multiprocessing.html
        "set `num_workers=0`, or use fewer workers",
    ),
    KnownFailure(
        "kernelspec-missing",
        r"No kernel name found|NoSuchKernel",
        # papermill needs metadata.kernelspec: https://papermill.readthedocs.io/en/latest/usage-execute.html
        "the notebook's metadata names no available kernel",
        "set its `kernelspec` to `python3`, as in the rendered notebook",
    ),
    KnownFailure(
        "ipython-not-running",
        r"name 'get_ipython' is not defined",
        # What nbconvert writes for magics and shell lines of a notebook that it exports as a script
        "the script calls IPython, but plain Python runs it",
        "remove the call, or use subprocess.run; with the notebook that the script was exported from, adopt that",
    ),
    KnownFailure(
        "syntax-error",
        r"SyntaxError|IndentationError",
        "the cell has a syntax error in this version of Python",
        "fix the template or the source",
    ),
)
"""Tried in this order: specific failures before general ones."""


def explain_failure(text: str, *, current: bool = False) -> Explanation:
    """Explain an error's text by the first known failure that matches it.

    `current` says that the code ran in the running environment, which may lack packages of the image.
    """
    for failure in KNOWN_FAILURES:
        if match := re.search(failure.pattern, text, re.IGNORECASE):
            cause, remedy = failure.cause, failure.remedy + failure.current_remedy * current
            for number, group in enumerate(group for group in match.groups() if group):
                cause, remedy = (part.replace(f"{{{number}}}", group) for part in (cause, remedy))
            return Explanation(code=failure.code, cause=cause, remedy=remedy)
    return Explanation()
