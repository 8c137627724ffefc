"""Generators of hospitals that do not exist, for demonstrations and tests; no patient stands behind them."""
