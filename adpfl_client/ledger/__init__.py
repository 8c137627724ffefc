"""The site's ledger: its files, its witnesses, and what is said from it."""
