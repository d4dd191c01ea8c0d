"""The finite-element models for other solvers: FEBio (.feb), Nastran (.bdf) and ANSYS (.cdb).

Nodes and elements are numbered from 1 as in the Abaqus decks; C3D8 and C3D10 share their node order with all
three. Millimetres and MPa. A mesh without bins is written as geometry, without materials.
"""

import re
from xml.sax.saxutils import escape

import numpy as np

from hipqct.io.files import replace_when_done
from hipqct.material import MaterialBins, material_name
from hipqct.mesh import Mesh

FEB_TYPES = {"C3D8": "hex8", "C3D10": "tet10"}
NASTRAN_TYPES = {"C3D8": "CHEXA", "C3D10": "CTETRA"}
ANSYS_TYPES = {"C3D8": 185, "C3D10": 187}
FEB_VERSION = "4.0"
# Nastran's fixed fields: eight of 8 characters, or four of 16, after the first of 8.
SHORT_FIELDS, LONG_FIELD = 8, 16
SET_IDS_PER_LINE = 8
EBLOCK_NODES, EBLOCK_FIELDS = 8, 11


def write_feb(mesh: Mesh, path, header: list[str], bins: MaterialBins | None, poissons_ratio: float) -> None:
    """Write an FEBio 4 file: materials, nodes, elements by material, node sets; no step."""
    of_cell, names = _parts(mesh, bins)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<febio_spec version="{FEB_VERSION}">']
    lines += [f"<!-- {re.sub('-(?=-)', '- ', escape(line))} -->" for line in _one_line_each(header)]
    lines.append('<Module type="solid"/>')
    if bins is not None:
        lines.append("<Material>")
        for number, (name, modulus_mpa) in enumerate(zip(names, bins.modulus_mpa, strict=True), start=1):
            lines.append(
                f'<material id="{number}" name="{name}" type="isotropic elastic"><density>1</density>'
                f"<E>{modulus_mpa:.9g}</E><v>{poissons_ratio:.9g}</v></material>"
            )
        lines.append("</Material>")
    lines += ["<Mesh>", '<Nodes name="NALL">']
    lines += [
        f'<node id="{i}">{x:.9g},{y:.9g},{z:.9g}</node>' for i, (x, y, z) in enumerate(mesh.points_mm, 1)
    ]
    lines.append("</Nodes>")
    for part, name in enumerate(names):
        lines.append(f'<Elements type="{FEB_TYPES[mesh.element]}" name="{name}">')
        for cell in np.flatnonzero(of_cell == part):
            nodes = ",".join(map(str, (mesh.cells[cell] + 1).tolist()))
            lines.append(f'<elem id="{cell + 1}">{nodes}</elem>')
        lines.append("</Elements>")
    for name, nodes in mesh.node_sets.items():
        lines.append(f'<NodeSet name="{name}">{",".join(map(str, (nodes + 1).tolist()))}</NodeSet>')
    lines.append("</Mesh>")
    if bins is not None:
        domains = [f'<SolidDomain name="{name}" mat="{name}"/>' for name in names]
        lines += ["<MeshDomains>", *domains, "</MeshDomains>"]
    _write(path, [*lines, "</febio_spec>"])


def write_bdf(mesh: Mesh, path, header: list[str], bins: MaterialBins | None, poissons_ratio: float) -> None:
    """Write a Nastran bulk data file: sets in the case control, GRID, CHEXA or CTETRA, PSOLID, MAT1."""
    of_cell, names = _parts(mesh, bins)
    lines = [f"$ {line}" for line in _one_line_each(header)]
    lines.append("CEND")
    for number, (name, nodes) in enumerate(mesh.node_sets.items(), start=1):
        lines += [f"$ node set {number} is {name}", *_nastran_set(number, nodes + 1)]
    lines.append("BEGIN BULK")
    for number, point in enumerate(mesh.points_mm, start=1):
        x, y, z = map(_nastran_real, point.tolist())
        lines += [f"GRID*   {number:16d}{'':16s}{x}{y}*", f"*       {z}"]
    for number, (nodes, part) in enumerate(zip(mesh.cells + 1, of_cell, strict=True), start=1):
        fields = [number, part + 1, *nodes]
        rows = [fields[i : i + SHORT_FIELDS] for i in range(0, len(fields), SHORT_FIELDS)]
        starts = [NASTRAN_TYPES[mesh.element]] + ["+"] * (len(rows) - 1)
        ends = ["+"] * (len(rows) - 1) + [""]
        lines += [
            f"{start:8s}{''.join(f'{field:8d}' for field in row)}{end}"
            for start, row, end in zip(starts, rows, ends, strict=True)
        ]
    for number, name in enumerate(names, start=1):
        lines += [f"$ {name}", f"PSOLID  {number:8d}{number:8d}"]
        if bins is not None:
            modulus, ratio = _nastran_real(bins.modulus_mpa[number - 1]), _nastran_real(poissons_ratio)
            lines += [f"MAT1*   {number:16d}{modulus}{'':16s}{ratio}*", "*"]
    _write(path, [*lines, "ENDDATA"])


