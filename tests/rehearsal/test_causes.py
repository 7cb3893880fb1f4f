"""Known failures: each is recognized by real words of real tools."""

import re

import pytest

from offline_kit.rehearsal import causes
from offline_kit.rehearsal.causes import Explanation

EXAMPLES = [
    (
        "ValueError: The repository net contains custom code which must be executed. Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
        "remote-code-not-allowed",
    ),
    ("KeyError: 'scaler'", "slim-removed-key"),
    ("KeyError: 'lr_scheduler_states'", "slim-removed-key"),
    ("ModuleNotFoundError: No module named 'kaggle_secrets'", "kaggle-secret-unavailable"),
    ("ModuleNotFoundError: No module named 'monai'", "module-not-found"),
    ("gaierror: [Errno -3] Temporary failure in name resolution", "network-not-available"),
    ("OSError: [Errno 101] Network is unreachable", "network-not-available"),
    (
        "UnpicklingError: Weights only load failed. WeightsUnpickler error: Unsupported global: GLOBAL omegaconf.dictconfig.DictConfig",
        "checkpoint-refused",
    ),
    ("IsADirectoryError: [Errno 21] Is a directory: '/kaggle/input/kit/model.pt'", "archive-unpacked"),
    ("OSError: [Errno 28] No space left on device", "disk-full"),
    ("OSError: [Errno 30] Read-only file system: '/kaggle/input/x/out.csv'", "folder-read-only"),
    ("PermissionError: [Errno 13] Permission denied: '/kaggle/input/x'", "folder-read-only"),
    ("nbclient.exceptions.DeadKernelError: Kernel died", "kernel-died"),
    ("Your notebook tried to allocate more memory than is available. It has restarted.", "kernel-died"),
    (
        "Your notebook was stopped because it exceeded the max allowed execution duration.",
        "time-limit-reached",
    ),
    ("Notebook Exceeded Allowed Compute", "compute-limit-exceeded"),
    ("MemoryError: Unable to allocate 74.5 GiB for an array", "kernel-died"),
    ("AssertionError: Torch not compiled with CUDA enabled", "gpu-not-available"),
    (
        "RuntimeError: Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
        "gpu-not-available",
    ),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/kaggle/src/config.json'",
        "file-beside-script",
    ),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/kaggle/input/plant/test.csv'",
        "input-not-mounted",
    ),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'weights/a.ckpt'", "file-not-in-kit"),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load this file", "hub-not-reachable"),
    (
        "RuntimeError: Error(s) in loading state_dict for Net:\n\tsize mismatch for fc.weight",
        "weights-do-not-fit",
    ),
    (
        "ImportError: cannot import name 'foo' from 'timm.layers' (/usr/local/lib/python3.13/dist-packages/timm/layers.py)",
        "name-not-in-version",
    ),
    ("AttributeError: numpy.core.multiarray failed to import", "binary-mismatch"),
    (
        "pkg_resources.ContextualVersionConflict: (numpy 2.1.3, Requirement.parse('numpy<2'))",
        "version-conflict",
    ),
    ("RuntimeError: DataLoader worker is killed by signal: Bus error. /dev/shm", "shared-memory-full"),
    (
        "NotImplementedError: (<StringDtype(na_value=nan)>, array(['a'], dtype=object))",
        "pandas-version-mismatch",
    ),
    (
        "ValueError: The feature names should match those of fit.\nFeature names unseen at fit time:\n- id\n",
        "columns-do-not-fit",
    ),
    ("ValueError: feature_names mismatch: ['a', 'b'] ['b', 'a']", "columns-do-not-fit"),
    ("ValueError: No kernel name found in notebook and no override provided.", "kernelspec-missing"),
    ("no space left below '/home/me/.cache/offline-kit'", "cache-disk-full"),
    (
        "RuntimeError: Expected all tensors to be on the same device, but found at least two devices",
        "devices-differ",
    ),
    (
        "cv2.error: OpenCV(4.10.0) :-1: error: (-215:Assertion failed) !_src.empty() in function 'cvtColor'",
        "image-not-read",
    ),
    ("AttributeError: partially initialized module 'random' has no attribute 'x'", "package-shadowed"),
    ("ImportError: cannot import name 'Net' from 'timm' (/tmp/offline-kit/code/timm.py)", "package-shadowed"),
    ("PermissionError: [Errno 13] Permission denied: '/tmp/kit/bin/tool'", "file-not-executable"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "gpu-out-of-memory"),
    (
        "URLError: <urlopen error> while opening https://download.pytorch.org/models/resnet18.pth",
        "pretrained-weights-not-reachable",
    ),
    ("SyntaxError: invalid syntax (cell, line 1)", "syntax-error"),
    ("NameError: name 'get_ipython' is not defined", "ipython-not-running"),
]


@pytest.mark.parametrize(("text", "code"), EXAMPLES, ids=[text[:40] for text, _ in EXAMPLES])
def test_a_known_failure_is_recognized(text: str, code: str) -> None:
    """It has a cause and a remedy, without open placeholders."""
    explained = causes.explain_failure(text)
    assert explained.code == code
    assert explained.cause
    assert explained.remedy
    assert not re.search(r"\{\d\}", explained.cause + explained.remedy)


def test_the_cause_names_what_the_error_names() -> None:
    """Groups of the pattern are filled in."""
    explained = causes.explain_failure("ModuleNotFoundError: No module named 'monai'")
    assert "'monai'" in explained.cause


def test_nothing_is_said_of_an_unknown_failure() -> None:
    """Nothing is invented for an error that nobody knows."""
    assert causes.explain_failure("KeyError: 'target'") == Explanation()
    assert causes.explain_failure("ValueError: x") == Explanation()


def test_every_known_failure_has_a_real_example() -> None:
    """The table has nothing that no example reaches."""
    reached = {
        next(
            failure.pattern
            for failure in causes.read_known_failures()
            if re.search(failure.pattern, text, re.IGNORECASE)
        )
        for text, _ in EXAMPLES
    }
    assert reached == {failure.pattern for failure in causes.read_known_failures()}


def test_a_missing_module_may_be_missing_here_only() -> None:
    """With --env current the image may well have it: no reason to put pandas into the kit."""
    text = "ModuleNotFoundError: No module named 'pandas'"
    assert "--env matching" in causes.explain_failure(text, current=True).remedy
    assert "--env" not in causes.explain_failure(text).remedy
