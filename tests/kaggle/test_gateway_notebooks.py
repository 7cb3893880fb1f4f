"""Notebooks through the gateway: the real client before the local Kaggle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import Exit, OfflineKitError, ProjectError
from offline_kit.kaggle.client.api_types import (
    NewNotebook,
    NoResponseError,
    NotebookSources,
    RefusedError,
    RunLog,
    RunStatus,
)
from offline_kit.kaggle.client.client import KaggleClient, build_save_request, normalise_notebook
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.local_kaggle.faults import Fault
from tests.support.local_kaggle import HASTY, KERNEL, Bench, notebook, serving
from tests.support.pushing import client
from tests.support.warm_python import client_python

WRITES = "open('submission.csv', 'w').write('id,label\\n1,0\\n'); print('hello')"


def new(*cells: str, **wishes: Any) -> NewNotebook:
    """Return a notebook to push."""
    text = json.dumps(notebook(*(cells or (WRITES,))))
    return NewNotebook(**{"ref": KERNEL, "title": "My inference", "text": text, **wishes})


def ran(bench: Bench, alice: KaggleClient, *cells: str, state: str = "COMPLETE") -> int:
    """Push a notebook and wait until its run has ended; return the version."""
    version = alice.save_notebook(new(*cells)).version
    bench.finished(version, state)
    return version


def asked(bench: Bench, method: str) -> int:
    """Return how often a method was called."""
    return len(bench.traffic.ended_requests(f"/{method}"))


def test_a_notebook_is_pushed_privately_offline_and_read_back(bench: Bench, alice: KaggleClient) -> None:
    """What was pushed is what Kaggle has: text, sources, flags; strangers see nothing."""
    assert alice.get_notebook(KERNEL) is None
    wishes = {"gpu": True, "machine_shape": "NvidiaTeslaT4", "image": "gcr.io/k/python@sha256:1"}
    sent = new(
        **wishes,
        image_pinning="original",
        sources=NotebookSources(datasets=("alice/kit-data",)),
    )
    saved = alice.save_notebook(sent)
    assert (saved.ref, saved.version) == (KERNEL, 1)
    assert saved.url.endswith(f"/code/{KERNEL}")
    bench.finished(1)
    found = alice.get_notebook(KERNEL, 1)
    assert found is not None
    assert (found.ref, found.title, found.newest_version, found.text) == (
        KERNEL,
        "My inference",
        1,
        sent.text,
    )
    assert (found.private, found.internet, found.gpu) == (True, False, True)
    assert (found.machine_shape, found.image, found.sources) == (sent.machine_shape, sent.image, sent.sources)
    assert found.url == saved.url
    with client(bench, "bob") as bob:
        assert bob.get_notebook(KERNEL) is None
        assert bob.get_notebook_run(KERNEL, 1) is None


@pytest.mark.parametrize(
    ("field", "said", "source"),
    [
        ("datasets", "datasets/alice/kit", "alice/kit"),
        ("datasets", "/datasets/alice/kit", "alice/kit"),
        ("datasets", "datasets/kit", "datasets/kit"),
        ("datasets", "alice/kit/3", "alice/kit/3"),
        ("notebooks", "https://www.kaggle.com/code/alice/made", "alice/made"),
        ("competitions", "c/small-digits", "small-digits"),
        ("competitions", "competitions", "competitions"),
        ("models", "models/alice/m/pyTorch/base/2", "alice/m/pyTorch/base/2"),
        ("models", "models/m/pyTorch/base/2", "models/m/pyTorch/base/2"),
    ],
)
def test_a_source_is_told_as_it_is_pushed(
    bench: Bench, alice: KaggleClient, field: str, said: str, source: str
) -> None:
    """The name of its kind in front is dropped, and an owner of that name is not."""
    name = {"datasets": "dataset", "notebooks": "kernel", "competitions": "competition", "models": "model"}[
        field
    ]
    told = {"metadata": {"ref": KERNEL, f"{name}DataSources": [said]}, "blob": {"source": "{}"}}
    bench.kaggle.faults.add_fault(Fault(on="GetKernel", answer=told))
    found = alice.get_notebook(KERNEL)
    assert found
    assert getattr(found.sources, field) == (source,)


def test_internet_is_switched_off_in_words() -> None:
    """The flag is always sent: left out, Kaggle's client would switch the internet on."""
    plain = build_save_request(new())
    assert plain["enableInternet"] is False
    assert set(plain) == {
        *("slug", "newTitle", "text", "language", "kernelType"),
        *("isPrivate", "enableGpu", "enableTpu", "enableInternet"),
    }


