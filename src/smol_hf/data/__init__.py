"""The way from a record of any dataset to a batch of tensors.

Read in this order:

1. `conversation`: one sample as typed parts (text, image, video).
2. `records/`: a record of any shape → a `Conversation`. `media/`: its images.
3. `sources/`: files, folders, archives and Hub datasets → records, in any order.
4. `stream/`: records → measured, packed and decoded rows. `mixture/`: several sources with shares.
5. `collator`: rows → a batch of tensors, the only place that stacks.
6. `report/`: skipped samples, statistics and previews.
7. `prepare/`: `smol-hf data download` and `prepare`. `digits/`: demo data.
"""
