"""The five data sets of Zhang, Zhao, LeCun (2015), which mtl5, the standard four-task stream and the 15-task stream share.

Commits are those that public code pins for these repositories. The hub has no curated copy of Amazon: the repository here is csv
of an individual user (title and review, stars 1 to 5, 3,000,000 training and 650,000 test rows). It is read from the hub's
Parquet conversion by branch, since no commit of that is known. Texts are title and body, as in the original files.
"""

from lab.data.hub_stream import PARQUET_BRANCH, HubTask

STARS = ("very negative", "negative", "neutral", "positive", "very positive")

ZHANG = {
    "agnews": HubTask(
        repo="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        text="{text}",
        labels=("World", "Sports", "Business", "Science or Technology"),
    ),
    "amazon": HubTask(
        repo="yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes",
        revision=PARQUET_BRANCH,
        data_dir="default",
        text="{review_title}\n{review_text}",
        label="class_index",
        first_label=1,
        labels=STARS,
    ),
    "dbpedia": HubTask(
        repo="fancyzhx/dbpedia_14",
        config="dbpedia_14",
        revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
        text="{title}\n{content}",
        labels=(
            "Company",
            "Educational Institution",
            "Artist",
            "Athlete",
            "Office Holder",
            "Mean of Transportation",
            "Building",
            "Natural Place",
            "Village",
            "Animal",
            "Plant",
            "Album",
            "Film",
            "Written Work",
        ),
    ),
    "yahoo": HubTask(
        repo="community-datasets/yahoo_answers_topics",
        config="yahoo_answers_topics",
        revision="6652a1e7c94f7260a0bfd0c9092dd48e2d536ea1",
        text="{question_title}\n{question_content}\n{best_answer}",
        label="topic",
        labels=(
            "Society & Culture",
            "Science & Mathematics",
            "Health",
            "Education & Reference",
            "Computers & Internet",
            "Sports",
            "Business & Finance",
            "Entertainment & Music",
            "Family & Relationships",
            "Politics & Government",
        ),
    ),
    "yelp": HubTask(
        repo="Yelp/yelp_review_full",
        config="yelp_review_full",
        revision="c1f9ee939b7d05667af864ee1cb066393154bf85",
        text="{text}",
        labels=STARS,
    ),
}

# S1-S3: "orders 1-3" of LFPT5, Progressive Prompts (T5), O-LoRA and followers.
STANDARD_ORDERS = {
    "standard-1": ("dbpedia", "amazon", "yahoo", "agnews"),
    "standard-2": ("dbpedia", "amazon", "agnews", "yahoo"),
    "standard-3": ("yahoo", "amazon", "agnews", "dbpedia"),
}

ZHANG_ALIASES = {
    "ag": "agnews",
    "ag_news": "agnews",
    "amazon_review_full": "amazon",
    "dbpedia_14": "dbpedia",
    "dbpedia14": "dbpedia",
    "yahoo_answers": "yahoo",
    "yahoo_answers_topics": "yahoo",
    "yelp_review_full": "yelp",
}
