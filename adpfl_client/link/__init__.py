"""The way to the server and the identity that is shown there."""
