"""DICOM on the wire and in files."""
