"""Profiles name rules that exist; Snakemake itself takes any name and says nothing."""

import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.parametrize(
    "option", ["--set-resources=segment_femurs:runtime=60", "--set-threads=segment_femurs=2"]
)
def test_a_setting_for_a_rule_that_is_none_is_refused(option):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--nolock", option]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "segment_femurs, and no rule is called so" in run.stdout + run.stderr
