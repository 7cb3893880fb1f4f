"""Parse the shell commands of a notebook (pip, git, wget, kaggle, hf, ...) into the needs of each line."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from offline_kit.adopt.findings import ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import KnownStrings, node_span
from offline_kit.adopt.notebook_files import InspectedNotebook, change_folder
from offline_kit.notebook.cells import Magic

_SEPARATORS = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'[^']*')|(?P<escaped>\\.)|(?P<comment>(?:^|(?<=\s))\#[^\n]*)
    |(?P<end>&&|\|\||;|\||\n|(?<!>)&(?!>))""",
    re.VERBOSE | re.DOTALL,
)
_REDIRECTED = re.compile(r"\s+\d?&?>>?\s*(&\d|\S+)")
_PREFIX = re.compile(r"sudo|time|nohup|exec|then|do|else|yes|[A-Za-z_]\w*=.*", re.DOTALL)
"""Words in front of a program: other commands, and assignments."""
_PIP_PARSER = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
_PIP_OPTIONS = """-r --requirement/-e --editable/-f --find-links/-i --index-url --extra-index-url/-c --constraint -t --target
--prefix --root -p --python --no-binary --only-binary --platform --timeout --retries --proxy --log --cache-dir --progress-bar
--src -C --config-settings --upgrade-strategy --trusted-host --python-version --implementation --abi"""
for _names in _PIP_OPTIONS.split("/"):  # options with a value
    _PIP_PARSER.add_argument(*_names.split(), action="append", default=[])
for _name in ("-q", "-v", "-U", "-I", "--no-index"):  # flags, which may be joined with them: `-qr FILE`
    _PIP_PARSER.add_argument(_name, action="store_true")
_PYPI = re.compile(r"https?://pypi\.(python\.)?org(/|$)")
_URL = re.compile(r"(git|hg|svn|bzr)\+|https?://")
# wget's -o is its log file: https://www.gnu.org/software/wget/manual/wget.html
# curl's -O takes no value and keeps the remote name: https://curl.se/docs/manpage.html
_DOWNLOADERS = {
    "wget": "-O --output-document -P --directory-prefix -o --header -U --user-agent -e -t -T",
    "curl": "-o --output --output-dir -H --header -U --user-agent -A -e -T -x -d --retry",
    "gdown": "-O -o --output -U --user-agent",
    "aria2c": "-o --out -d --dir --header -U --user-agent -t -s -x -j -k",
}
"""Options of each program that take a value; what else does not begin with a dash is an address."""
_KAGGLE_GROUPS = {
    "datasets": "dataset", "d": "dataset", "competitions": "competition", "c": "competition",
    "kernels": "notebook", "k": "notebook", "models": "model",
}  # fmt: skip
# `kaggle models variations versions download`; "instances" is the older word for variations
# (https://github.com/Kaggle/kaggle-api/blob/main/docs/README.md)
_KAGGLE_VERBS = ("download", "output", "instances", "versions", "variations")
_LOGIN_PROGRAMS = ("wandb", "huggingface-cli", "hf", "comet", "neptune", "kaggle")
_SYSTEM_PROGRAMS = ("apt", "apt-get", "conda", "mamba", "dpkg", "yum")
_SERVER = re.compile(
    r"(vllm|sglang|lmdeploy) serve|python[\d.]*( -\w+)* -m (vllm|sglang)\.|text-generation-launcher"
)
_SERVED = re.compile(r"(vllm serve|lmdeploy serve api_server) (-\S+ \S+ )*(?P<model>[^\s-]\S*)")
"""Programs that serve a language model, and those that take its name without an option."""
_MODEL_OPTION = re.compile(
    r" --(?:(?:(?:pretrained|base|draft|speculative)[-_])*model(?:[-_](?:path|id|name|name[-_]or[-_]path))?"
    r"|tokenizer(?:[-_](?:path|name))?)[ =](\S+)"
)
_HUB_ID = re.compile(
    r"(?!(?:models?|checkpoints?|weights|outputs?|data|inputs?|src|runs|logs|configs?|results?|experiments?|exp)/)"
    r"\w[\w.-]*/\w[\w.-]*(?<!\.(?:pth|bin|yml))(?<!\.(?:pt|py))(?<!\.(?:ckpt|onnx|yaml))(?<!\.safetensors)"
)
"""An id of the Hugging Face Hub, but no usual path of a project."""
_HARMLESS = ("cd", "echo", "true", ":", "clear")
"""Commands that can be disabled together with the others of a line."""


