"""From shards to batches: every image exactly once, in an order that depends on seed and epoch alone."""
