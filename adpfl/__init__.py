"""Federated training of medical segmentation models with differential privacy.

`adpfl` holds mathematics and formats: no sockets, no processes, no clocks. The daemons `adpfl_server` and
`adpfl_client` know network, disk and time, and never import each other.
"""

__version__ = "0.1.0"
