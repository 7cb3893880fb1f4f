"""Changes to modules of libraries, made when they are imported: requests, secrets, logins, questions."""

import os
import re
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

from . import kit_auditing
from .kit_recording import RECORDER, REPLAY, log_event, report_miss
from .kit_runtime import KitError


def patch_modules() -> bool:
    """Patch the modules of `_PATCHES`, imported ones and those to come; return False if that was done before."""
    if any(type(finder).__name__ == _PatchingFinder.__name__ for finder in sys.meta_path):
        return False
    sys.meta_path.insert(0, _PatchingFinder())
    for name in set(_PATCHES) & set(sys.modules):
        _PATCHES[name](sys.modules[name])
    return True


class _PatchingFinder:
    """Patches the modules of `_PATCHES` when they are imported: most processes import none of them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the other finders return, with a loader that patches."""
        if name not in _PATCHES:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is None and name == "kaggle_secrets":  # outside Kaggle
            spec = ModuleSpec(name, _SecretsLoader())
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: Any) -> None:
                execute(module)
                _PATCHES[name](module)

            spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


class _SecretsLoader(Loader):
    """Loads a stand-in for kaggle_secrets, with the variables of the environment as secrets."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation to Python."""

    def exec_module(self, module: Any) -> None:
        """Fill the module."""
        methods = {"get_secret": lambda _self, label: os.environ.get(label, "")}
        module.UserSecretsClient = type("UserSecretsClient", (), methods)


def _patch_secrets(module: Any) -> None:
    client = module.UserSecretsClient
    read_secret = client.get_secret

    def get_secret(self: Any, label: str) -> Any:
        log_event("secret", name=label)
        if REPLAY in os.environ:
            return ""
        value = read_secret(self, label)
        # By this name `redact` knows it, in child processes too.
        os.environ["OFFLINE_KIT_SECRET_" + re.sub(r"\W", "_", label)] = str(value)
        return value

    client.get_secret = get_secret
    if REPLAY in os.environ:
        client.__init__ = lambda _self: None  # the real one wants a token of the session


def _patch_http(module: Any) -> None:
    # Imported here, because most processes ask no server.
    from . import kit_urls

    if RECORDER in os.environ:
        kit_auditing.listen("http.client.send", kit_urls.note_sent)
        kit_urls.record_http(module)
    else:
        kit_urls.replay_http(module)


def _skip_logins(module: Any) -> None:
    if REPLAY in os.environ:
        for name in ("login", "notebook_login", "interpreter_login"):
            setattr(module, name, lambda *_args, **_kwargs: True)


def _restore_at_download(module: Any) -> None:
    if REPLAY in os.environ:
        from . import kit_restoring

        kit_restoring.restore_at_download(module)


def _report_missing_packages(module: Any) -> None:
    error = module.DistributionNotFound
    initialize = error.__init__

    def report_and_initialize(self: Any, message: str, *others: Any) -> None:
        initialize(self, message, *others)
        _, is_missing, requirement = message.partition("No matching distribution found for ")
        if is_missing:
            report_miss("package", f"package {requirement}")

    if REPLAY in os.environ:
        error.__init__ = report_and_initialize


def _patch_getpass(module: Any) -> None:
    if RECORDER in os.environ:
        module.getpass = refuse_prompt


def refuse_prompt(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Fail, because nobody is there to answer."""
    what = "this run asks a person for input, which a recording cannot answer"
    raise KitError(what, code="recording-prompted")


_PATCHES: dict[str, Callable[[Any], None]] = {
    "http.client": _patch_http,
    "kaggle_secrets": _patch_secrets,
    "getpass": _patch_getpass,
    "huggingface_hub": _skip_logins,
    "huggingface_hub.file_download": _restore_at_download,
    "huggingface_hub._snapshot_download": _restore_at_download,
    "kagglehub": _skip_logins,
    "pip._internal.exceptions": _report_missing_packages,
    "wandb": _skip_logins,
}
