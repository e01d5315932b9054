"""Data sets: from images to shards, from shards to batches; and vectors."""
