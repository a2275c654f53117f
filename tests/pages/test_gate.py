"""The gate of the dashboard answers only what was sent to its name, by its own pages, and with a key where it asks for one."""

import re
import sys

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME
from support.pages import open_page, texts
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app as command_line
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import gate, server, visitor
from lab.pages.gate import Gate, Keys

TOKEN = "a secret of the owner"


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text("reached")
    await websocket.close()


def client(hosts=gate.LOOPBACK, keys=None, base="http://localhost:8501"):
    """A client of the gate, with a server behind it that answers every path."""
    routes = [WebSocketRoute("/_stcore/stream", echo), Route("/{path:path}", lambda request: PlainTextResponse("reached"))]
    return TestClient(Gate(Starlette(routes=routes), hosts, keys), base_url=base, follow_redirects=False)


def status(answers: TestClient, path: str = "/", **headers: str) -> int:
    return answers.get(path, headers=headers).status_code


def socket_opens(answers: TestClient, **headers: str) -> bool:
    try:
        with answers.websocket_connect("ws://localhost:8501/_stcore/stream", headers=headers) as websocket:
            return websocket.receive_text() == "reached"
    except WebSocketDisconnect:
        return False


@pytest.mark.parametrize("host", ["localhost", "localhost:8501", "127.0.0.1:8501", "[::1]:8501", "LOCALHOST", "localhost."])
def test_names_of_the_machine_itself_are_answered(host):
    assert status(client(), host=host) == 200 and socket_opens(client(), host=host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8501", "127.0.0.1.evil.example", "localhost:99999", "a@localhost", "localhost/x", ""]
)
def test_a_rebound_name_is_refused(host):
    """The attack: a page of evil.example, whose name now means 127.0.0.1, asks as if it were the dashboard's own."""
    origin = f"http://{host}"
    assert status(client(), host=host, origin=origin) == 403 and not socket_opens(client(), host=host, origin=origin)


@pytest.mark.parametrize(
    "origin", ["http://localhost:9999", "https://evil.example", "null", "http://localhost:8501.evil.example"]
)
def test_pages_from_elsewhere_are_refused(origin):
    assert status(client(), origin=origin) == 403 and not socket_opens(client(), origin=origin)
    own = "http://localhost:8501"
    assert status(client(), origin=own) == 200 and socket_opens(client(), host="localhost:8501", origin=own)


def test_two_hosts_in_one_request_are_refused():
    assert client().get("/", headers=[("host", "localhost"), ("host", "evil.example")]).status_code == 403


def test_every_answer_forbids_foreign_frames_and_guessed_types():
    for path in ("/", "/_stcore/metrics"):
        headers = client().get(path).headers
        assert headers["content-security-policy"] == "frame-ancestors 'self'" and headers["x-content-type-options"] == "nosniff"


def test_metrics_are_closed():
    assert status(client(), "/_stcore/metrics") == 404


def test_names_can_be_added():
    answers = client(hosts=("lab.example.org", "*.class.example"))
    assert status(answers, host="lab.example.org") == status(answers, host="a.class.example") == 200
    assert status(answers, host="class.example") == status(answers, host="aclass.example") == 403


def test_without_the_key_nothing_is_answered():
    keys = Keys(TOKEN)
    for wrong in ("", "wrong", TOKEN[:-1], keys.visitor[:-1], keys.cookie, "ü"):
        answers = client(hosts=None, keys=keys)
        assert answers.get("/", params={"token": wrong}).status_code == 401
        answers.cookies.set(keys.cookie, wrong.encode("unicode_escape").decode())
        assert status(answers) == 401 and not socket_opens(answers)
        assert status(answers, gate.HEALTH) == 200


def test_a_login_that_lets_anybody_in_or_nobody_is_refused(monkeypatch):
    secrets = {"auth": {"cookie_secret": "x" * gate.SHORTEST}}
    monkeypatch.setattr(gate, "login_configured", lambda: True)
    monkeypatch.setattr(gate, "secrets_singleton", secrets)
    monkeypatch.setattr(gate, "find_spec", lambda name: None if name == "authlib" else 1)
    with pytest.raises(LabError, match=r"pip install 'streamlit\[auth\]'"):
        gate.refuse_unguarded("0.0.0.0", True, None)
    gate.refuse_unguarded("0.0.0.0", True, TOKEN)
    monkeypatch.setattr(gate, "find_spec", lambda name: 1)
    gate.refuse_unguarded("0.0.0.0", True, None)
    secrets["auth"]["cookie_secret"] = "short"
    with pytest.raises(LabError, match=r"cookie_secret .* has 5 characters: use a secret of at least 16"):
        gate.refuse_unguarded("0.0.0.0", True, None)


