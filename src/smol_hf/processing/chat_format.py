"""What a conversation looks like to the model: the special tokens, the chat template, the tokens of a picture."""

FAKE_IMAGE_TOKEN = "<fake_token_around_image>"
IMAGE_TOKEN = "<image>"
GLOBAL_IMAGE_TOKEN = "<global-img>"
END_OF_UTTERANCE_TOKEN = "<end_of_utterance>"
IGNORE_INDEX = -100  # the label of a token that is not trained; PyTorch's cross entropy has the same default

# SmolVLM2's template. The space after "Assistant:" is inside the generated span: at inference the prompt ends with
# the colon, so the model must have learned to begin with the space.
DEFAULT_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] %}"
    "{{ message['role'] | capitalize }}:"
    "{% if message['role'] == 'assistant' %}{% generation %} "
    "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>{% endgeneration %}{{ '\\n' }}"  # a bare line break after a block would be trimmed
    "{% else %}{% if parts and parts[0]['type'] != 'image' %} {% endif %}"
    "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tile_token(row, column):
    """The token before the tile at this place of the grid, counted from 1."""
    return f"<row_{row}_col_{column}>"


def image_tokens(max_tiles_per_side):
    """All special tokens that a picture needs, in the order in which they are added to a tokenizer."""
    sides = range(1, max_tiles_per_side + 1)
    tiles = [tile_token(row, column) for row in sides for column in sides]
    return [FAKE_IMAGE_TOKEN, IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, END_OF_UTTERANCE_TOKEN, *tiles]


def image_block(rows, columns, image_seq_len):
    """The tokens of a picture cut into this grid, as a string: the grid row by row, then the overview."""
    features = IMAGE_TOKEN * image_seq_len
    block = ""
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            block += FAKE_IMAGE_TOKEN + tile_token(row, column) + features
        block += "\n"
    if rows:
        block += "\n"
    return block + FAKE_IMAGE_TOKEN + GLOBAL_IMAGE_TOKEN + features + FAKE_IMAGE_TOKEN
