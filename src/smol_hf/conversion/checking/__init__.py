"""`smol-hf check`: does a folder work without this package? Read `check`, then `travelling_code`."""
