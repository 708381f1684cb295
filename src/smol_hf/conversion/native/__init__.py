"""Folders of transformers' own classes, in a form that other engines read too.

Read `folder` (all native folders), then `smolvlm_files` and `llava_files` (their processors), `language_model` (the
language model of LLaVA) and `card`.
"""
