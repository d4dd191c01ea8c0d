"""What a training tells of its epochs: a table, curves, and TensorBoard's events."""

import logging
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
    """Gives a function that writes a history row as TensorBoard's events, if tensorboardX is there."""

    def __init__(self, folder: Path):
        self.folder, self.writer = folder, None

    def __enter__(self):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            log.warning("tensorboardX is not installed: no TensorBoard events are written")
            return lambda row: None
        self.writer = SummaryWriter(str(self.folder))
        return self._write

    def _write(self, row: dict) -> None:
        for name, value in row.items():
            if name not in ("step", "seconds"):
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()
