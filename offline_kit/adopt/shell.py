"""Parse the shell commands of a notebook (pip, git, wget, kaggle, hf, ...) into the needs of each line."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline_kit.adopt import literals, notebook_files
from offline_kit.adopt.findings import ARGUMENT, ExternalNeed, NeedKind
from offline_kit.adopt.notebook_code import NotebookCode
from offline_kit.adopt.notebook_files import WorkingFolders, change_folder
from offline_kit.notebook.cells import Magic

_SEPARATORS = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'[^']*')|(?P<escaped>\\.)|(?P<comment>(?:^|(?<=\s))\#[^\n]*)
    |(?P<end>&&|\|\||;|\||\n|(?<!>)&(?!>))""",
    re.VERBOSE | re.DOTALL,
)
_REDIRECTED = re.compile(r"\s+\d?&?>>?\s*(&\d|\S+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PREFIX_WORDS = frozenset({"sudo", "time", "nohup", "exec", "then", "do", "else", "yes"})
_PIP_VALUE_OPTIONS = frozenset(
    {"-c", "--constraint", "-f", "--find-links", "-i", "--index-url", "--extra-index-url", "-t", "--target"}
    | {"--prefix", "--root", "--python", "-p", "--no-binary", "--only-binary", "--platform", "--timeout"}
    | {"--retries", "--proxy", "--log", "--cache-dir", "--progress-bar", "--upgrade-strategy", "--src"}
    | {"--trusted-host", "-C", "--config-settings", "--python-version", "--implementation", "--abi"}
)
"""pip's options that take a value."""
_INDEX_OPTIONS = ("-i", "--index-url", "--extra-index-url")
_PYPI = re.compile(r"https?://pypi\.(python\.)?org(/|$)")

_SERVERS = re.compile(
    r"^(?:vllm serve|lmdeploy serve api_server"
    r"|(?P<module>python[\d.]*(?: -[a-zA-Z]+)* -m (?:vllm\.|sglang\.)\S*|text-generation-launcher|sglang serve))(?= |$)"
)
"""Programs that serve a language model, given by position or (`module`) by an option."""
_MODEL_OPTION = re.compile(
    r"--(?:pretrained[-_])?(?:(?:base|draft|speculative)[-_])?model(?:[-_](?:path|id|name|name[-_]or[-_]path))?"
    r"|--tokenizer(?:[-_](?:path|name))?"
)
_HUB_ID = re.compile(
    r"(?!(?:models?|checkpoints?|weights|outputs?|data|inputs?|src|runs|logs|configs?|results?|experiments?|exp)/)"
    r"\w[\w.-]*/\w[\w.-]*(?<!\.pt)(?<!\.pth)(?<!\.ckpt)(?<!\.bin)(?<!\.onnx)(?<!\.safetensors)(?<!\.py)(?<!\.yml)(?<!\.yaml)"
)
"""An id of the Hugging Face Hub, but no usual path of a project."""


@dataclass(frozen=True, kw_only=True)
class ShellCommand:
    """One command of a shell line; its span in the line."""

    words: tuple[str, ...]
    """The program, without its folder, and its arguments."""
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class PipInstall:
    """What a `pip install` installs."""

    requirements: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    """Source folders, editable or not."""
    local: tuple[str, ...] = ()
    """Local wheels and sdists."""
    offline: bool = False
    """Whether it uses no index (`--no-index`)."""
    index: tuple[str, ...] = ()
    """Its indexes and pages of links, as lines of a requirements file."""
    links: tuple[str, ...] = ()
    """Local folders of `--find-links`."""


@dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """A file or repository that a command downloads."""

    address: str
    destination: str
    """The file or folder that it is stored in."""
    ref: str = ""
    """Branch or tag of a repository; empty for the default branch."""


def split_commands(text: str, known: Mapping[str, str] | None = None) -> Iterator[ShellCommand]:
    """Yield the commands of a shell line or script, without comments.

    Args:
        known: Strings of the notebook by name, which replace `{name}` and `$name`.
    """
    start = 0
    cut = text
    for match in _SEPARATORS.finditer(text):
        if match.lastgroup == "comment":
            cut = cut[: match.start()] + " " * len(match[0]) + cut[match.end() :]
        elif match.lastgroup == "end":
            yield from _parse_command(cut, start, match.start(), {} if known is None else known)
            start = match.end()
    yield from _parse_command(cut, start, len(text), {} if known is None else known)


def _parse_command(text: str, start: int, end: int, known: Mapping[str, str]) -> Iterator[ShellCommand]:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    # IPython expands names before the shell splits the line, so one name may hold several words
    # (https://ipython.readthedocs.io/en/stable/interactive/reference.html#system-shell-access)
    plain = _REDIRECTED.sub("", literals.fill_names(part.strip().replace("\\\n", " "), known))
    try:
        words = shlex.split(plain)
    except ValueError:
        words = plain.split()
    while words and (words[0] in _PREFIX_WORDS or _ASSIGNMENT.match(words[0])):
        words = words[1:]
    if words:
        program = words[0].rpartition("/")[2]
        yield ShellCommand(
            words=(program, *words[1:]), start=start + left, end=start + left + len(part.strip())
        )


def pip_words(words: Sequence[str]) -> tuple[str, ...] | None:
    """Return pip's arguments, its verb first ("install", ...), however pip is called; None for another program."""
    arguments = list(words)
    if re.fullmatch(r"(python|pypy)[\d.]*", arguments[0]):
        while len(arguments) > 1 and re.fullmatch(
            r"-[A-Za-ln-z]+", arguments[1]
        ):  # options of Python itself: -I, -u
            del arguments[1]
        if arguments[1:2] != ["-m"] and not (arguments[1:2] and re.fullmatch(r"-[A-Za-z]+m", arguments[1])):
            return None
        arguments = arguments[2:]
    if arguments[:1] == ["uv"]:
        arguments = _move_verb_first(arguments[1:])
        if arguments[:1] not in (["pip"], ["add"]):
            return None
        arguments = ["pip", "install", *arguments[1:]] if arguments[0] == "add" else arguments
    if not arguments or not re.fullmatch(r"pip[\d.]*", arguments[0]):
        return None
    return tuple(_move_verb_first(arguments[1:]))


def _move_verb_first(words: Sequence[str]) -> list[str]:
    """Move the options before the verb behind it: `pip -q install x` means `pip install -q x`."""
    arguments, before = list(words), list[str]()
    while arguments and arguments[0].startswith("-"):
        before.append(arguments.pop(0))
        if before[-1] in _PIP_VALUE_OPTIONS and arguments:
            before.append(arguments.pop(0))
    return [*arguments[:1], *before, *arguments[1:]]


def parse_pip_install(words: Sequence[str]) -> PipInstall | None:
    """Return what `pip install` installs; None for other commands."""
    own = pip_words(words)
    if not own or own[0] != "install":
        return None
    kinds: dict[str, list[str]] = {"requirements": [], "files": [], "folders": [], "local": [], "links": []}
    arguments, offline, index = (
        [part for word in own[1:] for part in _split_short_options(word)],
        False,
        list[str](),
    )
    while arguments:
        word = arguments.pop(0)
        option, _, joined = word.partition("=") if word.startswith("--") else (word, "", "")
        if option == "--no-index":
            offline = True
        elif option in ("-r", "--requirement", "-e", "--editable"):
            value = joined or (arguments.pop(0) if arguments else "")
            plain = "requirements" if is_nameless(value) or "://" in value else "folders"
            kinds["files" if "r" in option[:3] else plain].append(value)
        elif option in _PIP_VALUE_OPTIONS:
            value = joined or (arguments.pop(0) if arguments else "")
            if option in ("-f", "--find-links") and "://" not in value:
                kinds["links"].append(value)
            elif option in ("-f", "--find-links"):
                index.append(f"--find-links {value}")
            elif option in _INDEX_OPTIONS and not _PYPI.match(value):
                index.append(f"--extra-index-url {value}")
        elif not word.startswith("-"):
            kinds[_argument_kind(word)].append(word)
    lists = {
        name: tuple(_add_egg_name(word) if name == "requirements" else word for word in words)
        for name, words in kinds.items()
    }
    return PipInstall(**lists, offline=offline, index=tuple(index))


def _split_short_options(word: str) -> tuple[str, ...]:
    """Split combined short options of pip: "-qr", "-rfile.txt"."""
    match = re.fullmatch(r"-(?P<flags>[qvUI]*)(?P<option>[refi])(?P<value>.*)", word)
    if not match:
        return (word,)
    flags = [f"-{flag}" for flag in match["flags"]]
    return tuple(filter(None, (*flags, f"-{match['option']}", match["value"])))


def _argument_kind(word: str) -> str:
    if re.match(r"(git|hg|svn|bzr)\+|https?://", word) or " @ " in word:
        return "requirements"
    if re.search(r"\.(whl|zip|tar\.gz)(\[|$)", word):
        return "local"
    return "folders" if word.startswith((".", "/", "~")) or "/" in word else "requirements"


def _add_egg_name(word: str) -> str:
    """Return a requirement for a requirements file: a URL with `#egg=NAME` becomes `NAME @ URL`."""
    if not re.match(r"(git|hg|svn|bzr)\+|https?://", word):
        return word
    match = re.search(r"[#&]egg=([\w.-]+)", word)
    if match:
        return f"{match[1]} @ {word.partition('#')[0]}"
    return word


def parse_clone(words: Sequence[str]) -> FetchedFile | None:
    """Return the repository that `git clone` clones, and its folder."""
    if list(words[:2]) != ["git", "clone"]:
        return None
    plain = _positional_arguments(
        words[2:], with_value={"-b", "--branch", "--depth", "-c", "--config", "-o", "--origin", "-j"}
    )
    if not plain:
        return None
    folder = plain[1] if len(plain) > 1 else plain[0].rstrip("/").rpartition("/")[2].removesuffix(".git")
    ref = _option_value(words[2:], {"-b", "--branch"})
    return FetchedFile(address=plain[0], destination=folder.rstrip("/"), ref=ref)


def repository_requirement(address: str, ref: str = "") -> str:
    """Return the requirement that installs a repository; its metadata names the package."""
    # pip takes no scp-like addresses, git@host:path: https://pip.pypa.io/en/stable/topics/vcs-support/
    short = re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", address)
    url = f"ssh://{short[1]}/{short[2]}" if short else address
    return f"git+{url}{f'@{ref}' if ref else ''}"


def is_nameless(line: str) -> bool:
    """Whether a requirement is a URL without a name."""
    return bool(re.match(r"(git|hg|svn|bzr)\+|\w+://", line)) and "egg=" not in line


def parse_download(words: Sequence[str]) -> tuple[FetchedFile, ...]:
    """Return the files that wget, curl, gdown or aria2c download."""
    program = words[0]
    if program not in ("wget", "curl", "gdown", "aria2c"):
        return ()
    output_options = {"-O", "--output-document", "-o", "--output"}
    # wget's -o is its log file: https://www.gnu.org/software/wget/manual/wget.html
    # curl's -O takes no value and keeps the remote name: https://curl.se/docs/manpage.html
    output_options -= {"wget": {"-o"}, "curl": {"-O"}}.get(program, set())
    output = _option_value(words, output_options)
    folder = _option_value(words, {"-P", "--directory-prefix", "-d", "--dir"})
    value_options = {
        "-H",
        "--header",
        "-U",
        "--user-agent",
        "-e",
        "-t",
        "-T",
        "-x",
        "-s",
        "-d",
        "--dir",
        "-P",
    }
    value_options |= {"--retry"}
    value_options -= {"-s", "-t"} if program == "curl" else {"-s", "-x"} if program == "gdown" else {"-x"}
    plain = _positional_arguments(
        words[1:], with_value=output_options | value_options | {"--directory-prefix"}
    )
    fetched = []
    for address in plain:
        name = output or _last_part(address)
        path = f"{folder.rstrip('/')}/{name}" if folder and not output else name
        fetched.append(FetchedFile(address=address, destination=path))
    return tuple(fetched)


def _last_part(address: str) -> str:
    return re.split(r"[?#]", address)[0].rstrip("/").rpartition("/")[2]


def _option_value(words: Sequence[str], options: set[str]) -> str:
    for number, word in enumerate(words):
        option, _, joined = word.partition("=")
        if option in options and (joined or number + 1 < len(words)):
            return joined or words[number + 1]
    return ""


def _positional_arguments(words: Sequence[str], *, with_value: set[str]) -> list[str]:
    arguments, remaining = [], list(words)
    while remaining:
        word = remaining.pop(0)
        if word in with_value and remaining:
            remaining.pop(0)
        elif not word.startswith("-"):
            arguments.append(word)
    return arguments


def parse_kaggle_download(words: Sequence[str]) -> tuple[str, str] | None:
    """Return the kind ("dataset", ...) and name of the source that `kaggle` downloads."""
    if words[0] != "kaggle" or ("download" not in words and "output" not in words):
        return None
    kinds = {"datasets": "dataset", "d": "dataset", "competitions": "competition", "c": "competition"}
    kinds |= {"kernels": "notebook", "k": "notebook", "models": "model"}
    kind = kinds.get(words[1], "")
    # `kaggle models variations versions download`; "instances" is the older word for variations
    # (https://github.com/Kaggle/kaggle-api/blob/main/docs/README.md)
    verbs = ("download", "output", "instances", "versions", "variations")
    arguments = [word for word in words[2:] if word not in verbs]
    option_name = _option_value(arguments, {"-d", "--dataset", "-c", "--competition"})
    plain = _positional_arguments(arguments, with_value={"-p", "--path", "-f", "--file"})
    name = option_name or (plain[0] if plain else "")
    return (kind, name) if kind and name else None


def parse_hub_download(words: Sequence[str]) -> FetchedFile | None:
    """Return the repository that `hf download` downloads."""
    # `huggingface-cli` is the older name of `hf`: https://huggingface.co/docs/huggingface_hub/guides/cli
    if words[0] not in ("huggingface-cli", "hf") or words[1:2] != ("download",):
        return None
    plain = _positional_arguments(
        words[2:], with_value={"--local-dir", "--revision", "--include", "--exclude", "--repo-type"}
    )
    return FetchedFile(address=plain[0], destination=_option_value(words, {"--local-dir"})) if plain else None


def find_served_models(words: Sequence[str]) -> Iterator[str]:
    """Yield the hub ids of models that a command loads: those of model servers, and of model options of any program."""
    server = _SERVERS.search(" ".join(words[:4]))
    if server and not server["module"] and (arguments := words[len(server[0].split()) :]):
        first = arguments[0]
        model = next(filter(_HUB_ID.fullmatch, arguments), "") if first.startswith("-") else first
        yield from [model] if _is_hub_id(model) else []
    for number, word in enumerate(words):
        option, _, joined = word.partition("=")
        if _MODEL_OPTION.fullmatch(option):
            value = joined or "".join(words[number + 1 : number + 2])
            if _is_hub_id(value) if server else _HUB_ID.fullmatch(value):
                yield value


def _is_hub_id(word: str) -> bool:
    """Whether a server would load this from the hub: an id, or a name without an owner ("gpt2")."""
    return bool(_HUB_ID.fullmatch(word) or re.fullmatch(r"\w[\w.-]*", word))


def find_word(word: str, text: str, known: Mapping[str, str]) -> tuple[int, int]:
    """Return the span of a word in a line, literal or as a filled-in `{name}`; (-1, -1) unless it occurs once."""
    spans = [match.span() for match in re.finditer(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])", text)]
    spans += [
        match.span()
        for match in literals.PLACEHOLDER.finditer(text)
        if literals.fill_names(match[0], known) == word
    ]
    return spans[0] if len(spans) == 1 else (-1, -1)


def parse_corpus_download(words: Sequence[str]) -> tuple[str, str] | None:
    """Return the library ("nltk", "spacy") and the data that a command downloads."""
    if not re.fullmatch(r"python[\d.]*", words[0]) or words[1:2] != ("-m",) or len(words) < 4:
        return None
    if words[2:4] == ("spacy", "download") and len(words) > 4:
        return "spacy", _positional_arguments(words[4:], with_value=set())[0]
    if words[2] == "nltk.downloader":
        return "nltk", " ".join(_positional_arguments(words[3:], with_value={"-d"}))
    return None


def is_system_install(words: Sequence[str]) -> bool:
    """Whether a command installs system packages, or with conda."""
    return words[0] in ("apt", "apt-get", "conda", "mamba", "dpkg", "yum") and "install" in words


_LOGIN_PROGRAMS = frozenset({"wandb", "huggingface-cli", "hf", "comet", "neptune", "kaggle"})
"""Programs with a `login` command."""
_CONDA_VALUE_OPTIONS = frozenset({"-c", "--channel", "-n", "--name", "-p", "--prefix", "--solver", "--file"})
"""conda's options that take a value."""


def command_needs(words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the needs of one command, as their fields."""
    own = pip_words(words)
    if own and own[0] in ("install", "uninstall", "download", "wheel"):
        yield {"kind": NeedKind.INSTALL, "target": shlex.join(words), "detail": own[0]}
    elif repository := parse_clone(words):
        yield {
            "kind": NeedKind.CLONE,
            "target": repository.address,
            "destination": repository.destination,
            "detail": repository.ref,
        }
    elif files := parse_download(words):
        yield from (
            {"kind": NeedKind.DOWNLOAD, "target": file.address, "destination": file.destination}
            for file in files
        )
    elif source := parse_kaggle_download(words):
        yield {"kind": NeedKind.KAGGLE, "target": source[1], "detail": source[0]}
    elif hub := parse_hub_download(words):
        detail = "dataset command" if "dataset" in words else "command"
        yield {"kind": NeedKind.HUB, "target": hub.address, "destination": hub.destination, "detail": detail}
    elif corpus := parse_corpus_download(words):
        yield {"kind": NeedKind.CORPUS, "target": corpus[1], "detail": corpus[0]}
    elif "login" in words[1:3] and words[0] in _LOGIN_PROGRAMS:
        yield {"kind": NeedKind.ACCOUNT, "target": f"{words[0]} login"}
    elif is_system_install(words):
        yield {
            "kind": NeedKind.SYSTEM,
            "target": shlex.join(words),
            "detail": " ".join(_conda_packages(words)),
        }
    else:
        models = dict.fromkeys(find_served_models(words))
        yield from ({"kind": NeedKind.HUB, "target": file, "detail": ARGUMENT} for file in models)


def _conda_packages(words: Sequence[str]) -> list[str]:
    """Return the packages that conda installs, without versions; [] for other programs."""
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


_HARMLESS = frozenset({"cd", "echo", "true", ":", "clear"})
"""Commands that can be disabled together with the others of a line."""


@dataclass(frozen=True, kw_only=True)
class ShellLine:
    """A shell line, or one line of a shell script."""

    magic: Magic
    """The magic of the line or of its script."""
    needs: tuple[ExternalNeed, ...]
    alone: bool
    """Whether it does nothing else."""
    script: bool = False
    """Whether it is a line of a script, in which no Python can replace it."""


def find_shell_lines(code: NotebookCode, folders: WorkingFolders) -> Iterator[ShellLine]:
    """Yield the shell lines of a notebook with needs, cell by cell."""
    for number, read in code.reads.items():
        for magic in read.magics:
            if magic.shell_command:
                folder = folders.folder_at(number, read.line_number(magic.start))
                lines, _ = _read_line(
                    code, number, magic, (magic.end - len(magic.shell_command), magic.shell_command), folder
                )
                yield from lines
            elif read.script and magic.sign == "%%":
                yield from _read_script(code, number, magic, folders.folder_at(number, 1))


def _read_script(code: NotebookCode, number: int, magic: Magic, folder: str) -> Iterator[ShellLine]:
    read = code.reads[number]
    start, end = read.script or (0, 0)
    offset = start
    for line in read.source[start:end].replace("\\\n", "\\ ").split("\n"):
        lines, folder = _read_line(code, number, magic, (offset, line), folder, script=True)
        yield from lines
        offset += len(line) + 1


def _read_line(
    code: NotebookCode,
    number: int,
    magic: Magic,
    position_and_text: tuple[int, str],
    folder: str,
    *,
    script: bool = False,
) -> tuple[list[ShellLine], str]:
    """Return the line if it has needs, and the folder that it ends in."""
    (at, text), read, needs, alone = position_and_text, code.reads[number], [], True
    for command in split_commands(text, code.strings):
        if command.words[0] == "cd" and len(command.words) > 1:
            folder = change_folder(folder, command.words[1])
        field_sets = list(command_needs(command.words))
        is_argument = any(fields.get("detail") == ARGUMENT for fields in field_sets)
        alone = alone and not is_argument and (bool(field_sets) or command.words[0] in _HARMLESS)
        span = (command.start, command.end)
        spans = [
            _argument_span(fields["target"], text, span, code) if is_argument else span
            for fields in field_sets
        ]
        needs += [
            ExternalNeed(
                cell=number,
                line=read.line_number(at + command.start),
                text=(magic.before + magic.sign if not script else "") + text.strip().replace("\\\n", " "),
                start=at + start if start >= 0 else -1,
                end=at + end,
                stand_in="true",
                **{
                    **fields,
                    "destination": place_destination(fields["kind"], fields.get("destination", ""), folder),
                },
            )
            for fields, (start, end) in zip(field_sets, spans, strict=True)
        ]
    line = ShellLine(magic=magic, needs=tuple(needs), alone=alone, script=script)
    return ([line] if needs else []), folder


def _argument_span(word: str, text: str, command: tuple[int, int], code: NotebookCode) -> tuple[int, int]:
    """Return the span of a command's argument in its line, (-1, -1) if it is not known."""
    start, end = find_word(word, text[slice(*command)], code.strings)
    return (start + command[0], end + command[0]) if start >= 0 else (-1, -1)


def place_destination(kind: NeedKind, into: str, folder: str) -> str:
    """Return where a download from a folder of the run is stored; for installs, that folder."""
    if kind is NeedKind.INSTALL:
        return folder
    return (
        notebook_files.join_run_path(folder, into)
        if into and kind in (NeedKind.CLONE, NeedKind.DOWNLOAD)
        else into
    )
