"""Models for others: exported folders and their cards."""
