"""Who may call: keys, certificates, tokens, and the audit log of all that."""
