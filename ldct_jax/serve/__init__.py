"""A DICOM node: receives series, denoises them, sends the results on."""
