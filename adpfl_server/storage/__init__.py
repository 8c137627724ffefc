"""What the server keeps on its disk: chunks, rows, records, weights."""
