"""The federation without IO: plans, records, the round state machine and the streaming weighted sum.

Importable without torch: the aggregator daemon is built on it.
"""
