"""Cells of a CSV file that a spreadsheet opens."""

from __future__ import annotations


def cell(text: str) -> str:
    """Return a text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
