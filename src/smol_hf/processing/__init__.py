"""From a conversation to the inputs of a model: token ids, labels, and images as square tiles of bytes.

Every module here travels with a checkpoint, where all files lie in one folder. So this folder is flat, whatever its
number of modules, and imports nothing else of ours.

Reading order:
    1. `chat_format`, `chat_encoding`, `plain_tokenizer`: messages, special tokens, and pieces → ids and labels.
    2. `chat_pieces`, `chat_rendering`, `chat_answers`, `chat_turns`: messages → pieces.
    3. `image_tiling`, `image_styles`, `image_pixels`, `image_input`: an image → tiles, and the tokens around them.
    4. `video_sampling`, `video_reader`, `video_decoding`: a video → the times of its frames, and chosen frames.
    5. `video_styles`, `video_text`, `video_frames`, `video_input`: a video in any form → frames, and the text around.
    6. `processing_smol_hf`, `processor_encoding`, `processor_calls`: the processor that joins these.
    7. `call_options`, `processor_options`, `media_input`, `batching`: options, media and batches of a call.
"""
