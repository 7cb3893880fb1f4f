"""Known failures: each is recognised by real words of real tools."""

import re

import pytest

from offline_kit.rehearsal import causes

REAL = [
    (
        "ValueError: The repository net contains custom code which must be executed. Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
        "brings code of its own",
        "trust_remote_code = true",
    ),
    ("KeyError: 'scaler'", "where `slim` is set", "another name"),
    ("KeyError: 'lr_scheduler_states'", "'lr_scheduler_states'", "take `slim` out"),
    (
        "ModuleNotFoundError: No module named 'kaggle_secrets'",
        "a secret of the account",
        "take the secret out",
    ),
    ("ModuleNotFoundError: No module named 'monai'", "'monai' is neither", "requirements"),
    ("gaierror: [Errno -3] Temporary failure in name resolution", "uses the network", "remove the call"),
    ("OSError: [Errno 101] Network is unreachable", "uses the network", "remove the call"),
    (
        "UnpicklingError: Weights only load failed. WeightsUnpickler error: Unsupported global: GLOBAL omegaconf.dictconfig.DictConfig",
        "torch.load refuses",
        "state_dict",
    ),
    (
        "IsADirectoryError: [Errno 21] Is a directory: '/kaggle/input/kit/model.pt'",
        "'/kaggle/input/kit/model.pt' is a folder",
        "restored",
    ),
    ("OSError: [Errno 28] No space left on device", "disk is full", "20 GB"),
    (
        "OSError: [Errno 30] Read-only file system: '/kaggle/input/x/out.csv'",
        "inputs and the image are read-only",
        "/kaggle/working",
    ),
    (
        "PermissionError: [Errno 13] Permission denied: '/kaggle/input/x'",
        "nothing can be written",
        "/kaggle/working",
    ),
    ("nbclient.exceptions.DeadKernelError: Kernel died", "ran out of memory", "batches"),
    (
        "Your notebook tried to allocate more memory than is available. It has restarted.",
        "ran out of memory",
        "batches",
    ),
    (
        "Your notebook was stopped because it exceeded the max allowed execution duration.",
        "longer than Kaggle allows",
        "--rows",
    ),
    ("Notebook Exceeded Allowed Compute", "more memory, disk or kinds of sources", "smaller batches"),
    ("MemoryError: Unable to allocate 74.5 GiB for an array", "ran out of memory", "batches"),
    ("AssertionError: Torch not compiled with CUDA enabled", "wants a GPU", "map_location"),
    (
        "RuntimeError: Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
        "wants a GPU",
        "map_location",
    ),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/kaggle/input/plant/test.csv'",
        "'/kaggle/input/plant/test.csv' is not mounted",
        "competition_data",
    ),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: 'weights/a.ckpt'",
        "'weights/a.ckpt' does not exist",
        "checkpoints",
    ),
    (
        "OSError: We couldn't connect to 'https://huggingface.co' to load this file",
        "Hugging Face",
        "checkpoints",
    ),
    (
        "RuntimeError: Error(s) in loading state_dict for Net:\n\tsize mismatch for fc.weight",
        "does not fit the model",
        "checkpoint",
    ),
    (
        "ImportError: cannot import name 'foo' from 'timm.layers' (/usr/local/lib/python3.13/dist-packages/timm/layers.py)",
        "'timm.layers' has no 'foo'",
        "version",
    ),
    ("AttributeError: numpy.core.multiarray failed to import", "does not fit the versions around", "numpy"),
    (
        "pkg_resources.ContextualVersionConflict: (numpy 2.1.3, Requirement.parse('numpy<2'))",
        "do not agree",
        "replaced",
    ),
    (
        "RuntimeError: DataLoader worker is killed by signal: Bus error. /dev/shm",
        "shared memory",
        "num_workers",
    ),
    (
        "NotImplementedError: (<StringDtype(na_value=nan)>, array(['a'], dtype=object))",
        "another pandas",
        "--constraints",
    ),
    (
        "ValueError: The feature names should match those of fit.\nFeature names unseen at fit time:\n- id\n",
        "other columns than it was trained with",
        "`columns`",
    ),
    (
        "ValueError: feature_names mismatch: ['a', 'b'] ['b', 'a']",
        "other columns than it was trained with",
        "`transform`",
    ),
    (
        "ValueError: No kernel name found in notebook and no override provided.",
        "names no kernel",
        "kernelspec",
    ),
    ("no space left below '/home/me/.cache/offline-kit'", "'/home/me/.cache/offline-kit'", "cache prune"),
]


@pytest.mark.parametrize(("text", "cause", "remedy"), REAL, ids=[text[:40] for text, _, _ in REAL])
def test_a_known_failure_has_its_cause_and_remedy(text: str, cause: str, remedy: str) -> None:
    """The cause names the thing, the remedy says what to do."""
    found = causes.explain_failure(text)
    assert cause in found[0]
    assert remedy in found[1]


def test_nothing_is_said_of_an_unknown_failure() -> None:
    """Nothing is invented for an error that nobody knows."""
    assert causes.explain_failure("KeyError: 'target'") == ("", "")
    assert causes.explain_failure("ValueError: x") == ("", "")


def test_every_known_failure_has_a_real_example_and_no_open_place() -> None:
    """The table holds nothing that no example reaches, and leaves no {0} in its texts."""
    reached = set()
    for text, _, _ in [*REAL, *OTHERS]:
        first = next(c for c in causes.KNOWN_FAILURES if re.search(c.pattern, text, re.IGNORECASE))
        reached.add(first.pattern)
        assert not re.search(r"\{\d\}", " ".join(causes.explain_failure(text)))
    assert reached == {cause.pattern for cause in causes.KNOWN_FAILURES}


OTHERS = [
    ("RuntimeError: Expected all tensors to be on the same device, but found at least two devices", "", ""),
    (
        "cv2.error: OpenCV(4.10.0) :-1: error: (-215:Assertion failed) !_src.empty() in function 'cvtColor'",
        "",
        "",
    ),
    ("AttributeError: partially initialized module 'random' has no attribute 'x'", "", ""),
    ("ImportError: cannot import name 'Net' from 'timm' (/tmp/offline-kit/code/timm.py)", "", ""),
    ("PermissionError: [Errno 13] Permission denied: '/tmp/kit/bin/tool'", "", ""),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "", ""),
    ("URLError: <urlopen error> while opening https://download.pytorch.org/models/resnet18.pth", "", ""),
    ("SyntaxError: invalid syntax (cell, line 1)", "", ""),
]


def test_a_missing_module_may_be_missing_here_only() -> None:
    """Under --env current the image may well have it: no reason to put pandas into the kit."""
    cause, remedy = causes.explain_failure("ModuleNotFoundError: No module named 'pandas'", current=True)
    assert "'pandas'" in cause
    assert "requirements" in remedy
    assert "--env matching" in remedy


def test_a_missing_module_of_a_matching_run_is_missing() -> None:
    """The environment that ran had what the image has: another --env is no remedy."""
    _, remedy = causes.explain_failure("ModuleNotFoundError: No module named 'pandas'")
    assert "requirements" in remedy
    assert "--env" not in remedy
