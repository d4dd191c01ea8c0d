"""Which hips to look at first, by their flags."""

from collections import Counter

import pandas as pd

from hipqct.cohort import select

# A hip with one of these may be of no use at all: its mask, its scan or its making is in doubt. The list is
# that of docs/results.md, "Any use"; the gates of outline, head and neck are the last nine.
ANY_USE = frozenset(
    (
        *("low_confidence", "models_disagree", "several_components", "touches_scan_end"),
        *("touches_field_edge", "touches_crop_border", "implausible_volume", "scan_warnings"),
        *("other_settings", "same_scan", "no_mesh", "no_anatomical_frame"),
        *("bone_outside_percent", "no_bone_percent", "head_above_mask_mm"),
        *("head_radius_mm", "head_misfit_mm", "head_coverage", "head_leak_percent"),
        *("neck_share", "neck_shaft_angle_deg"),
    )
)


def split_flags(cell) -> list[str]:
    """The flags in a cell of subjects.tsv."""
    return [] if pd.isna(cell) or cell == "" else cell.split(",")


def flags_of_all(subjects: pd.DataFrame) -> list[str]:
    """Flags that all of several finished hips carry: they do not help to tell hips apart."""
    flags = [split_flags(cell) for cell in select(subjects, "all")["flags"]]
    number = Counter(flag for hip in flags for flag in hip)
    return [flag for flag, count in number.items() if count == len(flags) > 1]


def most_urgent_first(subjects: pd.DataFrame) -> pd.DataFrame:
    """The hips that are done in the order to look at them, ``flagged`` where a flag tells them from others.

    First come flags that may rule out any use, then the others; in both the rare before the frequent, as
    seventy hips alike are soon judged and the one unlike them is not to be missed; then hips with many flags.
    Flags that every hip carries count nothing. Else the table's order stays.

    Args:
        subjects: the table subjects.tsv.
    """
    done = select(subjects, "all")
    common = set(flags_of_all(subjects))
    telling = [[f for f in split_flags(cell) if f not in common] for cell in done["flags"]]
    number = Counter(flag for hip in telling for flag in hip)
    order = sorted(range(len(done)), key=lambda i: _urgency(telling[i], number))
    return done.assign(flagged=[bool(hip) for hip in telling]).iloc[order]


def _urgency(flags: list[str], number: Counter) -> tuple:
    """Less is more urgent."""
    severe = [number[flag] for flag in flags if flag in ANY_USE]
    rarest = min((number[flag] for flag in flags), default=float("inf"))
    return not severe, min(severe, default=0), rarest, -len(flags)
