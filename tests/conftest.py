"""Shared fixtures."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """The workflow's tests first: the longest must not begin last where files are shared among processes."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans for measurement; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("HIPQCT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real scans are not here ({folder}); set HIPQCT_SHARED_DATA to their folder")
    return folder
