"""Visits to a running dashboard without a browser, by the protocol that its pages speak with the server.

A browser can be made to send anything, so what may not happen is tried here: widgets that are drawn as disabled, values that no
widget offers, uploads without a widget.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect

KEY = re.compile(r"^\$\$ID-[0-9a-f]+-")
DRAWN = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)  # else it begins anew, or only a part was
PATIENCE = 60.0  # seconds for a page on a busy machine


class Visit:
    """One session with the server: pages are opened, widgets are set, and everything that was drawn is kept."""

    def __init__(self, connection: ClientConnection):
        self.socket, self.session = connection, ""
        self.widgets: dict[str, Any] = {}  # by id, of the page that was opened last: what the server said of it
        self.keys: dict[str, str] = {}  # the names by which pages know their widgets
        self.texts: list[str] = []  # every text of every element, as sent
        self.errors: list[str] = []  # tracebacks
        self.login = ""  # where the page sends who wants to log in

    def open(self, page: str, query: str = "", states: tuple[WidgetState, ...] = ()) -> "Visit":
        """Draw a page, with these values of widgets; waits until the server is done with it."""
        message = BackMsg()
        message.rerun_script.query_string, message.rerun_script.page_name = query, page
        message.rerun_script.widget_states.widgets.extend(states)
        self.widgets, self.keys, self.texts = {}, {}, []
        self.socket.send(message.SerializeToString())
        while not self._take(ForwardMsg.FromString(self.socket.recv(timeout=PATIENCE))):
            pass
        return self

    def press(self, page: str, query: str, *ids: str) -> "Visit":
        """Send the click on buttons of a page, whether they can be clicked or not."""
        return self.open(page, query, tuple(WidgetState(id=id, trigger_value=True) for id in ids))

    def _take(self, message: ForwardMsg) -> bool:
        """Whether this message ends a drawing of the page."""
        kind = message.WhichOneof("type")
        if kind == "auth_redirect":
            self.login = message.auth_redirect.url
        if kind == "new_session":
            self.session = message.new_session.initialize.session_id
        if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            element = message.delta.new_element
            drawn = getattr(element, str(element.WhichOneof("type")))
            self.texts += [str(drawn)]
            if element.WhichOneof("type") == "exception":
                self.errors.append(f"{drawn.type}: {drawn.message}")
            if getattr(drawn, "id", ""):
                self.widgets[drawn.id] = drawn
                self.keys[drawn.id] = KEY.sub("", drawn.id)
        elif kind == "delta":
            self.texts += [str(message.delta)]
        return kind == "script_finished" and message.script_finished in DRAWN


@contextmanager
def visit(address: str, cookie: str = "", origin: str | None = None, host: str | None = None) -> Iterator[Visit]:
    """A session with the dashboard at an address."""
    place = urlsplit(address)
    headers = {"Cookie": cookie} if cookie else {}
    site = re.search(r"_streamlit_xsrf=([^;]+)", cookie)  # its token: without it the server takes no notice of a login
    with (
        socket.create_connection((place.hostname, place.port)) as connection,
        connect(
            f"ws://{host or place.netloc}/_stcore/stream",
            sock=connection,
            subprotocols=["streamlit", *([site[1]] if site else [])],
            origin=origin or address,
            additional_headers=headers,
            max_size=None,
        ) as opened,
    ):
        yield Visit(opened)
