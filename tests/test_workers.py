"""Work in processes: in order, and nothing goes on after an error."""

import os
import time
from pathlib import Path

import pytest

from hipqct.errors import HipqctError, ModelError
from hipqct.steps.workers import run_in_processes


def touch(folder: Path, i: int) -> int:
    if i == 0:
        raise ModelError("the first fails")
    time.sleep(0.05)
    (folder / str(i)).touch()
    return i


def die(folder: Path, i: int) -> None:
    os._exit(9)  # as the kernel ends what takes too much memory


def test_results_come_in_order_and_are_counted(tmp_path):
    counts = []
    assert run_in_processes(2, touch, [(tmp_path, i) for i in range(1, 6)], counts.append) == [1, 2, 3, 4, 5]
    assert counts == [1, 2, 3, 4, 5]


def test_an_error_drops_what_waits(tmp_path):
    with pytest.raises(ModelError, match="the first fails"):
        run_in_processes(1, touch, [(tmp_path, i) for i in range(40)])
    assert len(list(tmp_path.iterdir())) < 10  # some were handed to the process already


def test_ctrl_c_drops_what_waits(tmp_path):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(1, touch, [(tmp_path, i) for i in range(1, 40)], stop)
    assert len(list(tmp_path.iterdir())) < 10


@pytest.mark.parametrize("calls", [4, 5000])  # of so many, some are handed in after the death
def test_a_killed_worker_is_one_sentence(tmp_path, calls):
    with pytest.raises(HipqctError, match="use fewer --processes"):
        run_in_processes(2, die, [(tmp_path, i) for i in range(calls)])
