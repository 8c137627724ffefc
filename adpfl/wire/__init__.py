"""The wire contract in Python: content-addressed chunks, and protobuf turned into validated dataclasses.

`chunks` knows no gRPC; `messages`, `transfers` and `receipts` convert at the edge, sizes first; `_generated`
is made by `make proto` and never edited. Importable without torch.
"""
