"""The limits of a rehearsal: those of the notebook's machine on Kaggle, and what of them this machine cannot give."""

from collections.abc import Iterator
from pathlib import Path

from offline_kit.core import files, processes
from offline_kit.project.accelerators import Machine, find_machine
from offline_kit.rehearsal import kit_facts
from offline_kit.rehearsal.request import RehearsalRequest

_MEMORY_INFO = Path("/proc/meminfo")  # https://man7.org/linux/man-pages/man5/proc_meminfo.5.html


def choose_machine(request: RehearsalRequest) -> Machine:
    """Return the machine that a request names, else that of the notebook's metadata."""
    return request.machine or find_machine(kit_facts.read_notebook(request.kit)[1].get("machine_shape") or "")


def describe_shortfalls(machine: Machine) -> Iterator[str]:
    """Yield what differs from a machine of Kaggle's although it is limited alike; only Linux has all limits."""
    if machine.cores is None or machine.memory is None:
        yield "cores and memory of this accelerator's machine are not published: the run had this machine's"
        return
    cores, memory = processes.count_cores(), _read_free_memory()
    if cores is None:
        yield f"this system cannot limit cores: the run had all of them, Kaggle's machine has {machine.cores}"
    elif cores < machine.cores:
        yield f"the run had {cores} cores, Kaggle's machine has {machine.cores}"
    if memory is None:
        yield "this system does not show the memory of processes: the run had no limit of memory"
    elif memory < machine.memory:
        free, limit = files.format_size(memory), files.format_size(machine.memory)
        yield f"{free} of memory are free here, a notebook on Kaggle may use {limit}"


def _read_free_memory() -> int | None:
    try:
        lines = _MEMORY_INFO.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
