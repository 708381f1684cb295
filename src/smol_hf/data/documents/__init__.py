"""Plain documents for pretraining: text files and the texts of records, read in pieces, whatever their size."""
