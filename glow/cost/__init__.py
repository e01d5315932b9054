"""What a model costs, unit by unit: parameters, arithmetic, memory."""
