"""Material laws at known points, their bases, and the bins."""

import json
from pathlib import Path

import numpy as np
import pytest

from hipqct.errors import MeshError
from hipqct.io.laws import LAWS_FOLDER, law_files, read_laws
from hipqct.material import (
    Density,
    DensityLaw,
    ModulusLaw,
    bin_modulus,
    convert_density,
    law_from_record,
    outside_validity,
    youngs_modulus_mpa,
)

LAWS = read_laws(Path(__file__).resolve().parents[1] / "resources" / "materials")
KEYAK = LAWS["keyak_three_range"]
MINE = {
    "kind": "density",
    "takes": "HA",
    "gives": "ash",
    "unit": "g/cm3",
    "slope": 1.0,
    "intercept_g_cm3": 0.0,
    "valid_g_cm3": [0.0, 1.2],
    "citation": "mine",
    "confidence": "mine",
}
MY_MODULUS = {key: MINE[key] for key in ("takes", "unit", "valid_g_cm3", "citation", "confidence")} | {
    "kind": "modulus",
    "pieces": [{"factor_mpa": 14900, "exponent": 1.86}],
}


def ash(density_g_cm3) -> Density:
    return Density(density_g_cm3, "ash", "g/cm3")


def test_ash_density_of_keyak_1994():
    found = convert_density(Density(np.array([0.0, 0.2]), "K2HPO4", "g/cm3"), [LAWS["keyak1994_ash"]])
    assert (found.basis, found.unit) == ("ash", "g/cm3")
    assert np.allclose(found.values, [0.0389, 0.2509])


def test_a_chain_of_laws_from_hydroxyapatite_to_apparent_density():
    laws = [LAWS["schileo2008_ash"], LAWS["schileo2008_apparent"]]
    apparent = convert_density(Density(0.4, "HA", "g/cm3"), laws)
    assert apparent.basis == "apparent"
    assert apparent.values == pytest.approx((0.877 * 0.4 + 0.0789) / 0.6)


@pytest.mark.parametrize(
    ("ash_g_cm3", "modulus_mpa"),
    [(0.1, 33900 * 0.1**2.20), (0.27, 33900 * 0.27**2.20), (0.4, 2591.8), (0.8, 10200 * 0.8**2.01)],
)
def test_keyaks_three_ranges_at_known_points(ash_g_cm3, modulus_mpa):
    assert youngs_modulus_mpa(KEYAK, ash(ash_g_cm3), 1.0) == pytest.approx(modulus_mpa)


@pytest.mark.parametrize("joint_g_cm3", [0.27, 0.60])
def test_keyaks_ranges_meet_within_a_thousandth(joint_g_cm3):
    below, above = youngs_modulus_mpa(KEYAK, ash(joint_g_cm3 + np.array([-1e-9, 1e-9])), 1.0)
    assert above == pytest.approx(below, rel=1e-3)


@pytest.mark.parametrize("law", [law for law in LAWS.values() if isinstance(law, ModulusLaw)])
def test_every_shipped_modulus_law_rises_and_stays_below_solid_bone(law):
    density_g_cm3 = np.linspace(*law.valid_g_cm3, 200)
    modulus_mpa = youngs_modulus_mpa(law, Density(density_g_cm3, law.takes, law.unit), 1e-3)
    assert (np.diff(modulus_mpa) > 0).all()
    assert modulus_mpa[0] > 1 and modulus_mpa[-1] < 25_000
    assert law.citation and law.confidence


def test_marrow_and_fat_get_the_minimum_modulus():
    modulus_mpa = youngs_modulus_mpa(KEYAK, ash(np.array([-0.1, 0.0, 1e-4, 0.5])), 10.0)
    assert np.allclose(modulus_mpa[:3], 10.0) and modulus_mpa[3] > 3000


def test_a_minimum_of_zero_is_refused():
    with pytest.raises(MeshError, match="above 0"):
        youngs_modulus_mpa(KEYAK, ash(0.3), 0.0)


@pytest.mark.parametrize(
    ("basis", "unit", "words"),
    [
        ("HA", "g/cm3", "takes K2HPO4 density in g/cm3, got HA in g/cm3"),
        ("K2HPO4", "mg/cm3", "takes K2HPO4 density in g/cm3, got K2HPO4 in mg/cm3"),
    ],
)
def test_a_law_refuses_a_density_of_another_basis_or_unit(basis, unit, words):
    with pytest.raises(MeshError, match=words):
        convert_density(Density(200.0, basis, unit), [LAWS["keyak1994_ash"]])
    with pytest.raises(MeshError, match=f"takes ash density in g/cm3, got {basis} in {unit}"):
        youngs_modulus_mpa(KEYAK, Density(0.2, basis, unit), 10.0)
    with pytest.raises(MeshError, match=words):
        outside_validity(LAWS["keyak1994_ash"], Density(0.2, basis, unit))


def test_what_lies_outside_a_laws_range_is_found():
    law = LAWS["morgan2003_femoral_neck"]
    found = outside_validity(law, Density([0.1, 0.3, 0.5, 0.9], "apparent", "g/cm3"))
    assert found.tolist() == [True, False, False, True]
    open_end = outside_validity(LAWS["keyak1994_ash"], Density([-0.1, 0.0, 9.0], "K2HPO4", "g/cm3"))
    assert open_end.tolist() == [True, False, False]


