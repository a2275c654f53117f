"""Names that become files: what no file system, or no screen, could take."""

import unicodedata

BYTES = 255  # of a file name, as on all common file systems


def fault(name: str, path: bool = False) -> str:
    """Why a text cannot name a file, or with `path` a path; empty if it can. It completes the sentence "the name ...\""""
    if not name.strip():
        return "is empty"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "holds control characters or is not UTF-8"
    if not path and ({"/", "\\"} & set(name) or name in (".", "..")):
        return "holds a separator of paths"
    if any(len(part.encode()) > BYTES for part in name.split("/")) or len(name.encode()) > 16 * BYTES:
        return f"is longer than {BYTES} bytes"
    return ""
