"""The hot path of a private step: norms, clip to the integer lattice, exact noise, release.

`keystream` makes the secret words, `digit_tables` and `lattice` turn them into exact integer noise,
`reference` is the slow, obvious form of every kernel, and `ops` is what the rest of the project calls.
`keystream` and `lattice` import NumPy only; torch comes in with `ops`.
"""
