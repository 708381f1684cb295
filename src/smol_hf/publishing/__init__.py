"""A trained model → a folder, a card and the Hub.

Read `checkpoint`, `model_card`, `plan`, `upload`. `space/` makes the page.
"""