def write_cdb(mesh: Mesh, path, header: list[str], bins: MaterialBins | None, poissons_ratio: float) -> None:
    """Write an ANSYS archive: SOLID185 or SOLID187, NBLOCK, EBLOCK, materials, node components."""
    of_cell, _ = _parts(mesh, bins)
    count, elements, per_element = len(mesh.points_mm), len(mesh.cells), mesh.cells.shape[1]
    lines = [f"! {line}" for line in _one_line_each(header)]
    lines += ["/PREP7", f"ET,1,{ANSYS_TYPES[mesh.element]}", f"NBLOCK,6,SOLID,{count:9d},{count:9d}"]
    lines.append("(3i9,6e21.13e3)")
    for number, point in enumerate(mesh.points_mm, start=1):
        lines.append(f"{number:9d}{0:9d}{0:9d}" + "".join(_three_digits(value) for value in point))
    lines += ["N,R5.3,LOC,       -1,", f"EBLOCK,19,SOLID,{elements:9d},{elements:9d}", "(19i9)"]
    for number, (nodes, part) in enumerate(zip(mesh.cells + 1, of_cell, strict=True), start=1):
        fields = [part + 1, 1, 1, 1, 0, 0, 0, 0, per_element, 0, number, *nodes]
        first = EBLOCK_FIELDS + EBLOCK_NODES
        lines += [
            "".join(f"{field:9d}" for field in part) for part in (fields[:first], fields[first:]) if part
        ]
    lines.append(f"{-1:9d}")
    if bins is not None:
        for number, modulus_mpa in enumerate(bins.modulus_mpa, start=1):
            lines += [f"MP,EX,{number},{modulus_mpa:.9g}", f"MP,PRXY,{number},{poissons_ratio:.9g}"]
    for name, nodes in mesh.node_sets.items():
        lines += [f"CMBLOCK,{name},NODE,{len(nodes):8d}", "(8i10)"]
        ids = [f"{node:10d}" for node in (nodes + 1).tolist()]
        lines += ["".join(ids[i : i + SET_IDS_PER_LINE]) for i in range(0, len(ids), SET_IDS_PER_LINE)]
    _write(path, [*lines, "FINISH"])


WRITERS = {"feb": write_feb, "bdf": write_bdf, "cdb": write_cdb}


def _one_line_each(header: list[str]) -> list[str]:
    """The lines without breaks, which would end a comment: citations of users' laws may have some."""
    return [" ".join(line.split()) for line in header]


def _parts(mesh, bins):
    """Part of every cell and the parts' names: the material bins, or one part of all."""
    if bins is None:
        return np.zeros(len(mesh.cells), int), ["ALL"]
    return bins.bin_of_cell, [material_name(i) for i in range(len(bins.modulus_mpa))]


def _nastran_set(number: int, ids: np.ndarray) -> list[str]:
    words = [str(i) for i in ids.tolist()]
    rows = [words[i : i + SET_IDS_PER_LINE] for i in range(0, len(words), SET_IDS_PER_LINE)]
    lines = [", ".join(row) for row in rows]
    lines[0] = f"SET {number} = {lines[0]}"
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def _nastran_real(value: float) -> str:
    """A long field with a real number, which Nastran tells from a whole one by its decimal point."""
    mantissa, letter, exponent = f"{value:.9g}".partition("e")
    point = "" if "." in mantissa else "."
    return f"{mantissa}{point}{letter}{exponent}".rjust(LONG_FIELD)


def _three_digits(value: float) -> str:
    """A number as Fortran's e21.13e3 writes it."""
    mantissa, exponent = f"{value:.13e}".split("e")
    return f"{mantissa}E{int(exponent):+04d}".rjust(21)


def _write(path, lines: list[str]):
    with replace_when_done(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii", errors="replace", newline="\n")
