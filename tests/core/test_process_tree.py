"""The memory curve of a run."""

import pytest

from offline_kit.core.sandboxes.process_tree import MemoryCurve, MemorySample

LIMIT = 512


@pytest.mark.parametrize("count", [1, LIMIT, LIMIT + 1, 30_000])
def test_a_curve_keeps_its_peak_and_its_whole_time_in_few_samples(count: int) -> None:
    """A run of any length has at most 512 samples, evenly over its time, the highest among them."""
    curve = MemoryCurve()
    peak = MemorySample(count // 2 / 10, 10**9)
    for number in range(count):
        curve.add_sample(peak if number == count // 2 else MemorySample(number / 10, number))
    times = [sample.seconds for sample in curve.samples]
    assert peak in curve.samples
    assert min(count, LIMIT // 4) <= len(times) <= LIMIT
    assert times == sorted(times)
    early, late = (sum(low <= 20 * time / count < low + 1 for time in times) for low in (0, 1))
    assert count < LIMIT or 1 / 2 <= early / late <= 2
