"""The report of an evaluation: one HTML file without scripts and external files. `smol-hf demo` writes the same page.

Read `page` (the parts of the page), `results_page` (results → page) and `charts` (curves of a training run).
"""
