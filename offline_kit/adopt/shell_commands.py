"""What one command of a shell wants from outside, as fields of wishes."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ARGUMENT, NeedKind

_LOGIN_PROGRAMS = frozenset({"wandb", "huggingface-cli", "hf", "comet", "neptune", "kaggle"})
"""Programs whose `login` wants an account."""
_CONDA_VALUE_OPTIONS = frozenset({"-c", "--channel", "-n", "--name", "-p", "--prefix", "--solver", "--file"})
"""conda's options that take a word of their own."""


def command_needs(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield what one command wants, as fields of wishes; nothing for a command that needs no internet."""
    own = shell.pip_words(words)
    if own and own[0] in ("install", "uninstall", "download", "wheel"):
        yield {"kind": NeedKind.INSTALL, "target": shlex.join(words), "detail": own[0]}
    elif repository := shell.parse_clone(words):
        yield {
            "kind": NeedKind.CLONE,
            "target": repository.address,
            "destination": repository.destination,
            "detail": repository.ref,
        }
    elif files := shell.parse_download(words):
        yield from (
            {"kind": NeedKind.DOWNLOAD, "target": file.address, "destination": file.destination}
            for file in files
        )
    elif source := shell.parse_kaggle_download(words):
        yield {"kind": NeedKind.KAGGLE, "target": source[1], "detail": source[0]}
    elif hub := shell.parse_hub_download(words):
        detail = "dataset command" if "dataset" in words else "command"
        yield {"kind": NeedKind.HUB, "target": hub.address, "destination": hub.destination, "detail": detail}
    elif corpus := shell.parse_corpus_download(words):
        yield {"kind": NeedKind.CORPUS, "target": corpus[1], "detail": corpus[0]}
    elif "login" in words[1:3] and words[0] in _LOGIN_PROGRAMS:
        yield {"kind": NeedKind.ACCOUNT, "target": f"{words[0]} login"}
    elif shell.is_system_install(words):
        yield {
            "kind": NeedKind.SYSTEM,
            "target": shlex.join(words),
            "detail": " ".join(_conda_packages(words)),
        }
    else:
        models = dict.fromkeys(shell.find_served_models(words))
        yield from ({"kind": NeedKind.HUB, "target": file, "detail": ARGUMENT} for file in models)


def _conda_packages(words: Sequence[str]) -> list[str]:
    """Return the packages that conda installs, without versions; empty for other programs."""
    remaining, packages = (
        list(words[words.index("install") + 1 :]) if words[0] in ("conda", "mamba") else [],
        [],
    )
    while remaining:
        word = remaining.pop(0)
        if word in _CONDA_VALUE_OPTIONS and remaining:
            remaining.pop(0)
        elif not word.startswith("-"):
            packages.append(re.split(r"[=<>! ]", word.rpartition("::")[2])[0])
    return packages
