"""Segmentation tasks: what is read, what is learned, what is scored."""
