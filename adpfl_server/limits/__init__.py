"""How much of the server a caller may take, and how one is refused."""
