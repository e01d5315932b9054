"""Checkpoints: directories of safetensors, YAML and JSON, written whole or not at all."""
