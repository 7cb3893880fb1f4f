"""Pushing a notebook to the local Kaggle."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import OutsideError, ProjectError, UsageError
from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import notebook_runs, push_notebook
from offline_kit.kaggle.push.journal import Phase
from offline_kit.kaggle.push.notebook_equality import find_all_differences, find_mismatches, hash_content
from offline_kit.local_kaggle.faults import Fault
from offline_kit.local_kaggle.server import TrafficEvent
from tests.support.competitions import competition
from tests.support.local_kaggle import HASTY, Bench, notebook, serving
from tests.support.notebooks import METADATA, REF, WRITES, new, pushes, versions, written
from tests.support.pushing import EAGER, access, client, make_kit, pushed, ways


def ended(bench: Bench, version: int, state: str = "COMPLETE", ref: str = REF) -> None:
    """Wait until the run of a version has come to this end."""
    owner, slug = ref.split("/")
    ask = {"userName": owner, "kernelSlug": slug, "versionLabel": f"v{version}"}
    bench.until(lambda: bench.rpc("GetKernelSessionStatus", **ask).get("status") == state)


def phases(bench: Bench) -> list[Phase]:
    """Return the phases of all pushes of notebooks."""
    return [
        each.phase for each in ways(bench).effect_journal.read_entries() if each.effect.action == "notebook"
    ]


def changed(bench: Bench, change: Callable[[tuple[str, ...], dict[str, Any]], object]) -> None:
    """Have the server change its first version before it answers the push."""
    key = ("kernels", *REF.split("/"), "versions", "1")
    store = bench.kaggle.kernels.store

    def watch(event: TrafficEvent) -> None:
        if event.name.endswith("/SaveKernel") and event.phase == "done" and versions(bench) == [1]:
            with store.lock:
                change(key, dict(store.read(*key) or {}))

    bench.traffic.listeners.append(watch)


# ------------------------------------------------------------------ what is pushed


def test_the_owner_is_put_before_bare_names(tmp_path: Path) -> None:
    """Notebook and kit get the owner that the push knows; what names an owner keeps it."""
    kit = written(make_kit(tmp_path / "kit"), "1", dataset_sources=["plant-kit", "bob/more"])
    found = push_notebook.read_notebook(kit, "alice")
    assert found.ref == REF
    assert found.sources.datasets == ("alice/plant-kit", "bob/more")
    assert json.loads(found.text)["cells"][0]["source"] == "1"


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"enable_internet": True}, "enable_internet"),
        ({"is_private": False}, "is_private"),
        ({"id": "bob/plant-inference"}, "'bob'"),
    ],
)
def test_what_would_be_public_or_online_is_never_pushed(
    tmp_path: Path, metadata: dict[str, Any], what: str
) -> None:
    """Internet, a public notebook, and another owner are refused before anything is sent."""
    kit = written(make_kit(tmp_path / "kit"), "1", **metadata)
    with pytest.raises(UsageError) as caught:
        push_notebook.read_notebook(kit, "alice")
    assert what in caught.value.details[0]


def test_metadata_without_the_internet_key_counts_as_online(tmp_path: Path) -> None:
    """Kaggle's client takes a missing key for true."""
    kit = written(make_kit(tmp_path / "kit"), "1")
    told = {key: value for key, value in METADATA.items() if key != "enable_internet"}
    (kit.folder / "notebook" / "kernel-metadata.json").write_text(json.dumps(told))
    with pytest.raises(UsageError) as caught:
        push_notebook.read_notebook(kit, "alice")
    assert caught.value.code == "notebook-metadata-invalid"


def test_a_kit_without_a_notebook_says_so(tmp_path: Path) -> None:
    """The remedy is to build."""
    with pytest.raises(ProjectError, match="no notebook"):
        push_notebook.read_notebook(make_kit(tmp_path / "kit"), "alice")


def test_the_content_is_what_counts_not_the_bytes() -> None:
    """Joined lines and other layout are the same content; another cell, source or machine is not."""
    base = new("a = 1\nb = 2")
    told = json.loads(base.text)
    told["cells"][0] |= {"source": ["a = 1\n", "b = 2\n"], "execution_count": 7}
    told["metadata"]["papermill"] = {"duration": 1}
    assert hash_content(dataclasses.replace(base, text=json.dumps(told, indent=1))) == hash_content(base)
    others: list[NewNotebook] = [
        new("a = 1"),
        dataclasses.replace(base, sources=NotebookSources(datasets=("a/b",))),
        dataclasses.replace(base, machine_shape="NvidiaTeslaT4"),
        dataclasses.replace(base, image="x@sha256:1"),
    ]
    assert len({hash_content(each) for each in [base, *others]}) == 5