@dataclass(kw_only=True)
class PipInstall:
    """What a `pip install` installs."""

    verb: str  # "install", "uninstall", ...
    requirements: list[str] = field(default_factory=list)
    files: list[str]
    folders: list[str] = field(default_factory=list)  # of sources, editable or not
    local: list[str] = field(default_factory=list)  # wheels and sdists
    links: list[str]  # local folders of `--find-links`
    index: list[str]  # other indexes and pages, as in requirements files
    offline: bool


@dataclass(frozen=True, kw_only=True)
class Action:
    """A command or a call in Python, with the strings of its arguments; "" and "*" for unknown ones."""

    name: str
    arguments: tuple[str, ...]
    folder: str  # that it runs in
    span: tuple[int, int]
    magic: Magic | None = None  # that a command stands in; None for a call
    line: str = ""  # of the magic

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments that are no options."""
        return tuple(word for word in self.arguments if not (self.magic and word.startswith("-")))


def split_commands(
    text: str, known: KnownStrings | None = None
) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    """Yield the words of each command of a shell line or script, without comments, and its span in the text.

    The program stands first, without its folder; known strings replace `{name}` and `$name`.
    """
    start, plain = 0, text
    ends = [(len(text), len(text))]
    for match in _SEPARATORS.finditer(text):
        if match.lastgroup == "comment":
            plain = plain[: match.start()] + " " * len(match[0]) + plain[match.end() :]
        elif match.lastgroup == "end":
            ends.insert(-1, match.span())
    for end, following in ends:
        part = plain[start:end].strip()
        if words := _split_words(part, KnownStrings() if known is None else known):
            first = text.index(part, start)
            yield words, (first, first + len(part))
        start = following


def _split_words(part: str, known: KnownStrings) -> tuple[str, ...]:
    # IPython expands names before the shell splits the line, so one name may hold several words
    # (https://ipython.readthedocs.io/en/stable/interactive/reference.html#system-shell-access)
    plain = _REDIRECTED.sub("", known.fill(part.replace("\\\n", " ")))
    try:
        words = shlex.split(plain)
    except ValueError:
        words = plain.split()
    while words and _PREFIX.fullmatch(words[0]):
        words = words[1:]
    return (words[0].rpartition("/")[2], *words[1:]) if words else ()


def _list_commands(notebook: InspectedNotebook, number: int) -> Iterator[Action]:
    """Yield the commands of a cell."""
    read = notebook.code.reads[number]
    for magic in read.magics:
        folder = notebook.folder_at(number, read.line_number(magic.start))
        texts, offset = list[str](), magic.end - len(magic.shell_command)
        if magic.shell_command:
            texts = [magic.shell_command]
        elif read.script and magic.sign == "%%":
            offset = read.script[0]
            texts = re.split(r"(?<!\\)\n", read.source[slice(*read.script)])
        elif magic.name in ("cp", "mv"):
            offset, texts = magic.start, [magic.text]
        for text in texts:
            for (name, *words), (start, end) in split_commands(text, notebook.code.strings):
                if name == "cd" and words:
                    folder = change_folder(folder, words[0])
                span = (offset + start, offset + end)
                yield Action(
                    name=name, arguments=tuple(words), folder=folder, span=span, magic=magic, line=text
                )
            offset += len(text) + 1


def list_actions(notebook: InspectedNotebook, number: int) -> Iterator[Action]:
    """Yield the commands and calls of a cell."""
    code, read = notebook.code, notebook.code.reads[number]
    yield from _list_commands(notebook, number)
    for node in code.walk(number):
        if isinstance(node, ast.Call):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            own_path = code.strings.value(owner)  # of a pathlib.Path
            words = (*([own_path] if own_path else []), *map(code.strings.value, node.args))
            folder, span = notebook.folder_at(number, node.lineno), node_span(read, node)
            yield Action(name=code.full_name(node.func), arguments=words, folder=folder, span=span)


def find_needs(notebook: InspectedNotebook) -> Iterator[ExternalNeed]:
    """Yield the needs of a notebook's shell lines and scripts, cell by cell."""
    for number, read in notebook.code.reads.items():
        for magic, group in groupby(_list_commands(notebook, number), key=lambda command: command.magic):
            commands = [
                (command, list(command_needs((command.name, *command.arguments)))) for command in group
            ]
            is_script = magic is None or magic.sign == "%%"  # in which no Python can replace a line
            alone = all(own or command.name in _HARMLESS for command, own in commands) and not is_script
            for command, own in commands:
                before = "" if magic is None or is_script else magic.before + magic.sign
                fields: dict[str, Any] = {"cell": number, "line": read.line_number(command.span[0])}
                fields["text"] = before + command.line.strip().replace("\\\n", " ")
                fields |= {"folder": command.folder, "span": command.span, "stand_in": "true"}
                fields["statement"] = (magic.start, magic.end) if magic and alone else None
                yield from (ExternalNeed(**fields, **need) for need in own)


