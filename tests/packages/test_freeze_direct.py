"""Direct references: wheels, folders, archives, urls and git, frozen as wheels."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from tests.support.freezing import Case, bundled, fates, pin, stocked
from tests.support.local_index import LocalIndex, make_sdist, make_wheel
from tests.support.sdists import BACKEND, own_backend


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A project before a stocked index."""
    with LocalIndex() as index:
        made = stocked(tmp_path, index)
        made.project.mkdir()
        yield made


def write_project(folder: Path, name: str, *, tag: str = "py3-none-any", requires: str = "alpha") -> Path:
    """Write a folder that builds itself without any backend from an index, and asks for `requires`."""
    backend = BACKEND.format(asks=[], body="pass", module=name, version="1.0", tag=tag)
    backend = backend.replace("Version: 1.0\\n", f"Version: 1.0\\nRequires-Dist: {requires}\\n")
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    (folder / "backend.py").write_text(backend)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return folder


def git(folder: Path, *words: str) -> str:
    """Run git in a folder as somebody."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_local_folder_becomes_a_wheel(case: Case) -> None:
    """A folder, editable or not, is built once, outside of itself, and its requirements are followed."""
    folder = write_project(case.project / "lib", "lib")
    before = sorted(folder.rglob("*"))
    found = case.freeze("-e ./lib")
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0", "lib": "1.0"}
    assert pin(found, "lib").url == "lib"
    assert pin(found, "lib").local
    assert sorted(folder.rglob("*")) == before
    assert case.freeze("-e ./lib") == found


def test_a_changed_folder_is_built_again(case: Case) -> None:
    """One changed source file makes another wheel and another freeze."""
    folder = write_project(case.project / "lib", "lib")
    first = case.freeze("./lib")
    (folder / "lib" / "__init__.py").write_text("new = 1\n")
    assert pin(case.freeze("./lib"), "lib").hashes != pin(first, "lib").hashes


def test_the_same_folder_elsewhere_gives_the_same_wheel(case: Case) -> None:
    """Built in another place, without our cache, a folder is the same bytes."""
    write_project(case.project / "lib", "lib")
    first = pin(case.freeze("./lib"), "lib").hashes
    other = Case(folder=case.folder / "other", index=case.index, settings=case.settings)
    write_project(other.project / "lib", "lib")
    assert pin(other.freeze("./lib"), "lib").hashes == first


def test_git_is_frozen_at_its_commit(case: Case) -> None:
    """A branch is resolved once: later commits count only after --upgrade."""
    source = write_project(case.folder / "source", "lib")
    git(source, "init")
    git(source, "add", ".")
    git(source, "commit", "-m", "one")
    commit = git(source, "rev-parse", "HEAD")
    line = f"lib @ git+{source.as_uri()}@main"
    first = case.freeze(line)
    assert pin(first, "lib").url == f"git+file:../source@{commit}#ref=main"
    assert str(case.folder) not in case.lock.read_text()
    (source / "lib" / "__init__.py").write_text("new = 1\n")
    git(source, "commit", "-am", "two")
    assert case.freeze(line) == first
    assert pin(case.freeze(line, "cmaes"), "lib").hashes == pin(first, "lib").hashes
    assert git(source, "rev-parse", "HEAD") in pin(case.freeze(line, upgrade=True), "lib").url


def test_another_tag_is_another_commit(case: Case) -> None:
    """The commit of the former tag is not kept for the one that the line names now."""
    source = write_project(case.folder / "source", "lib")
    git(source, "init")
    git(source, "add", ".")
    git(source, "commit", "-m", "one")
    git(source, "tag", "v1")
    (source / "lib" / "__init__.py").write_text("new = 1\n")
    git(source, "commit", "-am", "two")
    git(source, "tag", "v2")
    for tag in ("v1", "v2"):
        found = case.freeze(f"lib @ git+{source.as_uri()}@{tag}")
        assert f"@{git(source, 'rev-parse', tag)}#ref={tag}" in pin(found, "lib").url


def test_git_that_is_not_there(case: Case) -> None:
    """A repository that cannot be read is named without its password."""
    with pytest.raises(OutsideError) as error:
        case.freeze("lib @ git+http://me:s3cret@127.0.0.1:9/lib.git")
    assert "127.0.0.1:9/lib.git" in str(error.value)
    assert "s3cret" not in "\n".join([str(error.value), *error.value.details])


def test_urls_are_downloaded(case: Case) -> None:
    """The wheel at an address is taken, its hash checked, its address written."""
    wheel = make_wheel(case.folder, "far", "2.0", requires=["beta"])
    entry = case.index.add(wheel)
    url = f"{case.index.root}/files/{wheel.name}"
    found = case.freeze(f"far @ {url}#sha256={entry.sha256}")
    assert bundled(found) == {"beta": "1.0", "far": "2.0"}
    assert pin(found, "far").url == f"{url}#sha256={entry.sha256}"
    with pytest.raises(ProjectError):
        case.freeze(f"far @ {url}#sha256={'0' * 64}")


def test_an_address_is_written_without_its_query(case: Case) -> None:
    """What a signed link needs to be downloaded is a secret; another query is another file."""
    case.index.add(make_wheel(case.folder, "far", "2.0"))
    url = f"{case.index.root}/files/far-2.0-py3-none-any.whl"
    found = case.freeze(f"far @ {url}?X-Amz-Signature=s3cret")
    assert pin(found, "far").url == url
    assert "s3cret" not in case.lock.read_text()
    asked = len(case.index.requests)
    assert case.freeze(f"far @ {url}?X-Amz-Signature=s3cret").input_hash == found.input_hash
    assert len(case.index.requests) == asked
    assert case.freeze(f"far @ {url}?raw=2").input_hash != found.input_hash
    assert len(case.index.requests) > asked


def test_archives_are_built(case: Case) -> None:
    """A local sdist becomes a wheel."""
    archive = own_backend(case.project, "packed")
    assert bundled(case.freeze(f"./{archive.name}")) == {"packed": "1.0"}


def test_extras_of_a_local_wheel(case: Case) -> None:
    """What its extra asks for is bundled too."""
    make_wheel(case.project, "given", "1.0", extras={"more": ["cmaes"]})
    found = case.freeze("./given-1.0-py3-none-any.whl[more]")
    assert bundled(found) == {"cmaes": "0.13", "given": "1.0"}


def test_all_that_does_not_fit_is_one_error(case: Case) -> None:
    """Wheels for another Python, compiled builds and wrong names are told together, with their lines."""
    make_wheel(case.project, "narrow", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    make_wheel(case.project, "given", "1.0")
    make_wheel(case.project, "late", "1.0", requires_python=">=3.14")
    write_project(case.project / "comp", "comp", tag="cp39-cp39-linux_x86_64")
    with pytest.raises(ProjectError) as error:
        case.freeze(
            "./narrow-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
            f"other @ {(case.project / 'given-1.0-py3-none-any.whl').as_uri()}",
            "./comp",
            "./late-1.0-py3-none-any.whl",
        )
    text = "\n".join(error.value.details)
    for words in (
        "requirements.in:1",
        "3.13",
        "requirements.in:2: 'given-1.0-py3-none-any.whl' is 'given'",
        "comp",
        "requires Python >=3.14",
    ):
        assert words in text


def test_a_failing_build_shows_its_last_words(case: Case) -> None:
    """The build's own message stands in the error."""
    folder = write_project(case.project / "bad", "bad")
    (folder / "backend.py").write_text("raise RuntimeError('no luck today')\n")
    with pytest.raises(ProjectError) as error:
        case.freeze("./bad")
    assert "no luck today" in "\n".join(error.value.details)


