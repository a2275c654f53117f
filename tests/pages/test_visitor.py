"""Whom a login makes the owner. With -m attack and Authlib also against a provider that says whatever it likes."""

import json
import os
import secrets
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from support.browser import dashboard, free_port
from support.run_folders import write_run
from support.visits import visit

from lab.pages import gate, visitor

OWNER = "owner@example.org"


@pytest.mark.parametrize(
    ("user", "role"),
    [
        ({"email": OWNER, "email_verified": True}, "owner"),
        ({"email": OWNER, "email_verified": "true"}, "owner"),
        ({"email": OWNER, "email_verified": "false"}, "visitor"),
        ({"email": OWNER, "email_verified": False}, "visitor"),
        ({"email": OWNER}, "visitor"),
        ({"email": OWNER.upper(), "email_verified": True}, "visitor"),
        ({"email": "", "email_verified": True}, "visitor"),
        ({"email": OWNER, "email_verified": True, "is_logged_in": False}, "visitor"),
    ],
)
def test_the_owner_is_whose_address_the_login_vouches_for(user, role, monkeypatch):
    logged_in = SimpleNamespace(to_dict=lambda: {"is_logged_in": True} | user)
    monkeypatch.setattr(visitor, "st", SimpleNamespace(user=logged_in))
    monkeypatch.setattr(visitor, "get_script_run_ctx", lambda **options: 1)
    monkeypatch.setattr(visitor.runtime, "exists", lambda: True)
    monkeypatch.setattr(gate, "is_open", lambda: True)
    monkeypatch.setenv("LAB_OWNER", OWNER)
    assert visitor.role() == role
    monkeypatch.delenv("LAB_OWNER")
    assert visitor.role() == "visitor"


# -- by hand: pip install authlib, pytest -n 0 -m attack tests/pages/test_visitor.py -----------------------------------------


@contextmanager
def provider(claims: dict, keys: list):
    """The address of an OpenID provider that says `claims` of everybody and signs with the last of `keys`, of which it shows
    the first."""
    from joserfc import jwt

    asked = {}

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def say(self, content: dict, location: str = "") -> None:
            body = json.dumps(content).encode()
            self.send_response(302 if location else 200)
            for name, value in {"Content-Type": "application/json", "Content-Length": len(body), "Location": location}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/authorize":
                query = dict(parse_qsl(url.query))
                asked[code := secrets.token_hex(8)] = query["nonce"]
                self.say({}, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}")
            elif url.path == "/keys":
                self.say({"keys": [keys[0].as_dict(private=False)]})
            else:
                ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                self.say({"issuer": issuer} | {name: f"{issuer}/{end}" for name, end in ends.items()})

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            now = int(time.time())
            own = {"iss": issuer, "aud": "lab", "sub": "1", "iat": now, "exp": now + 600, "nonce": asked.pop(form["code"], "")}
            token = jwt.encode({"alg": "RS256", "kid": "k"}, own | claims, keys[-1])
            self.say({"access_token": "x", "token_type": "Bearer", "id_token": token})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    issuer = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield issuer
    server.shutdown()


def cookies_of(browser: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in browser.cookies.items())


def logged_in(address: str) -> tuple[httpx.Client, str]:
    """A browser that has gone through the login, and the link by which the provider sent it back."""
    browser = httpx.Client(base_url=address)
    browser.get(gate.HEALTH)
    with visit(address, cookies_of(browser)) as page:
        page.open("about")
        link = page.press("about", "", *page.widgets).login
    provider_link = browser.get(link).headers["location"]
    back = httpx.get(provider_link).headers["location"]
    browser.get(back)
    return browser, back


def sees(address: str, browser: httpx.Client) -> str:
    """What the page of a run offers: "a login", "reading" or "everything"."""
    with visit(address, cookies_of(browser)) as page:
        drawn = " ".join(page.open("jobs", "job=a").texts)
    return "a login" if "Log in" in drawn else "reading" if "only its owner" in drawn else "everything"


@pytest.mark.attack
@pytest.mark.timeout(0)
def test_logins(tmp_path, monkeypatch):
    """Through `lab app` on an address that others reach: whom it takes for its owner, for a visitor, and for nobody."""
    pytest.importorskip("authlib")
    from joserfc.jwk import RSAKey

    own, other = (RSAKey.generate_key(2048, {"kid": "k"}) for _ in range(2))
    claims, keys = {}, [own]
    write_run(tmp_path / "runs", "a")
    monkeypatch.chdir(tmp_path)
    with provider(claims, keys) as issuer:
        (tmp_path / ".streamlit").mkdir()
        port = free_port()
        settings = {"client_id": "lab", "client_secret": "s", "cookie_secret": secrets.token_hex(20)}
        settings["server_metadata_url"] = f"{issuer}/.well-known/openid-configuration"
        settings["redirect_uri"] = f"http://127.0.0.1:{port}/oauth2callback"
        lines = ["[auth]", *(f'{name} = "{value}"' for name, value in settings.items())]
        (tmp_path / ".streamlit" / "secrets.toml").write_text("\n".join(lines))
        environment = {"LAB_RUNS": str(tmp_path / "runs"), "PYTHONPATH": os.pathsep.join(sys.path)}
        with dashboard("--host", "0.0.0.0", "--owner", OWNER, port=port, **environment) as address:
            assert sees(address, httpx.Client()) == "a login"
            upload = f"{gate.UPLOADS}session/file"
            assert httpx.put(address + upload, content=b"x").status_code == 401
            vouched = {"email": OWNER, "email_verified": True}
            roles = {"everything": [vouched], "reading": [vouched | {"email": "b@example.org"}, {"email": OWNER}]}
            roles["reading"].append({"email": OWNER, "email_verified": "false"})
            for said, expected in [(said, role) for role, all_said in roles.items() for said in all_said]:
                claims.clear()
                claims.update(said)
                browser, back = logged_in(address)
                assert sees(address, browser) == expected, said
                assert browser.put(upload, content=b"x").status_code == 403, "no token of the site, but logged in"
            thief = httpx.Client(base_url=address)
            for link in (back, "/oauth2callback?code=x&state=y", "/auth/login?provider=//evil.example"):
                assert thief.get(link).headers["location"] == "/" and sees(address, thief) == "a login"
            for wrong in ({"aud": "another"}, {"iss": "http://evil.example"}, {"nonce": "x"}, {"exp": 1}):
                claims.clear()
                claims.update(vouched | wrong)
                assert sees(address, logged_in(address)[0]) == "a login", wrong
            claims.clear()
            claims.update(vouched)
            keys.append(other)
            assert sees(address, logged_in(address)[0]) == "a login", "signed by somebody else"
            keys.pop()
            browser, _ = logged_in(address)
            assert sees(address, browser) == "everything"
            browser.get("/auth/logout")
            assert sees(address, browser) == "a login"
