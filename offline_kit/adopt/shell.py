"""Shell lines of a notebook: which of their commands want something from the internet, and what."""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from offline_kit.adopt import literals

_SPLIT = re.compile(
    r"""(?P<quoted>"(?:\\.|[^"\\])*"|'[^']*')|(?P<escaped>\\.)|(?P<comment>(?:^|(?<=\s))\#[^\n]*)
    |(?P<end>&&|\|\||;|\||\n|(?<!>)&(?!>))""",
    re.VERBOSE | re.DOTALL,
)
_REDIRECTED = re.compile(r"\s+\d?&?>>?\s*(&\d|\S+)")
_SETS = re.compile(r"[A-Za-z_]\w*=")
_BEFORE = frozenset({"sudo", "time", "nohup", "exec", "then", "do", "else", "yes"})
_WITH_VALUE = frozenset(
    {"-c", "--constraint", "-f", "--find-links", "-i", "--index-url", "--extra-index-url", "-t", "--target"}
    | {"--prefix", "--root", "--python", "-p", "--no-binary", "--only-binary", "--platform", "--timeout"}
    | {"--retries", "--proxy", "--log", "--cache-dir", "--progress-bar", "--upgrade-strategy", "--src"}
    | {"--trusted-host", "-C", "--config-settings", "--python-version", "--implementation", "--abi"}
)
"""pip's options that take a word of their own."""
_ELSEWHERE = ("-i", "--index-url", "--extra-index-url")
_PYPI = re.compile(r"https?://pypi\.(python\.)?org(/|$)")
_HOLE = re.compile(r"\{\{|\}\}|\{(?P<braced>[^{}]*)\}|\$\{?(?P<dollar>[^\W\d]\w*)\}?")

_SERVERS = re.compile(
    r"^(?:vllm serve|lmdeploy serve api_server"
    r"|(?P<module>python[\d.]*(?: -[a-zA-Z]+)* -m (?:vllm\.|sglang\.)\S*|text-generation-launcher|sglang serve))(?= |$)"
)
"""Programs that serve a language model: named by its place, or (`module`) by an option."""
_MODEL_OPTION = re.compile(
    r"--(?:pretrained[-_])?(?:(?:base|draft|speculative)[-_])?model(?:[-_](?:path|id|name|name[-_]or[-_]path))?"
    r"|--tokenizer(?:[-_](?:path|name))?"
)
_HUB_ID = re.compile(
    r"(?!(?:models?|checkpoints?|weights|outputs?|data|inputs?|src|runs|logs|configs?|results?|experiments?|exp)/)"
    r"\w[\w.-]*/\w[\w.-]*(?<!\.pt)(?<!\.pth)(?<!\.ckpt)(?<!\.bin)(?<!\.onnx)(?<!\.safetensors)(?<!\.py)(?<!\.yml)(?<!\.yaml)"
)
"""An id of Hugging Face's hub, and no path as projects call theirs."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a shell line."""

    words: tuple[str, ...]
    """Its words without what stands before the program; the program first, without its folder."""
    start: int
    """Where it begins in the line."""
    end: int
    """Where it ends."""


@dataclass(frozen=True, kw_only=True)
class Pip:
    """What a call of pip installs."""

    requirements: tuple[str, ...] = ()
    """Lines for a requirements file."""
    files: tuple[str, ...] = ()
    """Requirements files."""
    folders: tuple[str, ...] = ()
    """Folders of source, editable or not."""
    local: tuple[str, ...] = ()
    """Wheels and sdists on a disk."""
    offline: bool = False
    """Whether it asks no index already."""
    index: tuple[str, ...] = ()
    """Lines of a requirements file that name the indexes and pages of links that it asks."""
    links: tuple[str, ...] = ()
    """Folders that it takes wheels from."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file or repository that a command brings."""

    address: str
    """What is asked for."""
    into: str
    """The file or folder that it becomes."""
    ref: str = ""
    """The branch or tag of a repository, where one is named."""


