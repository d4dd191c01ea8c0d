"""Run the workflow on real scans with reference masks, print a table and draw where the masks differ.

    python benchmarks/real_scans.py --data DATA --work STUDY --picture docs/images/real-scans.png

``--data`` is a folder of cases, each with ``dicom/`` or ``ct.nii.gz`` and ``left_femur*.nii.gz`` and
``right_femur*.nii.gz``. The picture shows masks only, no voxel of a scan.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from hipqct.io.images import read_image
from hipqct.resample import resample_mask_slices

PROJECT = Path(__file__).parents[1]
SHOWN = {
    "case": "subject", "side": "side", "Dice": "dice", "sensitivity": "sensitivity",
    "HD95 (mm)": "hausdorff95_mm", "ASD (mm)": "surface_distance_mm",
    "volume error (%)": "relative_error_percent", "flags": "flags",
}  # fmt: skip
# agreed, missed by the network, extra
COLOURS = ("#ffffff", "#c8c8c8", "#d62728", "#1f77b4")


def write_study(data: Path, work: Path) -> None:
    """config/ of a study with every case of a folder, both sides."""
    rows = []
    for case in sorted(path for path in data.iterdir() if path.is_dir()):
        scan = case / "dicom" if (case / "dicom").is_dir() else case / "ct.nii.gz"
        references = {
            f"reference_{side}": next(case.glob(f"{side}_femur*.nii.gz")).resolve()
            for side in ("left", "right")
        }
        rows.append({"subject": case.name, "scan": scan.resolve(), "side": "both", **references})
    (work / "config").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(work / "config/samples.tsv", sep="\t", index=False)
    text = (PROJECT / "config/config.yaml").read_text(encoding="utf-8")
    (work / "config/config.yaml").write_text(text, encoding="utf-8")


def print_table(subjects: pd.DataFrame) -> None:
    """The scores as a Markdown table."""
    table = subjects[list(SHOWN.values())].set_axis(list(SHOWN), axis=1)
    digits = {"Dice": 3, "sensitivity": 3, "HD95 (mm)": 1, "ASD (mm)": 2, "volume error (%)": 1}
    print("| " + " | ".join(table.columns) + " |")
    print("| " + " | ".join("---" for _ in table.columns) + " |")
    for row in table.to_dict("records"):
        cells = [f"{v:.{digits[k]}f}" if k in digits else str(v).replace(",", ", ") for k, v in row.items()]
        print("| " + " | ".join(cells) + " |")


def draw_differences(work: Path, subjects: pd.DataFrame, picture: Path) -> None:
    """For each hip the coronal and sagittal slice with most of the reference: agreed, missed, extra."""
    figure = Figure(figsize=(14, 8.5), layout="constrained")
    axes = figure.subplots(2, len(subjects))
    for column, row in zip(axes.T, subjects.to_dict("records"), strict=True):
        mask = read_image(work / f"results/subjects/{row['subject']}/{row['side']}/mask.nii.gz")
        reference = resample_mask_slices(read_image(row["reference"]), mask).array > 0
        inside = mask.array > 0
        kinds = np.where(inside & reference, 1, np.where(reference, 2, np.where(inside, 3, 0)))
        box = np.argwhere(kinds)
        low, high = np.maximum(box.min(0) - 5, 0), box.max(0) + 6
        top = high[2] - round(170 / mask.spacing_mm[2])  # the proximal end is what matters
        low[2] = max(low[2], top)
        kinds = kinds[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        for panel, axis in zip(column, (1, 0), strict=True):
            others = tuple(a for a in range(3) if a != axis)
            index = (kinds > 0).sum(axis=others).argmax()
            aspect = mask.spacing_mm[2] / mask.spacing_mm[1 - axis]
            panel.imshow(
                np.take(kinds, index, axis=axis).T, origin="lower", aspect=aspect, vmin=0, vmax=3,
                cmap=ListedColormap(COLOURS), interpolation="nearest",
            )  # fmt: skip
            panel.set(xticks=[], yticks=[])
        column[0].set_title(f"{row['subject']}\n{row['side']}, Dice {row['dice']:.3f}", fontsize=9)
    axes[0, 0].set_ylabel("coronal")
    axes[1, 0].set_ylabel("sagittal")
    for name, colour in zip(("agreed", "missed", "extra"), COLOURS[1:], strict=True):
        axes[0, 0].plot([], [], "s", color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(picture, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the study, kept")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    write_study(options.data, options.work)
    command = [Path(sys.executable).parent / "snakemake", "-s", PROJECT / "Snakefile", "--keep-going"]
    status = subprocess.run([*command, "--cores", options.cores, "--directory", options.work]).returncode
    subjects = pd.read_csv(options.work / "results/cohort/subjects.tsv", sep="\t")
    subjects["flags"] = subjects["flags"].fillna("")
    for failure in subjects.query("status != 'done'").itertuples():
        print(f"{failure.subject} {failure.side}: {failure.status}, see failures.tsv")
    done = subjects.query("status == 'done'")
    print_table(done)
    if options.picture:
        sheet = pd.read_csv(options.work / "config/samples.tsv", sep="\t").set_index("subject")
        references = [
            sheet.loc[s, f"reference_{side}"] for s, side in zip(done.subject, done.side, strict=True)
        ]
        draw_differences(options.work, done.assign(reference=references), options.picture)
    sys.exit(status)


if __name__ == "__main__":
    main()
