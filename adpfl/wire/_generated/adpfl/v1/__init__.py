"""Generated from proto/adpfl/v1/federation.proto; see proto/generate.py."""
