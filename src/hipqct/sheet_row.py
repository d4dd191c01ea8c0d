"""The cells of one line of the sample sheet, with every fault found while reading them."""

import math
import os
import re
from pathlib import Path

# What other programs write for an empty cell, or for yes and no.
NOTHING = ("na", "n/a", "<na>", "nan", "none", "null", "-", ".", "#n/a", "#na", "#ref!", "#value!", "#name?")
NO_REASON = (*NOTHING, "0", "1", "0.0", "1.0", "no", "yes", "n", "y", "false", "true")
# What Snakemake would take for a wildcard of its own.
WILDCARD = re.compile(r"\{\s*\w+\s*(,[^}]*)?\}")


class Row:
    """The cells of one line, and the faults found while reading them."""

    def __init__(self, line: int, cells: dict[str, str], folder: Path):
        self.line, self.cells, self.folder = line, cells, folder
        self.faults: list[str] = []

    def fault(self, column: str, text: str) -> None:
        self.faults.append(f"line {self.line}, {column}: {text}")

    def text(self, column: str) -> str | None:
        return self.cells.get(column) or None

    def number(self, column: str, limits: tuple[float, float], unit: str) -> float | None:
        text = self.text(column)
        if text is None:
            return None
        try:
            value = _number(text)
        except ValueError:
            self.fault(column, f"{text!r}: give a number in {unit}, with a point for decimals")
            return None
        if not limits[0] <= value <= limits[1]:
            self.fault(column, f"{text}: must be between {limits[0]:g} and {limits[1]:g} {unit}")
        return value

    def choice(self, column: str, choices: tuple[str, ...]) -> str | None:
        text = self.text(column)
        if text is not None and text not in choices:
            self.fault(column, f"{text!r}: use {', '.join(choices[:-1])} or {choices[-1]}")
            return None
        return text

    def path(self, column: str, made_here: tuple[Path, ...]) -> Path | None:
        """A path relative to the sheet; it must exist unless the workflow itself makes it."""
        text = self.text(column)
        if text is None:
            return None
        if braces := WILDCARD.search(text):
            self.fault(column, f"{text!r}: Snakemake reads {braces[0]} as a wildcard; rename it")
        path = Path(text)
        try:
            path = path.expanduser() if text.startswith("~") else path
            if not path.is_absolute():
                path = Path(os.path.relpath(_without_dots(self.folder / path)))
            real = path.resolve()
            made = any(real.is_relative_to(folder) for folder in made_here)
            if not made and not path.exists():
                self.fault(column, f"{text!r}: there is no such file or folder ({real}); correct the path")
        except OSError as error:
            self.fault(
                column, f"{text!r}: cannot be read ({error.strerror}); correct the path or its permissions"
            )
        except RuntimeError:
            self.fault(column, f"{text!r}: there is no such user; write the path out")
        return path

    def reason(self, column: str) -> str | None:
        """A cell of words."""
        text = self.text(column)
        if text and text.lower() in NO_REASON:
            self.fault(column, f"{text!r}: give a reason in words, or leave it empty to run the subject")
        return text

    def word(self, column: str) -> str:
        """A cell of one word that stands for something: what programs write for an empty cell does not."""
        text = self.text(column) or ""
        if text.lower() in NOTHING:
            self.fault(column, f"{text!r}: give a name, or leave it empty")
        return text

    def point(self, column: str) -> tuple[float, float, float] | None:
        text = self.text(column)
        if text is None:
            return None
        try:
            x, y, z = (_number(part) for part in text.split(","))
            if not all(map(math.isfinite, (x, y, z))):
                raise ValueError
        except ValueError:
            self.fault(column, f"{text!r}: give x,y,z in LPS millimetres, such as 92.5,-10,640")
            return None
        return x, y, z


def _number(text: str) -> float:
    """A number as people write it: Python's underscores between digits are none."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _without_dots(path: Path) -> Path:
    """A path without ``..``, unless that leads elsewhere: behind a link, ``..`` is the target's parent."""
    short = Path(os.path.normpath(path))
    return short if short.resolve() == path.resolve() else path.resolve()