def test_who_has_not_logged_in_uploads_nothing(monkeypatch):
    """A login takes place on the page, so the gate lets all others through to it."""
    path = f"{gate.UPLOADS}session/file"
    signed = create_signed_value(get_cookie_secret(), USER_COOKIE_NAME, "{}").decode()
    answers = {"": 401, "forged|é": 401, signed[:-1]: 401, signed: 200}
    for reached, value, expected in [(False, "", 200), *((True, value, expected) for value, expected in answers.items())]:
        monkeypatch.setattr(gate, "is_open", lambda reached=reached: reached)
        cookie = f"{USER_COOKIE_NAME}={value}".encode("latin-1")
        assert client().get(path, headers=[(b"cookie", cookie)]).status_code == expected, (reached, value)
        assert status(client()) == 200


@pytest.mark.parametrize("role", ["owner", "visitor"])
def test_a_link_with_a_key_is_needed_once(role):
    """It leads on to the same page without the key, which from then on is a cookie that scripts cannot read."""
    keys = Keys(TOKEN)
    answers = client(hosts=None, keys=keys)
    first = answers.get("/jobs", params={"job": "a b&c", "token": getattr(keys, role)})
    assert first.status_code == 303 and first.headers["location"] == "/jobs?job=a+b%26c"
    assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=lax" in first.headers["set-cookie"]
    assert status(answers) == 200 and socket_opens(answers)
    assert keys.role(answers.cookies[keys.cookie].strip('"')) == role
    elsewhere = client(None, keys).get("http://localhost:8501//evil.example", params={"token": TOKEN})
    assert elsewhere.headers["location"] == "/evil.example"


def test_keys_of_two_labs_differ():
    one, other = Keys(TOKEN), Keys(TOKEN + "2")
    assert one.visitor != other.visitor and one.cookie != other.cookie and one.role(other.visitor) is None


@pytest.mark.parametrize(("address", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.8.8", True)])
def test_addresses_of_the_machine_alone(address, alone):
    assert gate.is_loopback(address) is alone


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.7", "example.org", "", None])
def test_an_address_that_others_reach_needs_a_key(address, monkeypatch):
    monkeypatch.setattr(gate, "login_configured", lambda: False)
    assert not gate.is_loopback(address)
    with pytest.raises(LabError, match="--token"):
        gate.refuse_unguarded(address, True, None)
    with pytest.raises(LabError, match="16"):
        gate.refuse_unguarded(address, True, "guessable")
    gate.refuse_unguarded(address, True, TOKEN)


def test_both_ways_to_open_the_dashboard_refuse_to_stand_open(monkeypatch, capsys):
    monkeypatch.delenv("LAB_TOKEN", raising=False)
    monkeypatch.setattr(gate, "login_configured", lambda: False)
    result = CliRunner().invoke(command_line, ["app", "--host", "0.0.0.0"])
    assert result.exit_code != 0 and "--token" in result.stderr
    monkeypatch.setattr(gate.config, "get_option", {"server.address": None, "server.allowedHosts": []}.get)
    with pytest.raises(SystemExit) as ended:
        gate.middleware()
    assert ended.value.code == 2 and "every address" in capsys.readouterr().err


def test_the_links_that_are_printed_hold_both_keys():
    own, theirs = server.links("0.0.0.0", 80, TOKEN)
    assert Keys(TOKEN).role(own.split("token=")[1].partition("  (")[0]) == "owner"
    assert Keys(TOKEN).role(re.search(r"token=(\w+)", theirs)[1]) == "visitor"
    assert server.links("::1", 80, None) == ["lab app: http://[::1]:80  (Ctrl-C ends it)"]


def test_visitors_look_and_the_owner_changes(runs, monkeypatch):
    run = write_run(runs, "a", status="stopped")
    monkeypatch.setattr(visitor, "role", lambda: "visitor")
    monkeypatch.setattr(jobs, "asker", visitor.Visitor())
    app = open_page("jobs", job="a")
    assert app.button(key="resume").disabled and app.button(key="delete").disabled
    for action in (lambda: jobs.resume(run), lambda: jobs.delete(run)):
        with pytest.raises(LabError, match="only its owner"):
            action()
    assert "read-only" in texts(open_page("train"))
    monkeypatch.setenv("LAB_ALLOW_TRAINING", "1")
    assert not open_page("jobs", job="a").button(key="resume").disabled


def test_a_run_notes_who_started_it(runs, monkeypatch):
    monkeypatch.setattr(visitor, "address", lambda: "ada@example.org")
    monkeypatch.setattr(jobs, "asker", visitor.Visitor())
    monkeypatch.setattr(jobs, "launch", lambda run: jobs.scheduler.detached([sys.executable, "-c", ""], run.dir / "log.txt"))
    run = jobs.start({"recipe": "l2r", "stream": {"name": "builtin"}, "seed": 0}, runs)
    assert run.info["started_by"] == "ada@example.org"