# ------------------------------------------------------------------ the push


def test_a_push_is_private_offline_and_has_its_sources(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """The kit's notebook is pushed with the kit attached, and read back."""
    kit = written(make_kit(tmp_path / "kit"), "import os; print(os.listdir(os.environ['INPUT']))")
    pushed(bench, kit, alice)
    done = push_notebook.push_notebook(push_notebook.read_notebook(kit, "alice"), access(alice, ways(bench)))
    assert (done.notebook.ref, done.version, done.action) == (REF, 1, "new")
    there = alice.get_notebook(REF, 1)
    assert there
    assert (there.private, there.internet, there.sources.datasets) == (True, False, ("alice/plant-kit",))
    assert phases(bench) == [Phase.BEGUN, Phase.ANSWERED, Phase.DONE]


def test_the_same_notebook_is_not_pushed_again(bench: Bench, alice: KaggleClient) -> None:
    """While it is queued, while it runs and when it has ended well, the same content pushes nothing."""
    first = push_notebook.push_notebook(new(), access(alice, ways(bench)))
    again = push_notebook.push_notebook(new(), access(alice, ways(bench)))
    ended(bench, 1)
    last = push_notebook.push_notebook(new(), access(alice, ways(bench)))
    assert (first.version, again.version, last.version) == (1, 1, 1)
    assert (again.action, last.action) == ("nothing", "nothing")
    assert versions(bench) == [1]


def test_another_content_is_a_new_version(bench: Bench, alice: KaggleClient) -> None:
    """A changed cell or source makes a version; going back makes another one."""
    push_notebook.push_notebook(new(), access(alice, ways(bench)))
    ended(bench, 1)
    done = push_notebook.push_notebook(new("print(2)"), access(alice, ways(bench)))
    assert (done.version, done.action) == (2, "version")
    ended(bench, 2)
    assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 3


def test_a_failed_run_is_pushed_again(bench: Bench, alice: KaggleClient) -> None:
    """The same content whose run ended in an error gets another version."""
    push_notebook.push_notebook(new("raise ValueError('no')"), access(alice, ways(bench)))
    ended(bench, 1, "ERROR")
    plan = push_notebook.plan_notebook(new("raise ValueError('no')"), access(alice, ways(bench)))
    assert (plan.action, plan.version_before) == ("version", 1)
    assert "'error'" in plan.reason
    assert push_notebook.push_notebook(new("raise ValueError('no')"), access(alice, ways(bench))).version == 2


def test_a_plan_sends_nothing(bench: Bench, alice: KaggleClient) -> None:
    """A dry run looks, and leaves neither version nor journal."""
    plan = push_notebook.plan_notebook(new(), access(alice, ways(bench)))
    assert (plan.action, plan.version) == ("new", 0)
    assert pushes(bench) == 0
    assert phases(bench) == []


def test_a_script_is_read_back_as_a_script(bench: Bench, alice: KaggleClient) -> None:
    """Its text goes as it is; the same again pushes nothing, and a notebook of that name is another kind."""
    script = dataclasses.replace(new(), kernel_type="script", text="print(1)  # é\n")
    push_notebook.push_notebook(script, access(alice, ways(bench)))
    assert push_notebook.push_notebook(script, access(alice, ways(bench))).action == "nothing"
    there = alice.get_notebook(REF)
    assert there
    assert (there.kernel_type, there.text) == ("script", script.text)
    assert find_mismatches(new(), there)[0].summary == "it is a script, not a notebook"


def test_a_pinned_image_is_read_back(bench: Bench, alice: KaggleClient) -> None:
    """What Kaggle pinned is compared with what was asked for; the same again pushes nothing."""
    pinned = new(image="gcr.io/kaggle-images/python@sha256:abc", image_pinning="original")
    push_notebook.push_notebook(pinned, access(alice, ways(bench)))
    assert push_notebook.push_notebook(pinned, access(alice, ways(bench))).action == "nothing"
    other = dataclasses.replace(pinned, image="gcr.io/kaggle-images/python@sha256:def")
    there = alice.get_notebook(REF)
    assert there
    assert "its image is" in find_mismatches(other, there)[0].summary


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    "fault",
    [Fault(on="SaveKernel", lose_answer=True), Fault(on="SaveKernel", status=503)],
    ids=["answer lost", "refused in trouble"],
)
def test_a_push_without_an_answer_is_never_sent_twice(
    bench: Bench, alice: KaggleClient, fault: Fault
) -> None:
    """What shows counts as pushed; what does not is told, and the same command then succeeds."""
    bench.kaggle.faults.add_fault(fault)
    if fault.lose_answer:
        assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1
    else:
        with pytest.raises(OutsideError) as caught:
            push_notebook.push_notebook(new(), access(alice, ways(bench)))
        assert caught.value.exit_code == 4
        assert phases(bench)[-1] is Phase.LOST
    assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1
    assert versions(bench) == [1]


