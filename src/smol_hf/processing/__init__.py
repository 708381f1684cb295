"""From a conversation to the inputs of a model: token ids, labels, and images as square tiles of bytes.

Every module here travels with a checkpoint. So the folder is flat and imports nothing else of ours.

Reading order:
    1. `chat_format`, `chat_encoding`, `plain_tokenizer`: messages, special tokens, and pieces → ids and labels.
    2. `chat_pieces`, `chat_rendering`, `chat_answers`, `chat_turns`: messages → pieces.
    3. `image_tiling`, `image_styles`, `image_pixels`, `image_input`: an image → tiles, and the tokens around them.
    4. `processing_smol_hf`, `batching`, `processor_calls`, `processor_options`: the processor that joins both.
"""
