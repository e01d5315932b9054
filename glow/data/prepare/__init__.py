"""From sources (folders, archives, data sets) to shards."""