def test_a_lost_answer_over_an_older_version_is_told_by_its_content(
    bench: Bench, alice: KaggleClient
) -> None:
    """The version before is not taken for the new one."""
    push_notebook.push_notebook(new(), access(alice, ways(bench)))
    ended(bench, 1)
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", lose_answer=True))
    assert push_notebook.push_notebook(new("print(2)"), access(alice, ways(bench))).version == 2
    assert versions(bench) == [1, 2]


def test_a_lost_answer_is_found_where_kaggle_writes_cells_anew(bench: Bench, alice: KaggleClient) -> None:
    """The version right behind the last one is taken for ours: nothing is pushed again."""

    def rewrite(key: tuple[str, ...], _record: dict[str, Any]) -> None:
        text = json.dumps(notebook("# a line of Kaggle's own\n" + WRITES))
        (bench.kaggle.kernels.store.key_folder(*key) / "source.txt").write_text(text)

    changed(bench, rewrite)
    short = ways(bench, dataclasses.replace(EAGER, visibility_timeout=0.3))
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", lose_answer=True))
    assert push_notebook.push_notebook(new(), access(alice, short)).version == 1
    assert push_notebook.push_notebook(new(), access(alice, short)).action == "nothing"
    assert versions(bench) == [1]


def test_a_rejected_source_fails_and_its_version_does_not_count(bench: Bench, alice: KaggleClient) -> None:
    """Each source is named with its remedy; once it is there, the same command pushes another version."""
    kit = make_kit(bench.folder / "kit")
    wanted = new(sources=NotebookSources(datasets=("alice/plant-kit",), competitions=("no-such-comp",)))
    with pytest.raises(OutsideError, match="did not attach 2") as caught:
        push_notebook.push_notebook(wanted, access(alice, ways(bench)))
    assert any("dataset 'alice/plant-kit'" in line and "ready" in line for line in caught.value.details)
    rules = f"check its name, and accept its rules at {bench.server.url}/competitions/no-such-comp/rules"
    assert any(rules in line and "competition.toml" in line for line in caught.value.details)
    assert any('under `copies`: "dataset:alice/plant-kit" = ' in line for line in caught.value.details)
    ended(bench, 1)
    pushed(bench, kit, alice)
    mended = dataclasses.replace(wanted, sources=NotebookSources(datasets=("alice/plant-kit",)))
    assert push_notebook.push_notebook(mended, access(alice, ways(bench))).version == 2


def test_a_version_that_does_not_count_is_replaced_by_the_same_command(
    bench: Bench, alice: KaggleClient
) -> None:
    """Nothing of ours has changed, and still the version that ran without its source is not taken for good."""
    wanted = new(sources=NotebookSources(datasets=("alice/plant-kit",)))
    with pytest.raises(OutsideError, match="did not attach 1"):
        push_notebook.push_notebook(wanted, access(alice, ways(bench)))
    ended(bench, 1)
    pushed(bench, make_kit(bench.folder / "kit"), alice)
    assert push_notebook.push_notebook(wanted, access(alice, ways(bench))).version == 2
    assert push_notebook.push_notebook(wanted, access(alice, ways(bench))).action == "nothing"


