"""segment_femur: files in, files out, right hips mirrored, misfits refused."""

import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from hipqct import engine
from hipqct import segment as segment_module
from hipqct.errors import ModelError
from hipqct.image import Image
from hipqct.io.dataset import hash_crop
from hipqct.io.hdf5 import DISAGREEMENT, read_probability, write_roi
from hipqct.io.models import read_model, write_model
from hipqct.network import PAPER, weight_shapes
from hipqct.predict import combine_models
from hipqct.steps.segmentation import segment_femur

NETWORK = PAPER | {"filters": [2, 2, 2, 2]}
PLAN = {
    "name": "tiny",
    "network": NETWORK,
    "side": "left",
    "pixel_mm": 0.8,
    "slice_mm": 3.0,
    "window": [32, 32, 8],
    "normalisation": {"clip_hu": [-200, 1500]},
    "training": {},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
        for name, shape in weight_shapes(NETWORK).items()
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder, PLAN, weights)
    return folder


def make_roi(side="left", spacing_mm=(0.8, 0.8, 3.0)) -> Image:
    ct = np.random.default_rng(1).integers(-1024, 2000, (32, 32, 11), dtype=np.int16)
    return Image(ct[::-1] if side == "right" else ct, spacing_mm, (10.0, -20.0, 30.0))


def segment(folder, model_dir, side="left", **geometry):
    write_roi(make_roi(side, **geometry), folder / "roi.h5", {"side": side})
    segment_femur(
        folder / "roi.h5", folder / "probability.h5", [model_dir], (2, "uniform", "as-is"), "cpu", 1
    )
    return read_probability(folder / "probability.h5")


def test_probability_lies_on_the_crops_grid_and_says_how_it_was_made(tmp_path, model_dir):
    probability, facts = segment(tmp_path, model_dir)
    assert probability.same_grid(make_roi())
    assert 0 <= probability.array.min() < probability.array.max() <= 1
    assert facts["side"] == "left"
    assert (facts["device"], facts["engine"], facts["model"]) == ("cpu", "openvino", "tiny")
    assert facts["step"] == 2
    assert len(facts["weights_sha256"]) == 64


def test_a_mirrored_right_hip_gives_the_mirrored_result(tmp_path, model_dir):
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
    left, _ = segment(tmp_path / "left", model_dir)
    right, facts = segment(tmp_path / "right", model_dir, side="right")
    assert facts["side"] == "right"
    np.testing.assert_array_equal(right.array, left.array[::-1])
    assert left.array.std() > 0


@pytest.mark.parametrize("knows", ["left", "both"])
def test_a_hip_that_a_model_was_trained_on_is_told(tmp_path, model_dir, knows):
    """The crop as the network sees it: for a model of left hips a mirrored right one."""
    taught = make_roi("left" if knows == "left" else "right").array
    plan, weights = read_model(model_dir)
    del plan["weights_sha256"]
    taught_model = tmp_path / "taught"
    plan |= {"side": knows, "training": {"crops_sha256": ["0" * 64, hash_crop(taught)]}}
    write_model(taught_model, plan, weights)
    roi = make_roi("right")
    other = roi.with_array(roi.array.copy())
    other.array[0, 0, 0] += 1
    for name, image, models, seen in (
        ("same", roi, (model_dir, taught_model), True),
        ("other", other, (model_dir, taught_model), False),
        ("unknown", roi, (model_dir,), False),
    ):
        write_roi(image, tmp_path / f"{name}.h5", {"side": "right"})
        out = tmp_path / f"{name}-probability.h5"
        segment_femur(tmp_path / f"{name}.h5", out, models, (8, "uniform", "as-is"), "cpu", 1)
        assert read_probability(out)[1]["seen_in_training"] == seen


