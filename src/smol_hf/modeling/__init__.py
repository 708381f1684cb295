"""The mathematics of the models, and their configurations: token ids and tiles → logits → loss.

Every module here travels with a checkpoint. So the folder is flat and imports nothing else of ours.

Reading order:
    1. `modeling_smol_hf_text`, `decoder`, `attention`, `mask`, `rotary`: the language model.
    2. `label_loss`: the loss.
    3. `modeling_smol_hf`, `tiles`, `vision`, `connector`, `image_embedding`: the vision-language model.
    4. `configuration_smol_hf_text`, `configuration_smol_hf`, `sub_configs`: the sizes and choices.
    5. `pretrained_smol_hf`, `language_model`, `plumbing`, `compatibility`: the requirements of transformers.
"""