def test_a_full_set_of_sessions_is_waited_for(tmp_path: Path) -> None:
    """Kaggle's refusal of a third session passes by itself; the live line says what is waited for."""
    with serving(tmp_path, dataclasses.replace(HASTY, sessions=1)) as bench, client(bench) as alice:
        bench.kaggle.faults.add_fault(Fault(on="RUN", delay=0.6))
        push_notebook.push_notebook(
            new("1", ref="alice/other-notebook", title="Other notebook"), access(alice, ways(bench))
        )
        assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1
        assert versions(bench) == [1]
        assert Phase.REFUSED in phases(bench)


def test_sessions_that_never_come_free_end_the_wait(bench: Bench, alice: KaggleClient) -> None:
    """The wait has an end, with exit 4 and what to do."""
    refusal = {"error": "Maximum batch CPU session count of 2 reached."}
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", answer=refusal, times=0))
    short = dataclasses.replace(EAGER, processing_timeout=0.3)
    with pytest.raises(OutsideError, match="no free session") as caught:
        push_notebook.push_notebook(new(), access(alice, ways(bench, short)))
    assert "session count" in caught.value.details[0]


REFUSALS = [
    (Fault(on="SaveKernel", answer={"error": "Maximum weekly GPU quota of 30.00 hours reached."}), "quota"),
    (Fault(on="SaveKernel", answer={"error": "Notebook not found"}), "cannot find"),
    (Fault(on="SaveKernel", status=409, message="ALREADY_EXISTS"), "title or slug"),
    (Fault(on="SaveKernel", status=403, message="Permission 'kernels.update' was denied"), "denied"),
]


@pytest.mark.parametrize(("fault", "what"), REFUSALS, ids=[what for _, what in REFUSALS])
def test_a_refusal_is_told_and_the_same_command_succeeds_later(
    bench: Bench, alice: KaggleClient, fault: Fault, what: str
) -> None:
    """Quota, a lost notebook and a taken title do not pass by waiting: cause and remedy at once."""
    bench.kaggle.faults.add_fault(fault)
    with pytest.raises(OutsideError, match=what) as caught:
        push_notebook.push_notebook(new(), access(alice, ways(bench)))
    assert caught.value.hint
    assert phases(bench) == [Phase.BEGUN, Phase.REFUSED]
    assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1


def test_a_title_that_leads_elsewhere_is_told_before_anything_is_sent(
    bench: Bench, alice: KaggleClient
) -> None:
    """Kaggle goes by the title of a new notebook, whatever slug is asked for."""
    with pytest.raises(UsageError, match="'another-thing'"):
        push_notebook.push_notebook(new(title="Another thing"), access(alice, ways(bench)))
    assert pushes(bench) == 0


def test_a_notebook_that_kaggle_put_elsewhere_is_told(bench: Bench, alice: KaggleClient) -> None:
    """The reference in the answer is not the one that was asked for."""
    answer = {"ref": "/code/alice/elsewhere", "url": "https://www.kaggle.com/code/alice/elsewhere"}
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", answer={**answer, "versionNumber": 1}))
    with pytest.raises(OutsideError, match="'alice/elsewhere', not as") as caught:
        push_notebook.push_notebook(new(), access(alice, ways(bench)))
    assert "title" in caught.value.hint
    assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"enableInternet": True}, "internet access is on"),
        ({"isPrivate": False}, "it is public"),
        ({"datasetDataSources": []}, "'alice/plant-kit' is not attached"),
        ({"dockerImage": "gcr.io/x@sha256:other"}, "its image is"),
        pytest.param({"machineShape": "NvidiaTeslaT4"}, "accelerator", marks=pytest.mark.slow),
    ],
)
def test_what_kaggle_shows_is_verified(
    bench: Bench, alice: KaggleClient, change: dict[str, Any], what: str
) -> None:
    """Whatever was read back otherwise than it was sent is an error, and the same command pushes anew."""
    kit = make_kit(bench.folder / "kit")
    pushed(bench, kit, alice)
    wanted = new(sources=NotebookSources(datasets=("alice/plant-kit",)), image="gcr.io/x@sha256:abc")
    changed(bench, lambda key, record: bench.kaggle.kernels.store.write_record({**record, **change}, *key))
    with pytest.raises(OutsideError, match=what) as caught:
        push_notebook.push_notebook(
            wanted, access(alice, ways(bench, dataclasses.replace(EAGER, visibility_timeout=0.3)))
        )
    assert caught.value.hint
    assert phases(bench)[-1] is Phase.VOID
    assert push_notebook.push_notebook(wanted, access(alice, ways(bench))).version == 2


