"""Compare phantoms with real hip CT: histograms, edges and noise as numbers, slices as a picture.

    python benchmarks/compare_phantoms.py --data ../shared/data --picture docs/images/phantoms.png

``--data`` is a folder with ``real-hip-ct/`` and ``real-ct/`` (scan and femur masks); without it only phantoms
are measured. ``--with-real FILE`` draws the real hip CT beside the phantoms, for looking at, not for sharing.
"""

import argparse
from pathlib import Path

import matplotlib.image
import numpy as np
from scipy import ndimage, optimize, special

from hipqct.image import Image
from hipqct.io.images import read_image
from hipqct.io.scans import read_scan
from hipqct.phantom.generate import generate_phantom
from hipqct.phantom.parameters import sample_parameters
from hipqct.phantom.seeds import CASE_SEEDS

QUANTILES = (5, 25, 50, 75, 95)
PATCH_MM = 16.0
LAGS_MM = (1.0, 2.0, 3.0, 5.0)
PICTURE_MM = 1.5
WINDOW_HU = (-160, 700)


def read_real(data: Path) -> dict:
    """Real scans with the femurs that are whole enough: name -> (ct, masks)."""
    hip, other = data / "real-hip-ct", data / "real-ct"
    return {
        "real hip CT": (
            read_scan(hip / "dicom")[0],
            [read_image(hip / f"{side}_femur.nii.gz") for side in ("left", "right")],
        ),
        # Its left femur carries an implant.
        "real abdomen CT": (
            read_scan(other / "ct.nii.gz")[0],
            [read_image(other / "right_femur_model.nii.gz")],
        ),
    }


def make_phantoms(count: int, slice_mm: float) -> dict:
    """Phantoms as drawn, women and men in turn, without implants: name -> (ct, masks)."""
    made = {}
    for i in range(count):
        drawn = sample_parameters(
            CASE_SEEDS[500 + i], sex="FM"[i % 2], slice_mm=slice_mm, bottom_mm=110.0, top_mm=60.0,
            metal_side="", cut_edge_mm=0.0,
        )  # fmt: skip
        phantom = generate_phantom(drawn)
        name = f"{drawn.sex} {drawn.age}"
        made[f"{name} ({drawn.seed})"] = (phantom.ct, [phantom.left_femur, phantom.right_femur])
    return made


def find_head(mask: Image) -> tuple[np.ndarray, float]:
    """Centre (world mm) and radius (mm) of a femur's head: the largest ball medially in its top 7 cm.

    Medial is where the bone reaches farther from its shaft.
    """
    voxels = np.argwhere(mask.array)
    first = voxels.min(axis=0)
    first[2] = max(first[2], voxels[:, 2].max() - round(70 / mask.spacing_mm[2]))
    top = voxels[voxels[:, 2] >= first[2]]
    shaft = top[top[:, 2] < first[2] + 10 / mask.spacing_mm[2]][:, 0].mean()
    reach = max(top[:, 0].min() - shaft, top[:, 0].max() - shaft, key=abs)
    box = tuple(slice(max(a - 1, 0), b + 2) for a, b in zip(first, voxels.max(axis=0), strict=True))
    depth_mm = ndimage.distance_transform_edt(mask.array[box] > 0, sampling=mask.spacing_mm)
    x = np.arange(depth_mm.shape[0]) + box[0].start
    depth_mm[(x - shaft) / reach < 0.4] = 0
    center = np.array(np.unravel_index(depth_mm.argmax(), depth_mm.shape)) + [s.start for s in box]
    return mask.to_world(center), float(depth_mm.max())


def region_values(ct: Image, mask: Image) -> dict:
    """Hounsfield numbers by region, placed by the head's centre and radius."""
    center_mm, radius_mm = find_head(mask)
    reach = np.ceil(130 / np.array(ct.spacing_mm)).astype(int)
    middle = np.rint(ct.to_index(center_mm)).astype(int)
    box = tuple(slice(max(m - r, 0), min(m + r, n)) for m, r, n in zip(middle, reach, ct.shape, strict=True))
    hu, inside = ct.array[box].astype(float), mask.array[box] > 0
    index = np.moveaxis(np.indices(hu.shape), 0, -1) + [s.start for s in box]
    offset_mm = ct.to_world(index) - center_mm
    distance_mm, up_mm = np.linalg.norm(offset_mm, axis=-1), offset_mm[..., 2]
    depth_mm = ndimage.distance_transform_edt(inside, sampling=ct.spacing_mm)
    away_mm = ndimage.distance_transform_edt(~inside, sampling=ct.spacing_mm)
    soft = (away_mm > 12) & (away_mm < 50) & (abs(up_mm) < 40) & (hu > -200) & (hu < 150)
    where = {
        "head, core": inside & (distance_mm < 0.5 * radius_mm),
        "head, outer": inside & (distance_mm > 0.5 * radius_mm) & (distance_mm < 0.85 * radius_mm),
        "head, shell": inside & (depth_mm < 2.5) & (distance_mm < 1.1 * radius_mm) & (up_mm > 0),
        "neck": inside & (depth_mm > 3) & (distance_mm > 1.2 * radius_mm) & (distance_mm < 1.8 * radius_mm),
        "trochanter": inside & (depth_mm > 4) & (distance_mm > 2.2 * radius_mm) & (up_mm > -55),
        "shaft": inside & (up_mm < -75) & (up_mm > -100),
        "muscle": soft & (hu > 0) & (hu < 110),
        "fat": soft & (hu < -50),
    }
    return {name: hu[place] for name, place in where.items()}


