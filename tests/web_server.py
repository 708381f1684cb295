"""A web server for tests. It serves files in parts, and breaks connections."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """`pages`: {path: bytes | (status, headers, bytes) | function of the handler}. `requests` records what was asked:
    (path, headers)."""

    def __init__(self, pages):
        self.pages, self.requests = pages, []

    def asked(self, path):
        return [headers for asked, headers in self.requests if asked == path]


def handler_of(web):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            web.requests.append((self.path, dict(self.headers)))
            page = web.pages.get(self.path.partition("?")[0], (404, {}, b""))
            if callable(page):
                return page(self)
            status, headers, content = page if isinstance(page, tuple) else (200, {}, page)
            self.answer(status, headers, content)

        def answer(self, status, headers, content):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler


def ranged(content, etag='"one"', per_request=None):
    """A file that may be asked for in part; `per_request`: the connection breaks after so many bytes."""

    def answer(handler):
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            return handler.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        rest = content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(rest)))
        handler.send_header("ETag", etag)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(rest[:per_request])
        handler.close_connection = True

    return answer


@contextmanager
def serve(web):
    """The address and port of a server that runs until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(web))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
