"""What a benchmark prints, and when it fails."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.machine import Machine
from benchmarks.node_memory import pss_bytes
from benchmarks.noop import N_REPORTS, values
from benchmarks.result import Bar, Figure, Result, conclude

MACHINE = Machine("a CPU", 2, 8 * 2**30, 0.5, {"python": "3.11"})


def result_of(*seconds: float, most: float) -> Result:
    figure = Figure("a trial", "s", seconds)
    return Result("Overhead", MACHINE, (figure,), (Bar(figure, "<=", most),))


def options(check: bool, file: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(check=check, json=file)


@pytest.mark.parametrize(("most", "check", "code"), [(0.2, True, 0), (0.1, True, 1), (0.1, False, 0)])
def test_a_missed_bar_fails_the_program_only_where_it_is_asked_to_check(most: float, check: bool, code: int) -> None:
    assert conclude(result_of(0.1, 0.15, 9.0, most=most), options(check)) == code


def test_a_slope_below_nothing_is_noise_and_meets_no_bar() -> None:
    assert conclude(result_of(-3.0, most=0.2), options(check=True)) == 1


def test_the_table_has_median_spread_bars_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    conclude(result_of(0.1234, 0.1, 2.0, most=0.1), options(check=False))
    text = capsys.readouterr().out
    for part in ("0.123", "0.100 to 2.00", "MISSED: a trial 0.123 <= 0.1", "2 cores, a CPU, 8 GiB", "python 3.11"):
        assert part in text


def test_the_json_file_has_every_repeat(tmp_path: Path) -> None:
    conclude(result_of(0.1, 0.3, most=0.2), options(check=False, file=tmp_path / "result.json"))
    fields = json.loads((tmp_path / "result.json").read_text())
    assert fields["figures"][0]["values"] == [0.1, 0.3]
    assert fields["bars"] == [{"figure": "a trial", "direction": "<=", "bound": 0.2, "is_met": True}]


def test_no_op_trials_agree_until_their_last_report_so_that_asha_stops_none() -> None:
    low, high = list(values(0.0)), list(values(1.0))
    assert [epoch for epoch, _ in low] == list(range(1, N_REPORTS + 1))
    assert low[:-1] == high[:-1]
    assert low[-1] < high[-1]


def test_a_process_that_has_ended_takes_no_memory() -> None:
    assert pss_bytes(2**22 + 1) == 0  # above the kernel's largest process id
