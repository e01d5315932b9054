"""What a training is about, one file a task: images, vectors, or a target density."""
