"""The cohort's report: one self-contained HTML page."""

import base64
import io
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image as Picture

from hipqct import __version__
from hipqct.cohort import SCORES, TEXT_COLUMNS, count_synthetic, is_synthetic
from hipqct.figures import caption
from hipqct.io.tables import read_table
from hipqct.provenance import settings_used, software_versions

MAX_PICTURES = 60  # keeps the page of a large cohort within a few megabytes
PICTURE_WIDTH = 1200
# Units by the ends of columns' names, and decimals that are worth reading; 4 where there is no unit.
UNITS = {
    "_mg_cm3": ("mg/cm³", 1),
    "_mm3": ("mm³", 0),
    "_mm2": ("mm²", 0),
    "_mm": ("mm", 2),
    "_mg": ("mg", 0),
    "_percent": ("%", 2),
    "age": ("years", 0),
}
NO_UNIT = ("", 4)
HEADINGS = {
    "dice": "Dice",
    "r2": "R²",
    "r2_p": "p (correlation)",
    "exclude": "excluded for",
    "hausdorff95_mm": "HD95",
    "surface_distance_mm": "ASD",
    "mae_mm3": "MAE",
    "rmse_mm3": "RMSE",
    "re_min_percent": "RE min",
    "re_max_percent": "RE max",
    "loa_low_mm3": "LoA low",
    "loa_high_mm3": "LoA high",
}
HIP_COLUMNS = (
    *("subject", "side", "sex", "age", "group", "status", "exclude", "volume_mm3", "integral_density_mg_cm3"),
    *("basis", "bone_mineral_content_mg", "dice", "hausdorff95_mm", "relative_error_percent", "flags"),
)
SMALLEST_P = 0.001
TABLES = {
    "segmentation": (
        "Segmentation",
        "Mean ± SD (ddof 1) over the hips that are done and have a reference mask. HD95: 95th percentile of "
        "the Hausdorff distance; ASD: average surface distance.",
    ),
    "volume_agreement": (
        "Volume agreement",
        "Predicted against reference volume. Volume: mean and SD (ddof 0) of the references; MAE and RMSE: "
        "mean absolute and root mean square error; R² = 1 − SSres/SStot; RE: relative error, 100 "
        "(predicted − reference) / reference; LoA: limits of agreement, bias ± 1.96 SD. Every hip counts by "
        "itself: where both hips of a subject are in, p-values and limits look surer than they are.",
    ),
    "subjects": (
        "Hips",
        "One row per hip; subjects.tsv has more columns. Volumes are of the femur in the scanned length.",
    ),
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
        synthetic=count_synthetic(subjects),
        all_synthetic=is_synthetic(subjects),
        failures=[list(failures.columns), *failures.fillna("").values.tolist()] if len(failures) else [],
        tables=[_table(_shown(name, tables[name]), *TABLES[name]) for name in TABLES],
        figures=[_embed_svg(path, subjects) for path in sorted((cohort_dir / "figures").glob("*.svg"))],
        pictures=[_embed(path, caption) for path, caption in pictures[:MAX_PICTURES]],
        pictures_left_out=max(0, len(pictures) - MAX_PICTURES),
        settings=settings_used(subjects, results_dir),
        software=software_versions(),
    )


def _table(table: pd.DataFrame, title: str, note: str) -> dict:
    """A table for reading: columns without any value left out, few digits, words apart."""
    filled = table.dropna(axis="columns", how="all")
    columns = {column: [_cell(column, value) for value in filled[column]] for column in filled}
    return {
        "title": title,
        "note": note,
        "header": [_heading(column) for column in columns],
        "text": [column in TEXT_COLUMNS or column == "cohort" for column in columns],
        "rows": list(zip(*columns.values(), strict=True)),
    }


def _shown(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a table that the page shows; of scores, mean and SD in one."""
    if name == "subjects":
        return table[list(HIP_COLUMNS)]
    if name == "segmentation":
        return pd.concat([table[["cohort", "n"]], *(_mean_and_sd(table, score) for score in SCORES)], axis=1)
    return table


def _mean_and_sd(table: pd.DataFrame, score: str) -> pd.Series:
    pairs = zip(table[f"{score}_mean"], table[f"{score}_sd"], strict=True)
    cells = (" ± ".join(filter(None, (_cell(score, value) for value in pair))) for pair in pairs)
    return pd.Series([cell or None for cell in cells], name=score)


def _unit(column: str) -> tuple[str, int]:
    return next((unit for end, unit in UNITS.items() if column.endswith(end)), NO_UNIT)


def _heading(column: str) -> str:
    """A column's name for a reader, with its unit in brackets: volume_mm3 -> volume (mm³)."""
    unit, _ = _unit(column)
    stem = next((column.removesuffix(end) for end in UNITS if column.endswith(end)), "") or column
    name = HEADINGS.get(column, stem.replace("_", " "))
    return f"{name} ({unit})" if unit else name


def _cell(column: str, value) -> str:
    if pd.isna(value):
        return ""
    if column == "r2_p" and value < SMALLEST_P:
        return f"< {SMALLEST_P}"
    if isinstance(value, str):
        return value.replace(",", ", ") if column == "flags" else value
    if column == "n":
        return f"{value:.0f}"
    return f"{value:,.{_unit(column)[1]}f}".replace("-", "−")


def _embed_svg(path: Path, subjects: pd.DataFrame) -> dict:
    """As a picture, not inline: the ids within one SVG, such as clip paths, then never meet another's."""
    return {"data": base64.b64encode(path.read_bytes()).decode(), "caption": caption(path.stem, subjects)}


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
