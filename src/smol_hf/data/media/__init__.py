"""Images and videos of a sample: reading, limits and the fast resize."""
