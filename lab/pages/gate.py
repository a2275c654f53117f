"""Who reaches the dashboard: a gate before the server that checks where a request was sent, where it comes from and its key.

A page on the local machine is no private place: any web page that the same browser shows can send requests to it, and a name
that was rebound to 127.0.0.1 makes such a page look like the dashboard's own. So `Host` and `Origin` are compared with what
the dashboard is called. A dashboard that others can reach asks everybody for a key, or for a login by Streamlit's OIDC.
"""

import hashlib
import hmac
import ipaddress
import os
import sys
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import config, runtime
from streamlit.runtime.secrets import secrets_singleton
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from lab.core.errors import LabError
from lab.pages.base_address import BaseAddress

SCRIPT = Path(__file__).with_name("main.py")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST = 16  # characters of a key
PARAMETER = "token"  # of the link that a visitor opens first
HEALTH = "/_stcore/health"  # says "ok" and nothing else: monitors ask it without a key
CLOSED = ("/_stcore/metrics",)  # tells how many visitors there are and how much memory is used
UPLOADS = "/_stcore/upload_file/"  # followed by the session and a name for the file
FILES, BYTES, AT_ONCE = 20, 1 << 30, 4  # uploads kept for a session, their bytes for all sessions, and uploads on their way
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


@dataclass(frozen=True)
class Keys:
    """The key of the owner, and that of the visitors, which is made from it."""

    owner: str

    @property
    def visitor(self) -> str:
        return hmac.new(self.owner.encode(), b"visitor", hashlib.sha256).hexdigest()

    @property
    def cookie(self) -> str:
        """Name of the cookie; several dashboards on one machine have several."""
        return f"lab-{hashlib.sha256(self.owner.encode()).hexdigest()[:12]}"

    def role(self, key: str) -> str | None:
        """'owner' or 'visitor' for their keys, None for any other text; takes the same time for every text of a length."""
        own = {"owner": self.owner, "visitor": self.visitor}
        same = [role for role, right in own.items() if hmac.compare_digest(key.encode(), right.encode())]
        return same[0] if same else None


def keys() -> Keys | None:
    """The keys of this server, from $LAB_TOKEN; None where it asks for none."""
    return Keys(token) if (token := os.environ.get("LAB_TOKEN")) else None


def login_configured() -> bool:
    """Whether Streamlit's own login (OIDC) is set up in secrets.toml."""
    return secrets_singleton.load_if_toml_exists() and "auth" in secrets_singleton


def refuse_weak_login() -> None:
    """LabError where nobody can log in, for want of a package, or where who guesses a short secret is whoever they like."""
    if find_spec("authlib") is None:
        raise LabError("Streamlit's login needs a package that is not here: pip install 'streamlit[auth]'")
    secret = str(secrets_singleton["auth"].get("cookie_secret", ""))
    if len(secret) < SHORTEST:
        raise LabError(
            f"cookie_secret in [auth] of secrets.toml has {len(secret)} characters: use a secret of at least {SHORTEST}"
        )


def has_logged_in(request: HTTPConnection) -> bool:
    """Whether a request bears the cookie that Streamlit signs once somebody has logged in."""
    cookie = request.cookies.get(USER_COOKIE_NAME, "").encode("latin-1", "replace")
    return decode_signed_value(get_cookie_secret(), USER_COOKIE_NAME, cookie) is not None


def extra_hosts() -> list[str]:
    """Names other than those of the machine itself that the dashboard may be called by."""
    own = (*LOOPBACK, config.get_option("server.address"))
    return [name for name in config.get_option("server.allowedHosts") if name not in own]


def is_loopback(address: str | None) -> bool:
    """Whether only the machine itself reaches a server that listens on this address; without one it listens on all."""
    if address == "localhost":
        return True
    try:
        return bool(address) and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_open() -> bool:
    """Whether others than the machine itself reach this server, directly or by a proxy that sends another name."""
    return not is_loopback(config.get_option("server.address")) or bool(extra_hosts())


def refuse_unguarded(address: str | None, reached: bool, token: str | None) -> None:
    """LabError for a server that others reach without a key or a login, and for a secret that can be guessed."""
    if token and len(token) < SHORTEST:
        raise LabError(
            f"LAB_TOKEN has {len(token)} characters: use a secret of at least {SHORTEST}, or lab app --token makes one"
        )
    if reached and not token and not login_configured():
        raise LabError(
            f"on {address or 'every address'} others can reach this dashboard, start runs and delete them: add --token to "
            "lab app, set LAB_TOKEN to a secret, or set up Streamlit's login ([auth] in .streamlit/secrets.toml)"
        )
    if reached and not token:
        refuse_weak_login()


def middleware() -> list[Middleware]:
    """What stands before this server: the gate, by its settings, and BaseAddress behind it.

    Ends the process where others would reach the server without a key or a login.
    """
    address, token = config.get_option("server.address"), os.environ.get("LAB_TOKEN")
    try:
        refuse_unguarded(address, is_open(), token)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    names = None if is_open() and not extra_hosts() else (*LOOPBACK, str(address), *extra_hosts())
    return [Middleware(Gate, hosts=names, keys=keys()), Middleware(BaseAddress)]