def test_bins_are_within_their_width_and_keep_the_mean():
    modulus_mpa = np.exp(np.random.default_rng(0).uniform(np.log(10), np.log(20_000), 5000))
    bins = bin_modulus(modulus_mpa, 0.05)
    assert len(bins.modulus_mpa) < 160
    assert (np.diff(bins.modulus_mpa) > 0).all()
    assert bins.modulus_mpa[bins.bin_of_cell].sum() == pytest.approx(modulus_mpa.sum())
    error = np.abs(bins.modulus_mpa[bins.bin_of_cell] / modulus_mpa - 1).max()
    assert bins.largest_error == pytest.approx(error) and error < 0.05


def test_a_width_of_zero_keeps_every_modulus():
    modulus_mpa = np.array([500.0, 10.0, 500.0, 3000.0])
    bins = bin_modulus(modulus_mpa, 0)
    assert np.array_equal(bins.modulus_mpa[bins.bin_of_cell], modulus_mpa)
    assert bins.largest_error == 0


def test_one_modulus_is_one_bin():
    bins = bin_modulus(np.full(4, 17_000.0), 0.05)
    assert bins.modulus_mpa.tolist() == [17_000.0] and bins.largest_error == 0


def without(record: dict, *keys: str) -> dict:
    return {key: value for key, value in record.items() if key not in keys}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "colour"}, '"kind": "density" or "kind": "modulus"'),
        ([1.06, 0.0389], '"kind": "density" or "kind": "modulus"'),
        (without(MINE, "slope", "unit"), "slope, unit missing"),
        (without(MINE, "valid_g_cm3"), "valid_g_cm3 missing"),
        (MINE | {"slop": 1}, "slop unknown"),
        (MINE | {"unit": "mg/cm3"}, "unit must be g/cm3, got 'mg/cm3'"),
        (MINE | {"slope": "1.06"}, "slope must be a number, got '1.06'"),
        (MINE | {"slope": float("nan")}, "slope must be a number"),
        (MINE | {"valid_g_cm3": 1.2}, r"valid_g_cm3 must be \[low, high\]"),
        (MINE | {"valid_g_cm3": [1.2, 0.0]}, "valid_g_cm3 must ascend"),
        (MINE | {"citation": ""}, "citation must be text"),
        (MY_MODULUS | {"pieces": []}, "pieces must ascend"),
        (MY_MODULUS | {"pieces": [1.0]}, "pieces must be a list of objects"),
        (MY_MODULUS | {"pieces": [{"factor_mpa": 1}]}, "exponent must be a number, got None"),
        (
            MY_MODULUS | {"pieces": [{"up_to_g_cm3": 0.3, "factor_mpa": 1, "exponent": 1}]},
            "the last alone has no up_to",
        ),
    ],
)
def test_a_broken_law_is_one_sentence_with_its_name_and_key(record, words):
    with pytest.raises(MeshError, match=f"material law mine: .*{words}") as error:
        law_from_record("mine", record)
    assert "__init__" not in str(error.value) and "\n" not in str(error.value)


def test_the_records_that_are_broken_above_are_right_as_they_are():
    assert law_from_record("mine", MINE | {"note": 3}).valid_g_cm3 == (0.0, 1.2)
    assert law_from_record("mine", MY_MODULUS | {"valid_g_cm3": [None, 1]}).valid_g_cm3 == (None, 1.0)


def test_users_laws_are_read_beside_the_shipped_and_twins_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"mine": MINE}))
    assert isinstance(read_laws(tmp_path)["mine"], DensityLaw)
    (tmp_path / "b.json").write_text(json.dumps({"mine": MINE}))
    with pytest.raises(MeshError, match="twice"):
        read_laws(tmp_path)
    (tmp_path / "b.json").write_text(f'{{"other": {json.dumps(MINE)}, "other": {json.dumps(MINE)}}}')
    with pytest.raises(MeshError, match=r"b\.json .*other stands twice"):
        read_laws(tmp_path)


def test_a_file_of_laws_that_cannot_be_read_is_named(tmp_path):
    for content, words in (
        (json.dumps([MINE]), "one JSON object of laws by name"),
        (json.dumps({"mine": MINE | {"slope": None}}), "material law mine: slope must be a number, got None"),
    ):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(MeshError, match=rf"mine\.json.*{words}"):
            read_laws(tmp_path)


def test_the_files_of_laws_are_those_that_are_read_shipped_and_own(tmp_path):
    assert [path.name for path in law_files(LAWS_FOLDER)] == ["laws.json"]
    for name in ("b.json", "a.json", "README.md"):
        (tmp_path / name).write_text("{}")
    assert law_files(tmp_path) == [tmp_path / "a.json", tmp_path / "b.json"]


def test_a_folder_without_laws_is_refused(tmp_path):
    with pytest.raises(MeshError, match="no material laws"):
        read_laws(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(MeshError, match=r"a\.json"):
        read_laws(tmp_path)
