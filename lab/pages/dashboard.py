"""What `lab app` serves: the pages behind the gate. `app.py` of a checkout is the same, for `streamlit run app.py`."""

from streamlit.starlette import App

from lab.pages import gate

app = App(gate.SCRIPT, middleware=gate.middleware())
