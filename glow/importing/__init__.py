"""Import models of other programs, one file per format."""
