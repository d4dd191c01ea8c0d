"""Tab-separated tables, written so that they read back as they were."""

import numpy as np
import pandas as pd

from hipqct.io.files import replace_when_done


def write_table(table: pd.DataFrame, path) -> None:
    """Write a table: numbers with up to 8 significant digits, missing values empty, text on one line."""
    lines = ["\t".join(table.columns)]
    lines += ["\t".join(_cell(value) for value in row) for row in table.itertuples(index=False)]
    with replace_when_done(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_table(path, text_columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table: only empty cells are missing (a subject may be called NA); ``text_columns`` stay text."""
    types = dict.fromkeys(text_columns, str)
    # Quotes are text too: write_table sets none.
    return pd.read_csv(path, sep="\t", dtype=types, keep_default_na=False, na_values=[""], quoting=3)


def _cell(value) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return ""
    if isinstance(value, (float, np.floating)):
        return f"{value:.8g}"
    return " ".join(str(value).split())