def command_needs(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the needs of one command, as their fields."""
    program = words[0]
    pip = parse_pip(words)
    if pip and pip.verb in ("install", "uninstall", "download", "wheel"):
        yield {"kind": NeedKind.INSTALL, "target": shlex.join(words)}
    elif words[:2] == ("git", "clone"):
        yield {"kind": NeedKind.CLONE, "target": next((word for word in words[2:] if "/" in word), "")}
    elif program in _LOGIN_PROGRAMS and "login" in words[1:3]:
        yield {"kind": NeedKind.ACCOUNT, "target": f"{program} login"}
    elif program in _SYSTEM_PROGRAMS and "install" in words:
        yield {"kind": NeedKind.SYSTEM, "target": shlex.join(words), "detail": program}
    else:
        yield from list(_parse_downloads(words)) or _find_served_models(words)


def _parse_downloads(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    program, (verb, *_) = words[0], (*words[1:2], "")
    module = "".join(words[2:3]) if re.fullmatch(r"python[\d.]*", program) and verb == "-m" else ""
    if program in _DOWNLOADERS:
        addresses, _ = _parse_options(words[1:], _DOWNLOADERS[program].split())
        yield from ({"kind": NeedKind.DOWNLOAD, "target": address} for address in addresses)
    elif program == "kaggle" and {"download", "output"} & {*words} and verb in _KAGGLE_GROUPS:
        arguments = [word for word in words[2:] if word not in _KAGGLE_VERBS]
        named = ("-d", "--dataset", "-c", "--competition")
        plain, values = _parse_options(arguments, (*named, "-p", "--path", "-f", "--file"))
        if name := _first_value(values, named) or "".join(plain[:1]):
            yield {"kind": NeedKind.KAGGLE, "target": name, "detail": _KAGGLE_GROUPS[verb]}
    elif program in ("huggingface-cli", "hf") and verb == "download":
        # `huggingface-cli` is the older name of `hf`: https://huggingface.co/docs/huggingface_hub/guides/cli
        options = ("--local-dir", "--revision", "--include", "--exclude", "--repo-type")
        plain, _ = _parse_options(words[2:], options)
        yield from ({"kind": NeedKind.HUB, "target": name} for name in plain[:1])
    elif module in ("spacy", "nltk.downloader"):
        plain, _ = _parse_options([word for word in words[3:] if word != "download"], ("-d",))
        if module == "nltk.downloader" or "download" in words[3:4]:
            yield {"kind": NeedKind.CORPUS, "target": " ".join(plain), "detail": module}


def _parse_options(words: Sequence[str], with_value: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return the positional arguments of a command, and the first value of each option that takes one."""
    positional, values, remaining = list[str](), dict[str, str](), list(words)
    while remaining:
        word = remaining.pop(0)
        option, _, joined = word.partition("=")
        if option in with_value and (joined or remaining):
            values.setdefault(option, joined or remaining.pop(0))
        elif not word.startswith("-"):
            positional.append(word)
    return positional, values


def _first_value(values: dict[str, str], options: Iterable[str]) -> str:
    return next((value for option, value in values.items() if option in options), "")


def parse_pip(words: Sequence[str]) -> PipInstall | None:
    """Return what pip or uv is asked for, however it is called; None for another program."""
    arguments = list(words)
    if re.fullmatch(r"(python|pypy)[\d.]*", arguments[0]):
        # options of Python itself, -I or -u, may also be joined with -m
        while len(arguments) > 1 and re.fullmatch(r"-[A-Za-ln-z]+", arguments[1]):
            del arguments[1]
        module = re.fullmatch(r"-[A-Za-z]*m", "".join(arguments[1:2]))
        arguments = arguments[2:] if module else []
    if not arguments or not re.fullmatch(r"uv|pip[\d.]*", arguments[0]):
        return None
    try:
        options, rest = _PIP_PARSER.parse_known_args(arguments[1:])
    except argparse.ArgumentError:  # an option without its value
        return None
    verb, *plain = [word for word in rest if not word.startswith("-")] or [""]
    if arguments[0] == "uv":  # `uv pip install ...` or `uv add ...`
        verb, *plain = plain or [""] if verb == "pip" else ["install" if verb == "add" else "", *plain]
    pages = [f"--find-links {page}" for page in options.find_links if "://" in page]
    indexes = [f"--extra-index-url {url}" for url in options.index_url if not _PYPI.match(url)]
    links = [page for page in options.find_links if "://" not in page]
    install = PipInstall(
        verb=verb, files=options.requirement, links=links, index=[*indexes, *pages], offline=options.no_index
    )
    for word in plain:
        if _URL.match(word) or " @ " in word:
            install.requirements.append(_name_egg(word))
        elif re.search(r"\.(whl|zip|tar\.gz)(\[|$)", word):
            install.local.append(word)
        else:
            is_folder = word.startswith((".", "~")) or "/" in word
            (install.folders if is_folder else install.requirements).append(word)
    for word in options.editable:
        is_url = _URL.match(word) or "://" in word
        (install.requirements if is_url else install.folders).append(_name_egg(word))
    return install


def _name_egg(word: str) -> str:
    """Return a requirement for a requirements file: a URL with `#egg=NAME` becomes `NAME @ URL`."""
    match = re.search(r"[#&]egg=([\w.-]+)", word) if _URL.match(word) else None
    return f"{match[1]} @ {word.partition('#')[0]}" if match else word


def is_nameless(line: str) -> bool:
    """Whether a requirement is a URL without a name."""
    return bool(re.match(r"(git|hg|svn|bzr)\+|\w+://", line)) and "egg=" not in line


def _find_served_models(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the hub ids of models that a command loads: those of model servers, and of model options of any program."""
    line = " ".join(words)
    is_server, names = bool(_SERVER.match(line)), _MODEL_OPTION.findall(line)
    names += [match["model"] for match in [_SERVED.match(line)] if match]
    for name in names:
        if _HUB_ID.fullmatch(name) or (is_server and re.fullmatch(r"\w[\w.-]*", name)):
            yield {"kind": NeedKind.HUB, "target": name}
