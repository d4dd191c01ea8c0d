"""TensorBoard's events: all rows once, on the disk as soon as they are written."""

import pytest
from event_files import read_events

from hipqct.steps.history import EventWriter

ROWS = [{"step": 10 * i, "epoch": i, "loss": 1 / i, "seconds": 5.0} for i in range(1, 6)]


def losses(folder) -> dict[int, float]:
    """The loss by step, from the one event file there; no step comes twice."""
    (path,) = folder.iterdir()
    found = [(step, value) for step, _, tag, value in read_events(path) if tag == "loss"]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_a_row_is_on_the_disk_at_once_and_a_killed_trainings_rows_come_back(tmp_path):
    killed = EventWriter(tmp_path, [], 0.0)
    write = killed.__enter__()
    for done in (1, 2):
        write(ROWS[done - 1])
        assert losses(tmp_path) == pytest.approx({row["step"]: row["loss"] for row in ROWS[:done]})
    # Three rows are in the checkpoint, and the third was not written; the first writer is never closed.
    with EventWriter(tmp_path, ROWS[:3], 1000.0) as write:
        assert losses(tmp_path) == pytest.approx({row["step"]: row["loss"] for row in ROWS[:3]})
        write(ROWS[3])
    assert losses(tmp_path) == pytest.approx({row["step"]: row["loss"] for row in ROWS[:4]})


def test_rows_of_before_keep_their_times_and_are_of_what_has_a_curve(tmp_path):
    with EventWriter(tmp_path / "events", ROWS, 1000.0):
        pass
    (path,) = (tmp_path / "events").iterdir()
    found = read_events(path)
    assert [time_s for _, time_s, tag, _ in found if tag == "loss"] == [980, 985, 990, 995, 1000]
    assert {tag for _, _, tag, _ in found} == {"epoch", "loss"}


def test_events_of_a_training_that_starts_anew_go_and_other_files_stay(tmp_path):
    (tmp_path / "events.out.tfevents.1600000000.elsewhere").write_bytes(b"old")
    (tmp_path / "notes.txt").touch()
    with EventWriter(tmp_path, [], 0.0) as write:
        write(ROWS[0])
    (tmp_path / "notes.txt").unlink()
    assert losses(tmp_path) == {10: 1}
