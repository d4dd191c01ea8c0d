"""hipqct: proximal-femur masks, volumes, densities and meshes from quantitative CT hip scans."""

__version__ = "0.1.0"
