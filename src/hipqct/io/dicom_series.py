"""Which of several DICOM series is the axial CT scan."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hipqct.errors import ScanError
from hipqct.io.dicom_geometry import MIN_SLICES, slice_normal
from hipqct.io.dicom_headers import Header, Slice, frame_count, slices_of

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
}
# words in ImageType of pictures which are no slices of a patient in HU
NOT_SLICES = {
    "LOCALIZER": "localizer",
    "SCOUT": "localizer",
    "SCREEN SAVE": "screen save",
    "SCREENSAVE": "screen save",
    "DOSE_INFO": "dose report",
    "DOSE": "dose report",
    "PROTOCOL": "protocol page",
    "MIP": "projection",
    "MAX_IP": "projection",
    "MIN_IP": "projection",
    "VOLUME_RENDER": "picture of a surface",
    "SURFACE_RENDER": "picture of a surface",
    "MAXIMUM": "projection",
    "MINIMUM": "projection",
    "PROJECTION IMAGE": "projection",
    "RGB": "colour picture",
}
AXIAL_CLASS_DEG = 10.0  # obliquities within the same ten degrees count as equally axial
HASH_DIGITS = 12


@dataclass(frozen=True)
class Series:
    """The files of one series that may be CT slices, or why they are not (``kind``)."""

    uid: str
    kind: str
    headers: list[Header] = field(repr=False)

    @property
    def is_ct(self) -> bool:
        """Whether these are slices of a CT scan."""
        return self.kind in CT_CLASSES.values()

    @property
    def key(self) -> str:
        """Short hash that stands for the UID in outputs, since a UID leads back to a patient."""
        return uid_key(self.uid)

    @cached_property
    def slices(self) -> list[Slice]:
        """All slices in the order of the files. Raises ScanError when one lacks its geometry or rescale."""
        return [part for header in self.headers for part in slices_of(header)]

    @property
    def count(self) -> int:
        """Number of slices, from headers that may otherwise be bad."""
        return sum(frame_count(header.dataset) for header in self.headers)

    @property
    def number(self) -> int | None:
        """SeriesNumber."""
        number = self.headers[0].number("SeriesNumber")
        return None if number is None else int(number)

    @property
    def primary(self) -> bool:
        """Whether the images are primary by ImageType, which a missing ImageType does not deny."""
        return all("SECONDARY" not in header.text("ImageType").upper() for header in self.headers)

    @cached_property
    def tilt_class(self) -> int:
        """Angle between slice normal and body axis in steps of ``AXIAL_CLASS_DEG``; 9 when unknown."""
        try:
            normal = slice_normal(self.slices[0].orientation)
        except ScanError:
            return 9
        return round(float(np.degrees(np.arccos(min(abs(normal[2]), 1.0)))) / AXIAL_CLASS_DEG)

    @cached_property
    def gap_mm(self) -> float:
        """Median distance of neighbouring slices along their normal; infinite when unknown."""
        try:
            depths_mm = [part.position_mm @ slice_normal(self.slices[0].orientation) for part in self.slices]
        except ScanError:
            return np.inf
        return round(float(np.median(np.diff(np.sort(depths_mm)))), 2) if len(depths_mm) > 1 else np.inf

    def summary(self) -> dict:
        """What may be said about this series in an output."""
        gap_mm = self.gap_mm if self.is_ct and np.isfinite(self.gap_mm) else None
        return {
            "series": self.key,
            "number": self.number,
            "kind": self.kind,
            "images": self.count,
            "spacing_mm": gap_mm,
            "kernel": self.headers[0].text("ConvolutionKernel") or None,
        }

    def __str__(self) -> str:
        name = f"series {self.key}" if self.number is None else f"series {self.key} (number {self.number})"
        gap = f" every {self.gap_mm:g} mm" if self.is_ct and np.isfinite(self.gap_mm) else ""
        kernel = self.headers[0].text("ConvolutionKernel")
        return f"{name}: {self.count} {self.kind} image(s){gap}" + (f", kernel {kernel}" if kernel else "")


def uid_key(uid: str) -> str:
    """Short hash of a UID; ``series_uid`` in the sample sheet takes either."""
    return hashlib.sha256(str(uid).encode()).hexdigest()[:HASH_DIGITS]


def group_series(headers: list[Header]) -> list[Series]:
    """Headers grouped by SeriesInstanceUID and kind: a localizer stored within a CT series stands apart."""
    groups = defaultdict(list)
    for header in headers:
        groups[header.text("SeriesInstanceUID"), image_kind(header)].append(header)
    return [
        Series(uid, kind, members)
        for (uid, kind), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def image_kind(header: Header) -> str:
    """``CT``, ``enhanced CT`` or what else this image is, from SOP class, modality and ImageType."""
    modality, sop_class = header.text("Modality").upper(), header.text("SOPClassUID")
    if not header.text("SeriesInstanceUID") or not modality:
        return "damaged file"
    if modality != "CT":
        return modality
    if sop_class not in CT_CLASSES:
        return "secondary capture" if "1.4.1.1.7" in sop_class else "CT object without slices"
    for word in header.text("ImageType").upper().split("\\"):
        if word in NOT_SLICES:
            return NOT_SLICES[word]
    return CT_CLASSES[sop_class]


def choose_series(headers: list[Header], series_uid: str | None = None) -> tuple[Series, dict, list[str]]:
    """The axial CT series among ``headers``, how it was chosen, and warnings.

    With ``series_uid`` (a UID or its short hash) that series. Otherwise, of the series of CT slices (modality
    CT and a CT image class; no localizer, projection, screen save, dose report or secondary capture) with at
    least ``MIN_SLICES`` slices, or of all when none has: primary before secondary images, then nearest axial,
    then most slices, then thinnest spacing. What still ties is settled by the lower series number, then by
    UID, with a warning that names the others.

    Returns the series, ``{"rule", "others"}`` and warnings. Raises ScanError when there is no such series.
    """
    if damaged := [header for header in headers if image_kind(header) == "damaged file"]:
        raise ScanError(f"{damaged[0].label}: {damaged[0].fault}; copy the file again")
    seen = group_series(headers)
    candidates = [series for series in seen if series.is_ct]
    if series_uid:
        candidates = [series for series in candidates if series_uid in (series.uid, series.key)]
    if not candidates:
        here = "; ".join(map(str, seen)) or "no DICOM image"
        raise ScanError(
            f"not CT: no CT slices{' of the series_uid asked for' if series_uid else ''} among {here}"
        )
    enough = [series for series in candidates if series.count >= MIN_SLICES] or candidates
    ranked = sorted(enough, key=series_order)
    chosen = ranked[0]
    ties = tie_texts([(series_rank(series), str(series)) for series in ranked])
    warnings = [f"{text}; set series_uid in the sample sheet to choose" for text in ties]
    studies, patients = (
        len({series.headers[0].text(keyword) for series in enough} - {""})
        for keyword in ("StudyInstanceUID", "PatientID")
    )
    if studies > 1 or patients > 1:
        whose = f"{studies} studies" + (f" and {patients} patients" if patients > 1 else "")
        warnings.append(
            f"CT series of {whose} lie here: took {chosen}; set series_uid in the sample sheet, or "
            "give each study its own folder"
        )
    if not chosen.primary:
        warnings.append(
            "the images are marked as secondary (reformatted or derived), not as primary CT slices"
        )
    rule = _rule(chosen, ranked, series_uid)
    return chosen, {"rule": rule, "others": [s.summary() for s in seen if s is not chosen]}, warnings


def series_rank(series: Series) -> tuple:
    """Sorts the best series first by the rules of ``choose_series``."""
    return (not series.primary, series.tilt_class, -series.count, series.gap_mm)


def series_order(series: Series) -> tuple:
    """Sorts the series that ``choose_series`` takes first: by rank, then by number, then by UID."""
    return series_rank(series), series.number or 0, series.uid


def tie_texts(ranked: list[tuple[tuple, str]]) -> list[str]:
    """One sentence when several series are as good as the first; else none.

    Args:
        ranked: rank and name of every series, in ``series_order``.
    """
    chosen, *ties = (text for rank, text in ranked if rank == ranked[0][0])
    return [f"{len(ties) + 1} series fit equally well: took {chosen}; left {'; '.join(ties)}"] * bool(ties)


def _rule(chosen: Series, ranked: list[Series], series_uid: str | None) -> str:
    """The first rule that set the chosen series apart."""
    if series_uid:
        return "series_uid"
    if len(ranked) == 1:
        return "only CT series"
    names = ("primary images", "nearest axial", "most slices", "thinnest spacing")
    pairs = zip(names, series_rank(chosen), series_rank(ranked[1]), strict=True)
    return next((name for name, mine, next_best in pairs if mine != next_best), "lowest series number")
