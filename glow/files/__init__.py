"""Files as such: read within limits, checked against types, written whole or not at all."""
