"""The researcher's tool: the command `adpfl` with its demonstration, reports and privacy figures."""
