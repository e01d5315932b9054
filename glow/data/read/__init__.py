"""From shards to batches: every image exactly once an epoch, in an order that depends on seed and epoch only."""
