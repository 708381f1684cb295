"""`smol-hf check`: a folder loads and computes without this package. Read `check`, then `travelling_code`."""
