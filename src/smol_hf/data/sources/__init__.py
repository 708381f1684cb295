"""Sources: files, folders, archives and Hub datasets → records.

Read `source` first, then `location`, then one format.
"""
