"""What a run rests on, and how that differs from what it rested on when it began.

Settings, data, backbone, versions, and the sources of plug-ins that are not shipped.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lab.config.fingerprint import differing
from lab.config.schema import RunConfig
from lab.core.dotted import flat
from lab.core.errors import LabError
from lab.run_folder.writer import environment
from lab.training.trainer import Session

VERSIONS = ("torch", "transformers", "peft")  # whose numbers may change between versions, beside the lab's own


class Difference(NamedTuple):
    """One difference: an option, or "data", "backbone", "plugins", "versions", and a sentence."""

    about: str
    sentence: str


def fingerprint(session: Session) -> dict[str, Any]:
    """What the results of a session rest on, as plain values of JSON."""
    facts = environment()
    versions = {"lab": facts["lab"]} | {name: facts["packages"].get(name) for name in VERSIONS}
    own = {"plugins": session.config.own_digests(), "versions": versions}
    content = session.fingerprint() | {"settings": settings(session.config)} | own
    return json.loads(json.dumps(content))


def settings(config: RunConfig) -> dict[str, Any]:
    """Options that are not at their defaults, by dotted path: those that a later version adds make no difference."""
    return flat(differing(config))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """How two fingerprints differ. Of a run that an earlier version began, only what it recorded is compared."""
    differing_facts: list[Difference] = []
    if "settings" in before:
        old, new = before["settings"], now["settings"]
        for option in sorted(old.keys() | new.keys()):
            values = [side.get(option, "its default") for side in (old, new)]
            if values[0] != values[1]:
                differing_facts.append(Difference(option, f"{option} was {values[0]}, is {values[1]}"))
    for task in sorted(before["tasks"].keys() & now["tasks"].keys()):
        if before["tasks"][task] != now["tasks"][task]:
            differing_facts.append(Difference("data", f"the examples of task '{task}' are others"))
    if missing := sorted(before["tasks"].keys() ^ now["tasks"].keys()):
        differing_facts.append(Difference("data", f"task '{missing[0]}' is only in one of the two"))
    if before["backbone"] != now["backbone"]:
        differing_facts.append(Difference("backbone", "the backbone is another: its weights, settings or tokenizer have changed"))
    for name, digest in before.get("plugins", {}).items():
        if now["plugins"].get(name, digest) != digest:
            differing_facts.append(Difference("plugins", f"{name} is another: its source has changed"))
    for name, version in now["versions"].items():
        earlier = before.get("versions", {}).get(name, version)
        if earlier != version:
            differing_facts.append(Difference("versions", f"{name} was {earlier}, is {version}"))
    return differing_facts


def refuse(run_id: str, unwanted: list[Difference]) -> None:
    """LabError with one line per difference, if there are any."""
    if unwanted:
        lines = "\n  ".join(difference.sentence for difference in unwanted)
        raise LabError(
            f"run '{run_id}' would go on otherwise than it began:\n  {lines}\n"
            "undo that, or go on all the same with lab resume --accept-changes: the run then says what has changed"
        )
