"""Entry of the dashboard in a checkout: `streamlit run app.py`. The pages are in lab/pages."""

from lab.pages.main import main

main()
