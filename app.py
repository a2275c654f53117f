"""Entry of the dashboard in a checkout: `streamlit run app.py`. The pages are in lab/pages."""

from streamlit.starlette import App

from lab.pages import gate

app = App(gate.SCRIPT, middleware=gate.middleware())
