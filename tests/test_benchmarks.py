"""Benchmarks keep figures only of the weights they are of, and refuse to score what is not there."""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from hipqct.io.dataset import Hip
from hipqct.io.files import read_json, write_json
from hipqct.predict import WindowScheme

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench_inference
import bench_models
import committed
import gpu_inference
import inference_schemes

RESULTS = ROOT / "benchmarks/results"
SCHEMES = ("1,uniform,as-is", "adaptive,uniform,as-is")


def test_blocks_that_were_not_measured_again_stay_only_with_their_weights(capsys):
    before = {"real_ct": {"left": 1}, "real_weights_sha256": "a"}
    result = {"weights_sha256": "a"}
    assert committed.keep_block(result, before, "real", ("real_ct",))
    assert result == before | {"weights_sha256": "a"}
    result = {"weights_sha256": "b"}
    assert not committed.keep_block(result, before, "real", ("real_ct",))
    assert result == {"weights_sha256": "b"}
    assert "dropped" in capsys.readouterr().out
    result = {"weights_sha256": "a"}
    gpus = {"torch": {"weights_sha256": "a"}, "jax": {"window_s": 1.0}}
    committed.keep_gpu(result, {"gpu": gpus})
    assert result["gpu"] == {"torch": {"weights_sha256": "a"}}
    assert "gpu of jax" in capsys.readouterr().out


def test_another_models_results_need_a_file_of_their_own(monkeypatch, tmp_path):
    parser = argparse.ArgumentParser()
    committed.add_model_options(parser, RESULTS / "models.json")
    other = parser.parse_args(["--model", str(ROOT / "resources/models/compact")])
    with pytest.raises(SystemExit):
        committed.chosen_results(parser, other, RESULTS / "models.json")
    default = parser.parse_args([])
    assert committed.chosen_results(parser, default, RESULTS / "models.json") == RESULTS / "models.json"