def test_a_direct_reference_to_a_protected_package(case: Case) -> None:
    """A local numpy is refused unless `replace` names it."""
    make_wheel(case.project, "numpy", "2.1.3")
    line = "./numpy-2.1.3-py3-none-any.whl"
    with pytest.raises(ProjectError) as error:
        case.freeze(line)
    assert error.value.code == "protected-package-replaced"
    assert bundled(case.freeze(line, replace=("numpy",))) == {"numpy": "2.1.3"}


def test_the_own_package_leaves_its_requirements(case: Case) -> None:
    """-e . of the project's own package asks for what that package asks for, and bundles no copy of it."""
    write_project(case.project, "plants", requires="cmaes")
    assert fates(case.freeze("-e .", own=("plants",))) == {"cmaes": "bundled 0.13", "numpy": "provided 2.1.3"}


def test_sdists_without_stated_requirements_are_asked_by_building(case: Case) -> None:
    """Where only a build tells what an sdist of the index requires, it is built, and kept."""
    write_project(case.folder / "src", "dyn")
    files = {name: (case.folder / "src" / name).read_text() for name in ("pyproject.toml", "backend.py")}
    case.index.add(make_sdist(case.folder, "dyn", "1.0", files=files, metadata_version="2.1"))
    assert bundled(case.freeze("dyn")) == {"alpha": "1.0", "beta": "1.0", "dyn": "1.0"}
