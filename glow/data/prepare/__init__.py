"""From sources of images (folders, archives, libraries) to shards."""
