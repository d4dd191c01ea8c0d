"""The cohort's report: one self-contained HTML page."""

import base64
import io
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image as Picture

from hipqct import __version__
from hipqct.cohort import COHORTS, SCORES, SOLVED, TEXT_COLUMNS, TO_CUT, count_synthetic, is_synthetic, select
from hipqct.figures import COHORT_NAMES, caption
from hipqct.flags import flags_of_all, most_urgent_first
from hipqct.folds import SEEN_IN_TRAINING
from hipqct.io.tables import read_table
from hipqct.provenance import settings_used, software_versions

MAX_PICTURES = 60  # keeps the page of a large cohort within a few megabytes
MAX_ROWS = 200  # of a table that stands open
MAX_NAMES = 100  # in a sentence
PICTURE_WIDTH = 1200
# Units by the ends of columns' names, the longest first, and decimals worth reading; 4 without a unit.
UNITS = {
    "_mg_cm3": ("mg/cm³", 1),
    "_n_mm": ("N/mm", 0),
    "_n": ("N", 0),
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
    "failed": "not scored",
    SEEN_IN_TRAINING: "seen in training",
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
    *("subject", "side", "sex", "age", "group", "status", "exclude", "flags", "volume_mm3"),
    *("integral_density_mg_cm3", "basis", "bone_mineral_content_mg", *TO_CUT),
    *("dice", "hausdorff95_mm", "relative_error_percent"),
)
MEASURES = ("volume_mm3", "integral_density_mg_cm3", "bone_mineral_content_mg", *TO_CUT)
WARNED = ("failed", SEEN_IN_TRAINING)  # columns of hips that make statistics too good, by leaving or being in
WRAPPED = ("flags", "exclude", "reason")  # columns of words, as many as it takes
SMALLEST_P = 0.001
TABLES = {
    "measures": (
        "Volume and density",
        "Mean ± SD (ddof 1) over the hips that are done. Volumes are of the femur in the scanned length, "
        "which is not the same in every scan.",
    ),
    "segmentation": (
        "Segmentation",
        "Mean ± SD (ddof 1) over the hips that are done and have a reference mask. HD95: 95th percentile of "
        "the Hausdorff distance; ASD: average surface distance. Not scored: hips with a reference that "
        "failed, or whose evaluation did; means and agreement are without them. Seen in training: hips that "
        "one of the models was trained or chosen on; they are in, and make scores and agreement too good.",
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
TO_CUT_NOTE = " “To cut”: of the femur down to a common distance below the head's centre."
FAILURES_NOTE = (
    "What failed, by the first step that did. A hip that is done all the same keeps its volume and counts "
    "below; it lacks what that step makes."
)
URGENT_NOTE = "Hips that failed, then those whose flags tell them from the others, the most urgent first"


def render_report(cohort_dir: Path, results_dir: Path) -> str:
    """The page as text: tables and figures of ``cohort_dir`` and the QC pictures below ``results_dir``."""
    names = ("subjects", "segmentation", "volume_agreement", "failures")
    tables = {name: read_table(cohort_dir / f"{name}.tsv", TEXT_COLUMNS) for name in names}
    subjects, failures = tables["subjects"], tables["failures"]
    environment = Environment(loader=PackageLoader("hipqct"), autoescape=select_autoescape(default=True))
    return environment.get_template("report.html.j2").render(
        version=__version__,
        counts=count_hips(subjects, failures),
        synthetic=count_synthetic(subjects),
        all_synthetic=is_synthetic(subjects),
        failures=_failures(subjects, failures),
        tables=_cohort_tables(tables),
        figures=[_embed_svg(path, subjects) for path in sorted((cohort_dir / "figures").glob("*.svg"))],
        pictures=_pictures(subjects, results_dir),
        common_flags=flags_of_all(subjects),
        urgent=_urgent(subjects),
        hips=_table(_hips(subjects), *TABLES["subjects"]),
        max_rows=MAX_ROWS,
        settings=settings_used(subjects, failures, results_dir),
        software=software_versions(),
    )


def count_hips(subjects: pd.DataFrame, failures: pd.DataFrame) -> dict[str, int]:
    """Hips by status, and of those that are done the ones of which a later step failed."""
    counts = {status: int((subjects["status"] == status).sum()) for status in ("done", "failed", "excluded")}
    done = select(subjects, "all")
    named = set(zip(failures["subject"], failures["side"], strict=True))
    return counts | {"later": sum(hip in named for hip in zip(done["subject"], done["side"], strict=True))}


def measures_table(subjects: pd.DataFrame) -> pd.DataFrame:
    """Per cohort: hips that are done, mean and SD (ddof 1) of volume, density and mineral content."""
    rows = []
    for cohort in COHORTS:
        done = select(subjects, cohort)
        row = {"cohort": cohort, "n": len(done)}
        for measure in MEASURES:
            values = done[measure].astype(float)
            row |= {f"{measure}_n": values.count()}
            row |= {f"{measure}_mean": values.mean(), f"{measure}_sd": values.std(ddof=1)}
        rows.append(row)
    return pd.DataFrame(rows)


def _cohort_tables(tables: dict[str, pd.DataFrame]) -> list[dict]:
    """Tables with a row per cohort; without cohorts that have no hip, as of scores no reference."""
    tables = {"measures": measures_table(tables["subjects"])} | tables
    shown = []
    for name in ("measures", "segmentation", "volume_agreement"):
        table = tables[name]
        table = table[table["n"] + table.get("failed", 0) > 0]
        if len(table):
            counts = table[["cohort", "n", *(c for c in WARNED if c in table)]]
            counts = counts.replace({column: {0: None} for column in WARNED})
            if columns := {"measures": MEASURES, "segmentation": SCORES}.get(name):
                table = pd.concat([counts, *(_mean_and_sd(table, column) for column in columns)], axis=1)
            else:
                table = pd.concat([counts, table.drop(columns=list(counts))], axis=1)
            shown.append(_table(table, *TABLES[name]))
    if shown:
        shown[0]["note"] += _measures_note(select(tables["subjects"], "all"))
    return shown


def _measures_note(done: pd.DataFrame) -> str:
    """What the volumes and densities of these hips are of."""
    note = TO_CUT_NOTE if done[list(TO_CUT)].notna().any(axis=None) else ""
    bases = sorted(set(done["basis"].dropna()))
    if bases:
        note += f" Densities are in {' and '.join(bases)}"
        note += ": means over both say nothing." if len(bases) > 1 else "."
    return note


def _hips(subjects: pd.DataFrame) -> pd.DataFrame:
    """The columns of subjects.tsv that the page shows; flags stand where no width of screen cuts them off."""
    solved = [column for column in subjects if column.endswith(SOLVED)]
    return subjects[[*HIP_COLUMNS, *solved]]


def _urgent(subjects: pd.DataFrame) -> dict | None:
    """The hips to look at first, of a table too long to stand open."""
    if len(subjects) <= MAX_ROWS:
        return None
    done = most_urgent_first(subjects)
    hips = pd.concat([subjects[subjects["status"] == "failed"], done[done["flagged"]]])
    left_out = len(hips) - MAX_ROWS
    note = URGENT_NOTE + (f"; {left_out:,} more are in the table of all." if left_out > 0 else ".")
    return _table(_hips(hips[:MAX_ROWS]), "Hips to look at", note)


def _failures(subjects: pd.DataFrame, failures: pd.DataFrame) -> dict | None:
    if failures.empty:
        return None
    listed = failures.merge(subjects[["subject", "side", "status"]], on=["subject", "side"], how="left")
    return _table(listed[["subject", "side", "status", "step", "reason"]], "Failures", FAILURES_NOTE)


def _table(table: pd.DataFrame, title: str, note: str) -> dict:
    """A table for reading: columns without any value left out, few digits, words apart."""
    filled = table.dropna(axis="columns", how="all")
    columns = {column: [_cell(column, value) for value in filled[column]] for column in filled}
    text = {column: column in TEXT_COLUMNS or column == "cohort" for column in columns}
    return {
        "title": title,
        "id": title.lower().replace(" ", "-"),
        "note": note,
        "header": [_heading(column) for column in columns],
        "kinds": ["wrap" if c in WRAPPED else "text" if text[c] else "" for c in columns],
        "rows": list(zip(*columns.values(), strict=True)),
    }


def _mean_and_sd(table: pd.DataFrame, score: str) -> pd.Series:
    """Mean ± SD; with the number of values where that is not the number of hips."""
    pairs = zip(table[f"{score}_mean"], table[f"{score}_sd"], strict=True)
    cells = [" ± ".join(filter(None, (_cell(score, value) for value in pair))) for pair in pairs]
    if f"{score}_n" in table:
        counted = zip(cells, table[f"{score}_n"], table["n"], strict=True)
        cells = [f"{cell} (n = {n})" if 0 < n < hips else cell for cell, n, hips in counted]
    return pd.Series([cell or None for cell in cells], name=score, index=table.index)


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
    if column == "cohort":
        return COHORT_NAMES[value]
    if isinstance(value, str):
        return value.replace(",", ", ") if column == "flags" else value
    if column in ("n", *WARNED):
        return f"{value:.0f}"
    return f"{value:z,.{_unit(column)[1]}f}".replace("-", "−")


def _embed_svg(path: Path, subjects: pd.DataFrame) -> dict:
    """As a picture, not inline: the ids within one SVG, such as clip paths, then never meet another's."""
    return {"data": base64.b64encode(path.read_bytes()).decode(), "caption": caption(path.stem, subjects)}


def _pictures(subjects: pd.DataFrame, results_dir: Path) -> dict:
    """QC pictures of the hips that are done, the most urgent first, and which there is no room for."""
    found = []
    for row in most_urgent_first(subjects).itertuples(index=False):
        path = results_dir / "subjects" / row.subject / row.side / "qc.png"
        if path.exists():
            found.append((path, f"{row.subject}, {row.side}", _cell("flags", row.flags), row.flagged))
    left_out = found[MAX_PICTURES:]
    flagged = [name.replace(",", "") for _, name, _, flagged in left_out if flagged]
    return {
        "shown": [_embed(path, ": ".join(filter(None, words))) for path, *words, _ in found[:MAX_PICTURES]],
        "left_out": len(left_out),
        "flagged": len(flagged),
        "names": flagged[:MAX_NAMES],
    }


def _embed(path: Path, caption: str) -> dict:
    with Picture.open(path) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
    return {"data": base64.b64encode(buffer.getvalue()).decode(), "caption": caption}
