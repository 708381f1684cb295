"""A registry of npm on this machine, with small packages in place of transformers.js and its runtime."""

import base64
import hashlib
import io
import tarfile
from contextlib import contextmanager
from dataclasses import replace

from servers import Web, serve

from smol_hf.export.page import transformers_js


def archive(files):
    """A package as npm packs it: {path: content} in the folder `package`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as members:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))
    return content.getvalue()


@contextmanager
def npm_registry(monkeypatch, cache, broken=""):
    """Serve the packages, and make the environment use this registry and this cache. `broken`: content of answers."""
    archives = {each: archive({name: name.encode() for name in each.files}) for each in transformers_js.PACKAGES}
    small = tuple(
        replace(each, integrity=base64.b64encode(hashlib.sha512(content).digest()).decode())
        for each, content in archives.items()
    )
    paths = {each: f"/{each.url.split('/', 3)[3]}" for each in archives}
    web = Web({paths[each]: broken.encode() or content for each, content in archives.items()})
    monkeypatch.setattr(transformers_js, "PACKAGES", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with serve(web) as url:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{url}/")
        yield web