def commands(text: str, known: Mapping[str, str] | None = None) -> Iterator[Command]:
    """Yield the commands of a shell line or script, in their order; comments are none.

    `known` are strings of the notebook by name: `{name}` and `$name` are filled in.
    """
    start = 0
    cut = text
    for found in _SPLIT.finditer(text):
        if found.lastgroup == "comment":
            cut = cut[: found.start()] + " " * len(found[0]) + cut[found.end() :]
        elif found.lastgroup == "end":
            yield from _command(cut, start, found.start(), {} if known is None else known)
            start = found.end()
    yield from _command(cut, start, len(text), {} if known is None else known)


def _command(text: str, start: int, end: int, known: Mapping[str, str]) -> Iterator[Command]:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    # IPython fills names in before the shell splits the line: one name may hold several words
    plain = _REDIRECTED.sub("", filled(part.strip().replace("\\\n", " "), known))
    try:
        words = shlex.split(plain)
    except ValueError:
        words = plain.split()
    while words and (words[0] in _BEFORE or _SETS.match(words[0])):
        words = words[1:]
    if words:
        program = words[0].rpartition("/")[2]
        yield Command(words=(program, *words[1:]), start=start + left, end=start + left + len(part.strip()))


def filled(text: str, known: Mapping[str, str]) -> str:
    """Return a shell line with `{name}` and `$name` of the notebook filled in, as far as they are known."""

    def fill(found: "re.Match[str]") -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        name = (found["braced"] or found["dollar"] or "").strip()
        if name == "sys.executable":
            return "python"
        if name in known or name.isidentifier():
            return known.get(name) or " ".join(getattr(known, "several", {}).get(name, ())) or found[0]
        return _evaluated(name, known) or found[0]

    return _HOLE.sub(fill, text)


def _evaluated(expression: str, known: Mapping[str, str]) -> str:
    """Return what an expression in braces is, if that is known without running it."""
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    said = literals.text(node, known)
    return "" if "*" in said else said


def has_holes(text: str) -> bool:
    """Whether something in a filled line is known only when the notebook runs."""
    return bool(re.search(r"\{[^{}]*\}|\$[\w{(]|^[^=<>!~\[;@]*\*", text))


def pip_words(words: Sequence[str]) -> tuple[str, ...] | None:
    """Return pip's own words, its verb first ("install", ...), however it is called; None for another program."""
    rest = list(words)
    if re.fullmatch(r"(python|pypy)[\d.]*", rest[0]):
        while len(rest) > 1 and re.fullmatch(r"-[A-Za-ln-z]+", rest[1]):  # options of Python itself: -I, -u
            del rest[1]
        if rest[1:2] != ["-m"] and not (rest[1:2] and re.fullmatch(r"-[A-Za-z]+m", rest[1])):
            return None
        rest = rest[2:]
    if rest[:1] == ["uv"]:
        rest = _from_verb(rest[1:])
        if rest[:1] not in (["pip"], ["add"]):
            return None
        rest = ["pip", "install", *rest[1:]] if rest[0] == "add" else rest
    if not rest or not re.fullmatch(r"pip[\d.]*", rest[0]):
        return None
    return tuple(_from_verb(rest[1:]))


def _from_verb(words: Sequence[str]) -> list[str]:
    """Return the words from the verb on, options before it behind it: `pip -q install x` says `pip install -q x`."""
    rest, before = list(words), list[str]()
    while rest and rest[0].startswith("-"):
        before.append(rest.pop(0))
        if before[-1] in _WITH_VALUE and rest:
            before.append(rest.pop(0))
    return [*rest[:1], *before, *rest[1:]]


