"""What the benchmarks share: the machine's name, the shipped defaults, and results that stay honest.

A block of figures that a run has not measured again stays in a results file only where it is of the same
weights (``{block}_weights_sha256``); else it is dropped, and named.
"""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

import yaml

from hipqct.io.files import read_json, write_json

PROJECT = Path(__file__).parents[1]
DEFAULT_MODEL = PROJECT / "resources/models/medium"
PEERS = ("torch", "monai")


def describe_machine(threads: int) -> str:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {threads} threads of {os.cpu_count()}"


def default_scheme() -> str:
    """How windows are placed as shipped: step, blend and ends of config.yaml."""
    chosen = yaml.safe_load((PROJECT / "config/config.yaml").read_text())["segment"]
    return ",".join(str(chosen[key]) for key in ("step", "blend", "ends"))


def missing_peers() -> str | None:
    """A sentence that names the peers that are not installed; None where all are."""
    missing = [name for name in PEERS if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"{' and '.join(missing)} not installed, so nothing was compared with them: run `make bench`, or "
        "pip install --require-hashes -r requirements/bench.txt"
    )


def read_results(path: Path) -> dict:
    return read_json(path) if path.exists() else {}


def write_results(result: dict, path: Path) -> None:
    write_json(result, path)
    print(f"written to {path}")


def keep_block(result: dict, before: dict, block: str, keys) -> bool:
    """Put a block's ``keys`` of the results before into ``result`` if they are of the same weights.

    Both the block's ``{block}_weights_sha256`` and ``keys`` are kept, or nothing is and a line says so.
    """
    mark = f"{block}_weights_sha256"
    found = [key for key in keys if key in before]
    if not found:
        return False
    if before.get(mark) != result["weights_sha256"]:
        print(f"dropped, being of other weights and not measured again: {block} ({', '.join(found)})")
        return False
    result |= {key: before[key] for key in (*found, mark)}
    return True


def keep_gpu(result: dict, before: dict) -> None:
    """The same for ``gpu``, whose every backend names the weights it was measured with."""
    kept = {}
    for backend, figures in before.get("gpu", {}).items():
        if figures.get("weights_sha256") == result["weights_sha256"]:
            kept[backend] = figures
        else:
            print(f"dropped, being of other weights and not measured again: gpu of {backend}")
    if kept:
        result["gpu"] = kept


def add_model_options(parser, results: Path) -> None:
    """``--model`` and ``--out``, see `chosen_results`."""
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, help=f"results file (of the default model: {results.name})")


def chosen_results(parser, options, results: Path) -> Path:
    """Where the results go: the committed file is the default model's alone."""
    if options.out is None and options.model.resolve() != DEFAULT_MODEL:
        parser.error(f"{results.name} is of {DEFAULT_MODEL.name}: give --out for another model's results")
    return options.out or results
