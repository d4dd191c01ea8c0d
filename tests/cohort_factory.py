"""A results folder as a run leaves it, without the run: invented numbers, real names and layout."""

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from hipqct.progress import CHAIN, EVALUATION, PICTURE, failure_record
from hipqct.progress import MESH as MESHING

HEADER = "subject\tscan\tsex\tage\tside\texclude\treference_left\treference_right\tslope\tintercept\tgroup"

NETWORK = {"model": "tiny", "weights_sha256": 64 * "a", "engine": "openvino", "device": "cpu"}
NETWORK |= {"step": 8, "blend": "uniform", "ends": "as-is"}
MESH = {"flags": [], "uncalibrated": True, "uncalibrated_modulus_mpa": None}
CALIBRATED = MESH | {"uncalibrated": False}  # to be solved


@dataclass
class Hip:
    """A row of the sheet, and what its sides come to; ``error_percent`` None: no reference."""

    subject: str
    sex: str = "F"
    sides: tuple[str, ...] = ("left",)
    reference_mm3: float = 80_000.0
    error_percent: float | None = 1.0
    density_mg_cm3: float | None = 250.0
    exclude: str = ""
    phantom: bool = False
    flags: list[str] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, float]:
        """What evaluate_mask finds: every score with a course of its own, so that none passes for another."""
        error = self.error_percent or 0.0
        return {
            "dice": 0.985 - abs(error) / 400,
            "sensitivity": 0.97 + error / 300,
            "specificity": 0.9991 - (error + 3) ** 2 / 1e5,
            "hausdorff95_mm": 0.8 + abs(error - 1) / 4,
            "surface_distance_mm": 0.3 + (error % 1) / 10,
        }


def cohort(count: int = 12, seed: int = 1) -> list[Hip]:
    """Hips with volumes and errors like the paper's; women and men in turn."""
    random = np.random.default_rng(seed)
    hips = []
    for number in range(count):
        sex = "FM"[number % 2]
        mean_mm3, sd_mm3 = {"F": (76_833, 13_341), "M": (105_490, 18_344)}[sex]
        hips.append(
            Hip(
                subject=f"S{number + 1:03d}",
                sex=sex,
                reference_mm3=float(random.normal(mean_mm3, sd_mm3)),
                error_percent=float(random.normal(0.5, 1.5)),
                density_mg_cm3=float(random.normal(240, 40)),
            )
        )
    return hips


class Results:
    """A sheet and its results folder, with every step of every hip done."""

    def __init__(self, folder: Path, hips: list[Hip]):
        self.sheet, self.results = folder / "config/samples.tsv", folder / "results"
        self.cohort = self.results / "cohort"
        rows = [HEADER]
        for hip in hips:
            scan = self._scan(folder, hip)
            reference = dict.fromkeys(("left", "right"), "")
            if hip.error_percent is not None:
                mask = folder / "scans" / f"{hip.subject}-mask.nii.gz"
                mask.parent.mkdir(parents=True, exist_ok=True)
                mask.touch()
                reference |= dict.fromkeys(hip.sides, mask)
            side = "both" if len(hip.sides) == 2 else hip.sides[0]
            cells = (hip.subject, scan, hip.sex, 60, side, hip.exclude, *reference.values(), 0.8, 0, "g")
            rows.append("\t".join(map(str, cells)))
            if not hip.exclude:
                for side in hip.sides:
                    self._write_hip(hip, side)
        self.sheet.parent.mkdir(parents=True, exist_ok=True)
        self.sheet.write_text("\n".join(rows) + "\n")

    def _scan(self, folder: Path, hip: Hip) -> Path:
        scan = folder / "scans" / hip.subject
        if hip.phantom:
            scan = self.results / "phantoms" / hip.subject / "dicom"
        scan.mkdir(parents=True)
        return scan

    def _write_hip(self, hip: Hip, side: str):
        for step in (*CHAIN, MESHING, PICTURE, *[EVALUATION] * (hip.error_percent is not None)):
            for name in (step.output, *step.besides):
                path = self.path(hip.subject, side, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        predicted_mm3 = hip.reference_mm3 * (1 + (hip.error_percent or 0) / 100)
        volume = {
            "volume_mm3": predicted_mm3,
            "volume_voxel_mm3": predicted_mm3,
            "surface_area_mm2": 20_000.0,
            "integral_density_mg_cm3": hip.density_mg_cm3,
            "bone_mineral_content_mg": hip.density_mg_cm3 and hip.density_mg_cm3 * predicted_mm3 / 1000,
            "mean_hu": 300.0 + zlib.crc32(hip.subject.encode()) / 1e9,  # of no other hip
            "otsu_threshold": 0.5,
            "flags": ["synthetic"] * hip.phantom + hip.flags,
        }
        self.write(hip.subject, side, "{side}/volume.json", volume)
        self.write(hip.subject, side, "{side}/bone.json", {"network": NETWORK})
        self.write(hip.subject, side, "resampled.json", {"method": "area", "phase": "slab-centred"})
        self.write(hip.subject, side, "{side}/mesh/mesh.json", MESH)
        self.write(hip.subject, side, "scan.json", {"flags": []})
        if hip.error_percent is not None:
            evaluation = {
                **hip.scores,
                "volume_reference_mm3": hip.reference_mm3,
                "volume_predicted_mm3": predicted_mm3,
                "relative_error_percent": hip.error_percent,
                "flags": [],
            }
            self.write(hip.subject, side, EVALUATION.output, evaluation)
        Picture.new("RGB", (110, 82), "black").save(self.path(hip.subject, side, "{side}/qc.png"))

    def path(self, subject: str, side: str, output: str) -> Path:
        """Where a step's output lies."""
        return self.results / "subjects" / subject / output.format(side=side)

    def write(self, subject: str, side: str, output: str, content: dict):
        """Write a JSON result."""
        self.path(subject, side, output).write_text(json.dumps(content))

    def fail(self, step: str, name: str, reason: str):
        """Leave the record of a failed job; ``name`` is the subject, or subject.side."""
        record = failure_record(self.results / "logs" / step / f"{name}.log")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"step": step, "reason": reason}))

    def table(self, name: str) -> list[dict[str, str]]:
        """Rows of one of the cohort's tables."""
        header, *lines = (self.cohort / f"{name}.tsv").read_text().splitlines()
        return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