def test_outputs_are_emptied_and_sources_joined() -> None:
    """A notebook goes as the plain client sends it, and one that needs nothing goes letter by letter."""
    raw = notebook("a")
    raw["cells"][0] |= {"source": ["a\n", "b"], "outputs": [{"output_type": "stream"}]}
    sent = normalise_notebook(json.dumps(raw))
    assert json.loads(sent)["cells"][0]["source"] == "a\nb"
    assert json.loads(sent)["cells"][0]["outputs"] == []
    assert normalise_notebook(sent) == sent
    strange = json.dumps(notebook("é"), ensure_ascii=False, indent=3)
    assert normalise_notebook(strange) == strange


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [3]}', "print()"])
def test_what_is_no_notebook_is_not_sent(bench: Bench, alice: KaggleClient, text: str) -> None:
    """The mistake is told before anything leaves."""
    with pytest.raises(ProjectError, match="not a notebook"):
        alice.save_notebook(new(text=text))
    assert asked(bench, "SaveKernel") == 0


def test_sources_that_kaggle_does_not_attach_are_named(alice: KaggleClient) -> None:
    """The version runs without them, and nobody would notice."""
    nowhere = NotebookSources(
        datasets=("alice/nowhere",),
        competitions=("no-such",),
        notebooks=("alice/no-such",),
        models=("alice/m/pyTorch/base/1",),
    )
    saved = alice.save_notebook(new(sources=nowhere))
    assert saved.version == 1
    assert saved.rejected_sources == (
        ("dataset", "alice/nowhere"),
        ("competition", "no-such"),
        ("notebook", "alice/no-such"),
        ("model", "alice/m/pyTorch/base/1"),
    )


def test_the_title_decides_the_slug(alice: KaggleClient) -> None:
    """The ref that Kaggle made of the title comes back."""
    assert alice.save_notebook(new(title="Another name")).ref == "alice/another-name"


def test_a_refusal_in_a_friendly_answer_is_an_error(bench: Bench, alice: KaggleClient) -> None:
    """What the plain client ends with exit code 0 is an error with Kaggle's words."""
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", answer={"error": "Notebook not found"}))
    with pytest.raises(RefusedError, match="Kaggle says: Notebook not found") as caught:
        alice.save_notebook(new())
    assert (caught.value.status, caught.value.exit_code) == (200, Exit.OUTSIDE)
    assert asked(bench, "SaveKernel") == 1


def test_an_answer_without_a_version_is_no_success(bench: Bench, alice: KaggleClient) -> None:
    """Whether there is a version is unknown then."""
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", answer={"ref": f"/code/{KERNEL}", "error": ""}))
    with pytest.raises(NoResponseError, match="did not return the version"):
        alice.save_notebook(new())


@pytest.mark.parametrize(
    "answer",
    [
        {"ref": f"/code/{KERNEL}", "versionNumber": 4},
        {"ref": KERNEL, "versionNumber": "4"},
        {"url": f"https://www.kaggle.com/code/{KERNEL}?scriptVersionId=9", "versionNumber": 4},
        {"versionNumber": 4},
    ],
)
def test_every_form_of_a_ref_is_understood(bench: Bench, alice: KaggleClient, answer: dict[str, Any]) -> None:
    """Path, plain, address or none at all."""
    bench.kaggle.faults.add_fault(Fault(on="SaveKernel", answer=answer))
    saved = alice.save_notebook(new())
    assert (saved.ref, saved.version) == (KERNEL, 4)
    assert f"/code/{KERNEL}" in saved.url


@pytest.mark.parametrize("shape", ["nested", "flat"])
def test_a_taken_slug_is_told_in_kaggles_words(tmp_path: Path, shape: str) -> None:
    """Both shapes of the service's errors are read."""
    with serving(tmp_path, replace(HASTY, error_shape=shape)) as bench, client(bench) as alice:
        bench.kaggle.faults.add_fault(Fault(on="SaveKernel", status=409, message="The slug is taken"))
        with pytest.raises(RefusedError, match="The slug is taken") as caught:
            alice.save_notebook(new())
        assert caught.value.status == 409
        assert "slug or title" in caught.value.hint


def test_the_run_of_each_version_has_its_own_state(bench: Bench, alice: KaggleClient) -> None:
    """A later push does not hide an earlier run."""
    assert alice.get_notebook_run(KERNEL, 1) is None
    ran(bench, alice)
    ran(bench, alice, "raise ValueError('no')", state="ERROR")
    assert alice.get_notebook_run(KERNEL, 1) == RunStatus(state="complete")
    failed = alice.get_notebook_run(KERNEL, 2)
    assert failed is not None
    assert (failed.state, failed.failure_message) == ("error", "ValueError: no")
    assert alice.get_notebook_run(KERNEL, 3) is None


@pytest.mark.parametrize(
    ("answer", "state"),
    [({}, "queued"), ({"status": "CANCEL_ACKNOWLEDGED"}, "cancelacknowledged"), ({"status": "running"}, "running")],
)  # fmt: skip
def test_states_are_told_in_one_form(
    bench: Bench, alice: KaggleClient, answer: dict[str, str], state: str
) -> None:
    """A state that is left out is the first of them."""
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", answer=answer))
    assert alice.get_notebook_run(KERNEL, 1) == RunStatus(state=state)


