"""Commands that the documents give, taken apart as Snakemake takes them."""

import re
import shlex
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from hipqct.cohort import SUBJECT_COLUMNS

PROJECT = Path(__file__).parents[1]
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


def test_every_column_of_the_hips_table_is_explained():
    text = (PROJECT / "docs/results.md").read_text(encoding="utf-8")
    assert [name for name in SUBJECT_COLUMNS if f"`{name}`" not in text] == []


def test_links_between_documents_lead_somewhere():
    for page in (PROJECT / "README.md", PROJECT / "config/README.md", *(PROJECT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
