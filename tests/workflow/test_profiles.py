"""Profiles name rules that exist; Snakemake itself takes any name and says nothing."""

import re
import subprocess
import sys

import pytest
import yaml

from .conftest import ROOT

SLURM = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())


@pytest.fixture(scope="module")
def rules() -> set[str]:
    """Names of all rules of the workflow."""
    texts = [path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]]
    return {name for text in texts for name in re.findall(r"^rule (\w+):", text, re.MULTILINE)}


def test_every_rule_that_the_slurm_profile_names_exists_and_is_in_one_group(rules):
    grouped = [entry.split("=")[0] for entry in SLURM["groups"]]
    assert len(grouped) == len(set(grouped))
    assert {*grouped, *SLURM["set-resources"]} <= rules


def test_steps_that_can_fail_alone_are_in_no_group():
    """A group fails as a whole: one hip would take the other with it, a mesh its mask."""
    alone = {"crop_hip", "segment_femur", "export_mesh", "solve_mesh", "evaluate_mask", "draw_qc"}
    assert alone.isdisjoint(entry.split("=")[0] for entry in SLURM["groups"])


def test_the_workstations_limits_do_not_hold_back_a_cluster():
    """Snakemake adds profiles/default to every other profile, and it wins."""
    limits = set(DEFAULT["resources"])
    assert limits.isdisjoint(SLURM.get("resources", {}))
    assert all(SLURM["set-resource-scopes"][name] == "local" for name in limits)
    shared = {key for key in DEFAULT.keys() & SLURM.keys() if DEFAULT[key] != SLURM[key]}
    assert shared == set()


def test_threads_of_every_step_reach_the_cluster():
    texts = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    threads = [int(n) for text in texts for n in re.findall(r"^    threads: (\d+)", text, re.MULTILINE)]
    assert max(threads) <= SLURM["cores"]


def test_gpus_are_counted_when_the_executor_is_known():
    """While the rules are read every executor looks local, and a cluster's jobs would ask for no GPU."""
    texts = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    asked = [line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("gpu=")]
    assert sorted(asked) == ["gpu=1,", "gpu=inference_gpus,", "gpu=inference_gpus,"]


@pytest.mark.parametrize(
    "option", ["--set-resources=segment_femurs:runtime=60", "--set-threads=segment_femurs=2"]
)
def test_a_setting_for_a_rule_that_is_none_is_refused(option):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--nolock", option]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "segment_femurs, and no rule is called so" in run.stdout + run.stderr
