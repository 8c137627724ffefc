"""The runs under way: transitions stored, silence and norms noticed, operators obeyed."""