def pip_of(words: Sequence[str]) -> Pip | None:
    """Return what a command installs with pip; None for another command, and for pip's other verbs."""
    own = pip_words(words)
    if not own or own[0] != "install":
        return None
    kinds: dict[str, list[str]] = {"requirements": [], "files": [], "folders": [], "local": [], "links": []}
    rest, offline, index = [part for word in own[1:] for part in _apart(word)], False, list[str]()
    while rest:
        word = rest.pop(0)
        option, _, joined = word.partition("=") if word.startswith("--") else (word, "", "")
        if option == "--no-index":
            offline = True
        elif option in ("-r", "--requirement", "-e", "--editable"):
            value = joined or (rest.pop(0) if rest else "")
            plain = "requirements" if is_nameless(value) or "://" in value else "folders"
            kinds["files" if "r" in option[:3] else plain].append(value)
        elif option in _WITH_VALUE:
            value = joined or (rest.pop(0) if rest else "")
            if option in ("-f", "--find-links") and "://" not in value:
                kinds["links"].append(value)
            elif option in ("-f", "--find-links"):
                index.append(f"--find-links {value}")
            elif option in _ELSEWHERE and not _PYPI.match(value):
                index.append(f"--extra-index-url {value}")
        elif not word.startswith("-"):
            kinds[_place_of(word)].append(word)
    lists = {
        name: tuple(_named(word) if name == "requirements" else word for word in words)
        for name, words in kinds.items()
    }
    return Pip(**lists, offline=offline, index=tuple(index))


def _apart(word: str) -> tuple[str, ...]:
    """Return pip's short options one by one where they are written as one word: "-qr", "-rfile.txt"."""
    found = re.fullmatch(r"-(?P<flags>[qvUI]*)(?P<option>[refi])(?P<value>.*)", word)
    if not found:
        return (word,)
    flags = [f"-{flag}" for flag in found["flags"]]
    return tuple(filter(None, (*flags, f"-{found['option']}", found["value"])))


def _place_of(word: str) -> str:
    if re.match(r"(git|hg|svn|bzr)\+|https?://", word) or " @ " in word:
        return "requirements"
    if re.search(r"\.(whl|zip|tar\.gz)(\[|$)", word):
        return "local"
    return "folders" if word.startswith((".", "/", "~")) or "/" in word else "requirements"


def _named(word: str) -> str:
    """Return a requirement as a requirements file takes it: an address gets its name in front where it tells one."""
    if not re.match(r"(git|hg|svn|bzr)\+|https?://", word):
        return word
    told = re.search(r"[#&]egg=([\w.-]+)", word)
    if told:
        return f"{told[1]} @ {word.partition('#')[0]}"
    return word


def cloned(words: Sequence[str]) -> Fetched | None:
    """Return the repository that a command clones, and its folder."""
    if list(words[:2]) != ["git", "clone"]:
        return None
    plain = _plain(
        words[2:], with_value={"-b", "--branch", "--depth", "-c", "--config", "-o", "--origin", "-j"}
    )
    if not plain:
        return None
    folder = plain[1] if len(plain) > 1 else plain[0].rstrip("/").rpartition("/")[2].removesuffix(".git")
    ref = _value(words[2:], {"-b", "--branch"})
    return Fetched(address=plain[0], into=folder.rstrip("/"), ref=ref)


def of_repository(address: str, ref: str = "") -> str:
    """Return the line of a requirements file that installs a repository; the package's name is its own to tell."""
    short = re.fullmatch(r"([\w.-]+@[\w.-]+):(?!/)(.+)", address)
    whole = f"ssh://{short[1]}/{short[2]}" if short else address
    return f"git+{whole}{f'@{ref}' if ref else ''}"


def is_nameless(line: str) -> bool:
    """Whether a line of a requirements file is an address alone."""
    return bool(re.match(r"(git|hg|svn|bzr)\+|\w+://", line)) and "egg=" not in line


def downloaded(words: Sequence[str]) -> tuple[Fetched, ...]:
    """Return the files that wget, curl or gdown bring."""
    program = words[0]
    if program not in ("wget", "curl", "gdown", "aria2c"):
        return ()
    named = {"-O", "--output-document", "-o", "--output"} - ({"-o"} if program == "wget" else set())
    named -= {"-O"} if program == "curl" else set()
    into, folder = _value(words, named), _value(words, {"-P", "--directory-prefix", "-d", "--dir"})
    takes = {
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
        "--retry",
    }
    takes -= {"-s", "-t"} if program == "curl" else {"-s", "-x"} if program == "gdown" else {"-x"}
    plain = _plain(words[1:], with_value=named | takes | {"--directory-prefix"})
    found = []
    for address in plain:
        name = into or _last(address)
        place = f"{folder.rstrip('/')}/{name}" if folder and not into else name
        found.append(Fetched(address=address, into=place))
    return tuple(found)