class Gate:
    """Answers 403 to requests that were sent to another name or by another page, and 401 to those without a key; refuses uploads
    where as many are kept as the memory is meant for."""

    stands: ClassVar[bool] = False  # whether this process has one

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, keys: Keys | None):
        """hosts: names the dashboard is called by, `*.example.org` for all under one; None for any. keys: None asks for none."""
        self.app, self.hosts, self.keys, self.on_their_way = app, hosts, keys, 0
        Gate.stands = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        uploads = scope["type"] == "http" and scope["method"] == "PUT" and scope["path"].startswith(UPLOADS)
        refusal = self.refusal(HTTPConnection(scope)) or (self.too_much(scope["path"]) if uploads else None)
        if refusal is None:
            self.on_their_way += uploads
            try:
                return await self.app(scope, receive, with_headers(send))
            finally:
                self.on_their_way -= uploads
        if scope["type"] == "websocket":
            return await WebSocketClose(reason=bytes(refusal.body).decode())(scope, receive, send)  # before it is accepted: a 403
        await refusal(scope, receive, with_headers(send))

    def too_much(self, path: str) -> Response | None:
        """The answer to an upload for which there is no room; before its body is read."""
        if self.on_their_way >= AT_ONCE:
            return text(f"{AT_ONCE} files are being uploaded: try again when they are here.", HTTPStatus.SERVICE_UNAVAILABLE)
        kept: Any = runtime.get_instance().uploaded_file_mgr  # its contract has no method that counts
        sessions = {session: [*files.values()] for session, files in [*kept.file_storage.items()]}
        own = sessions.get(path.removeprefix(UPLOADS).partition("/")[0], [])
        if len(own) < FILES and sum(len(file.data) for files in sessions.values() for file in files) < BYTES:
            return None
        return text(
            f"No room for this file: a session keeps {FILES} files, all of them {BYTES >> 20} MB. Remove one, or close a page.",
            HTTPStatus.INSUFFICIENT_STORAGE,
        )

    def refusal(self, request: HTTPConnection) -> Response | None:
        """The answer in place of the dashboard's; None where the request may pass."""
        host = request.headers.getlist("host")
        if len(host) != 1 or not self.is_called(host[0]):
            named = "lab app --allow-host NAME adds one" if self.hosts else "the request must name one host"
            return text(f"This dashboard is not called {', '.join(host) or 'nothing'}: {named}.", HTTPStatus.FORBIDDEN)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host[0].lower():
            return text(f"Requests of pages from {origin} are not answered.", HTTPStatus.FORBIDDEN)
        if request.url.path in CLOSED:
            return text("There is nothing here.", HTTPStatus.NOT_FOUND)
        if self.keys is None and request.url.path.startswith(UPLOADS) and is_open() and not has_logged_in(request):
            return text("Log in before you upload files.", HTTPStatus.UNAUTHORIZED)
        if self.keys is None or request.url.path == HEALTH:
            return None
        return self.ask_for_key(request, self.keys)

    def is_called(self, host: str) -> bool:
        """Whether the header Host, with or without a port, names this dashboard."""
        try:
            parts = urlsplit(f"//{host}")
            name = (parts.hostname or "").rstrip(".")
            _ = parts.port  # raises for what is no port
        except ValueError:
            return False
        if not name or parts.netloc != host or "@" in host:
            return False
        return self.hosts is None or any(
            name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:])) for allowed in map(str.lower, self.hosts)
        )

    def ask_for_key(self, request: HTTPConnection, keys: Keys) -> Response | None:
        """A link with the right key sets a cookie and leads on without it; later requests need that cookie."""
        query = (
            parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=100) if len(request.url.query) < 10_000 else []
        )
        offered = next((value for name, value in query if name == PARAMETER), None)
        if request.scope["type"] == "http" and request.scope["method"] == "GET" and offered and keys.role(offered):
            rest = urlencode([(name, value) for name, value in query if name != PARAMETER])
            path = "/" + request.url.path.lstrip("/")  # two slashes at its beginning would lead to another host
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, HTTPStatus.SEE_OTHER)
            secure = request.url.scheme == "https"
            answer.set_cookie(keys.cookie, offered, max_age=30 * 24 * 3600, httponly=True, samesite="lax", secure=secure)
            return answer
        if keys.role(request.cookies.get(keys.cookie, "")):
            return None
        return text(
            "This dashboard needs a key: open the link that `lab app` printed where it was started.", HTTPStatus.UNAUTHORIZED
        )


def text(message: str, status: HTTPStatus) -> Response:
    return PlainTextResponse(message, status)


def with_headers(send: Send) -> Send:
    """`send` that adds the headers which keep other pages from framing this one and browsers from guessing types."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending
