"""From a mask to meshes for finite-element models."""


rule export_mesh:
    input:
        mask=rules.threshold_bone.output.mask,
        resampled=rules.resample_ct.output.ct,
        laws=material_laws(),
    output:
        surface="<side>/mesh/surface.stl",
        surface_vtp="<side>/mesh/surface.vtp",
        hex_inp="<side>/mesh/hex.inp",
        hex_vtu="<side>/mesh/hex.vtu",
        tet_inp="<side>/mesh/tet.inp",
        tet_vtu="<side>/mesh/tet.vtu",
        picture="<side>/mesh/mesh.png",
        load_cases=directory("<side>/mesh/load_cases"),
        facts="<side>/mesh/mesh.json",
    # Files of mesh/formats are not named here: for outputs that it has not written yet Snakemake looks at no
    # parameter of a job, and would hide that any other option has changed.
    log:
        "<logs>/export_mesh/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/export_mesh/{subject}.{side}.tsv"
    resources:
        mem_mb=3000,
    params:
        options=config["mesh"],
        slope=from_sheet("slope"),
        intercept=from_sheet("intercept"),
        basis=calibration_basis,
        revision=revisions.EXPORT_MESH,
    message:
        "Mesh the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/export_mesh.py"


rule solve_mesh:
    input:
        facts=rules.export_mesh.output.facts,
        load_cases=rules.export_mesh.output.load_cases,
    output:
        solution=directory("<side>/solution"),
    log:
        "<logs>/solve_mesh/{subject}.{side}.log",
    benchmark:
        "<benchmarks>/solve_mesh/{subject}.{side}.tsv"
    resources:
        mem_mb=2000 if config["solve"]["model"] == "hex" else 6000,
        runtime=15 + round(config["solve"]["minutes"] * len(config["solve"]["cases"])),
    params:
        # The solver's time is a limit and no part of the result: the script takes it from the configuration.
        cases=config["solve"]["cases"],
        model=config["solve"]["model"],
        criterion=config["solve"]["criterion"],
        revision=revisions.SOLVE_MESH,
    message:
        "Solve the {wildcards.side} femur of {wildcards.subject}."
    script:
        "../scripts/solve_mesh.py"
