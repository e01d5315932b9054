"""Speed, memory and arithmetic of a model on a device, beside the limits of that device and other models."""