def test_an_accelerator_that_kaggle_replaced_is_told(bench: Bench, alice: KaggleClient) -> None:
    """A retired one is taken without a word; only what is read back shows what runs instead."""
    with pytest.raises(OutsideError, match="'NvidiaTeslaT4', not 'NvidiaTeslaP100'"):
        push_notebook.push_notebook(
            new(machine_shape="NvidiaTeslaP100", gpu=True), access(alice, ways(bench))
        )
    there = push_notebook.push_notebook(
        new(machine_shape="NvidiaTeslaT4", gpu=True), access(alice, ways(bench))
    )
    assert (there.version, there.action) == (1, "nothing"), "what Kaggle made of it is what is wanted now"


def test_a_fresh_notebook_may_be_hidden_for_a_while(tmp_path: Path) -> None:
    """403 right after the push is waited out; for longer than the grace, the same command goes on."""
    with serving(tmp_path, dataclasses.replace(HASTY, visible_after=0.8)) as bench, client(bench) as alice:
        short = dataclasses.replace(EAGER, visibility_timeout=0.2)
        with pytest.raises(OutsideError, match="cannot be read back yet"):
            push_notebook.push_notebook(new(), access(alice, ways(bench, short)))
        assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 1
        assert versions(bench) == [1]
        assert phases(bench)[-1] is Phase.DONE


def test_kaggles_own_way_to_write_a_notebook_is_no_failure(bench: Bench, alice: KaggleClient) -> None:
    """Cells that come back otherwise than foreseen are told; what we pushed last still counts as pushed."""

    def rewrite(key: tuple[str, ...], _record: dict[str, Any]) -> None:
        text = json.dumps(notebook("# a line of Kaggle's own\n" + WRITES))
        (bench.kaggle.kernels.store.key_folder(*key) / "source.txt").write_text(text)

    changed(bench, rewrite)
    short = ways(bench, dataclasses.replace(EAGER, visibility_timeout=0.3))
    assert push_notebook.push_notebook(new(), access(alice, short)).version == 1
    assert push_notebook.push_notebook(new(), access(alice, short)).action == "nothing"
    assert push_notebook.push_notebook(new("print(2)"), access(alice, ways(bench))).version == 2
    ended(bench, 2)
    assert push_notebook.push_notebook(new(), access(alice, ways(bench))).version == 3


def test_sources_with_their_kind_in_front_are_the_same_sources(tmp_path: Path) -> None:
    """Kaggle tells 'dataset/owner/slug' for what was pushed as 'owner/slug': nothing is missing or too many."""
    settings = dataclasses.replace(HASTY, kinds_in_sources=True)
    with serving(tmp_path, settings) as bench, client(bench) as alice:
        bench.kaggle.catalog.add_competition(competition(tmp_path))
        pushed(bench, make_kit(tmp_path / "kit"), alice)
        notebook_runs.push_and_follow(
            new(ref="alice/made-there", title="Made there"), access(alice, ways(bench))
        )
        wanted = NotebookSources(
            datasets=("alice/plant-kit",), competitions=("small-digits",), notebooks=("alice/made-there",)
        )
        assert push_notebook.push_notebook(new(sources=wanted), access(alice, ways(bench))).version == 1
        there = alice.get_notebook(REF)
        assert there
        assert there.sources == wanted
        assert (
            push_notebook.push_notebook(new(sources=wanted), access(alice, ways(bench))).action == "nothing"
        )


def test_a_source_too_many_is_another_content(bench: Bench, alice: KaggleClient) -> None:
    """A source that is no longer needed makes a new version."""
    pushed(bench, make_kit(bench.folder / "kit"), alice)
    push_notebook.push_notebook(
        new(WRITES, sources=NotebookSources(datasets=("alice/plant-kit",))), access(alice, ways(bench))
    )
    there = alice.get_notebook(REF)
    assert there
    assert "no longer needed" in find_all_differences(new(WRITES), there)[0].summary
    assert push_notebook.push_notebook(new(WRITES), access(alice, ways(bench))).version == 2
