"""The mathematics of the models, and their configurations: token ids and tiles → logits → loss.

Every module here travels with a checkpoint, so the folder is flat and imports nothing of ours from outside. Read
`modeling_smol_hf_text` (the language model), `decoder`, `attention`, `label_loss`, then `modeling_smol_hf`, `vision`
and `connector` (the vision-language model). `compatibility` holds what differs between releases of transformers.
"""
