"""MTL5: the five-task text classification stream of de Masson d'Autume et al. (2019).

Papers number the same orders differently:

| here         | d'Autume | MoCL    | Progressive Prompts (BERT) |
| mtl5-i       | (i)      | order 4 | 7 (from memory)            |
| mtl5-ii      | (ii)     | order 3 | 6                          |
| mtl5-iii     | (iii)    | -       | 5                          |
| mtl5-iv      | (iv)     | order 1 | 4                          |
| mtl5-mocl-2  | -        | order 2 | -  (differs from (iii))    |
| standard-1.. | -        | -       | T5 orders 1-3, O-LoRA 1-3  |

Sizes differ between papers too. d'Autume, EPI and MoCL train on 115,000 examples per task, which is what there is here; IDBR and
Progressive Prompts (BERT) on 2,000 per label, the papers with T5 on 1,000 (`stream.max_per_label`). In IDBR yelp and amazon share
their labels, so that all tasks together have 33 classes; here a label belongs to its task (38 classes).
"""

from lab.data.hub_stream import HubStream
from lab.data.streams._zhang import STANDARD_ORDERS, ZHANG, ZHANG_ALIASES


class Mtl5(HubStream):
    """Five English text classification tasks: news, encyclopedia and question topics, product and restaurant stars."""

    name = "mtl5"
    tasks = ZHANG
    aliases = ZHANG_ALIASES
    orders = {
        "mtl5-i": ("yelp", "agnews", "dbpedia", "amazon", "yahoo"),
        "mtl5-ii": ("dbpedia", "yahoo", "agnews", "amazon", "yelp"),
        "mtl5-iii": ("yelp", "yahoo", "amazon", "dbpedia", "agnews"),
        "mtl5-iv": ("agnews", "yelp", "amazon", "yahoo", "dbpedia"),
        "mtl5-mocl-2": ("yelp", "amazon", "yahoo", "dbpedia", "agnews"),
        **STANDARD_ORDERS,
    }
