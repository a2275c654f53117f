"""Tells the script in the browser at which address its server is.

Untold, Streamlit's script takes the address of a page that was opened by a link, /jobs, for that of a server, and asks it for
/jobs/_stcore/health first: two requests that fail, two errors in the console, and a later start.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BASE = b'<script>window.__streamlit = { BACKEND_BASE_URL: new URL(".", window.location).href }</script>'
# Pages are one level below the server, as the paths ./static in their HTML say too: where these lead, the server is.


class BaseAddress:
    """Adds the address to the HTML of pages; every other answer passes as it is."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and "." not in scope["path"]:
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]  # not compressed
            return await self.app({**scope, "headers": headers}, receive, with_base(send))
        await self.app(scope, receive, send)


def with_base(send: Send) -> Send:
    """`send` that puts BASE into an HTML document, which it holds back until the document is complete."""
    start: Message = {}
    content = bytearray()

    async def sending(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            if message["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                start = message
                return
        if not start:
            return await send(message)
        content.extend(message.get("body", b""))
        if not message.get("more_body"):
            document = bytes(content).replace(b"<head>", b"<head>" + BASE, 1)
            MutableHeaders(scope=start)["content-length"] = str(len(document))
            await send(start)
            await send({"type": "http.response.body", "body": document})

    return sending
