"""Records → rows of whole samples. Read `order`, `mixing`, `preparation`, `packing`, `lane`, `stream`, `survey`."""
