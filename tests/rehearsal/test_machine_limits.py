"""The limits of a rehearsal: Kaggle's machine, and what of it this machine lacks."""

from dataclasses import replace

import pytest

from offline_kit.core import processes
from offline_kit.project.accelerators import find_machine
from offline_kit.rehearsal.machine_limits import describe_shortfalls

CPU = find_machine("")


@pytest.mark.skipif(processes.count_cores() is None, reason="only Linux limits cores and memory")
def test_what_this_machine_lacks_is_told() -> None:
    """Fewer cores and less free memory than Kaggle's machine has are a line each; enough of both is none."""
    assert not [*describe_shortfalls(replace(CPU, cores=1, memory=1))]
    cores, memory = describe_shortfalls(replace(CPU, cores=1_000_000, memory=2**60))
    assert "1000000" in cores
    assert "memory are free here" in memory


def test_a_machine_that_is_not_published_limits_nothing_and_says_so() -> None:
    """Where Kaggle does not tell what a machine has, the run has all of this one."""
    (line,) = describe_shortfalls(find_machine("NvidiaH100"))
    assert "not published" in line
