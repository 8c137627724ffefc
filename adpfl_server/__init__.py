"""The aggregator daemon: joins hospitals into runs, adds up their updates, and never sees an image."""