def shaft_edges_mm(ct: Image, mask: Image) -> np.ndarray:
    """10-90% widths (mm) of the shaft's outer edge along rays in axial slices 75 to 100 mm below the head."""
    center_mm, _ = find_head(mask)
    middle = ct.to_index(center_mm)[2]
    widths = []
    for k in range(round(middle - 100 / ct.spacing_mm[2]), round(middle - 75 / ct.spacing_mm[2])):
        if k < 0 or not (mask.array[..., k] > 0).any():
            continue
        x, y = np.argwhere(mask.array[..., k] > 0).mean(axis=0)
        for angle in np.radians(np.arange(0, 360, 10)):
            r_mm = np.arange(0, 32, 0.1)
            at = [x + r_mm * np.cos(angle) / ct.spacing_mm[0], y + r_mm * np.sin(angle) / ct.spacing_mm[1]]
            line = ndimage.map_coordinates(ct.array[..., k].astype(float), at, order=3, mode="nearest")
            peak = int(line[50:250].argmax()) + 50
            beyond = line[peak : peak + 60]
            low, high = beyond[-20:].mean(), line[peak]
            if not -20 < low < 110 or high < 800:
                continue
            share = (beyond - low) / (high - low)
            widths.append((np.argmax(share < 0.1) - np.argmax(share < 0.9)) * 0.1)
    return np.array(widths)


