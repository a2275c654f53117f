"""Web of Science abstracts (Kowsari et al. 2017, HDLTex), WOS-11967 as in EPI and MoCL: one task per domain, 33 labels in all.

The data name neither domains nor areas, only their numbers. Domains are named in the order of the original, with which the
numbers of areas (5, 3, 5, 5, 5, 5, 5) agree; an area keeps its number within the domain. The data have one split:
`hub_stream.py` cuts test and validation off it (60/20/20). The hub's Parquet conversion is pinned by its commit.
"""

from lab.data.hub_stream import HubStream, HubTask

AREAS = {"cs": 5, "ece": 3, "psychology": 5, "mae": 5, "civil": 5, "medical": 5, "biochemistry": 5}


class Wos(HubStream):
    """Scientific abstracts, one task per domain: computer science, electrical engineering, psychology, mechanics, civil
    engineering, medicine, biochemistry."""

    name = "wos"
    tasks = {
        domain: HubTask(
            repo="HDLTex/web_of_science",
            revision="97e479bbdf86e5840bef21346b9021edf460ff07",
            data_dir="WOS11967",
            text="{input_data}",
            label="label_level_2",
            labels=tuple(f"{domain} area {number}" for number in range(areas)),
            where=("label_level_1", number),
            test=None,
        )
        for number, (domain, areas) in enumerate(AREAS.items())
    }
    orders = {"wos": tuple(AREAS)}
