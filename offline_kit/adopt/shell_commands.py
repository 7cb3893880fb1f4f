"""What one command of a shell wants from outside, as fields of wishes."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from offline_kit.adopt import shell
from offline_kit.adopt.findings import ARGUMENT, Kind

_LOGINS = frozenset({"wandb", "huggingface-cli", "hf", "comet", "neptune", "kaggle"})
"""Programs whose `login` wants an account."""
_CONDA_VALUES = frozenset({"-c", "--channel", "-n", "--name", "-p", "--prefix", "--solver", "--file"})
"""conda's options that take a word of their own."""


def of_command(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield what one command wants, as fields of wishes; nothing for a command that needs no internet."""
    own = shell.pip_words(words)
    if own and own[0] in ("install", "uninstall", "download", "wheel"):
        yield {"kind": Kind.INSTALL, "target": shlex.join(words), "detail": own[0]}
    elif repository := shell.cloned(words):
        yield {
            "kind": Kind.CLONE,
            "target": repository.address,
            "into": repository.into,
            "detail": repository.ref,
        }
    elif files := shell.downloaded(words):
        yield from ({"kind": Kind.DOWNLOAD, "target": each.address, "into": each.into} for each in files)
    elif source := shell.of_kaggle(words):
        yield {"kind": Kind.KAGGLE, "target": source[1], "detail": source[0]}
    elif hub := shell.of_hub(words):
        detail = "dataset command" if "dataset" in words else "command"
        yield {"kind": Kind.HUB, "target": hub.address, "into": hub.into, "detail": detail}
    elif corpus := shell.of_corpus(words):
        yield {"kind": Kind.CORPUS, "target": corpus[1], "detail": corpus[0]}
    elif "login" in words[1:3] and words[0] in _LOGINS:
        yield {"kind": Kind.ACCOUNT, "target": f"{words[0]} login"}
    elif shell.is_system(words):
        yield {"kind": Kind.SYSTEM, "target": shlex.join(words), "detail": " ".join(_of_conda(words))}
    else:
        models = dict.fromkeys(shell.served_models(words))
        yield from ({"kind": Kind.HUB, "target": each, "detail": ARGUMENT} for each in models)


def _of_conda(words: Sequence[str]) -> list[str]:
    """Return the packages that conda installs, without versions; empty for other programs."""
    rest, found = list(words[words.index("install") + 1 :]) if words[0] in ("conda", "mamba") else [], []
    while rest:
        word = rest.pop(0)
        if word in _CONDA_VALUES and rest:
            rest.pop(0)
        elif not word.startswith("-"):
            found.append(re.split(r"[=<>! ]", word.rpartition("::")[2])[0])
    return found
