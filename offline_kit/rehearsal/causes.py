"""Known failures of a notebook without internet: by which words they are known, why, and what helps."""

import re
from dataclasses import dataclass

from offline_kit.checkpoints.slim_worker import TRAINING


@dataclass(frozen=True)
class KnownFailure:
    """One known failure."""

    pattern: str
    """Searched in the error's text, ignoring case; the texts may use its groups as {0} and {1}."""
    cause: str
    remedy: str
    current_remedy: str = ""
    """Added to the remedy if the run used the running environment."""


KNOWN_FAILURES: tuple[KnownFailure, ...] = (
    KnownFailure(
        r"Weights only load failed|Unsupported (?:global|operand|class)|weights_only",
        "torch.load refuses what is in the checkpoint: since 2.6 it takes tensors and plain containers only",
        "save a plain state_dict (`torch.save(model.state_dict(), ...)`), or allow the classes with"
        " `torch.serialization.add_safe_globals`; `offline-kit build` lists them for each checkpoint",
    ),
    KnownFailure(
        rf"KeyError: '({TRAINING.pattern})'",
        "nothing has the key '{0}'; checkpoints have none of that name where `slim` is set: it takes it for what"
        " only going on with the training needs",
        "save it under another name, or take `slim` out of [tool.offline-kit], and build again",
    ),
    KnownFailure(
        r"Is a directory: '([^']*)'",
        "'{0}' is a folder: Kaggle unpacks archives, .pt and .pth among them, into folders",
        "load the kit's files by the paths that the kit's cells give (restored under their original names),"
        " not by their names below /kaggle/input",
    ),
    KnownFailure(
        r"no space left (?:below|while writing below) '([^']*)'",
        "the disk of '{0}' on this machine is full",
        "free some space ('offline-kit cache prune' does), or set OFFLINE_KIT_CACHE to a folder on another disk",
    ),
    KnownFailure(
        r"trust_remote_code=True",
        "a model folder brings code of its own (`auto_map`), and nothing says that it may run",
        "if you trust it, set trust_remote_code = true in the `params` of its `models` entry; in code of yours, pass"
        " trust_remote_code=True",
    ),
    KnownFailure(
        r"Expected all tensors to be on the same device|Input type \((?:torch\.)?\w*\.?\w*Tensor\) and weight type"
        r"|found at least two devices",
        "the model and its input are on different devices (CPU and GPU)",
        "move both to the same one: `model.to(device)` and `batch.to(device)`, with the device that there is",
    ),
    KnownFailure(
        r"_src\.empty\(\)|'NoneType' object has no attribute 'shape'",
        "an image was not read: cv2.imread returns None for a file that does not exist or is not an image",
        "check the path that is made of the id, its suffix too, and handle an id without an image: the hidden test"
        " set may hold some",
    ),
    KnownFailure(
        r"partially initialized module '([^']+)'",
        "a file named '{0}.py' is imported in place of the package '{0}', or two modules import each other",
        "rename the file that has the package's name; if there is none, import inside the function that needs it",
    ),
    KnownFailure(
        r"cannot import name '([^']+)' from '([^']+)' \((?![^)]*(?:site|dist)-packages|[^)]*/lib/python3)([^)\n]+)\)",
        "'{1}' is imported from '{2}', which has no '{0}': that file hides a package of the same name",
        "rename '{2}', or leave it out of `modules`",
    ),
    KnownFailure(
        r"CUDA out of memory|OutOfMemoryError.*CUDA",
        "the accelerator's memory is too small",
        "use smaller batches",
    ),
    KnownFailure(
        r"Torch not compiled with CUDA|No CUDA GPUs are available|Found no NVIDIA driver|CUDA driver"
        r"|deserialize object on a CUDA device|cannot find .*libcuda|no kernel image is available",
        "the code wants a GPU, and there is none: not in a CPU notebook, nor in any rehearsal",
        'load with `map_location="cpu"` and move to the device that is there, or set `accelerator` and look at'
        " whether the code runs on a CPU as well",
    ),
    KnownFailure(
        r"No module named 'kaggle_secrets'|kaggle_secrets\.py|kaggle_web_client|UserSecretsClient",
        "the code asks Kaggle for a secret of the account, which takes the internet, and there is none",
        "take the secret out, and the login that it is for: offline nothing needs an account",
    ),
    KnownFailure(
        r"LocalEntryNotFoundError|couldn't connect to 'https://huggingface|huggingface\.co|hf_hub|OfflineModeIsEnabled",
        "the code fetches a model or its configuration from the Hugging Face hub, and there is no internet",
        "put the files into `checkpoints` and load them from that folder; pass `pretrained=False`"
        " (`weights=None`, `encoder_weights=None`) where a checkpoint replaces the weights anyway",
    ),
    KnownFailure(
        r"download\.pytorch\.org|load_state_dict_from_url|torch\.hub",
        "the code fetches pretrained weights from PyTorch's server, and there is no internet",
        "pass `pretrained=False` (`weights=None`) where a checkpoint replaces the weights, else put the file into"
        " `checkpoints`",
    ),
    KnownFailure(
        r"Temporary failure in name resolution|Name or service not known|nodename nor servname|Network is unreachable"
        r"|Failed to establish a new connection|getaddrinfo failed|URLError|NameResolutionError|Max retries exceeded"
        r"|ConnectionError|Could not resolve host",
        "the code uses the network, and a submission has none",
        "remove the call, or put what it fetches into the kit (`requirements`, `checkpoints`) or another dataset",
    ),
    KnownFailure(
        r"No module named '([^']+)'",
        "the module '{0}' is neither in the kit nor in the environment that the notebook ran in",
        "add its package to the requirements (or the project's own package to `packages`) and build again",
        "; under `--env current` it may be lacking here only, and `--env matching` has what the image has",
    ),
    KnownFailure(
        r"cannot import name '([^']+)' from '([^']+)'",
        "'{1}' has no '{0}' at the version that the image has",
        "ask for the version that you trained with in the requirements (`replace` where the image's is protected)",
    ),
    KnownFailure(
        r"numpy\.core\.multiarray failed to import|numpy\.dtype size changed|compiled using NumPy 1|_ARRAY_API not found"
        r"|undefined symbol|version `GLIBC|GLIBCXX",
        "a compiled package does not fit the versions around it",
        "leave the image's version where you can; else ask for a version of the package built for the image's numpy,"
        " Python and glibc",
    ),
    KnownFailure(
        r"ContextualVersionConflict|VersionConflict|is required.*but|requires .* but you have|mismatched Gencode"
        r"|MessageFactory",
        "two packages ask for versions that do not agree",
        "see the build's list of replaced image packages; loosen the requirement that replaces one",
    ),
    KnownFailure(
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "write less: /kaggle/working holds 20 GB on Kaggle; unpack below /tmp and delete afterwards",
    ),
    KnownFailure(
        r"Read-only file system: '([^']*)'|Permission denied: '(/kaggle/input[^']*)'|Read-only file system",
        "the code writes where nothing can be written: inputs and the image are read-only",
        "write to /kaggle/working (kept) or /tmp (not kept); copy first what has to be changed",
    ),
    KnownFailure(
        r"Permission denied: '([^']*)'|(\S+): Permission denied",
        "'{0}' cannot be run: Kaggle drops the executable bit of uploaded files",
        "copy it below /tmp and run `chmod +x` on the copy, or start it by its interpreter (`sh FILE`, `python FILE`)",
    ),
    KnownFailure(
        r"No such file or directory: '?(/kaggle/input[^'\s]*)",
        "'{0}' is not mounted: the folder has another name there, or the file another one",
        "search below /kaggle/input instead of writing the path down (mounts are /kaggle/input/<slug> or"
        " /kaggle/input/competitions/<slug> and .../datasets/<owner>/<slug>), and check competition_data",
    ),
    KnownFailure(
        r"No such file or directory: '?([^'\n]*)",
        "'{0}' does not exist in the run: only the kit and the competition's data are there",
        "put the file into `checkpoints` or into the package's data, and take its path from the kit",
    ),
    KnownFailure(
        r"size mismatch for|Missing key\(s\) in state_dict|Unexpected key\(s\) in state_dict",
        "the checkpoint does not fit the model as it is built here",
        "build the model with the values that it was trained with; check which checkpoint and which version of the"
        " code are in the kit",
    ),
    KnownFailure(
        r"NotImplementedError: \(?<?StringDtype|NDArrayBacked\.__setstate__|_unpickle_block|pandas\._libs\.internals",
        "a pickle holds something of pandas, and was written by another pandas than the one in the run",
        "train again with the image's versions: `offline-kit image show NAME --constraints > constraints.txt`, then"
        " `pip install -c constraints.txt pandas numpy scikit-learn`",
    ),
    KnownFailure(
        r"Feature names (?:unseen at fit time|seen at fit time, yet now missing|must be in the same order)"
        r"|feature[ _]names (?:should match|mismatch)",
        "a model or a scaler gets other columns than it was trained with, or in another order",
        "name the columns of training with `columns`, or choose them in `transform`:"
        ' `piece[scaler.feature_names_in_]`; the error lists what is too much ("unseen at fit time") and what is missing',
    ),
    KnownFailure(
        r"DeadKernelError|Kernel died|kernel .*died|Cannot allocate memory|MemoryError|DefaultCPUAllocator"
        r"|allocate more memory than is available",
        "the kernel was ended or ran out of memory",
        "use smaller batches, free what is no longer needed, read less at once; a rehearsal's report tells the peak",
    ),
    KnownFailure(
        r"exceeded the max allowed execution duration|Notebook Timeout|Timeout Exceeded",
        "the notebook takes longer than Kaggle allows: 12 hours, or what the competition says, often 9",
        "make it faster (larger batches, an accelerator, fewer models), and try it on fewer rows (`rehearse --rows`)"
        " to forecast the whole",
    ),
    KnownFailure(
        r"Exceeded Allowed Compute",
        "the notebook asks for more memory, disk or kinds of sources than the competition allows",
        "use smaller batches, write less to /kaggle/working, and look at the competition's rules for sources",
    ),
    KnownFailure(
        r"unable to open shared memory object|bus error|/dev/shm",
        "the workers of a DataLoader ran out of shared memory",
        "set `num_workers=0`, or fewer workers",
    ),
    KnownFailure(
        r"No kernel name found|NoSuchKernel",
        "the notebook names no kernel that is there",
        "let its metadata say `kernelspec: python3`, as the rendered notebook does",
    ),
    KnownFailure(
        r"SyntaxError|IndentationError",
        "the cell is not Python as this version reads it",
        "correct the template or the source",
    ),
)
"""In the order in which they are tried: the special before the general."""


def explain_failure(text: str, *, current: bool = False) -> tuple[str, str]:
    """Return the cause and the remedy of an error's text by the first known failure that fits; empty for none.

    `current`: it failed in the running environment, which may lack what the image has.
    """
    for failure in KNOWN_FAILURES:
        match = re.search(failure.pattern, text, re.IGNORECASE)
        if match:
            groups = [group for group in match.groups() if group]
            return _fill_groups(failure.cause, groups), _fill_groups(
                failure.remedy + failure.current_remedy * current, groups
            )
    return "", ""


def _fill_groups(text: str, groups: list[str]) -> str:
    for number, group in enumerate(groups):
        text = text.replace(f"{{{number}}}", group)
    return text
