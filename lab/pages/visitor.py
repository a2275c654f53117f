"""Who looks at the page: the owner, who may start, change and delete runs, or a visitor, who reads."""

import os

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from lab.jobs import jobs
from lab.pages import gate


def role() -> str:
    """'owner' or 'visitor' of the session that this script runs for. Where nobody else reaches the server, it is the owner."""
    if get_script_run_ctx(suppress_warning=True) is None or not runtime.exists() or not gate.is_open():
        return "owner"
    if keys := gate.keys():
        return keys.role(st.context.cookies.get(keys.cookie, "")) or "visitor"
    return "owner" if address() and address() == os.environ.get("LAB_OWNER") else "visitor"


def address() -> str | None:
    """The e-mail address of somebody who has logged in, where the login vouches for it; else None.

    Where it does not say so, people may have written any address into their account; some logins say so in text.
    """
    user = st.user.to_dict() if get_script_run_ctx(suppress_warning=True) else {}
    vouched = user.get("is_logged_in") and user.get("email_verified") in (True, "true")
    return str(user["email"]) if vouched and user.get("email") else None


class Visitor(jobs.Asker):
    """The person in front of the page, who asks for something to be done with runs."""

    def why_only_reads(self) -> str | None:
        if role() == "owner" or os.environ.get("LAB_ALLOW_TRAINING", "") not in ("", "0"):
            return None
        return (
            "you visit this lab: only its owner starts, stops, changes and deletes runs (lab app --allow-training lets visitors)"
        )

    def name(self) -> str | None:
        return address()


def identify() -> None:
    """From here on, actions on runs ask who wants them. The page ends here for those who have still to log in.

    It also ends for a server that was started without the gate, which would let everybody in.
    """
    jobs.asker = Visitor()
    if not runtime.exists():
        return
    if not gate.Gate.stands:
        st.error("This server has no gate: open the dashboard with `lab app`, or `streamlit run app.py`.")
        st.stop()
    if gate.is_open() and not gate.keys() and not st.user.is_logged_in:
        st.title("Adapter routing lab")
        st.button("Log in", on_click=st.login, type="primary", icon=":material/login:")
        st.stop()
