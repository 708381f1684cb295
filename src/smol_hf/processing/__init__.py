"""From a conversation to what a model reads: token ids, labels, and images as square tiles of bytes.

Every module here travels with a checkpoint, so the folder is flat and imports nothing of ours from outside. Read
`chat_format` (special tokens and the template), `chat_encoding` (text → ids and labels), `image_tiling` (image →
tiles), then `processing_smol_hf`, which joins them.
"""
