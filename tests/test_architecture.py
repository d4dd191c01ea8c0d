"""The house keeps its layers: arrays <- io <- steps <- doors, and light doors."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rule_texts import rules

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/hipqct"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
DOORS = {PACKAGE / "cli.py", PACKAGE / "smk.py"}
MAX_MODULE_LINES, MAX_SCRIPT_LINES = 300, 10


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_layers_hold():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_doors_and_steps_load_no_tensorflow():
    steps = [f"hipqct.steps.{path.stem}" for path in sorted((PACKAGE / "steps").glob("[!_]*.py"))]
    code = f"import sys, hipqct.cli, hipqct.smk, {', '.join(steps)}\n"
    code += "print(sorted({'tensorflow', 'keras', 'snakemake'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_script_is_a_rules_and_every_rules_script_is_there():
    wanted = {name for name, text in rules().items() if "script:" in text}
    assert {path.stem for path in SCRIPTS} == wanted
    for name in wanted:
        assert f'"../scripts/{name}.py"' in rules()[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_call_the_step_of_their_name(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_SCRIPT_LINES
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert path.stem in {call.id for call in calls if isinstance(call, ast.Name)}
    assert "with step(snakemake):" in text


@pytest.mark.parametrize("key", ["log", "benchmark", "message", "mem_mb"])
def test_every_rule_says_where_it_logs_and_what_it_needs(key):
    pattern = r"^\s+mem_mb=" if key == "mem_mb" else rf"^    {key}:"
    assert [name for name, text in rules().items() if not re.search(pattern, text, re.M)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_fit_a_few_screens_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    assert not text.strip() or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", [path for path in MODULES if path not in DOORS], ids=name_of)
def test_only_the_doors_print_and_exit_and_nothing_asserts(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    said = [call.lineno for call in calls if ast.unparse(call.func) in ("print", "sys.exit", "exit", "quit")]
    assert (asserts, said) == ([], [])
