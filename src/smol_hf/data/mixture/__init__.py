"""Several sources in one run. Read `entry_keys` (one entry), `mixture`, `shares`, `failed_sources`."""
