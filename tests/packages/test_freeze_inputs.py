"""Reading what the user asks for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze.requirement_files import (
    iter_logical_lines,
    parse_requirement,
    read_project_dependencies,
    read_requirement_files,
    split_options,
)


def write(folder: Path, **texts: str) -> Path:
    """Write files named by keyword, "_" standing for "."; return the folder."""
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_files_include_files_and_constraints(tmp_path: Path) -> None:
    """-r and -c are followed relative to the file they stand in; constraints stay apart."""
    (tmp_path / "more").mkdir()
    write(tmp_path, requirements_in="alpha>=1  # why\n-r more/base.txt\n-c more/limits.txt\n")
    write(tmp_path / "more", base_txt="Beta[x, y]==2.0; python_version >= '3'\n", limits_txt="gamma<3\n")
    found = read_requirement_files([tmp_path / "requirements.in"], (), project=tmp_path, env={})
    assert [(one.name, one.position, one.origin) for one in found.requirements] == [
        ("alpha", "requirements.in:1", "-r requirements.in"),
        ("beta", "more/base.txt:1", "-r more/base.txt"),
    ]
    assert [one.requirement for one in found.constraints] == ["gamma<3"]


def test_every_bad_line_is_named_at_once(tmp_path: Path) -> None:
    """One error lists file and line of all that cannot be followed."""
    write(
        tmp_path,
        requirements_in="alpha>=\nbeta\n./nowhere\n--frobnicate\n-r missing.txt\ngamma --hash=sha256:xyz\n",
    )
    with pytest.raises(ProjectError) as error:
        read_requirement_files([tmp_path / "requirements.in"], ("delta==",), project=tmp_path, env={})
    text = "\n".join(error.value.details)
    for place in (
        "requirements.in:1",
        "requirements.in:3",
        "requirements.in:4",
        "missing.txt",
        "requirements.in:6",
    ):
        assert place in text
    assert "pyproject.toml (requirement 1)" in text
    assert "requirements.in:2" not in text


def test_continued_lines_carry_hashes(tmp_path: Path) -> None:
    """A requirement over several lines keeps its hashes and its first line's number."""
    write(
        tmp_path,
        r_txt=f"# head\nalpha==1.0 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'B' * 64}\n",
    )
    (one,) = read_requirement_files([tmp_path / "r.txt"], (), project=tmp_path, env={}).requirements
    assert (one.requirement, one.position) == ("alpha==1.0", "r.txt:2")
    assert one.hashes == (f"sha256:{'a' * 64}", f"sha256:{'b' * 64}")


def test_index_lines_are_gathered(tmp_path: Path) -> None:
    """Index options of files are kept, paths made absolute, variables filled in."""
    (tmp_path / "wheels").mkdir()
    write(
        tmp_path,
        r_txt="-i https://${USER_NAME}:s3cret@one.example/simple\n--extra-index-url=https://two.example\n-f wheels\n--pre\n",
    )
    found = read_requirement_files([tmp_path / "r.txt"], (), project=tmp_path, env={"USER_NAME": "me"})
    assert found.index_options.index_url == "https://me:s3cret@one.example/simple"
    assert found.index_options.extra_index_urls == ("https://two.example",)
    assert found.index_options.find_links == (str(tmp_path / "wheels"),)
    assert found.ignored_options == ["r.txt:4 --pre"]


