"""Models of other programs, one file a format."""
