"""What a training will take: the memory of every process, predicted and measured."""
