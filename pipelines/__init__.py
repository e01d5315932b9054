"""The stages, one module each: parse, build, run, say what was written."""
