"""Everything that knows a file format: DICOM, NIfTI, HDF5, VTK, Abaqus."""
