"""Invertible maps, one file each."""
