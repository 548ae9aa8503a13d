"""What the scripts that look at exported models read corpora with."""
import io


def lines(path):
    """The lines of a text file, plain or .zst (needs zstandard)."""
    if not path.endswith(".zst"):
        return open(path, encoding="utf-8")
    import zstandard

    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(open(path, "rb")), encoding="utf-8")
