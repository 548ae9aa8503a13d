#!/usr/bin/env python3
"""Turns a folder of HTML help pages into NAME.train.jsonl and NAME.heldout.jsonl, one page a line: {"text", "id", "source"}.

    help-to-jsonl.py --name gimp_help --out corpora/korean [--script hangul] FOLDER

A page is held out when the first eight hex digits of sha1("NAME/ID") fall below the share asked for, so the split
stays the same whatever else is in the folder. With --script hangul, paragraphs that nobody translated are dropped.
"""

import argparse
import gzip
import hashlib
import html.parser
import json
import os
import pathlib
import re
import sys

BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "td", "th", "tr", "div", "br", "pre", "section", "title", "blockquote"}
SKIPPED = {"script", "style", "head", "nav", "noscript", "select", "form", "header", "footer"}


class Paragraphs(html.parser.HTMLParser):
    """Text of the page, one entry a block element, without scripts, menus and headers."""

    def __init__(self):
        super().__init__()
        self.paragraphs, self.current, self.skipping = [], [], []

    def handle_starttag(self, tag, attributes):
        kinds = " ".join(value or "" for key, value in attributes if key in ("class", "id"))
        if tag in SKIPPED or (tag == "div" and re.search(r"nav(header|footer)|navbar|sidebar|DonationFrame|SearchFrame", kinds)):
            self.skipping.append(tag)
        elif self.skipping and tag == self.skipping[-1]:
            self.skipping.append(tag)
        elif tag in BLOCKS:
            self.flush()

    def handle_endtag(self, tag):
        if self.skipping:
            if tag == self.skipping[-1]:
                self.skipping.pop()
        elif tag in BLOCKS:
            self.flush()

    def handle_data(self, data):
        if not self.skipping:
            self.current.append(data)

    def flush(self):
        text = " ".join("".join(self.current).split())
        self.current = []
        if text and (not self.paragraphs or self.paragraphs[-1] != text):
            self.paragraphs.append(text)


def is_hangul(paragraph):
    letters = [c for c in paragraph if c.isalpha()]
    return bool(letters) and sum("가" <= c <= "힣" for c in letters) >= 0.3 * len(letters)


def read_page(path):
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    charset = re.search(rb"charset=[\"']?([\w-]+)", raw[:2000])
    parser = Paragraphs()
    parser.feed(raw.decode(charset.group(1).decode() if charset else "utf-8", errors="replace"))
    parser.close()
    parser.flush()
    return parser.paragraphs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--source", default="", help="what the records say they come from")
    parser.add_argument("--script", choices=("any", "hangul"), default="any")
    parser.add_argument("--glob", default="**/*.html*")
    parser.add_argument("--held-out-share", type=float, default=0.08)
    parser.add_argument("--minimum-characters", type=int, default=200)
    args = parser.parse_args()

    lines, seen = {"train": [], "heldout": []}, set()
    for path in sorted(args.folder.glob(args.glob)):
        if not path.is_file() or path.is_symlink():
            continue
        paragraphs = [p for p in read_page(path) if args.script == "any" or is_hangul(p)]
        text = "\n".join(paragraphs)
        if len(text) < args.minimum_characters or text in seen:
            continue
        seen.add(text)
        identity = str(path.relative_to(args.folder))
        digest = int(hashlib.sha1(f"{args.name}/{identity}".encode()).hexdigest()[:8], 16)
        part = "heldout" if digest < args.held_out_share * 2**32 else "train"
        lines[part].append(json.dumps({"text": text, "id": identity, "source": args.source}, ensure_ascii=False))
    if not lines["train"] or not lines["heldout"]:
        sys.exit(f"error: {args.folder}: {len(seen)} pages with text, too few for a training and a held-out part")
    args.out.mkdir(parents=True, exist_ok=True)
    for part, records in lines.items():
        target = args.out / f"{args.name}.{part}.jsonl"
        partial = target.with_suffix(".part")
        partial.write_text("\n".join(records) + "\n", encoding="utf-8")
        os.replace(partial, target)
        print(f"{target}: {len(records)} documents, {sum(map(len, records)):,} characters", file=sys.stderr)


if __name__ == "__main__":
    main()
