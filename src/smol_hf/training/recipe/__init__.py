"""Recipes: flat YAML keys → checked arguments. Read `recipes`, then `arguments`."""
