"""Material laws at known points, their bases, and the bins."""

import json
from pathlib import Path

import numpy as np
import pytest

from hipqct.errors import MeshError
from hipqct.io.laws import read_laws
from hipqct.material import (
    DensityLaw,
    ModulusLaw,
    bin_modulus,
    convert_density,
    law_from_record,
    share_outside,
    youngs_modulus_mpa,
)

LAWS = read_laws(Path(__file__).resolve().parents[1] / "resources" / "materials")
KEYAK = LAWS["keyak_three_range"]


def test_ash_density_of_keyak_1994():
    ash_g_cm3, basis = convert_density(np.array([0.0, 0.2]), "K2HPO4", [LAWS["keyak1994_ash"]])
    assert basis == "ash"
    assert np.allclose(ash_g_cm3, [0.0389, 0.2509])


def test_a_chain_of_laws_from_hydroxyapatite_to_apparent_density():
    laws = [LAWS["schileo2008_ash"], LAWS["schileo2008_apparent"]]
    apparent_g_cm3, basis = convert_density(0.4, "HA", laws)
    assert basis == "apparent"
    assert apparent_g_cm3 == pytest.approx((0.877 * 0.4 + 0.0789) / 0.6)


@pytest.mark.parametrize(
    ("ash_g_cm3", "modulus_mpa"),
    [(0.1, 33900 * 0.1**2.20), (0.27, 33900 * 0.27**2.20), (0.4, 2591.8), (0.8, 10200 * 0.8**2.01)],
)
def test_keyaks_three_ranges_at_known_points(ash_g_cm3, modulus_mpa):
    assert youngs_modulus_mpa(KEYAK, ash_g_cm3, "ash", 1.0) == pytest.approx(modulus_mpa)


@pytest.mark.parametrize("joint_g_cm3", [0.27, 0.60])
def test_keyaks_ranges_meet_within_a_thousandth(joint_g_cm3):
    below, above = youngs_modulus_mpa(KEYAK, joint_g_cm3 + np.array([-1e-9, 1e-9]), "ash", 1.0)
    assert above == pytest.approx(below, rel=1e-3)


@pytest.mark.parametrize("law", [law for law in LAWS.values() if isinstance(law, ModulusLaw)])
def test_every_shipped_modulus_law_rises_and_stays_below_solid_bone(law):
    density_g_cm3 = np.linspace(*law.valid_g_cm3, 200)
    modulus_mpa = youngs_modulus_mpa(law, density_g_cm3, law.takes, 1e-3)
    assert (np.diff(modulus_mpa) > 0).all()
    assert modulus_mpa[0] > 1 and modulus_mpa[-1] < 25_000
    assert law.citation and law.confidence


def test_marrow_and_fat_get_the_minimum_modulus():
    modulus_mpa = youngs_modulus_mpa(KEYAK, np.array([-0.1, 0.0, 1e-4, 0.5]), "ash", 10.0)
    assert np.allclose(modulus_mpa[:3], 10.0) and modulus_mpa[3] > 3000


def test_a_minimum_of_zero_is_refused():
    with pytest.raises(MeshError, match="above 0"):
        youngs_modulus_mpa(KEYAK, 0.3, "ash", 0.0)


def test_a_law_refuses_another_density():
    with pytest.raises(MeshError, match="takes K2HPO4 density, got HA"):
        convert_density(0.2, "HA", [LAWS["keyak1994_ash"]])
    with pytest.raises(MeshError, match="takes ash density, got K2HPO4"):
        youngs_modulus_mpa(KEYAK, 0.2, "K2HPO4", 10.0)


def test_the_share_outside_the_range_is_counted():
    law = LAWS["morgan2003_femoral_neck"]
    assert share_outside(law, [0.1, 0.3, 0.5, 0.9]) == 0.5


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


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "colour"},
        {"kind": "density", "takes": "HA"},
        {
            "kind": "modulus",
            "takes": "ash",
            "pieces": [],
            "valid_g_cm3": [0, 1],
            "citation": "",
            "confidence": "",
        },
        {
            "kind": "modulus",
            "takes": "ash",
            "pieces": [{"up_to_g_cm3": 0.3, "factor_mpa": 1, "exponent": 1}],
            "valid_g_cm3": [0, 1],
            "citation": "",
            "confidence": "",
        },
    ],
)
def test_a_broken_law_is_named(record):
    with pytest.raises(MeshError, match="mine"):
        law_from_record("mine", record)


def test_users_laws_are_read_beside_the_shipped_and_twins_are_refused(tmp_path):
    record = {
        "kind": "density",
        "takes": "HA",
        "gives": "ash",
        "slope": 1.0,
        "intercept_g_cm3": 0.0,
        "citation": "mine",
        "confidence": "mine",
    }
    (tmp_path / "a.json").write_text(json.dumps({"mine": record}))
    assert isinstance(read_laws(tmp_path)["mine"], DensityLaw)
    (tmp_path / "b.json").write_text(json.dumps({"mine": record}))
    with pytest.raises(MeshError, match="twice"):
        read_laws(tmp_path)


def test_a_folder_without_laws_is_refused(tmp_path):
    with pytest.raises(MeshError, match="no material laws"):
        read_laws(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(MeshError, match=r"a\.json"):
        read_laws(tmp_path)
