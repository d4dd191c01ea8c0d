"""Image files and axis orders: every voxel keeps its place in the world."""

import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import all_axis_directions
from scipy.spatial.transform import Rotation

from hipqct.errors import ScanError
from hipqct.image import Image, reorient_to_lps
from hipqct.io.images import read_image, write_image

SUFFIXES = ["nii.gz", "nii", "nrrd", "mha"]
TILT = Rotation.from_euler("xyz", [6, -8, 5], degrees=True).as_matrix()


def numbered(shape=(5, 4, 3), direction=None) -> Image:
    """An image whose voxels all differ."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return Image(array, (0.7, 1.1, 2.5), (-30.0, 12.0, 400.0), np.eye(3) if direction is None else direction)


def positions(image: Image) -> dict:
    """World position of each voxel value."""
    return {int(v): image.to_world(index) for index, v in np.ndenumerate(image.array)}


@pytest.mark.parametrize(
    "direction", list(all_axis_directions()), ids=lambda d: "".join(f"{v:+.0f}" for v in d.ravel())
)
@pytest.mark.parametrize("tilt", [np.eye(3), TILT], ids=["straight", "oblique"])
def test_all_48_orientations_come_to_lps_without_moving_a_voxel(direction, tilt):
    image = numbered(direction=tilt @ direction)
    turned = reorient_to_lps(image)
    np.testing.assert_allclose(turned.direction, tilt, atol=1e-12)
    before, after = positions(image), positions(turned)
    assert before.keys() == after.keys()
    np.testing.assert_allclose(list(after.values()), [before[v] for v in after], atol=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_images_come_back_in_place(tmp_path, suffix):
    image = numbered(direction=TILT)
    write_image(image, tmp_path / f"image.{suffix}")
    back = read_image(tmp_path / f"image.{suffix}")
    assert back.array.dtype == np.int16
    np.testing.assert_array_equal(back.array, image.array)
    assert back.same_grid(image)


def test_nibabel_sees_the_same_world(tmp_path):
    image = numbered(direction=TILT)
    write_image(image, tmp_path / "image.nii.gz")
    oracle = nibabel.load(tmp_path / "image.nii.gz")
    ras_to_lps = np.diag([-1, -1, 1, 1])
    np.testing.assert_allclose(ras_to_lps @ oracle.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(oracle.dataobj), image.array)


def test_a_mask_is_written_as_bytes(tmp_path):
    image = numbered()
    write_image(image.with_array(image.array > 10), tmp_path / "mask.nii.gz")
    assert read_image(tmp_path / "mask.nii.gz").array.dtype == np.uint8


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError):
        write_image(numbered(), tmp_path / "image.unknown")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 30, 30)).astype(np.int16)
    path = tmp_path / f"image.{suffix}"
    write_image(Image(noise, (1, 1, 1)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ScanError, match=rf"image.{suffix} is truncated"):
        read_image(path)


def test_what_is_not_a_3d_image_is_refused(tmp_path):
    flat = nibabel.Nifti1Image(np.zeros((8, 8), np.int16), np.eye(4))
    film = nibabel.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.eye(4))
    nibabel.save(flat, tmp_path / "flat.nii")
    nibabel.save(film, tmp_path / "film.nii")
    for name, shape in [("flat.nii", "8x8"), ("film.nii", "8x8x8x3")]:
        with pytest.raises(ScanError, match=rf"{name} holds {shape} voxels"):
            read_image(tmp_path / name)
    with pytest.raises(ScanError, match=r"picture\.png is not an image file"):
        (tmp_path / "picture.png").touch()
        read_image(tmp_path / "picture.png")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(ScanError, match=r"text\.nii cannot be read"):
        read_image(tmp_path / "text.nii")
    with pytest.raises(ScanError, match="is not there"):
        read_image(tmp_path / "absent.nii")


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha", "mhd", "nhdr"])
def test_a_damaged_byte_is_found(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    picture = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 999, (20, 20, 20), np.int16))
    sitk.WriteImage(picture, str(path), useCompression=True)
    packed = next((p for p in tmp_path.iterdir() if p != path), path)
    content, random = packed.read_bytes(), np.random.default_rng(1)
    read_image(path)
    for at in random.integers(len(content) // 4, len(content), 20):
        damaged = bytearray(content)
        damaged[at] ^= 1 << random.integers(8)
        packed.write_bytes(damaged)
        with pytest.raises(ScanError, match=r"damaged|cannot be read"):
            read_image(path)


def test_compressed_voxels_of_a_metaimage_have_the_stated_length(tmp_path):
    path = tmp_path / "image.mha"
    noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=True)
    content = path.read_bytes()
    stated = re.search(rb"CompressedDataSize = (\d+)\n", content)
    np.testing.assert_array_equal(read_image(path).array, noise.T)
    for size in (int(stated[1]) - 100, int(stated[1]) // 2, 0):
        path.write_bytes(content.replace(stated[0], b"CompressedDataSize = %d\n" % size))
        with pytest.raises(ScanError, match="truncated or damaged"):
            read_image(path)
    path.write_bytes(content.replace(stated[0], b""))
    with pytest.raises(ScanError, match="has no CompressedDataSize"):
        read_image(path)


def nifti(path, qform=None, sform=None):
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), sform if qform is None else qform)
    image.set_qform(qform, code=0 if qform is None else 1)
    image.set_sform(sform, code=0 if sform is None else 2)
    nibabel.save(image, path)
    return path


def test_a_place_in_doubt_is_refused(tmp_path):
    straight, mirrored = np.diag([-1.0, -1, 2, 1]), np.diag([1.0, -1, 2, 1])
    with pytest.raises(ScanError, match="neither qform nor sform"):
        read_image(nifti(tmp_path / "none.nii"))
    with pytest.raises(ScanError, match=r"form that contradicts .* by 14\.0 mm"):
        read_image(nifti(tmp_path / "two.nii", straight, mirrored))
    with pytest.raises(ScanError, match=r"sform that contradicts .* by 7\.0 mm"):
        path = nifti(tmp_path / "scaled.nii", straight, None)
        image = nibabel.load(path)
        image.set_qform(None, code=0)
        image.set_sform(np.diag([-1.0, -1, 3, 1]), code=1)
        nibabel.save(image, path)
        read_image(path)
    with pytest.raises(ScanError, match="not perpendicular"):
        read_image(nifti(tmp_path / "sheared.nii", None, straight + 0.5 * np.eye(4, k=2)))
    space = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 8\nendian: little\nencoding: raw\n"
    (tmp_path / "no.nrrd").write_bytes(space + b"\n" + bytes(1024))
    with pytest.raises(ScanError, match=r"no\.nrrd has no space"):
        read_image(tmp_path / "no.nrrd")
    (tmp_path / "scanner.nrrd").write_bytes(
        space + b"space: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n\n" + bytes(1024)
    )
    with pytest.raises(ScanError, match="scanner-xyz space, so left and right cannot be told"):
        read_image(tmp_path / "scanner.nrrd")
    sheared = b"space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0.3,2)\n"
    (tmp_path / "sheared.nrrd").write_bytes(space + sheared + b"\n" + bytes(1024))
    with pytest.raises(ScanError, match=r"not perpendicular \(cosine 0\.1"):
        read_image(tmp_path / "sheared.nrrd")


NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 8\nendian: little\nencoding: raw\n"
NRRD += b"space: left-posterior-superior\n"
DIRECTIONS, ORIGIN = b"space directions: (1,0,0) (0,1,0) (0,0,2)\n", b"space origin: (5,6,7)\n"
META = b"ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n"
META += b"Offset = 5 6 7\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"


@pytest.mark.parametrize(
    ("name", "head", "told"),
    [
        ("a.nrrd", NRRD + ORIGIN, "has no space directions, so its geometry is unknown"),
        ("a.nrrd", NRRD + DIRECTIONS, "has no space origin, so"),
        ("a.nrrd", NRRD + DIRECTIONS + ORIGIN + b'space units: "cm" "cm" "cm"\n', "counts lengths in cm"),
        ("a.nrrd", NRRD + DIRECTIONS + ORIGIN + b'space units: "mm" "mm" "mm"\n', None),
        ("a.mha", META + b"DistanceUnits = cm\n", "counts lengths in cm"),
        ("a.mha", META + b"ElementToIntensityFunctionSlope = 2\n", "has ElementToIntensityFunctionSlope 2,"),
        ("a.mha", META + b"ElementToIntensityFunctionOffset = x\n", "FunctionOffset x, which programs pass"),
        ("a.mha", META + b"ElementToIntensityFunctionSlope = 1.0\nDistanceUnits = mm\n", None),
    ],
)
def test_what_itk_fills_with_defaults_or_passes_over_is_refused(tmp_path, name, head, told):
    end = b"\n" if name.endswith("nrrd") else b"ElementDataFile = LOCAL\n"
    (tmp_path / name).write_bytes(head + end + bytes(1024))
    if told:
        with pytest.raises(ScanError, match=told):
            read_image(tmp_path / name)
    else:
        np.testing.assert_allclose(read_image(tmp_path / name).to_world([0, 0, 1]), [5, 6, 9])


@pytest.mark.parametrize(("unit", "name"), [("meter", "metres"), ("micron", "micrometres")])
def test_other_units_than_millimetres_are_named(tmp_path, unit, name):
    path = nifti(tmp_path / "image.nii", np.diag([-1.0, -1, 2, 1]))
    image = nibabel.load(path)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    with pytest.raises(ScanError, match=f"counts lengths in {name}; export it in millimetres"):
        read_image(path)


@pytest.mark.parametrize("forms", ["q", "s", "qs"])
def test_agreeing_forms_place_the_image(tmp_path, forms):
    affine = np.eye(4)
    affine[:3, :3] = TILT @ np.diag([-0.8, 0.8, 2.0])
    affine[:3, 3] = [10, -20, 300]
    path = nifti(tmp_path / "image.nii", affine if "q" in forms else None, affine if "s" in forms else None)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ affine, read_image(path).affine, atol=1e-4)


def test_nrrd_in_ras_comes_in_lps(tmp_path):
    head = b"NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\n"
    head += b"space directions: (1,0,0) (0,1,0) (0,0,2)\n"
    head += b"space origin: (5,6,7)\nsizes: 8 8 8\nendian: little\nencoding: raw\n\n"
    (tmp_path / "ras.nrrd").write_bytes(head + bytes(1024))
    image = read_image(tmp_path / "ras.nrrd")
    np.testing.assert_allclose(image.to_world([1, 1, 1]), [-6, -7, 9])


def test_nrrd_with_time_comes_in_where_its_axes_are_sure(tmp_path):
    head = b"NRRD0005\ntype: short\ndimension: 4\nspace: %s-superior-time\nsizes: 8 8 8 1\nendian: little\n"
    head += b"space directions: (1,0,0,0) (0,1,0,0) (0,0,2,0) (0,0,0,1)\nspace origin: (5,6,7,0)\n"
    head += b"encoding: raw\n\n"
    path = tmp_path / "time.nrrd"
    path.write_bytes(head % b"left-posterior" + bytes(1024))
    np.testing.assert_allclose(read_image(path).to_world([1, 1, 1]), [6, 7, 9])
    for space in (b"right-anterior", b"left-anterior"):
        path.write_bytes(head % space + bytes(1024))
        with pytest.raises(ScanError, match="-superior-time, which programs mistake for LPS"):
            read_image(path)