def skin_edge_mm(ct: Image) -> float:
    """Median 10-90% width (mm) of the step from air to the front of the body: a fitted error function."""
    widths = []
    for k in range(2, ct.shape[2] - 2, 4):
        for i in range(ct.shape[0] // 4, 3 * ct.shape[0] // 4, 5):
            line = ct.array[i, :, k].astype(float)
            first = int(np.argmax(ndimage.uniform_filter1d(line, 5) > -500))
            part = line[max(first - 9, 0) : first + 4]
            if first < 12 or part[:5].max() > -900:
                continue
            y_mm = np.arange(len(part)) * ct.spacing_mm[1]

            def step(y, place, sigma, height):
                return -1000 + height * 0.5 * (1 + special.erf((y - place) / (sigma * np.sqrt(2))))

            try:
                fitted, _ = optimize.curve_fit(step, y_mm, part, (y_mm[9], 0.8, 900), maxfev=400)
            except RuntimeError:
                continue
            widths.append(2.563 * abs(fitted[1]))
    return float(np.median(widths)) if widths else float("nan")


def noise_figures(ct: Image) -> dict:
    """SD (HU) and autocorrelation of the calmest tenth of soft-tissue patches, a plane taken off each."""
    size = round(PATCH_MM / ct.spacing_mm[0])
    u = (np.arange(size) - (size - 1) / 2)[:, None] * np.ones(size)
    found = []
    for k in range(1, ct.shape[2] - 1, 2):
        for i in range(0, ct.shape[0] - size, size):
            for j in range(0, ct.shape[1] - size, size):
                patch = ct.array[i : i + size, j : j + size, k : k + 2].astype(float)
                if not (-140 < patch.mean() < 90) or patch.min() < -250 or patch.max() > 250:
                    continue
                patch = patch - patch.mean(axis=(0, 1))
                for tilt in (u, u.T):
                    patch = patch - tilt[..., None] * (patch * tilt[..., None]).sum((0, 1)) / (tilt**2).sum()
                found.append(patch)
    found.sort(key=lambda patch: patch[..., 0].var())
    calm = np.array(found[: max(len(found) // 10, 5)])
    here, above = calm[..., 0], calm[..., 1]
    variance = (here**2).mean()
    lags = {}
    curve = [(here[:, s:] * here[:, : size - s]).mean() / variance for s in range(size // 2)]
    for lag_mm in LAGS_MM:
        lags[lag_mm] = float(np.interp(lag_mm, np.arange(len(curve)) * ct.spacing_mm[0], curve))
    slices = float((here * above).mean() / np.sqrt(variance * (above**2).mean()))
    return {"sd": float(np.sqrt(variance)), "lags": lags, "next slice": slices}


def measure(scans: dict) -> dict:
    """All figures of every scan."""
    figures = {}
    for name, (ct, masks) in scans.items():
        values = [region_values(ct, mask) for mask in masks]
        regions = {}
        for region in values[0]:
            joined = np.concatenate([v[region] for v in values])
            regions[region] = np.percentile(joined, QUANTILES) if len(joined) > 50 else None
        edges_mm = np.concatenate([shaft_edges_mm(ct, mask) for mask in masks])
        figures[name] = {
            "regions": regions,
            "shaft edge": float(np.median(edges_mm)) if len(edges_mm) else float("nan"),
            "skin edge": skin_edge_mm(ct),
            "noise": noise_figures(ct),
        }
    return figures


def print_tables(figures: dict) -> None:
    """Markdown: one row per scan and region; then edges and noise."""
    print("| scan | region | " + " | ".join(f"{q}%" for q in QUANTILES) + " |")
    print("| --- | --- |" + " --- |" * len(QUANTILES))
    for name, found in figures.items():
        for region, values in found["regions"].items():
            if values is not None:
                print(f"| {name} | {region} | " + " | ".join(f"{v:.0f}" for v in values) + " |")
    print("\n| scan | shaft edge, mm | skin edge, mm | noise SD, HU | " + end_of_header())
    for name, found in figures.items():
        noise = found["noise"]
        cells = [found["shaft edge"], found["skin edge"], noise["sd"], *noise["lags"].values()]
        print(f"| {name} | " + " | ".join(f"{c:.2f}" for c in cells) + f" | {noise['next slice']:.2f} |")


def end_of_header() -> str:
    lags = " | ".join(f"at {lag:g} mm" for lag in LAGS_MM)
    return f"{lags} | next slice |\n|" + " --- |" * (5 + len(LAGS_MM))


def print_spread(figures: dict) -> None:
    """Of each region's percentiles over the phantoms: middle and range; and those of the real scans."""
    phantoms = [f for name, f in figures.items() if not name.startswith("real")]
    print("\n| region | scans | " + " | ".join(f"{q}%" for q in QUANTILES) + " |")
    print("| --- | --- |" + " --- |" * len(QUANTILES))
    for region in phantoms[0]["regions"]:
        ours = np.array([f["regions"][region] for f in phantoms if f["regions"][region] is not None])
        cells = [f"{np.median(v):.0f} ({v.min():.0f} to {v.max():.0f})" for v in ours.T]
        print(f"| {region} | phantoms | " + " | ".join(cells) + " |")
        for name, found in figures.items():
            if name.startswith("real") and found["regions"][region] is not None:
                print(f"| | {name} | " + " | ".join(f"{v:.0f}" for v in found["regions"][region]) + " |")


def draw_column(ct: Image, mask: Image) -> np.ndarray:
    """Axial, coronal and sagittal slice through the left head's centre, one above the other, in grey."""
    center_mm, _ = find_head(mask)
    x = np.arange(-200, 200, PICTURE_MM)
    y = np.arange(-130, 130, PICTURE_MM)
    z = np.arange(60, -110, -PICTURE_MM)
    middle_mm = center_mm * [0, 1, 1]
    planes = []
    for rows, columns, place in (
        (y, x, lambda r, c: np.stack([c, r, 0 * r], -1) + middle_mm),
        (z, x, lambda r, c: np.stack([c, 0 * r, r], -1) + middle_mm),
        (z, y, lambda r, c: np.stack([0 * r, c, r], -1) + center_mm),
    ):
        r, c = np.meshgrid(rows, columns, indexing="ij")
        index = np.moveaxis(ct.to_index(place(r, c)), -1, 0)
        plane = ndimage.map_coordinates(ct.array.astype(np.float32), index, order=1, cval=-1000)
        wide = np.full((len(rows), len(x)), -1000, np.float32)
        start = (len(x) - len(columns)) // 2
        wide[:, start : start + len(columns)] = plane
        planes.append(wide)
    grey = np.clip((np.concatenate(planes) - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1)
    return (255 * grey).astype(np.uint8)


def draw_picture(scans: dict, path: Path) -> None:
    """Two rows of columns, one per scan."""
    columns = [draw_column(ct, masks[0]) for ct, masks in scans.values()]
    half = (len(columns) + 1) // 2
    rows = [np.concatenate(columns[:half], axis=1), np.concatenate(columns[half:], axis=1)]
    rows[1] = np.pad(rows[1], ((0, 0), (0, rows[0].shape[1] - rows[1].shape[1])))
    path.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(path, np.concatenate(rows), cmap="gray", vmin=0, vmax=255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scans")
    parser.add_argument("--picture", type=Path, help="PNG of the phantoms")
    parser.add_argument(
        "--with-real", type=Path, help="PNG of the real hip CT and the phantoms, not to share"
    )
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--slice-mm", type=float, default=3.0)
    options = parser.parse_args()
    phantoms = make_phantoms(options.count, options.slice_mm)
    real = read_real(options.data) if options.data else {}
    if options.picture:
        draw_picture(phantoms, options.picture)
    if options.with_real and real:
        draw_picture({"real hip CT": real["real hip CT"], **phantoms}, options.with_real)
    figures = measure({**real, **phantoms})
    print_tables(figures)
    print_spread(figures)


if __name__ == "__main__":
    main()
