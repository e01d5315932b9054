"""Plan a training: the memory of every process, predicted and measured, and the way to train that suits a device."""