def test_direct_references(tmp_path: Path) -> None:
    """Wheels, folders, urls and git are told apart, with extras, markers, refs and subdirectories."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "setup.py").touch()
    (tmp_path / "a-1.0-py3-none-any.whl").touch()
    write(
        tmp_path,
        r_txt="-e ./lib[fast]\n./a-1.0-py3-none-any.whl\nx @ https://h.example/x-1.0.tar.gz#sha256=ab\n"
        "git+https://h.example/y.git@v1#egg=y&subdirectory=py\nz @ git+ssh://git@h.example/z ; python_version>'3'\n",
    )
    found = [
        one.direct
        for one in read_requirement_files([tmp_path / "r.txt"], (), project=tmp_path, env={}).requirements
    ]
    assert [(one.kind, one.name, one.extras) for one in found if one] == [
        ("folder", "", ("fast",)),
        ("wheel", "", ()),
        ("url", "x", ()),
        ("git", "y", ()),
        ("git", "z", ()),
    ]
    assert found[3]
    assert (found[3].ref, found[3].subdirectory) == ("v1", "py")
    assert found[4]
    assert found[4].location == "ssh://git@h.example/z"
    assert found[4].marker


def test_errors_show_no_credentials(tmp_path: Path) -> None:
    """A bad line with a password in it is quoted without the password."""
    write(tmp_path, r_txt="svn+https://me:s3cret@h.example/x\n--what https://me:s3cret@h.example\n")
    with pytest.raises(ProjectError) as error:
        read_requirement_files([tmp_path / "r.txt"], (), project=tmp_path, env={})
    assert "s3cret" not in "\n".join([str(error.value), *error.value.details])


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    """A circle of -r lines is read once."""
    write(tmp_path, a_txt="-r b.txt\nalpha\n", b_txt="-r a.txt\nbeta\n")
    found = read_requirement_files([tmp_path / "a.txt"], (), project=tmp_path, env={})
    assert [one.name for one in found.requirements] == ["beta", "alpha"]


def test_project_tables(tmp_path: Path) -> None:
    """Dependencies, extras that name the project, and groups that include groups come together."""
    write(
        tmp_path,
        pyproject_toml="""
[project]
name = "Plants"
dependencies = ["alpha"]
[project.optional-dependencies]
all = ["plants[one,two]"]
one = ["beta"]
two = ["gamma>=2"]
[dependency-groups]
test = ["delta", {include-group = "lint"}]
lint = ["epsilon"]
""",
    )
    found = read_project_dependencies(tmp_path / "pyproject.toml", extras=["all"], groups=["test"])
    assert found == ("alpha", "beta", "gamma>=2", "delta", "epsilon")


def test_project_tables_of_another_shape(tmp_path: Path) -> None:
    """What is no list of strings is named with its table; nothing of it is a bug of ours."""
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\ndependencies = 3\n[project.optional-dependencies]\nx = [1]\ny = "z"\n')
    with pytest.raises(ProjectError) as error:
        read_project_dependencies(path, extras=("x", "y"), groups=())
    assert error.value.details == (
        "[project].dependencies must be a list of strings, not 3",
        "[project.optional-dependencies].x must be a list of strings, not [1]",
        "[project.optional-dependencies].y must be a list of strings, not 'z'",
    )


def test_project_tables_say_all_that_is_wrong(tmp_path: Path) -> None:
    """Missing extras, missing groups, circles and bad lines are one error."""
    write(
        tmp_path,
        pyproject_toml="""
[project]
dependencies = ["alpha >> 1"]
[dependency-groups]
a = [{include-group = "b"}]
b = [{include-group = "a"}]
""",
    )
    with pytest.raises(ProjectError) as error:
        read_project_dependencies(tmp_path / "pyproject.toml", extras=["gpu"], groups=["a", "nope"])
    text = "\n".join(error.value.details)
    assert "'gpu'" in text
    assert "'a'" in text
    assert "'nope'" in text
    assert "alpha >> 1" in text


names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
hashes = st.lists(st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True), max_size=3, unique=True)


@given(
    names, st.sampled_from(["", ">=1.0", "==2.*", "~=3.1,!=3.1.4", "[x]", "[x,y]>=1"]), hashes, st.booleans()
)
def test_requirement_lines_survive_layout(name: str, tail: str, digests: list[str], broken: bool) -> None:
    """A requirement reads the same on one line or over several, with or without a comment."""
    joint = " \\\n    " if broken else " "
    text = joint.join([f"{name}{tail}", *(f"--hash={one}" for one in digests)]) + "  # a comment\n"
    ((number, line),) = iter_logical_lines(text, {})
    words, found = split_options(line)
    requirement, direct = parse_requirement(words, Path())
    assert (number, direct, list(found)) == (1, None, digests)
    assert requirement == parse_requirement(f"{name}{tail}", Path())[0]
