"""`adpfl compare` and `adpfl sweep`: many runs that differ in their privacy alone, simulated in one folder.

A cell is one run. Each is played by the coordinator, the aggregation, the learning and the privacy engine of
the daemons, without network, certificates and ledger, and leaves the records that the daemons leave.
"""