def compared(kinds: dict[str, list[float]], default_s: float) -> pd.DataFrame:
    """Rows as of `compare_schemes`: step 1 takes 10 s everywhere; in a second, short hip all windows do."""
    rows = [
        {
            "case": f"{kind}{i}", "kind": kind, "slices": slices, "scheme": scheme, "seconds": seconds,
            "dice_vs_step1": dice, "volume_difference_percent": 1.0, "dice_vs_truth": dice,
            "dice_vs_truth_lost": 1 - dice,
        }
        for kind, values in kinds.items()
        for i, (dice, slices) in enumerate(zip(values, (60, 35), strict=False))
        for scheme, seconds in zip(SCHEMES, (10.0, default_s if slices == 60 else 10.0), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def result_of(sha: str = "a", machine: str = "here", exact: float = 1.5) -> dict:
    return {
        "weights_sha256": sha, "machine": machine, "speedup_exact_vs_predict": exact,
        "default_scheme": SCHEMES[1],
    }  # fmt: skip


def test_the_headline_is_of_phantoms_of_about_60_slices_and_real_hips_stay_when_not_run():
    before = result_of()
    bench_inference.add_schemes(
        before, {}, compared({"synthetic": [0.9, 1.0], "real": [0.5]}, 4.0), SCHEMES[1]
    )
    assert before["speedup_default_vs_predict"] == pytest.approx(1.5 * 10 / 4)
    assert before["speedup_default_vs_predict_synthetic"] == pytest.approx(1.5 * 20 / 14)
    assert before["hips_about_60_slices"] == ["synthetic0"]
    assert before["schemes"][0]["dice_vs_step1_mean"] == pytest.approx(0.8)
    later = result_of(machine="elsewhere", exact=2.0)
    bench_inference.add_schemes(later, before, compared({"synthetic": [0.9, 1.0]}, 5.0), SCHEMES[1])
    assert later["speedup_default_vs_predict"] == 4.0
    assert later["speedup_default_vs_predict_real"] == before["speedup_default_vs_predict_real"]
    assert (later["cases"], later["real_machine"]) == ({"synthetic": 2, "real": 1}, "here")
    assert later["dice_default_vs_step1_min"] == 0.5
    assert "seconds" not in later["schemes"][0]  # of two machines
    other = result_of(sha="b")
    bench_inference.add_schemes(other, before, compared({"synthetic": [0.9]}, 5.0), SCHEMES[1])
    assert not [key for row in (other, *other["schemes"]) for key in row if key.endswith("_real")]


def test_new_times_leave_no_figure_of_other_times(capsys):
    before = result_of() | {"monai_s": 9.0, "speedup_vs_monai": 3.0, "monai_weights_sha256": "a"}
    bench_inference.add_schemes(before, {}, compared({"synthetic": [0.9], "real": [0.5]}, 4.0), SCHEMES[1])
    renewed = bench_inference.renew_times(before, result_of(exact=3.0))
    assert renewed["speedup_default_vs_predict"] == pytest.approx(2 * before["speedup_default_vs_predict"])
    assert not [key for key in renewed if "monai" in key]
    assert "monai_s" in capsys.readouterr().out
    elsewhere = bench_inference.renew_times(before, result_of(machine="elsewhere"))
    assert not [key for key in elsewhere if key.startswith("speedup_default")]
    with pytest.raises(SystemExit, match="other weights"):
        bench_inference.renew_times(before, result_of(sha="b"))


def test_a_network_that_finds_nothing_has_no_agreement(monkeypatch, tmp_path):
    crop = tmp_path / "1_left.npz"
    np.savez(crop, ct=np.zeros((16, 16, 32), np.int16))
    network = {"filters": (2, 2), "encoder_convolutions": (1, 1), "decoder_convolutions": (1,)}
    from hipqct.engine import Engine

    engine = Engine("none", "cpu", 1, lambda windows: np.zeros(windows.shape, np.float32))
    plan = {"window": (16, 16, 32), "normalisation": {"clip_hu": (-200, 1500)}, "network": network}
    monkeypatch.setattr("hipqct.engine.openvino_engine", lambda *_: engine)
    monkeypatch.setattr("hipqct.io.models.read_model", lambda _: (plan, {}))
    case = ("synthetic", crop, np.ones((16, 16, 32), bool))
    with pytest.raises(SystemExit, match="1_left: the network finds no femur"):
        inference_schemes.compare_schemes(Path("m"), 1, [SCHEMES[1]], [case])


def write_study(folder, sha: str) -> None:
    for case in bench_models.REAL_CASES:
        for side in bench_models.SIDES:
            hip = folder / "results/subjects" / case / side
            write_json({"network": {"model": "m", "weights_sha256": sha}}, hip / "bone.json")
            write_json(dict.fromkeys(bench_models.SCORES, 1.0), hip / "evaluation.json")


def test_a_study_is_of_these_weights_and_complete(tmp_path):
    write_study(tmp_path, "a")
    assert set(bench_models.read_real(tmp_path, "a")["real_ct"]) == {"left", "right"}
    with pytest.raises(SystemExit, match="is of the model m"):
        bench_models.read_real(tmp_path, "b")
    (tmp_path / "results/subjects/real-ct/right/evaluation.json").unlink()
    with pytest.raises(SystemExit, match=r"real-ct/right/evaluation.json is missing"):
        bench_models.read_real(tmp_path, "a")


def test_wrong_voxels_are_placed_by_their_distance_to_the_surface(monkeypatch):
    truth = np.zeros((10, 10, 4), bool)
    truth[:, :5] = True
    mask = truth.copy()
    mask[0, 4] = False  # 4 voxels 0.05 mm inside
    mask[0, 8] = True  # 4 voxels 2 mm outside
    distance_um = np.full(truth.shape, 300, np.int16)
    distance_um[:, 4], distance_um[:, 8] = -50, 2000
    hips = [
        Hip("1", "left", truth.astype(np.int16), truth, spacing_mm=(1, 1, 1), distance_um=distance_um)
    ] * 2
    bone = SimpleNamespace(mask=SimpleNamespace(array=mask))
    monkeypatch.setattr(bench_models, "segment_crop", lambda *_: bone)
    found = bench_models.locate_wrong(hips, [], WindowScheme(1))
    assert found["percent_of_femur"] == pytest.approx(100 * 8 / 200)
    assert [found[f"percent_within_{mm}_mm"] for mm in (0.1, 0.8)] == [50, 50]


def test_failed_hips_leave_no_headline():
    keys = ("dice_mean", "dice_sd", "dice_low", "dice_high", "sensitivity_mean", "specificity_mean")
    keys += ("hausdorff95_mm_mean", "mae_mm3", "re_min_percent", "re_max_percent", "r2")
    row = {"cohort": "all", "n": 36, "failed": 0} | dict.fromkeys(keys, 0.9)
    assert bench_models.summarise(pd.DataFrame([row]), 0)["all"]["dice_mean"] == 0.9
    found = bench_models.summarise(pd.DataFrame([row]), 1)["all"]
    assert (found["n"], found["failed"], found["dice_mean_of_done"]) == (36, 1, 0.9)
    assert "dice_mean" not in found


def test_committed_results_are_of_the_shipped_model():
    sha = read_json(committed.DEFAULT_MODEL / "plan.json")["weights_sha256"]
    inference, models = (read_json(RESULTS / name) for name in ("inference.json", "models.json"))
    names = [f"{block}weights_sha256" for block in ("", "monai_", "real_", "schemes_")]
    assert {inference[name] for name in names} == {sha}
    assert {models["weights_sha256"], models["real_weights_sha256"]} == {sha}
    assert inference["speedup_vs_monai"] == pytest.approx(inference["monai_s"] / inference["monai_exact_s"])
    arguments = (inference["schemes"], inference["default_scheme"], inference["speedup_exact_vs_predict"])
    for key, value in bench_inference.speedups_of_default(*arguments).items():
        assert inference[key] == pytest.approx(value)


def test_gpu_figures_of_other_weights_are_not_merged():
    plan = {"name": "medium", "weights_sha256": "a"}
    gpu_inference.check_weights({"weights_sha256": "a"}, plan, Path("torch.json"))
    for figures in ({"weights_sha256": "b"}, {}):
        with pytest.raises(SystemExit, match=r"torch\.json is not of the weights of medium"):
            gpu_inference.check_weights(figures, plan, Path("torch.json"))
