"""Scores and pictures of segmentations."""
