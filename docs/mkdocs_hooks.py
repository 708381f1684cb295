"""Hooks of `mkdocs.yml`."""

import posixpath
import re


def on_page_markdown(markdown, page, config, **_):
    """Point links that leave docs/ (recipes, source files) to the repository, where the built pages can reach them."""

    def absolute(link):
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[1]))
        return link[0] if target.startswith("docs/") else f"]({config.repo_url}/blob/main/{target}{link[2] or ''})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)", absolute, markdown)
