"""Commands that the documents give are ones that can be given, and they leave no key, flag or file out."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

from hipqct import bone, cli, cohort, flags, folds, phantom, provenance, settings
from hipqct.augment import Ranges
from hipqct.cohort import SUBJECT_COLUMNS
from hipqct.steps import mask

PROJECT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
PAGES = [PROJECT / name for name in ("README.md", "config/README.md", "resources/materials/README.md")]
PAGES += [*sorted((PROJECT / "docs").glob("*.md")), *sorted(PROJECT.glob("resources/models/*/*.md"))]
COMMAND = re.compile(r"^(?:.*?`)?(snakemake [^`\n]+)", re.M)
COMMANDS = sorted(
    {
        match.split("#")[0].strip()
        for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"))
        for match in COMMAND.findall(page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("command", [c for c in COMMANDS if " --" in c])
def test_no_option_of_a_documented_command_takes_its_targets(command):
    words = shlex.split(command)[1:]
    # As parse_args does, but without the profiles, which are the working directory's.
    arguments = get_argument_parser().parse_args(words)
    wanted = {word for word in words if word == "train" or word.startswith("results/")}
    assert set(arguments.targets) == wanted


def test_there_are_commands_to_look_at():
    assert sum("results/" in command for command in COMMANDS) >= 3
    assert any("--forcerun" in command for command in COMMANDS)


def read_page(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def read_rows(name: str) -> dict[str, list[str]]:
    """The rows of a page's tables by what their first cell names, other cells as they are."""
    rows = re.findall(r"^\| `([^|]+)` \|(.+)\|$", read_page(name), re.M)
    return {key: [cell.strip() for cell in cells.split("|")] for key, cells in rows}


HIPQCT = sorted(
    {
        match.split("#")[0].strip()
        for page in PAGES
        for match in re.findall(r"^hipqct [^\n]+", page.read_text(encoding="utf-8"), re.M)
        if re.search(r"^hipqct (samples|check|phantom|train|summary)\b", match)
    }
)


@pytest.mark.parametrize("command", HIPQCT)
def test_a_documented_command_of_hipqct_can_be_given(command):
    assert callable(cli.build_parser().parse_args(shlex.split(command)[1:]).run)


def test_options_named_within_the_text_exist():
    assert len(HIPQCT) >= 5
    train = cli.build_parser()._subparsers._group_actions[0].choices["train"].format_help()
    for page in PAGES:
        for command in re.findall(r"`hipqct train ([^`\n]*)`", page.read_text(encoding="utf-8")):
            assert [o for o in re.findall(r"--[a-z-]+", command) if o not in train] == [], page.name
    named = re.findall(
        r"`(--[a-z-]+)", read_page("docs/training.md").split("## On phantoms")[1].split("\n## ")[0]
    )
    assert len(named) >= 7
    assert [option for option in named if option not in train] == []


def test_every_key_of_augmentation_is_explained_with_its_limits_and_the_recipes_range():
    rows = read_rows("docs/training.md")
    assert set(CONFIG["train"]["augmentation"]) <= set(vars(Ranges()))
    for key, (probability, (low, high)) in vars(Ranges()).items():
        _, limits, _, recipe = rows[key]
        assert json.loads(recipe) == [probability, low, high], key
        least, most = settings.AUGMENTATION_LIMITS[key]
        assert limits in (f"{least:g} to {most:g}", f"[p, {least:g}, {most:g}]"), key


def test_every_material_law_is_listed():
    laws = json.loads(read_page("resources/materials/laws.json"))
    rows = read_rows("resources/materials/README.md")
    for name, law in laws.items():
        assert rows[name][0] == law["takes"], name
        for part in [law] if law["kind"] == "density" else law["pieces"]:
            for key in ("intercept_g_cm3", "factor_mpa", "exponent", "offset_mpa"):
                shown = f"{part[key]:g}" if key in part else ""
                assert shown in ("0", "") or shown in " ".join(rows[name]), (name, key)


def test_every_flag_is_explained():
    text = "".join(read_page(f"docs/{name}.md") for name in ("how-to", "meshes", "training"))
    known = {*flags.ANY_USE, *CONFIG["mesh"]["gates"], "metal", "scan_warnings", phantom.SYNTHETIC}
    known |= {cohort.OTHER_LENGTH, cohort.CHOSEN_ON_TEST, folds.SEEN_IN_TRAINING, provenance.OTHER_SETTINGS}
    names = ("UNCALIBRATED", "UNUSUAL_CALIBRATION", "IMPLAUSIBLE_DENSITY", "PHANTOM_MODEL", "LEAVES_CROP")
    known |= {getattr(mask, name) for name in (*names, "FIELD_EDGE", "MODELS_DISAGREE")}
    known |= set(
        re.findall(r"``([a-z_]+)``(?= \(|,|\.)", bone.segment_probability.__doc__.split("Flags:")[1])
    )
    # A table of meshes.md names the hexahedra's gates "and `tet` alike".
    assert [
        f for f in sorted(known) if not {f"`{f}`", f"`{f.replace('tet_', 'hex_')}`"} & set(words(text))
    ] == []


def words(text: str) -> list[str]:
    """What stands between backticks, backticks included."""
    return re.findall(r"`[a-z0-9_]+`", text)


def test_every_result_file_of_a_hip_is_listed():
    text = "".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("workflow/rules/*.smk"))
    listed = read_page("docs/results.md")
    files = re.findall(r'"<(?:subject|side)>/([a-z_.0-9]+\.[a-z0-9.]+)"', text)
    assert len(files) >= 10
    assert [name for name in files if f"{name}`" not in listed] == []


def test_every_column_of_the_hips_table_is_explained():
    text = (PROJECT / "docs/results.md").read_text(encoding="utf-8")
    assert [name for name in SUBJECT_COLUMNS if f"`{name}`" not in text] == []


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
        for target, anchor in links:
            there = page.parent / target if target else page
            assert there.exists(), (page.name, target)
            assert not anchor or anchor in anchors(there), (page.name, target, anchor)
