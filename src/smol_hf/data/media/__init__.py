"""Images of a sample: reading, limits and the fast resize."""
