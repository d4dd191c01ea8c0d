"""Digital hip phantoms."""

SYNTHETIC = (
    "synthetic"  # flag of a hip whose scan is a phantom's, and mark of what was trained on phantoms alone
)
