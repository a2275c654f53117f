"""AfriSenti (SemEval-2023 task 12): tweet sentiment in African languages, one task per language, as in MoCL.

The stream has twelve of the fourteen languages: Tigrinya and Oromo have no training tweets. The data set is a script on the hub,
so its Parquet conversion is read, by branch, since no commit of that is known. A conversion by others
(mteb/AfriSentiClassification) is pinned in public code but holds at most 2,048 test tweets per language. Label names are those
of the data.

MoCL names the tasks am dz ha ig kr ma pcm pt sw ts twi yo (`aliases`) and reports weighted F1.
"""

from lab.data.hub_stream import PARQUET_BRANCH, HubStream, HubTask

LANGUAGES = ("amh", "arq", "ary", "hau", "ibo", "kin", "pcm", "por", "swa", "tso", "twi", "yor")


class Afrisenti(HubStream):
    """Tweet sentiment (negative, neutral, positive) in twelve African languages: the labels stay, the language changes."""

    name = "afrisenti"
    tasks = {
        language: HubTask(
            repo="shmuhammad/AfriSenti-twitter-sentiment",
            revision=PARQUET_BRANCH,
            data_dir=language,
            text="{tweet}",
            validation="validation",
        )
        for language in LANGUAGES
    }
    aliases = {
        "am": "amh",
        "dz": "arq",
        "ha": "hau",
        "ig": "ibo",
        "kr": "kin",
        "ma": "ary",
        "pt": "por",
        "sw": "swa",
        "ts": "tso",
        "yo": "yor",
    }
    orders = {
        "afrisenti-1": ("amh", "arq", "hau", "ibo", "kin", "ary", "pcm", "por", "swa", "tso", "twi", "yor"),
        "afrisenti-2": ("ary", "pcm", "kin", "por", "ibo", "swa", "hau", "tso", "arq", "twi", "amh", "yor"),
        "afrisenti-3": ("amh", "arq", "hau", "ary", "ibo", "kin", "swa", "tso", "twi", "yor", "pcm", "por"),
    }