def test_a_crop_of_another_spacing_is_refused_and_leaves_no_file(tmp_path, model_dir):
    with pytest.raises(ModelError, match=r"roi.h5 has voxels of 0.7 x 0.7 x 3 mm"):
        segment(tmp_path, model_dir, spacing_mm=(0.7, 0.7, 3.0))
    assert not (tmp_path / "probability.h5").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, model_dir, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    write_roi(make_roi(), tmp_path / "roi.h5", {"side": "left"})
    with pytest.raises(ModelError, match="no GPU can be seen"):
        out = tmp_path / "probability.h5"
        segment_femur(tmp_path / "roi.h5", out, [model_dir], (1, "uniform", "as-is"), "gpu", 1)


def test_segmentation_on_the_cpu_never_loads_tensorflow(tmp_path, model_dir):
    write_roi(make_roi(), tmp_path / "roi.h5", {"side": "left"})
    code = (
        "import sys\n"
        "from hipqct.steps.segmentation import segment_femur\n"
        f"paths = ['{tmp_path}/roi.h5', '{tmp_path}/p.h5', ['{model_dir}']]\n"
        "segment_femur(*paths, (2, 'uniform', 'as-is'), 'cpu', 1)\n"
        "raise SystemExit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "p.h5").is_file()


def test_the_file_holds_bytes(tmp_path, model_dir):
    segment(tmp_path, model_dir)
    with h5py.File(tmp_path / "probability.h5") as file:
        assert [dataset.dtype for dataset in file.values()] == [np.uint8]


def test_several_models_are_averaged(tmp_path, model_dir):
    other_dir = tmp_path / "other"
    weights = {name: -array for name, array in read_model(model_dir)[1].items()}
    write_model(other_dir, PLAN | {"name": "other"}, weights)
    write_roi(make_roi(), tmp_path / "roi.h5", {"side": "left"})
    maps = []
    for models in ([model_dir], [other_dir], [model_dir, other_dir]):
        segment_femur(tmp_path / "roi.h5", tmp_path / "p.h5", models, (2, "uniform", "as-is"), "cpu", 1)
        probability, facts = read_probability(tmp_path / "p.h5")
        maps.append(probability.array)
    assert np.abs(maps[0] - maps[1]).max() > 0.1
    np.testing.assert_allclose(maps[2], (maps[0] + maps[1]) / 2, atol=1 / 255)
    expected = combine_models(maps[:2])[2]["models_dice_min"]
    assert facts["models_dice_min"] == pytest.approx(expected, abs=0.02)
    with h5py.File(tmp_path / "p.h5") as file:
        disagreement = file[DISAGREEMENT][()] / 255
    np.testing.assert_allclose(disagreement, np.abs(maps[0] - maps[1]) / 2, atol=1.5 / 255)
    assert facts["model"] == "tiny, other" and len(facts["weights_sha256"].split(", ")) == 2


def study(folder, hips):
    for subject, side in hips:
        write_roi(make_roi(side), folder / subject / side / "roi.h5", {"side": side})


def run(folder, model_dir, subject, side="left", step=2, **options):
    hip = folder / subject / side
    windows = (step, "uniform", "as-is")
    segment_femur(hip / "roi.h5", hip / "probability.h5", [model_dir], windows, "auto", 1, **options)
    return read_probability(hip / "probability.h5")


@pytest.fixture()
def loads(monkeypatch):
    """How often the network is made ready, by an engine that says it is a GPU's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    made, load_engine = [], engine.load_engine

    def load(*arguments):
        made.append(arguments)
        return replace(load_engine(*arguments), device="gpu")

    monkeypatch.setattr(engine, "load_engine", load)
    return made


def test_one_load_serves_the_hips_that_wait(tmp_path, model_dir, loads):
    hips = [("A", "left"), ("A", "right"), ("B", "left"), ("C", "left")]
    study(tmp_path, hips)
    run(tmp_path, model_dir, "A", hips_ahead=8)
    assert len(list(tmp_path.glob("*/*/.ahead.probability.h5"))) == 3
    assert not list(tmp_path.glob("[BC]/*/probability.h5")) and not list(tmp_path.glob("*/*/*.claim"))
    ahead, facts = run(tmp_path, model_dir, "A", "right")
    assert len(loads) == 1 and facts["side"] == "right"
    assert not (tmp_path / "A/right/.ahead.probability.h5").exists()
    (tmp_path / "A/right/probability.h5").unlink()
    alone, _ = run(tmp_path, model_dir, "A", "right")
    assert len(loads) == 2
    np.testing.assert_array_equal(ahead.array, alone.array)


def test_what_was_computed_ahead_of_a_change_is_not_taken(tmp_path, model_dir, loads):
    study(tmp_path, [("A", "left"), ("B", "left"), ("C", "left")])
    run(tmp_path, model_dir, "A", hips_ahead=8)
    _, facts = run(tmp_path, model_dir, "B", step=4)
    assert len(loads) == 2 and facts["step"] == 4
    other = make_roi()
    write_roi(other.with_array(other.array[::-1].copy()), tmp_path / "C/left/roi.h5", {"side": "left"})
    run(tmp_path, model_dir, "C")
    assert len(loads) == 3
    assert not list(tmp_path.glob("*/*/.ahead.probability.h5"))


def test_a_crop_that_changes_while_it_is_computed_ahead_is_computed_again(
    tmp_path, model_dir, loads, monkeypatch
):
    study(tmp_path, [("A", "left"), ("B", "left")])
    other, predict_probability, calls = make_roi(), segment_module.predict_probability, []

    def change_b(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # B's crop has been read
            write_roi(
                other.with_array(other.array[::-1].copy()), tmp_path / "B/left/roi.h5", {"side": "left"}
            )
        return predict_probability(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(segment_module, "predict_probability", change_b)
        run(tmp_path, model_dir, "A", hips_ahead=8)
    assert len(loads) == 1
    run(tmp_path, model_dir, "B")
    assert len(loads) == 2


def test_a_bad_crop_harms_no_other_hip(tmp_path, model_dir, loads):
    study(tmp_path, [("A", "left"), ("C", "left")])
    write_roi(make_roi(spacing_mm=(0.7, 0.7, 3.0)), tmp_path / "B/left/roi.h5", {"side": "left"})
    run(tmp_path, model_dir, "A", hips_ahead=8)
    run(tmp_path, model_dir, "C")
    assert len(loads) == 1
    with pytest.raises(ModelError, match=r"has voxels of 0\.7"):
        run(tmp_path, model_dir, "B")


def test_a_model_whose_plan_changed_is_another_one(tmp_path, model_dir, loads):
    changed = tmp_path / "changed"
    write_model(changed, PLAN | {"normalisation": {"clip_hu": [0, 1000]}}, read_model(model_dir)[1])
    study(tmp_path, [("A", "left"), ("B", "left")])
    first, _ = run(tmp_path, model_dir, "A", hips_ahead=8)
    again, _ = run(tmp_path, changed, "B")
    assert len(loads) == 2
    assert np.abs(first.array - again.array).max() > 0.01


def test_a_hip_that_has_a_result_by_other_settings_waits_too(tmp_path, model_dir, loads):
    study(tmp_path, [("A", "left"), ("B", "left"), ("C", "left")])
    run(tmp_path, model_dir, "A", hips_ahead=1)
    for subject in "BC":
        run(tmp_path, model_dir, subject)
    assert len(loads) == 2  # one of the two was taken
    run(tmp_path, model_dir, "A", hips_ahead=8)
    assert not list(tmp_path.glob("*/*/.ahead*"))
    run(tmp_path, model_dir, "A", step=4, hips_ahead=8)
    assert len(list(tmp_path.glob("[BC]/*/.ahead.probability.h5"))) == 2


def test_the_subjects_other_hip_comes_first(tmp_path, model_dir, loads):
    study(tmp_path, [(subject, side) for subject in "ABCDE" for side in ("left", "right")])
    run(tmp_path, model_dir, "C", hips_ahead=1)
    assert [path.parent for path in tmp_path.glob("*/*/.ahead*")] == [tmp_path / "C/right"]


def test_on_the_cpu_a_job_keeps_to_its_own_hip(tmp_path, model_dir, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    study(tmp_path, [("A", "left"), ("B", "left")])
    run(tmp_path, model_dir, "A", hips_ahead=8)
    assert not list(tmp_path.glob("*/*/.ahead*"))