def test_a_run_that_does_not_show_yet_is_not_taken_for_the_one_before(
    bench: Bench, alice: KaggleClient
) -> None:
    """Labels are understood, this run has none: the plain status would be that of the version before."""
    ran(bench, alice)
    ran(bench, alice)
    bench.kaggle.faults.add_fault(Fault(on="GetKernelSessionStatus", status=404))
    assert alice.get_notebook_run(KERNEL, 2) is None


def test_the_log_comes_in_pieces(bench: Bench, alice: KaggleClient) -> None:
    """Seconds, stream and words of what the run said."""
    ran(bench, alice)
    log = alice.get_run_log(KERNEL, 1)
    assert log.text == "hello\n"
    assert 0 <= log.seconds < 60
    assert alice.get_run_log(KERNEL, 7) == RunLog()
    assert alice.get_run_log("alice/nowhere", 1) == RunLog()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("", ""),
        ("[]", ""),
        (json.dumps([{"stream_name": "stderr", "time": 1.5, "data": "a {b}\n"}, {"data": "c"}]), "a {b}\nc"),
        ('[{"stream_name":"stdout","time":1,"data":"a"}\n,{"stream_name":"stdout","ti', "a"),
        ("plain \x1b[32mwords\n{'and': 1}", "plain words\n{'and': 1}"),
        ('[NbConvertApp] {"x": 1}', '[NbConvertApp] {"x": 1}'),
        ("[1, 2]", "[1, 2]"),
    ],
)  # fmt: skip
def test_logs_of_any_form_are_shown(bench: Bench, alice: KaggleClient, said: str, text: str) -> None:
    """A log that is empty, cut or plain text is no crash, and nothing readable of it is lost."""
    bench.kaggle.faults.add_fault(Fault(on="ListKernelSessionOutput", answer={"files": [], "log": said}))
    assert alice.get_run_log(KERNEL, 1).text == text


DEEP = ("0.txt", "1.txt", "in/0.txt", "in/1.txt")


def test_outputs_are_listed_to_their_end_and_fetched_by_version(
    bench: Bench, alice: KaggleClient, tmp_path: Path
) -> None:
    """All pages, files in folders, and each version its own bytes."""
    ran(bench, alice, "import os; os.mkdir('in')", *(f"open('{n}', 'w').write('1')" for n in DEEP))
    ran(bench, alice, "open('0.txt', 'w').write('22')")
    where = KaggleEndpoint(local=bench.server.url, username="alice", key="key-of-alice")
    with KaggleClient(where, python=client_python(), page=2) as paged:
        assert paged.list_run_outputs(KERNEL, 1) == DEEP
    assert alice.list_run_outputs(KERNEL, 2) == ("0.txt",)
    assert alice.download_run_output(KERNEL, 1, "0.txt", tmp_path / "one") == 1
    assert alice.download_run_output(KERNEL, 2, "0.txt", tmp_path / "two") == 2
    assert (tmp_path / "two").read_text() == "22"
    with pytest.raises(RefusedError, match="not found") as caught:
        alice.download_run_output(KERNEL, 2, "1.txt", tmp_path / "three")
    assert caught.value.status == 404


@pytest.mark.parametrize("status", [403, 404])
def test_an_expired_link_is_asked_for_again(
    bench: Bench, alice: KaggleClient, tmp_path: Path, status: int
) -> None:
    """The plain client would keep the error's page as submission.csv."""
    ran(bench, alice)
    bench.kaggle.faults.add_fault(Fault(on="GET", status=status, message="ExpiredToken"))
    assert alice.download_run_output(KERNEL, 1, "submission.csv", tmp_path / "s.csv") == 13
    assert (tmp_path / "s.csv").read_text() == "id,label\n1,0\n"
    assert asked(bench, "DownloadKernelOutput") == 2


def test_links_that_never_work_are_told_as_such(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Trying ends, with the reason."""
    ran(bench, alice)
    bench.kaggle.faults.add_fault(Fault(on="GET", status=403, times=0))
    with pytest.raises(OfflineKitError, match="download link") as caught:
        alice.download_run_output(KERNEL, 1, "submission.csv", tmp_path / "s.csv")
    assert "403" in str(caught.value.details)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("content", ['{"code": 500}', "3.5", "no json", '{"code": 404, "message": "mine"}'])
def test_a_json_file_is_a_file(bench: Bench, alice: KaggleClient, tmp_path: Path, content: str) -> None:
    """The plain client would take it for an error of the service, or stumble over it."""
    ran(bench, alice, f"open('numbers.json', 'w').write({content!r})")
    alice.download_run_output(KERNEL, 1, "numbers.json", tmp_path / "n")
    assert (tmp_path / "n").read_text() == content
