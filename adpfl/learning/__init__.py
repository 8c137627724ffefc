"""Per-unit gradients, local training and networks. Only `plan` is importable without torch."""
