"""What a training tells of its epochs: a table, curves, and TensorBoard's events."""

import logging
import time
from pathlib import Path

from hipqct.io.files import replace_when_done

log = logging.getLogger(__name__)


def write_history(history: list[dict], model_dir: Path, with_curves: bool = False) -> None:
    """Write history.tsv, and curves.png where pandas and matplotlib are installed."""
    lines = ["\t".join(history[0])]
    lines += ["\t".join(f"{value:.8g}" for value in row.values()) for row in history]
    with replace_when_done(model_dir / "history.tsv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not with_curves:
        return
    try:
        import pandas as pd

        from hipqct.figures import draw_curves
    except ImportError as error:
        log.warning("No curves are drawn: %s", error)
        return
    with replace_when_done(model_dir / "curves.png") as temporary:
        draw_curves(pd.DataFrame(history)).savefig(temporary, dpi=120)


class EventWriter:
    """Gives a function that writes a history row as TensorBoard's events, if tensorboardX is there.

    The folder's events become one file: of ``history``, the rows so far, whatever an earlier call had time to
    write, and of the rows to come. A row is on the disk when the function returns.

    Args:
        ended_s: when the last of the rows so far was done, as `time.time` counts.
    """

    def __init__(self, folder: Path, history: list[dict], ended_s: float):
        self.folder, self.history, self.ended_s, self.writer = folder, history, ended_s, None

    def __enter__(self):
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        try:  # not its SummaryWriter, whose flush leaves rows in a queue
            from tensorboardX.event_file_writer import EventsWriter
        except ImportError:
            log.warning("tensorboardX is not installed: no TensorBoard events are written")
            return lambda row: None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(str(self.folder / "events"))
        at_s = self.ended_s - sum(row["seconds"] for row in self.history)
        for row in self.history:
            at_s += row["seconds"]
            self._add(row, at_s)
        self.writer.flush()
        return self._write

    def _write(self, row: dict) -> None:
        self._add(row, time.time())
        self.writer.flush()

    def _add(self, row: dict, at_s: float) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in row.items():
            if name not in ("step", "seconds"):
                event = Event(wall_time=at_s, step=int(row["step"]), summary=scalar(name, value))
                self.writer.write_event(event)

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()
