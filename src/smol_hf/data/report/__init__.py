"""Reports about the data. Read `skipped`, then `statistics`, then `preview_page`."""
