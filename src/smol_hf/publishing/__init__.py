"""Write a trained model to a folder with a model card, and publish it on the Hub.

Read `checkpoint`, `model_card`, `plan`, `upload`. `space/` makes the page.
"""
