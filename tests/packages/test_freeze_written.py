"""The written freeze, out and back."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core.errors import ProjectError
from offline_kit.packages.freeze import freeze_file
from offline_kit.packages.freeze.requirement_files import iter_logical_lines, parse_requirement, split_options
from offline_kit.project.types import Fate, Freeze, Pin

words = st.from_regex(r"[A-Za-z0-9(\[][A-Za-z0-9 .,:;=<>()@/_\[\]'-]{0,30}[A-Za-z0-9)\]]", fullmatch=True)
versions = st.from_regex(r"[0-9]\.[0-9]{1,2}(rc1|\.post2)?(\+cpu)?", fullmatch=True)


@st.composite
def pins(draw: st.DrawFn) -> Pin:
    """Any pin that a freeze may hold."""
    fate = draw(st.sampled_from(Fate))
    bundled = fate is Fate.BUNDLED
    name = draw(st.from_regex(r"[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4})?", fullmatch=True))
    return Pin(
        name=name,
        version=draw(versions),
        fate=fate,
        reason=draw(words),
        asked_by=tuple(draw(st.lists(words, max_size=3, unique=True))),
        requires=tuple(draw(st.lists(words, max_size=3, unique=True))),
        hashes=tuple(draw(st.lists(st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True), max_size=3))),
        url=draw(st.just("") | words) if bundled else "",
        replaces=draw(st.just("") | versions) if bundled else "",
        breaks=draw(st.just(()) | st.just(("tensorflow (wants numpy<2.1)",))) if bundled else (),
        spare=draw(st.booleans()) if fate is Fate.PROVIDED else False,
    )


freezes = st.builds(
    lambda found, notes: Freeze(
        image="kaggle",
        python="3.13.5",
        engine="uv",
        cutoff="2026-11-22T00:00:00Z",
        input_hash="ab" * 32,
        pins=tuple(sorted({pin.name: pin for pin in found}.values(), key=lambda pin: pin.name)),
        differences=tuple(notes),
    ),
    st.lists(pins(), max_size=8),
    st.lists(words, max_size=3),
)


def finished(freeze: Freeze) -> Freeze:
    """Return a freeze with what belongs to its pins, and its text."""
    return replace(freeze, text=freeze_file.render_freeze(freeze))


@given(freezes)
def test_any_freeze_is_read_back_and_pip_sees_its_bundled_pins(freeze: Freeze) -> None:
    """Fates, askers, reasons, hashes, replacements and notes come back; pip reads the bundled pins with their hashes alone."""
    whole = finished(freeze)
    assert freeze_file.parse_freeze(whole.text, name="lock") == whole
    assert freeze_file.parse_freeze(whole.text.replace("\n", "\r\n"), name="lock") == whole
    seen = []
    for _, line in iter_logical_lines(whole.text, {}):
        text, hashes = split_options(line)
        assert parse_requirement(text, None)[1] is None  # type: ignore[arg-type]
        seen.append((text, hashes))
    assert seen == [(f"{pin.name}=={pin.version}", pin.hashes) for pin in freeze.pins_with(Fate.BUNDLED)]


def example() -> str:
    """Return a small written freeze."""
    pin = Pin(name="alpha", version="1.0", fate=Fate.BUNDLED, asked_by=("-r requirements.in",))
    other = Pin(name="beta", version="2.0", fate=Fate.PROVIDED, reason="in the image at 2.0")
    return finished(
        Freeze(image="i", python="3.13.5", engine="uv", cutoff="c", input_hash="h", pins=(pin, other))
    ).text


@pytest.mark.parametrize(
    "edit", [("alpha==1.0", "alpha==1.1"), ("# beta==2.0", "beta==2.0"), ("inputs: h", "inputs: g")]
)
def test_hand_edits_are_refused(edit: tuple[str, str]) -> None:
    """A changed pin, an uncommented one or a changed header is an error with the remedy."""
    with pytest.raises(ProjectError) as error:
        freeze_file.parse_freeze(example().replace(*edit), name="offline-kit.lock.txt")
    assert error.value.code == "freeze-file-edited"
    assert "--upgrade" in error.value.hint


def test_somebody_elses_file_is_left_alone() -> None:
    """A file of that name that we did not write is an error, not something to overwrite."""
    with pytest.raises(ProjectError) as error:
        freeze_file.parse_freeze("alpha==1.0\n", name="offline-kit.lock.txt")
    assert error.value.code == "freeze-file-foreign"


def test_another_format_asks_to_renew() -> None:
    """A freeze of a later format names the command that renews it."""
    text = re.sub("# format: .*", "# format: 99", example())
    with pytest.raises(ProjectError) as error:
        freeze_file.parse_freeze(text, name="offline-kit.lock.txt")
    assert error.value.code == "freeze-format-unsupported"
