"""Digital hip phantoms."""

# Flag of a hip whose scan is a phantom's, and mark of what was trained on phantoms alone.
SYNTHETIC = "synthetic"