def _last(address: str) -> str:
    return re.split(r"[?#]", address)[0].rstrip("/").rpartition("/")[2]


def _value(words: Sequence[str], options: set[str]) -> str:
    for number, word in enumerate(words):
        option, _, joined = word.partition("=")
        if option in options and (joined or number + 1 < len(words)):
            return joined or words[number + 1]
    return ""


def _plain(words: Sequence[str], *, with_value: set[str]) -> list[str]:
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in with_value and rest:
            rest.pop(0)
        elif not word.startswith("-"):
            found.append(word)
    return found


def of_kaggle(words: Sequence[str]) -> tuple[str, str] | None:
    """Return the kind of source ("dataset", ...) and its name that Kaggle's command line fetches."""
    if words[0] != "kaggle" or ("download" not in words and "output" not in words):
        return None
    kind = {"datasets": "dataset", "d": "dataset", "competitions": "competition", "c": "competition"}.get(
        words[1], {"kernels": "notebook", "k": "notebook", "models": "model"}.get(words[1], "")
    )
    rest = [
        word
        for word in words[2:]
        if word not in ("download", "output", "instances", "versions", "variations")
    ]
    named = _value(rest, {"-d", "--dataset", "-c", "--competition"})
    plain = _plain(rest, with_value={"-p", "--path", "-f", "--file"})
    name = named or (plain[0] if plain else "")
    return (kind, name) if kind and name else None


def of_hub(words: Sequence[str]) -> Fetched | None:
    """Return the repository that the hub's command line downloads."""
    if words[0] not in ("huggingface-cli", "hf") or words[1:2] != ("download",):
        return None
    plain = _plain(
        words[2:], with_value={"--local-dir", "--revision", "--include", "--exclude", "--repo-type"}
    )
    return Fetched(address=plain[0], into=_value(words, {"--local-dir"})) if plain else None


def served_models(words: Sequence[str]) -> Iterator[str]:
    """Yield the models that a command loads by a hub's ids: a server's, and what options of any program call so."""
    server = _SERVERS.search(" ".join(words[:4]))
    if server and not server["module"] and (rest := words[len(server[0].split()) :]):
        named = rest[0] if not rest[0].startswith("-") else next(filter(_HUB_ID.fullmatch, rest), "")
        yield from [named] if _is_id(named) else []
    for number, word in enumerate(words):
        option, _, joined = word.partition("=")
        if _MODEL_OPTION.fullmatch(option):
            value = joined or "".join(words[number + 1 : number + 2])
            if _is_id(value) if server else _HUB_ID.fullmatch(value):
                yield value


def _is_id(word: str) -> bool:
    """Whether a server would ask the hub for this: an id, or the name of one of the hub's first models ("gpt2")."""
    return bool(_HUB_ID.fullmatch(word) or re.fullmatch(r"\w[\w.-]*", word))


def place_of(word: str, text: str, known: Mapping[str, str]) -> tuple[int, int]:
    """Return where a word stands in a line, as it is or as the one `{name}` that is filled in; -1 for nowhere."""
    places = [found.span() for found in re.finditer(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])", text)]
    places += [found.span() for found in _HOLE.finditer(text) if filled(found[0], known) == word]
    return places[0] if len(places) == 1 else (-1, -1)


def of_corpus(words: Sequence[str]) -> tuple[str, str] | None:
    """Return the library ("nltk", "spacy") and the data of it that a command downloads."""
    if not re.fullmatch(r"python[\d.]*", words[0]) or words[1:2] != ("-m",) or len(words) < 4:
        return None
    if words[2:4] == ("spacy", "download") and len(words) > 4:
        return "spacy", _plain(words[4:], with_value=set())[0]
    if words[2] == "nltk.downloader":
        return "nltk", " ".join(_plain(words[3:], with_value={"-d"}))
    return None


def is_system(words: Sequence[str]) -> bool:
    """Whether a command installs programs of the system, or with conda."""
    return words[0] in ("apt", "apt-get", "conda", "mamba", "dpkg", "yum") and "install" in words
