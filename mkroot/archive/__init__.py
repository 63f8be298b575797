"""The archive: mirrors, signatures, indices and downloads."""
