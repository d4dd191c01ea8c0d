"""A small study of four synthetic subjects, and a way to run the real workflow on it."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hipqct.steps.phantom import make_phantom, write_phantom_dicom

ROOT = Path(__file__).resolve().parents[2]

# Coarse pixels make the phantoms quick; the hip itself is whole.
SCANNER = {"matrix": 160, "pixel_mm": 2.4, "slice_mm": 3.0, "top_mm": 40, "bottom_mm": 66, "noise_sd_hu": 8}
COHORT = {"S001": ("F", 70), "S002": ("M", 50), "S003": ("F", 40), "S004": ("M", 65)}
HEADER = "subject\tscan\tsex\tage\tside\texclude\treference_left\tslope\tintercept"


@dataclass
class Study:
    """A folder with config/, scans/ and, once run, results/."""

    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the project's Snakefile in the study's folder."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)

    def command(self, *arguments: str) -> list[str]:
        """What runs it."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        return [*command, *arguments, "--directory", str(self.folder), "--cores", "2", "--resources", "gpu=1"]

    def table(self, name: str) -> list[dict]:
        """Rows of one of the cohort's tables."""
        lines = (self.folder / "results/cohort" / f"{name}.tsv").read_text().splitlines()
        header = lines[0].split("\t")
        return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]

    def path(self, subject: str, name: str) -> Path:
        """A result of a subject's left hip."""
        return self.folder / "results/subjects" / subject / "left" / name


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four phantoms with their masks, as DICOM; S004 as NIfTI."""
    folder = tmp_path_factory.mktemp("phantoms")
    for seed, (subject, (sex, age)) in enumerate(COHORT.items(), start=1):
        names = ("ct.nii.gz", "left_femur.nii.gz", "right_femur.nii.gz", "truth.json")
        paths = [folder / subject / name for name in names]
        make_phantom({"subject": subject, "seed": seed, "sex": sex, "age": age, **SCANNER}, *paths)
        if subject != "S004":
            write_phantom_dicom(paths[0], paths[3], folder / subject / "dicom")
    return folder


def make_study(folder: Path, phantoms: Path) -> Study:
    """A fresh study with its own copy of the scans."""
    shutil.copytree(phantoms, folder / "scans")
    shutil.copytree(ROOT / "config", folder / "config")
    shutil.copytree(ROOT / "resources/materials", folder / "materials")
    config = folder / "config/config.yaml"
    config.write_text(config.read_text().replace("\nmesh:\n", "\nmesh:\n  laws_folder: materials\n"))
    rows = [HEADER]
    for subject, (sex, age) in COHORT.items():
        place = f"../scans/{subject}"
        scan = f"{place}/ct.nii.gz" if subject == "S004" else f"{place}/dicom"
        reference = f"{place}/left_femur.nii.gz"
        rows.append("\t".join([subject, scan, sex, str(age), "left", "", reference, "0.8", "0"]))
    (folder / "config/samples.tsv").write_text("\n".join(rows) + "\n")
    return Study(folder)
