"""How a scoring run of an inference server failed, from what its driver left."""

import json
from pathlib import Path
from typing import Any

import pytest

from offline_kit.rehearsal import gateway
from offline_kit.rehearsal.gateway_driver import LOG, OUTCOME
from tests.support.verdicts import ran


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({"first": "notebook", "notebook": 0, "gateway": 1}, "server-ended-early"),
        ({"first": "gateway", "notebook": 1, "gateway": 1}, "gateway-failed"),
        ({"first": "notebook", "notebook": 1, "gateway": 1}, ""),  # the cell that failed is the problem
        ({"first": "gateway", "notebook": 0, "gateway": 0}, ""),
    ],
)
def test_a_server_that_never_serves_is_the_problem(
    tmp_path: Path, outcome: dict[str, Any], code: str
) -> None:
    """A notebook that ends without serving, and a gateway that waited in vain, are told apart."""
    run = ran(tmp_path)
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / OUTCOME).write_text(json.dumps(outcome))
    (folder / LOG).write_text("SERVER_NEVER_STARTED\n")
    problem = gateway.find_gateway_problem(run)
    assert (problem.code if problem else "") == code
