"""The cohort's report: one self-contained HTML page."""

import base64
import io
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image as Picture

from hipqct import __version__
from hipqct.cohort import TEXT_COLUMNS, count_synthetic, is_synthetic
from hipqct.io.tables import read_table

MAX_PICTURES = 60  # keeps the page of a large cohort within a few megabytes
PICTURE_WIDTH = 900
DIGITS = 4
TABLES = {
    "segmentation": ("Segmentation", "Mean and SD (ddof 1) over the hips with a reference mask."),
    "volume_agreement": (
        "Volume agreement",
        "Predicted against reference volume. R² = 1 − SSres/SStot; SD of the reference volumes with ddof 0; "
        "relative error = 100 (predicted − reference) / reference; limits of agreement are bias ± 1.96 SD.",
    ),
    "subjects": ("Hips", "One row per hip. Volumes are of the femur within the scanned length."),
}


def render_report(cohort_dir: Path, results_dir: Path) -> str:
    """The page as text: tables and figures of ``cohort_dir`` and the QC pictures below ``results_dir``."""
    tables = {name: read_table(cohort_dir / f"{name}.tsv", TEXT_COLUMNS) for name in (*TABLES, "failures")}
    subjects, failures = tables["subjects"], tables["failures"]
    pictures = _pictures(subjects, results_dir)
    environment = Environment(loader=PackageLoader("hipqct"), autoescape=select_autoescape(default=True))
    return environment.get_template("report.html.j2").render(
        version=__version__,
        counts={s: int((subjects["status"] == s).sum()) for s in ("done", "failed", "excluded")},
        synthetic=is_synthetic(subjects),
        failures=[list(failures.columns), *failures.fillna("").values.tolist()] if len(failures) else [],
        tables=[_table(tables[name], *TABLES[name]) for name in TABLES],
        figures=[_inline_svg(path) for path in sorted((cohort_dir / "figures").glob("*.svg"))],
        pictures=[_embed(path, caption) for path, caption in pictures[:MAX_PICTURES]],
        pictures_left_out=max(0, len(pictures) - MAX_PICTURES),
    )


def _table(table: pd.DataFrame, title: str, note: str) -> dict:
    """A table for reading: columns without any value left out, few digits."""

    def cell(value):
        if pd.isna(value):
            return ""
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 or value.is_integer() else f"{value:.{DIGITS}g}"
        return str(value)

    filled = table.dropna(axis="columns", how="all")
    rows = [[cell(value) for value in row] for row in filled.itertuples(index=False)]
    return {"title": title, "note": note, "header": [c.replace("_", " ") for c in filled], "rows": rows}


def _inline_svg(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _pictures(subjects: pd.DataFrame, results_dir: Path) -> list[tuple[Path, str]]:
    """QC pictures of the hips that are done with their captions; those with more flags first."""
    found = []
    for row in subjects[subjects["status"] == "done"].itertuples(index=False):
        flags = [] if pd.isna(row.flags) else row.flags.split(",")
        caption = f"{row.subject}, {row.side}" + (f": {', '.join(flags)}" if flags else "")
        path = results_dir / "subjects" / row.subject / row.side / "qc.png"
        if path.exists():
            found.append((-len(flags), path, caption))
    return [(path, caption) for _, path, caption in sorted(found)]


def _embed(path: Path, caption: str) -> dict:
    with Picture.open(path) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
    return {"data": base64.b64encode(buffer.getvalue()).decode(), "caption": caption}
