"""Build assets/wordnet-3.0.txt.gz from the original WordNet 3.0 database, once.

    python scripts/build_wordnet_asset.py database=DIR [out=assets/wordnet-3.0.txt.gz]

DIR holds index.{noun,verb,adj,adv} and {noun,verb,adj,adv}.exc (Debian's package wordnet-base has them in
usr/share/wordnet). The ImageNet-21k synsets are those that timm carries, which are those of DataComp's reference
(same sha256). The asset keeps, for every lemma, its parts of speech and whether the first synset of each is among
the ImageNet-21k synsets, by its offset as the reference compares it; and the exceptions of WordNet's morphology.
"""

import gzip
import hashlib
import io
import sys
from pathlib import Path

import timm.data

POS = ("noun", "verb", "adj", "adv")
SYNSETS_SHA256 = "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2"


def offsets_of_imagenet() -> set[int]:
    """The offsets of the 21,843 synsets."""
    content = (Path(timm.data.__file__).parent / "_info" / "imagenet21k_goog_synsets.txt").read_text().split()
    text = "\n".join(content) + "\n"
    if hashlib.sha256(text.encode()).hexdigest() != SYNSETS_SHA256:
        raise SystemExit("this timm carries other synsets than DataComp's reference")
    return {int(name[1:]) for name in content}


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    database = Path(settings["database"])
    wanted = offsets_of_imagenet()
    flags: dict[str, int] = {}
    for place, pos in enumerate(POS):
        for line in (database / f"index.{pos}").read_text().splitlines():
            if line.startswith(" "):
                continue  # the licence
            fields = line.split()
            lemma, pointers = fields[0], int(fields[3])
            first = int(fields[6 + pointers])
            flags[lemma] = flags.get(lemma, 0) | 1 << place | (16 << place if first in wanted else 0)
    lines = [f"{lemma} {value:x}" for lemma, value in sorted(flags.items())]
    for place, pos in enumerate(POS):
        exceptions: dict[str, list[str]] = {}
        for line in (database / f"{pos}.exc").read_text().splitlines():
            form, *bases = line.split()
            exceptions[form] = bases
        lines += [f"{form} ={place} {' '.join(bases)}" for form, bases in sorted(exceptions.items())]
    out = Path(settings.get("out", Path(__file__).parent.parent / "assets" / "wordnet-3.0.txt.gz"))
    content = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=content, compresslevel=9, mtime=0) as file:
        file.write(("\n".join(lines) + "\n").encode())
    out.write_bytes(content.getvalue())
    print(f"{out}: {len(flags):,} lemmas, {len(lines) - len(flags):,} exceptions, {len(content.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
