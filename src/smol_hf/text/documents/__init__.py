"""Documents for pretraining: text files and texts of records, read in pieces and tokenised once into a cache.

Read `document`, `readers`, `held_out`, `token_cache`, `token_source`.
"""
