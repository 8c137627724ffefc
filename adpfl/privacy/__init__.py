"""The privacy engine: what is clipped, what noise is added, and what may be claimed of it.

Importable without gRPC and protobuf.
"""
